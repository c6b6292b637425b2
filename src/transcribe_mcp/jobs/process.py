"""The worker's processes, as everybody sees them: starting one, its lock, its log, how the last one ended.

    front end -> start_worker() -> supervisor (this file, ``python -m``) -> worker (worker.py)

The supervisor loads nothing native, so it survives whatever kills the worker, writes down how that ended, and starts
another. It runs detached from the front end that started it. Two locks in the data directory see to it that there is
one of each; the system gives them back when their holder dies, however it dies.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..settings import Settings, settings

LOG_NAME = "worker.log"
LOG_BYTES = 1_000_000  # a log larger than this is put aside when a supervisor starts
TAIL_BYTES = 64_000
STARTED, ENDED = "--- worker started", "--- worker ended: "

# How a worker ends in good order, and what its supervisor does then.
EXIT_DONE = 0
EXIT_STORE_FAILED = 75  # sysexits' EX_TEMPFAIL: another is started, later and later
EXIT_RESTART = 76  # another is started at once
BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
QUICK_S = 20.0  # a worker that ends sooner than this after its start counts towards giving up
QUICK_DEATHS = 5
STORE_FAILURES = 60

_started: list[subprocess.Popen[bytes]] = []  # kept, so that their ends are noticed


def _worker_lock(data_dir: Path) -> FileLock:
    return FileLock(data_dir / "worker.lock", thread_local=False)


def hold_worker_lock(data_dir: Path, patience_s: float) -> FileLock | None:
    """The lock of the one worker, held; ``None`` where another holds it."""
    lock = _worker_lock(data_dir)
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        return None
    return lock


def _supervisor_lock(data_dir: Path) -> FileLock:
    return FileLock(data_dir / "supervisor.lock", thread_local=False)


def is_held(lock: FileLock) -> bool:
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def start_worker(chosen: Settings) -> bool:
    """Start a supervisor with its worker, unless one is there; gives whether it did. Returns at once."""
    data_dir = chosen.data_dir.absolute()
    data_dir.mkdir(parents=True, exist_ok=True)
    if is_held(_worker_lock(data_dir)) or is_held(_supervisor_lock(data_dir)):
        return False
    _started[:] = [process for process in _started if process.poll() is None]
    log_path = data_dir / LOG_NAME
    _put_aside(log_path)
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=data_dir,
            env=_environment(chosen),
            **_detached(),
        )
    _started.append(process)
    return True


def _environment(chosen: Settings) -> dict[str, str]:
    """What this process was told, with paths that hold elsewhere, and without what a worker need not know."""
    paths = {"TRANSCRIBE_MCP_DATA_DIR": chosen.data_dir, "TRANSCRIBE_MCP_CACHE_DIR": chosen.cache_dir}
    found = {name: value for name, value in os.environ.items() if name != "TRANSCRIBE_MCP_TOKEN"}
    found |= {name: str(path.absolute()) for name, path in paths.items()}
    if chosen.database_url:
        found["TRANSCRIBE_MCP_DATABASE_URL"] = chosen.database_url
    return found


def _detached() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _put_aside(log_path: Path) -> None:
    if log_path.is_file() and log_path.stat().st_size > LOG_BYTES:
        log_path.replace(log_path.with_suffix(".old.log"))


# --- how the last one ended -------------------------------------------------------------------------------------------


def last_end(data_dir: Path) -> str:
    """How the worker before this one ended and what is known of that, in words; empty if in good order or unknown."""
    try:
        with (data_dir / LOG_NAME).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    runs = text.split(STARTED)
    before = runs[-2] if len(runs) > 1 and ENDED not in runs[-1] else runs[-1]  # the last run may be one's own
    _, found, end = before.rpartition(ENDED)
    if not found:
        return ""
    from ..compat.explain import explain

    known = explain(before)
    words = end.splitlines()[0].strip()
    return f"{words}; {known[0].rule.title}" if known else words


def how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


# --- the supervisor ---------------------------------------------------------------------------------------------------


def supervise() -> int:
    """Run workers until one ends because nothing is left to do. The command ``transcribe-mcp worker``."""
    chosen = settings()
    data_dir = chosen.data_dir.absolute()
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = _supervisor_lock(data_dir)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return EXIT_DONE
    with lock:
        return _supervise({**_environment(chosen), **_chosen_for_machine()})


def _supervise(environment: Mapping[str, str]) -> int:
    failures, quick_deaths = 0, 0
    end = ""
    while True:
        started = time.monotonic()
        worker = subprocess.Popen([sys.executable, "-m", "transcribe_mcp.jobs.worker", end], env=dict(environment))
        code = _wait(worker)
        was_quick = time.monotonic() - started < QUICK_S
        if code in (EXIT_DONE, -signal.SIGTERM, -signal.SIGINT):
            return EXIT_DONE
        if code == EXIT_RESTART:
            end = "restart"
        elif code == EXIT_STORE_FAILED:
            end = "store"
            failures = failures + 1 if was_quick else 1
            if failures > STORE_FAILURES:
                return code
            time.sleep(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])
        else:
            end = "died"
            print(f"{ENDED}{how_it_ended(code)}", file=sys.stderr, flush=True)  # noqa: T201 - this is the log
            quick_deaths = quick_deaths + 1 if was_quick else 1
            if quick_deaths > QUICK_DEATHS:
                return code


def _wait(worker: subprocess.Popen[bytes]) -> int:
    """The worker's exit code. Asked to end, the supervisor asks the worker, and goes when that has gone."""
    previous = signal.signal(signal.SIGTERM, lambda *_: worker.terminate())
    try:
        while True:
            try:
                return worker.wait()
            except KeyboardInterrupt:
                continue  # the terminal has told the worker too
    finally:
        signal.signal(signal.SIGTERM, previous)


def _chosen_for_machine() -> dict[str, str]:
    """Variables that libraries read once, as ``compat`` chooses them for this machine; the user's own ones win."""
    from ..compat import choose_runtime, gather

    wanted = choose_runtime(gather()).environment
    return {name: value for name, value in wanted.items() if name not in os.environ}


if __name__ == "__main__":
    sys.exit(supervise())
