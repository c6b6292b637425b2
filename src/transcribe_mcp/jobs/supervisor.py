"""The supervisor of this machine's workers: starts one per GPU, logs its end, starts the next.

A second worker of a GPU starts in a spare slot when a worker reports that many jobs wait.

It loads no native library, so it survives what kills a worker. A thread watches each worker and
counts its failures, so the failures of one worker do not affect the others.

    worker exit                        action
    no work left (idle)                stop all workers
    asked to stop                      none
    asked for a restart                start the next at once
    died after it was ready            start the next at once
    database failed                    start the next after a growing delay
    died before it was ready           start the next after a growing delay

It retries as long as jobs are unfinished, at least once a minute. Meanwhile the database has the
reason (``failed_starts.py``). The jobs stay queued: another machine may take them, or
this one may be repaired.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ..compat import Facts, choose_runtime, gather_for_workers
from ..domain.private_files import open_private
from ..settings import Settings, settings, usable_cores
from .worker_process import (
    ENDED,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_IDLE,
    EXIT_RESTART,
    EXIT_STORE_FAILED,
    READY,
    TAIL_BYTES,
    WorkerSlot,
    environment_of,
    hold_supervisor_lock,
    how_it_ended,
    note,
    oom_kills,
    take_request,
    what_happened,
)

if TYPE_CHECKING:
    from .store import Store

BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # delays before the next try; the last repeats
STEADY_S = 60.0  # a worker that lived longer resets the count of failures
NICE = 5  # of 19: a third of the CPU share of a normal process
LOOK_S = 0.2  # between checks for a signal

_AFTER = {EXIT_RESTART: "restart", EXIT_STORE_FAILED: "store", EXIT_FAILED: "failed"}
_ENDS = (EXIT_DONE, EXIT_IDLE, -signal.SIGTERM, -signal.SIGINT)


def supervise() -> int:
    """Run workers until no work is left. The command ``transcribe-mcp worker``.

    Raises:
        StoreError: the data directory is not writable.
    """
    chosen = settings()
    data_dir = chosen.data_dir.absolute()
    while True:
        lock = hold_supervisor_lock(data_dir)
        if lock is None:
            return EXIT_DONE
        try:
            facts = gather_for_workers()
            slots, variables = slots_of(facts, chosen)
            environment = {**environment_of(chosen), **variables}
            code = Supervisor(chosen, slots, environment, spare_slots(facts, chosen)).run()
        finally:
            lock.release()
        # A submission while the locks were held has started no worker: look for its job.
        if code == EXIT_DONE or not work_is_left(chosen):
            return EXIT_DONE if code == EXIT_IDLE else code


def slots_of(facts: Facts, chosen: Settings) -> tuple[tuple[WorkerSlot, ...], dict[str, str]]:
    """The worker slots of a machine, and environment variables that the user has not set."""
    runtime = choose_runtime(facts)
    gpus = runtime.gpus or (0,)
    n_workers = chosen.workers or len(gpus)
    slots = tuple(
        WorkerSlot(number, gpus[number % len(gpus)], n_workers) for number in range(n_workers)
    )
    variables = dict(runtime.environment)
    if n_workers > 1:  # they share the cores
        variables["OMP_NUM_THREADS"] = str(max(1, runtime.threads // n_workers))
        variables["TRANSCRIBE_MCP_THREADS"] = str(max(1, usable_cores() // n_workers))
    return slots, {name: value for name, value in variables.items() if name not in os.environ}


def spare_slots(facts: Facts, chosen: Settings) -> tuple[WorkerSlot, ...]:
    """The slots of second workers, one for each GPU that benefits; none if the user has set the
    number of workers.
    """
    runtime = choose_runtime(facts)
    if chosen.workers:
        return ()
    n_first = len(runtime.gpus)
    n_workers = n_first + len(runtime.paired_gpus)
    return tuple(
        WorkerSlot(number, gpu, n_workers)
        for number, gpu in enumerate(runtime.paired_gpus, start=n_first)
    )


@dataclass(frozen=True, slots=True)
class WorkerRun:
    """The life of one worker.

    Attributes:
        code: exit code, as from ``subprocess``.
        was_ready: it was ready to take jobs.
        reason: its end in words.
    """

    code: int
    was_ready: bool
    reason: str
    lived_s: float

    @property
    def is_good(self) -> bool:
        """Whether the next may start at once."""
        if self.code in (EXIT_STORE_FAILED, EXIT_FAILED):
            return False
        return self.was_ready or self.code == EXIT_RESTART


class Supervisor:
    """Watches the workers of this machine; see the module."""

    def __init__(
        self,
        chosen: Settings,
        slots: Sequence[WorkerSlot],
        environment: Mapping[str, str],
        spare: Sequence[WorkerSlot] = (),
    ) -> None:
        self._chosen = chosen
        self._data_dir = chosen.data_dir.absolute()
        self._slots = [replace(slot, n_spare=len(spare)) for slot in slots]
        self._spare = spare
        self._environment = dict(environment)
        self._lock = threading.Lock()
        self._signalled = False
        self._ending = threading.Event()
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._codes: dict[int, int] = {}

    def run(self) -> int:
        """Run until every worker has stopped; returns the common exit code."""
        threads: list[threading.Thread] = []
        with self._signals():
            self._start(self._slots, threads)
            for thread in threads:  # to which spare slots may be added meanwhile
                while thread.is_alive():
                    thread.join(LOOK_S)
                    if self._signalled:
                        self._end_all()
                    if take_request(self._data_dir):
                        self._start(self._spare, threads)
                        self._spare = ()
        codes = set(self._codes.values())
        if self._signalled:
            return EXIT_DONE
        return EXIT_IDLE if EXIT_IDLE in codes else max(codes, key=abs, default=EXIT_DONE)

    def _start(self, slots: Sequence[WorkerSlot], threads: list[threading.Thread]) -> None:
        for slot in slots:
            thread = threading.Thread(target=self._watch, args=[slot], name=slot.log_name)
            thread.start()
            threads.append(thread)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """On SIGTERM or SIGINT, stop the workers and wait for them."""

        def end(_signal: int, _frame: FrameType | None) -> None:
            self._signalled = True  # no more here: the interrupted code may hold a lock

        previous = {
            number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)
        }
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

    # --- a worker's thread ----------------------------------------------------------------------

    def _watch(self, slot: WorkerSlot) -> None:
        """Run the workers of a slot until no other is needed."""
        code = self._codes[slot.number] = self._until_ended(slot)
        if code == EXIT_IDLE:
            self._end_all()

    def _until_ended(self, slot: WorkerSlot) -> int:
        failures = 0
        end = ""
        while not self._ending.is_set():
            run = self._one_worker(slot, end)
            if run.code in _ENDS:
                return max(run.code, EXIT_DONE)
            end = _AFTER.get(run.code, "died")
            if run.is_good:
                failures = 0
                continue
            failures = 1 if run.lived_s > STEADY_S else failures + 1
            if not self._may_try_again(
                slot, run.reason, BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
            ):
                return run.code
        return EXIT_DONE

    def _one_worker(self, slot: WorkerSlot, end_of_last: str) -> WorkerRun:
        """Run one worker to its end."""
        command = [
            sys.executable,
            "-m",
            "transcribe_mcp.jobs.worker",
            *slot.arguments,
            f"--after={end_of_last}",
        ]
        log_path = self._data_dir / slot.log_name
        started = time.monotonic()
        killed_before = oom_kills()
        try:
            with open_private(log_path, "ab") as log:
                begin = log.tell()
                with self._lock:
                    if self._ending.is_set():
                        return WorkerRun(EXIT_DONE, was_ready=False, reason="", lived_s=0.0)
                    worker = subprocess.Popen(
                        command, stdout=log, stderr=log, env=self._environment
                    )
                    self._workers[slot.number] = worker
                code = worker.wait()
                with self._lock:
                    del self._workers[slot.number]
                reason = how_it_ended(code, out_of_memory=oom_kills() > killed_before)
                if code not in (EXIT_DONE, EXIT_IDLE, EXIT_RESTART, EXIT_STORE_FAILED):
                    with suppress(OSError):  # the disk is full
                        log.write(f"{ENDED}{reason}\n".encode())
            with log_path.open("rb") as log:
                log.seek(begin)
                text = log.read(TAIL_BYTES).decode("utf-8", "replace")
        except OSError as error:  # a full disk, or no memory for a process
            return WorkerRun(
                EXIT_FAILED, was_ready=False, reason=f"{error.strerror or error}", lived_s=0.0
            )
        if code not in _ENDS:
            reason = what_happened(text, reason)
        return WorkerRun(code, READY in text, reason, time.monotonic() - started)

    # --- failed starts --------------------------------------------------------------------------

    def _may_try_again(self, slot: WorkerSlot, reason: str, delay_s: float) -> bool:
        """Record why there is no worker, and wait; returns whether to start another."""
        note(f"no worker: {reason}; next try in {delay_s:.0f} s")
        self._record(slot, (reason, delay_s))
        while not self._ending.wait(delay_s):
            if work_is_left(self._chosen):
                return True
            with self._lock:
                if not self._workers:  # else a running worker reports that no work is left
                    break
        self._record(slot, None)
        return False

    def _record(self, slot: WorkerSlot, failed: tuple[str, float] | None) -> None:
        """Record (reason, seconds until the next try) of this worker, or that nobody tries."""
        from ..errors import StoreError

        with suppress(StoreError), _store(self._chosen) as store:
            if failed is None:
                store.clear_failed_start(self._data_dir, slot.number)
            else:
                store.record_failed_start(self._data_dir, *failed, slot.number)


@contextmanager
def _store(chosen: Settings) -> Iterator[Store]:
    from .store import Store

    store = Store(chosen.data_dir, chosen.database_url)
    try:
        yield store
    finally:
        store.close()


def work_is_left(chosen: Settings) -> bool:
    """Whether jobs are unfinished; true if the database cannot be read now."""
    from ..errors import StoreDamagedError, StoreError, StoreVersionError

    if not chosen.data_dir.is_dir():  # opening would create it again
        return False
    try:
        with _store(chosen) as store:
            return not store.is_idle()
    except (StoreDamagedError, StoreVersionError):
        return False  # waiting does not help; the next command reports it
    except StoreError:
        return True


def _lower_priority() -> None:
    """Lower the scheduling priority of the workers below front ends and other programs.

    With Linux's autogroups the weight of the session counts, else that of the process.
    """
    if sys.platform != "win32":  # which has set it when starting the process
        os.nice(NICE)
        with suppress(OSError):  # no autogroups
            Path("/proc/self/autogroup").write_text(str(NICE), encoding="ascii")


if __name__ == "__main__":
    _lower_priority()
    sys.exit(supervise())
