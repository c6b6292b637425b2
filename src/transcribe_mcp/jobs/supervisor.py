"""The supervisor of this machine's workers: starts one for every GPU, writes down how each ends, starts another.

It loads nothing native, so it survives whatever kills a worker. Each worker is watched by a thread of its own, with its
own account of failures: one that dies, waits for the store or cannot be started leaves the others alone.

    a worker ends                      then
    nothing was left to do             the others, who have nothing to do either, are told to end
    it was told to end                 it is not started again
    it wants another in its place      another is started at once
    the store fails                    another is started, later and later
    it died                            another is started, unless it died before it could work three times in a row

Where no worker could be started at all, the jobs that wait are told so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from ..compat import Facts, choose_runtime, gather
from ..settings import Settings, settings, usable_cores
from .private_files import make_private_dir, open_private
from .process import (
    ENDED,
    EXIT_DONE,
    EXIT_IDLE,
    EXIT_RESTART,
    EXIT_STORE_FAILED,
    LOG_NAME,
    READY,
    TAIL_BYTES,
    WorkerSlot,
    environment_of,
    hold_supervisor_lock,
    how_it_ended,
    last_end,
)

BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
FAILED_STARTS = 3  # in a row: then this worker will never work here
STORE_FAILURES = 60
NICE = 5  # of 19: a third of the weight of whoever wants the same core
LOOK_S = 0.2  # how often it looks whether it was told to end

_ENDS = (EXIT_DONE, EXIT_IDLE, -signal.SIGTERM, -signal.SIGINT)


def supervise() -> int:
    """Run workers until nothing is left to do. The command ``transcribe-mcp worker``."""
    chosen = settings()
    data_dir = chosen.data_dir.absolute()
    make_private_dir(data_dir)
    while True:
        lock = hold_supervisor_lock(data_dir)
        if lock is None:
            return EXIT_DONE
        try:
            slots, variables = slots_of(gather(), chosen)
            code = Supervisor(chosen, slots, {**environment_of(chosen), **variables}).run()
        finally:
            lock.release()
        # Who submitted while the locks were held started no worker: that is seen now that they are not.
        if code != EXIT_IDLE or _is_idle(chosen):
            return EXIT_DONE if code == EXIT_IDLE else code


def slots_of(facts: Facts, chosen: Settings) -> tuple[tuple[WorkerSlot, ...], dict[str, str]]:
    """The workers that a machine gets, and variables that libraries read once; the user's own variables win."""
    runtime = choose_runtime(facts)
    gpus = runtime.gpus or (0,)
    n_workers = chosen.workers or len(gpus)
    slots = tuple(WorkerSlot(number, gpus[number % len(gpus)], n_workers) for number in range(n_workers))
    wanted = dict(runtime.environment)
    if n_workers > 1:  # they share the cores
        wanted["OMP_NUM_THREADS"] = str(max(1, runtime.threads // n_workers))
        wanted["TRANSCRIBE_MCP_THREADS"] = str(max(1, usable_cores() // n_workers))
    return slots, {name: value for name, value in wanted.items() if name not in os.environ}


class Supervisor:
    """Watches the workers of this machine; see the module."""

    def __init__(self, chosen: Settings, slots: Sequence[WorkerSlot], environment: Mapping[str, str]) -> None:
        self._chosen = chosen
        self._data_dir = chosen.data_dir.absolute()
        self._slots = slots
        self._environment = dict(environment)
        self._lock = threading.Lock()
        self._told_to_end = False  # by a signal
        self._ending = threading.Event()
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._codes: dict[int, int] = {}
        self._given_up: set[int] = set()

    def run(self) -> int:
        """Until every worker has ended for good; gives the exit code of them all."""
        threads = [threading.Thread(target=self._watch, args=[slot], name=slot.log_name) for slot in self._slots]
        with self._signals():
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(LOOK_S)
                    if self._told_to_end:
                        self._end_all()
        if len(self._given_up) == len(self._slots):
            self._tell_jobs()
        codes = set(self._codes.values())
        if self._told_to_end:
            return EXIT_DONE
        return EXIT_IDLE if EXIT_IDLE in codes else max(codes, key=abs, default=EXIT_DONE)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Asked to end, or interrupted at the terminal, it asks the workers and goes when they have gone."""

        def end(_signal: int, _frame: FrameType | None) -> None:
            self._told_to_end = True  # and no more: what this interrupts may hold a lock

        previous = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _end_all(self) -> None:
        with self._lock:
            self._ending.set()
            for worker in self._workers.values():
                worker.terminate()

    # --- a worker's thread --------------------------------------------------------------------------------------------

    def _watch(self, slot: WorkerSlot) -> None:
        """Run worker after worker in this slot until none is wanted there any more."""
        code = self._codes[slot.number] = self._until_ended(slot)
        if code == EXIT_IDLE:
            self._end_all()

    def _until_ended(self, slot: WorkerSlot) -> int:
        store_failures = failed_starts = 0
        end = ""
        while not self._ending.is_set():
            was_ready, code = self._one_worker(slot, end)
            if code in _ENDS:
                return max(code, EXIT_DONE)
            if code == EXIT_RESTART:
                end = "restart"
            elif code == EXIT_STORE_FAILED:
                end = "store"
                store_failures = 1 if was_ready else store_failures + 1
                if store_failures > STORE_FAILURES:
                    return code
                self._ending.wait(BACKOFF_S[min(store_failures, len(BACKOFF_S)) - 1])
            else:
                end = "died"
                failed_starts = 0 if was_ready else failed_starts + 1
                if failed_starts >= FAILED_STARTS:
                    self._given_up.add(slot.number)
                    return code
        return EXIT_DONE

    def _one_worker(self, slot: WorkerSlot, end_of_last: str) -> tuple[bool, int]:
        """Run a worker to its end: (whether it came so far as to work, its exit code)."""
        log_path = self._data_dir / slot.log_name
        command = [sys.executable, "-m", "transcribe_mcp.jobs.worker", *slot.arguments, f"--after={end_of_last}"]
        with open_private(log_path, "ab") as log:
            begin = log.tell()
            with self._lock:
                if self._ending.is_set():
                    return False, EXIT_DONE
                worker = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)
                self._workers[slot.number] = worker
            code = worker.wait()
            with self._lock:
                del self._workers[slot.number]
            if code not in (EXIT_DONE, EXIT_IDLE, EXIT_RESTART, EXIT_STORE_FAILED):
                with suppress(OSError):  # the disk is full
                    log.write(f"{ENDED}{how_it_ended(code)}\n".encode())
        with log_path.open("rb") as log:
            log.seek(begin)
            return READY.encode() in log.read(TAIL_BYTES), code

    # --- the jobs -----------------------------------------------------------------------------------------------------

    def _tell_jobs(self) -> None:
        """Say to every job that waits that nobody will work on it."""
        from ..errors import StoreError, WorkerFailedError
        from .store import Store

        known = last_end(self._data_dir / LOG_NAME) or "see its log"
        hint = f"see {LOG_NAME} in the data directory and transcribe-mcp doctor; then retry the job"
        error = WorkerFailedError(f"no worker can be started: {known}", hint=hint)
        with suppress(StoreError):  # whoever looks hears of it
            store = Store(self._chosen.data_dir, self._chosen.database_url)
            store.fail_all(error)
            store.close()


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


def _let_others_first() -> None:
    """Front ends and whatever else wants the processor now have it first; what they leave is all the workers'.

    Where Linux weighs sessions against each other, the session's weight is what counts, else the process's.
    """
    if sys.platform != "win32":  # there the priority came with the process
        os.nice(NICE)
        with suppress(OSError):  # no Linux, or one that does not
            Path("/proc/self/autogroup").write_text(str(NICE), encoding="ascii")


if __name__ == "__main__":
    _let_others_first()
    sys.exit(supervise())
