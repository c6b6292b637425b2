"""Management of worker processes: starting, locks, logs and exit reasons.

    front end -> start_worker() -> supervisor (supervisor.py) -> a worker for every GPU (worker.py)

The supervisor is detached from the front end that started it. Locks in the data directory ensure
that there is one of each; the system releases them when their holder dies.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..domain.private_files import FILE_MODE, make_private_dir, open_private
from ..errors import StoreError
from ..settings import TOKEN_VARIABLE, Settings

LOG_NAME = "worker.log"
SUPERVISOR_LOCK = "supervisor.lock"
MORE_REQUESTED = "more-workers-requested"  # file with a worker's request to its supervisor
LOG_BYTES = 1_000_000  # a larger log is renamed when a supervisor starts
TAIL_BYTES = 64_000
MESSAGE_CHARS = 200  # of a worker's last output
STARTED = "--- worker started"
READY = "--- worker ready"
ENDED = "--- worker ended: "

# Exit codes of a worker.
EXIT_DONE = 0  # it was asked to stop
EXIT_IDLE = 77  # no work is left
EXIT_STORE_FAILED = 75  # sysexits' EX_TEMPFAIL: the next starts after a growing delay
EXIT_RESTART = 76  # the next starts at once
EXIT_FAILED = 70  # sysexits' EX_SOFTWARE: an unexpected error of the main thread

_started: list[subprocess.Popen[bytes]] = []  # kept to reap them


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """A place for one worker of a machine. A worker resumes the jobs of its predecessor.

    Attributes:
        number: from 0.
        gpu: index of the GPU that ``auto`` and ``cuda`` select there.
        n_workers: number of slots of this machine.
        n_spare: number of slots whose workers start only when many jobs wait.
    """

    number: int = 0
    gpu: int = 0
    n_workers: int = 1
    n_spare: int = 0

    @property
    def arguments(self) -> list[str]:
        """Arguments of the worker's command line."""
        return [f"--{name}={value}" for name, value in asdict(self).items()]

    @property
    def name(self) -> str:
        """Name of the worker's files."""
        return _stem(self.number)

    @property
    def log_name(self) -> str:
        return f"{self.name}.log"


def _stem(number: int) -> str:
    """Name of a worker's files; the first worker's have no number."""
    return f"worker-{number}" if number else "worker"


def hold_worker_lock(data_dir: Path, number: int, patience_s: float) -> FileLock | None:
    """Take the lock of a worker slot; ``None`` if another process holds it."""
    return hold_lock(data_dir / f"{_stem(number)}.lock", patience_s)


def hold_supervisor_lock(data_dir: Path) -> FileLock | None:
    """Take the lock of the supervisor; ``None`` if another process holds it.

    Raises:
        StoreError: the data directory is not writable.
    """
    try:
        make_private_dir(data_dir)
        return hold_lock(data_dir / SUPERVISOR_LOCK, 0.0)
    except OSError as error:
        message = f"the data directory {data_dir} cannot be used: {error.strerror or error}"
        hint = "check its permissions, or choose another directory with TRANSCRIBE_MCP_DATA_DIR"
        raise StoreError(message, hint=hint) from error


def _lock(path: Path) -> FileLock:
    return FileLock(path, mode=FILE_MODE, thread_local=False)


def hold_lock(path: Path, patience_s: float) -> FileLock | None:
    """Take a lock of this machine; ``None`` if another thread or process holds it."""
    lock = _lock(path)
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        return None
    return lock


_cached_lock = cache(_lock)  # for tests of locks that this process does not hold


def is_held(lock: FileLock) -> bool:
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def _locks(data_dir: Path) -> Iterator[FileLock]:
    """The locks of the supervisor and of all worker slots that were ever used."""
    yield _cached_lock(data_dir / SUPERVISOR_LOCK)
    for path in data_dir.glob("worker*.lock"):
        yield _cached_lock(path)


