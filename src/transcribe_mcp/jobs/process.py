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
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..settings import Settings, settings

LOG_NAME = "worker.log"
LOG_BYTES = 1_000_000  # a log larger than this is put aside when a supervisor starts
TAIL_BYTES = 64_000
STARTED, READY, ENDED = "--- worker started", "--- worker ready", "--- worker ended: "

# How a worker ends in good order, and what its supervisor does then.
EXIT_DONE = 0  # it was told to end
EXIT_IDLE = 77  # nothing was left to do
EXIT_STORE_FAILED = 75  # sysexits' EX_TEMPFAIL: another is started, later and later
EXIT_RESTART = 76  # another is started at once
BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
FAILED_STARTS = 3  # in a row: then nothing will ever be worked on here
STORE_FAILURES = 60
NICE = 5  # of 19: a third of the weight of whoever wants the same core

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


@cache
def _looked_at(data_dir: Path) -> tuple[FileLock, FileLock]:
    """The locks of worker and supervisor, made once for the many looks of a process that holds neither."""
    return _worker_lock(data_dir), _supervisor_lock(data_dir)


def is_held(lock: FileLock) -> bool:
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def start_worker(chosen: Settings) -> bool:
    """Start a supervisor with its worker, unless one is there; gives whether it did. Returns at once."""
    data_dir = chosen.data_dir.absolute()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(map(is_held, _looked_at(data_dir))):
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
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
        return {"creationflags": flags | subprocess.BELOW_NORMAL_PRIORITY_CLASS}
    return {"start_new_session": True}


def _let_others_first() -> None:
    """Front ends and whatever else wants the processor now have it first; what they leave is all the worker's.

    Where Linux weighs sessions against each other, the session's weight is what counts, else the process's.
    """
    if sys.platform != "win32":  # there the priority came with the process
        os.nice(NICE)
        with suppress(OSError):  # no Linux, or one that does not
            Path("/proc/self/autogroup").write_text(str(NICE), encoding="ascii")


def _put_aside(log_path: Path) -> None:
    if log_path.is_file() and log_path.stat().st_size > LOG_BYTES:
        log_path.replace(log_path.with_suffix(".old.log"))


def note(text: str) -> None:
    """A line in the log, without anything that was said in a recording. A full disk has no room for it."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the log


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
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _supervisor_lock(data_dir)
    environment = {**_environment(chosen), **_chosen_for_machine()}
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return EXIT_DONE
        with lock:
            code = _supervise(chosen, data_dir / LOG_NAME, environment)
        # Who submitted while the locks were held started no worker: that is seen now that they are not.
        if code != EXIT_IDLE or _is_idle(chosen):
            return EXIT_DONE if code == EXIT_IDLE else code


def _is_idle(chosen: Settings) -> bool:
    from ..errors import StoreError
    from .store import Store

    try:
        store = Store(chosen.data_dir, chosen.database_url)
        idle = store.is_idle()
    except StoreError:
        return True  # whoever looks hears of it, and starts another
    store.close()
    return idle


def _supervise(chosen: Settings, log_path: Path, environment: Mapping[str, str]) -> int:
    store_failures, failed_starts = 0, 0
    end = ""
    while True:
        was_ready, code = _one_worker(log_path, environment, end)
        if code in (EXIT_DONE, EXIT_IDLE, -signal.SIGTERM, -signal.SIGINT):
            return max(code, EXIT_DONE)
        if code == EXIT_RESTART:
            end = "restart"
        elif code == EXIT_STORE_FAILED:
            end = "store"
            store_failures = 1 if was_ready else store_failures + 1
            if store_failures > STORE_FAILURES:
                return code
            time.sleep(BACKOFF_S[min(store_failures, len(BACKOFF_S)) - 1])
        else:
            end = "died"
            failed_starts = 0 if was_ready else failed_starts + 1
            if failed_starts >= FAILED_STARTS:
                _give_up(chosen)
                return code


def _one_worker(log_path: Path, environment: Mapping[str, str], end_of_last: str) -> tuple[bool, int]:
    """Run a worker to its end: (whether it came so far as to work, its exit code)."""
    with log_path.open("ab", buffering=0) as log:
        begin = log.tell()
        command = [sys.executable, "-m", "transcribe_mcp.jobs.worker", end_of_last]
        code = _wait(subprocess.Popen(command, stdout=log, stderr=log, env=dict(environment)))
        if code not in (EXIT_DONE, EXIT_IDLE, EXIT_RESTART, EXIT_STORE_FAILED):
            with suppress(OSError):  # the disk is full
                log.write(f"{ENDED}{how_it_ended(code)}\n".encode())
    with log_path.open("rb") as log:
        log.seek(begin)
        return READY.encode() in log.read(TAIL_BYTES), code


def _give_up(chosen: Settings) -> None:
    """Say to every job that waits that nobody will work on it."""
    from ..errors import StoreError, WorkerFailedError
    from .store import Store

    hint = f"see {LOG_NAME} in the data directory and transcribe-mcp doctor; then retry the job"
    error = WorkerFailedError(f"no worker can be started: {last_end(chosen.data_dir) or 'see its log'}", hint=hint)
    with suppress(StoreError):  # whoever looks hears of it
        store = Store(chosen.data_dir, chosen.database_url)
        store.fail_all(error)
        store.close()


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
    _let_others_first()
    sys.exit(supervise())
