"""The supervisor of this machine's workers: starts one for every GPU, writes down how each ends, starts another.

It loads nothing native, so it survives whatever kills a worker. Each worker is watched by a thread of its own, with its
own account of failures: one that dies, waits for the store or cannot be started leaves the others alone.

    a worker ends                      then
    nothing was left to do             the others, who have nothing to do either, are told to end
    it was told to end                 it is not started again
    it wants another in its place      another is started at once
    it died at work                    another is started at once
    the store fails                    another is started, later and later
    it died before it could work       another is started, later and later

It tries for as long as jobs wait, once a minute in the end. Meanwhile the store says why there is no worker
(``worker_state.py``) and the jobs stay queued: they may be other machines', or this one may be repaired.
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
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ..compat import Facts, choose_runtime, gather
from ..settings import Settings, settings, usable_cores
from .private_files import make_private_dir, open_private
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
    what_happened,
)

if TYPE_CHECKING:
    from .store import Store

BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # before the next try; the last one again and again
STEADY_S = 60.0  # a worker that lived for so long is no failed start
NICE = 5  # of 19: a third of the weight of whoever wants the same core
LOOK_S = 0.2  # how often it looks whether it was told to end

_AFTER = {EXIT_RESTART: "restart", EXIT_STORE_FAILED: "store", EXIT_FAILED: "failed"}
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
        if code == EXIT_DONE or not work_is_left(chosen):
            return EXIT_DONE if code == EXIT_IDLE else code


def slots_of(facts: Facts, chosen: Settings) -> tuple[tuple[WorkerSlot, ...], dict[str, str]]:
    """The workers that a machine gets, and variables that libraries read once; the user's own variables win."""
    runtime = choose_runtime(facts)
    gpus = runtime.gpus or (0,)
    n_workers = chosen.workers or len(gpus)
    slots = tuple(
        WorkerSlot(number, gpus[number % len(gpus)], n_workers) for number in range(n_workers)
    )
    wanted = dict(runtime.environment)
    if n_workers > 1:  # they share the cores
        wanted["OMP_NUM_THREADS"] = str(max(1, runtime.threads // n_workers))
        wanted["TRANSCRIBE_MCP_THREADS"] = str(max(1, usable_cores() // n_workers))
    return slots, {name: value for name, value in wanted.items() if name not in os.environ}


@dataclass(frozen=True, slots=True)
class WorkerRun:
    """One worker, from its start to its end.

    Attributes:
        code: as ``subprocess`` gives it.
        was_ready: it came so far as to take jobs.
        reason: how it ended, in words.
    """

    code: int
    was_ready: bool
    reason: str
    lived_s: float

    @property
    def is_good(self) -> bool:
        """Another may follow at once."""
        if self.code in (EXIT_STORE_FAILED, EXIT_FAILED):
            return False
        return self.was_ready or self.code == EXIT_RESTART


class Supervisor:
    """Watches the workers of this machine; see the module."""

    def __init__(
        self, chosen: Settings, slots: Sequence[WorkerSlot], environment: Mapping[str, str]
    ) -> None:
        self._chosen = chosen
        self._data_dir = chosen.data_dir.absolute()
        self._slots = slots
        self._environment = dict(environment)
        self._lock = threading.Lock()
        self._told_to_end = False  # by a signal
        self._ending = threading.Event()
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._codes: dict[int, int] = {}

    def run(self) -> int:
        """Until every worker has ended for good; gives the exit code of them all."""
        threads = [
            threading.Thread(target=self._watch, args=[slot], name=slot.log_name)
            for slot in self._slots
        ]
        with self._signals():
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(LOOK_S)
                    if self._told_to_end:
                        self._end_all()
        codes = set(self._codes.values())
        if self._told_to_end:
            return EXIT_DONE
        return EXIT_IDLE if EXIT_IDLE in codes else max(codes, key=abs, default=EXIT_DONE)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Asked to end, or interrupted at the terminal, it asks the workers and goes when they have gone."""

        def end(_signal: int, _frame: FrameType | None) -> None:
            self._told_to_end = True  # and no more: what this interrupts may hold a lock

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

    # --- a worker's thread --------------------------------------------------------------------------------------------

    def _watch(self, slot: WorkerSlot) -> None:
        """Run worker after worker in this slot until none is wanted there any more."""
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
        """Run a worker to its end."""
        command = [
            sys.executable,
            "-m",
            "transcribe_mcp.jobs.worker",
            *slot.arguments,
            f"--after={end_of_last}",
        ]
        log_path = self._data_dir / slot.log_name
        began, killed_before = time.monotonic(), oom_kills()
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
        except OSError as error:  # no room for its log, no memory for a process
            return WorkerRun(
                EXIT_FAILED, was_ready=False, reason=f"{error.strerror or error}", lived_s=0.0
            )
        if code not in _ENDS:
            reason = what_happened(text, reason)
        return WorkerRun(code, READY in text, reason, time.monotonic() - began)

    # --- failed starts ------------------------------------------------------------------------------------------------

    def _may_try_again(self, slot: WorkerSlot, reason: str, delay_s: float) -> bool:
        """Say why there is no worker, wait; whether to start another. Without work none is needed."""
        note(f"no worker: {reason}; next try in {delay_s:.0f} s")
        self._record(slot, (reason, delay_s))
        while not self._ending.wait(delay_s):
            if work_is_left(self._chosen):
                return True
            with self._lock:
                if not self._workers:  # else those that work tell when there is nothing left
                    break
        self._record(slot, None)
        return False

    def _record(self, slot: WorkerSlot, failed: tuple[str, float] | None) -> None:
        """Write down why this worker does not run and when it is tried again, or that nobody tries any more."""
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
    """Whether jobs wait or run. Where the store cannot be asked now, they may."""
    from ..errors import StoreDamagedError, StoreError, StoreVersionError

    if not chosen.data_dir.is_dir():  # asking would make it again
        return False
    try:
        with _store(chosen) as store:
            return not store.is_idle()
    except (StoreDamagedError, StoreVersionError):
        return False  # waiting does not help; whoever looks hears of it, and starts another
    except StoreError:
        return True


def _lower_priority() -> None:
    """Front ends and whatever else wants the processor now have it first; what they leave is all the workers'.

    Where Linux weighs sessions against each other, the session's weight is what counts, else the process's.
    """
    if sys.platform != "win32":  # there the priority came with the process
        os.nice(NICE)
        with suppress(OSError):  # no Linux, or one that does not
            Path("/proc/self/autogroup").write_text(str(NICE), encoding="ascii")


if __name__ == "__main__":
    _lower_priority()
    sys.exit(supervise())