def start_worker(chosen: Settings) -> subprocess.Popen[bytes] | None:
    """Start the supervisor and return its process; ``None`` if it or a worker is running."""
    data_dir = chosen.data_dir.absolute()
    make_private_dir(data_dir)
    if any(map(is_held, _locks(data_dir))):
        return None
    _started[:] = [process for process in _started if process.poll() is None]
    for log_path in (data_dir / LOG_NAME, *data_dir.glob("worker-*[0-9].log")):
        rotate_log(log_path)
    with open_private(data_dir / LOG_NAME, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "transcribe_mcp.jobs.supervisor"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=data_dir,
            env=environment_of(chosen),
            **_detached(),
        )
    _started.append(process)
    return process


def request_more(data_dir: Path) -> None:
    """Ask the supervisor of this worker to fill its spare slots."""
    with suppress(OSError):  # the next time
        (data_dir / MORE_REQUESTED).touch(FILE_MODE)


def take_request(data_dir: Path) -> bool:
    """Whether a worker has asked since the last call."""
    try:
        (data_dir / MORE_REQUESTED).unlink()
    except OSError:
        return False
    return True


def environment_of(chosen: Settings) -> dict[str, str]:
    """The environment of a worker: this process's, with these settings, without the token."""
    found = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    return found | chosen.to_environment()


def _detached() -> dict[str, Any]:
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
        return {"creationflags": flags | subprocess.BELOW_NORMAL_PRIORITY_CLASS}
    return {"start_new_session": True}


def rotate_log(log_path: Path) -> None:
    """Rename a log that has become large."""
    if log_path.is_file() and log_path.stat().st_size > LOG_BYTES:
        log_path.replace(log_path.with_suffix(".old.log"))


def note(text: str) -> None:
    """Write a line to the log, never a text of a transcript. Ignores a full disk."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the log


def where(error: BaseException) -> str:
    """The type and place of an error, for a log: its text may quote a transcript."""
    frames = [
        f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)
    ]
    return f"{type(error).__name__} at {' > '.join(frames)}"


# --- how the last one ended -----------------------------------------------------------------------


def last_end(log_path: Path, *, at_work: bool = False) -> str:
    """How the previous worker ended, with its known cause; empty if cleanly or unknown.

    Args:
        at_work: look at the last worker that was ready to take jobs.
    """
    try:
        with log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    runs = text.split(STARTED)
    if len(runs) > 1 and ENDED not in runs[-1]:
        runs.pop()  # perhaps this process
    if at_work:
        runs = [run for run in runs if READY in run]
    before = runs[-1] if runs else ""
    _, found, end = before.rpartition(ENDED)
    if not found:
        return ""
    from ..compat.explain import explain

    known = explain(before)
    words = end.splitlines()[0].strip()
    return f"{words}; {known[0].rule.title}" if known else words


def what_happened(output: str, end: str) -> str:
    """Why a worker did not start: its end, with the matching rule or its last output line."""
    from ..compat.explain import explain

    known = explain(output)
    if known:
        return f"{end}; {known[0].rule.title}"
    lines = [
        line.strip() for line in output.splitlines() if line.strip() and not line.startswith("---")
    ]
    return f"{end}: {lines[-1][:MESSAGE_CHARS]}" if lines and end.startswith("exit code") else end


def was_killed(end: str) -> bool:
    """Whether a worker was killed from outside, or for an unknown reason: not by its jobs.

    The heartbeat's watchdog and the task manager of Windows end a process with code 1.
    """
    if end.startswith(_OUT_OF_MEMORY):
        return False
    return not end or end.split(";")[0] in (_KILLED, "exit code 1")


def oom_kills() -> int:
    """The number of processes that Linux has killed for lack of memory; 0 on other systems."""
    try:
        counters = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) for line in counters.splitlines() if line.startswith("oom_kill ")), 0
    )


def how_it_ended(code: int, *, out_of_memory: bool = False) -> str:
    """
    Args:
        code: exit code, as from ``subprocess``.
        out_of_memory: the kernel killed a process for lack of memory meanwhile.
    """
    if code >= 0:
        return f"exit code {code}"
    try:
        name = f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
    return _OUT_OF_MEMORY if name == _KILLED and out_of_memory else name


_KILLED = "signal SIGKILL"
_OUT_OF_MEMORY = f"{_KILLED}, out of memory"
