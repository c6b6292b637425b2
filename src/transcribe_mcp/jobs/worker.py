"""A worker process: the only kind of process that loads an engine. It runs jobs until the queue
stays empty.

Its main thread is the heartbeat. It records the progress of jobs, learns of cancelled ones, runs
maintenance, and exits when there is no more work.

The process ends whenever the main thread fails, and its jobs continue in another process. On an
error, the jobs are requeued and the process exits at once; Python's regular shutdown would make
their threads fail. A timer outside Python (``faulthandler``) ends a process whose heartbeat has
stopped. No job is marked as failed while the process exits.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ..domain.collector import paused_collector
from ..domain.private_files import make_private_dir
from ..engines.malloc import give_back_freed, share_arenas
from ..errors import CancelledError, StoreError, TranscribeError, WorkerFailedError
from ..settings import Settings, settings, usable_cores
from . import file_identity
from .ids import is_id
from .quarantine import Gate
from .worker_process import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_IDLE,
    EXIT_RESTART,
    EXIT_STORE_FAILED,
    READY,
    STARTED,
    WorkerSlot,
    hold_worker_lock,
    note,
    request_more,
    where,
)

with paused_collector():
    from ..runtime.loading import shared_executor
    from .changes import Changes
    from .failed_starts import worker_id
    from .model_server import ModelServer
    from .output_writer import OutputWriter
    from .row_mapping import SILENT_S
    from .runner import run
    from .running_job import RunningJob, WorkerContext
    from .store import Store
    from .worker_store import Claim, WorkerStore
    from .workflows import WorkflowRunner, WorkflowStoppedError

BEAT_S = 0.2
IDLE_BEAT_S = 0.5  # without jobs
FREEING_S = 1.0  # after the last job, while freed memory is returned to the system
STUCK_S = 1.0  # after which an engine call for cancelled jobs is ended with its process
LOCK_PATIENCE_S = 5.0  # others test the lock by taking it briefly
MAINTENANCE_S = 5.0
REPAIR_S = 60.0
PROBES = 4  # queued recordings to probe per maintenance
MANY_JOBS = 16  # twice as many as run at once; more justify another worker
START_LIMIT_S = 600.0  # after which a starting worker is ended
HEARTBEAT_LIMIT_S = 60.0  # after which a worker without heartbeat is ended; a busy store takes 5 s


class _Interval:
    """A recurring time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()

    def is_over(self) -> bool:
        """Whether it has passed; it then starts again."""
        now = time.monotonic()
        if now - self._began <= self._seconds:
            return False
        self._began = now
        return True


class Worker:
    """Runs jobs until told to stop; see the module."""

    def __init__(self, store: Store, chosen: Settings, slot: WorkerSlot) -> None:
        self._store = store
        self._settings = chosen
        self._slot = slot
        self._running: dict[str, RunningJob] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.exit_code = EXIT_DONE
        self._worker_store = WorkerStore(store, worker_id(store.url, chosen.data_dir, slot.number))
        self._executor = shared_executor(chosen.unload_after_s)
        work_dir = chosen.data_dir / "fetched"
        self._shop = WorkerContext(
            store, self._worker_store, self._executor, Gate(), chosen, slot, self._log_of, work_dir
        )
        self._models = ModelServer(self._executor, self._shop.gate, lambda: not self._running)
        self._writer = OutputWriter(store, self._log)
        self._n_workers = slot.n_workers  # also those of other machines, once they have started
        self._changes = Changes(store.url)
        self._shared: dict[str, int] = {}  # jobs per queue when they were last shared out
        self._probing: threading.Thread | None = None
        self._done_s = 0.0
        self._measured = (0.0, 0.0)  # seconds of audio and of work, not yet recorded
        self._quiet_since = 0.0  # monotonic clock: no job since then
        self._worked_at = 0.0  # monotonic clock: the last work of the engine

    def serve(self) -> int:
        """Run jobs until the queue stays empty, then requeue running ones; return the exit code."""
        try:
            self._take_jobs()
        except StoreError as error:
            self._log(f"the database fails: {error}")
            self.exit_code = EXIT_STORE_FAILED
        except Exception as error:  # noqa: BLE001 - the process ends; its jobs continue in another
            self._log(f"the worker fails: {where(error)}")
            self.exit_code = EXIT_FAILED
        self._stop.set()
        try:
            self._release()
        except StoreError as error:
            self._log(f"the jobs cannot be requeued: {error}")
            self.exit_code = EXIT_STORE_FAILED
        return self.exit_code

    def _take_jobs(self) -> None:
        self._worker_store.register(os.getpid())
        workflows = WorkflowRunner(
            self._store.engine, self._store.url, self._worker_store.worker_id, self._do
        )
        self._writer.start()
        with suppress(OSError):  # commands load the model themselves
            self._models.start(self._settings.data_dir, self._slot.name)
        note(READY)  # before the first job, which may crash the process
        workflows.launch(shared=self._n_workers > 1)
        self._beat_until_stopped(workflows)

    def stop(self, exit_code: int) -> None:
        self.exit_code = exit_code
        self._stop.set()

    # --- a job's thread -------------------------------------------------------------------------

    def _do(self, job_id: str) -> None:
        """The workflow of a job. When it returns, the job is finished in the database."""
        try:
            claim = self._worker_store.claim(job_id)
        except StoreError as error:
            self._exit_store_failed(error)
        if claim is not None:
            with self._running_job(claim) as job:
                self._run(job)

    @contextmanager
    def _running_job(self, claim: Claim) -> Iterator[RunningJob]:
        """Register a job with the heartbeat."""
        job = RunningJob(claim, done_s=claim.done_s, duration_s=claim.duration_s)
        with self._lock:
            self._running[claim.job_id] = job
        try:
            yield job
        finally:
            self._writer.look()
            with self._lock:
                if self._running.get(claim.job_id) is job:
                    del self._running[claim.job_id]

    def _run(self, job: RunningJob) -> None:
        try:
            run(self._shop, job)
        except CancelledError:
            if self._stop.is_set():
                self._wait_for_the_end()
        except StoreError as error:
            self._exit_store_failed(error)
        except WorkflowStoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - one job must not stop the others
            self._log(f"job {job.claim.job_id} failed: {where(error)}")
            if self._stop.is_set():  # the shutdown may be the cause
                self._wait_for_the_end()
            self._fail(job, error)

    def _fail(self, job: RunningJob, error: Exception) -> None:
        hint = f"see {self._slot.log_name} in the data directory; then retry the job"
        failure = WorkerFailedError(
            f"the worker failed unexpectedly: {type(error).__name__}", hint=hint
        )
        try:
            self._shop.worker_store.fail(job.claim, failure)
        except CancelledError:
            return
        except StoreError as store_error:
            self._exit_store_failed(store_error)

    def _exit_store_failed(self, error: StoreError) -> NoReturn:
        """End the process, because progress cannot be saved; the next worker resumes the job."""
        self._log(f"the database fails: {error}")
        self.stop(EXIT_STORE_FAILED)
        self._wait_for_the_end()

    def _wait_for_the_end(self) -> NoReturn:
        """Block, because returning would mark the job as done."""
        while True:
            threading.Event().wait()

    # --- the heartbeat --------------------------------------------------------------------------

    def _beat_until_stopped(self, workflows: WorkflowRunner) -> None:
        self._quiet_since = time.monotonic()
        self._worked_at = time.monotonic()
        maintenance = _Interval(MAINTENANCE_S)
        repair = _Interval(REPAIR_S)
        self._worker_store.requeue_stranded(older_s=0.0)
        while not self._stop.wait(BEAT_S if self._running else IDLE_BEAT_S):
            end_if_not_called_again(HEARTBEAT_LIMIT_S)
            self._beat()
            workflows.check()
            if self._n_workers > 1 and (self._running or self._changes.seen()):
                self._share_out(workflows)
            self._free_memory()
            if maintenance.is_over():
                self._maintenance()
                self._count_workers(workflows)
                self._request_more()
            if repair.is_over():
                self._repair()
            self._stop_if_idle()

    def _free_memory(self) -> None:
        """Return freed memory to the system, for a while after the last job."""
        now = time.monotonic()
        if self._running or self._executor.busy():  # also for a cancelled job
            self._worked_at = now
        elif now - self._worked_at < FREEING_S:
            give_back_freed()

    def _stop_if_idle(self) -> None:
        now = time.monotonic()
        if self._running or self._models.is_busy:
            self._quiet_since = now
        elif now - self._quiet_since > self._settings.exit_after_s and self._store.is_idle():
            self.stop(EXIT_IDLE)

    def _repair(self) -> None:
        self._worker_store.requeue_stranded(older_s=REPAIR_S)
        self._worker_store.requeue_unclaimed(older_s=REPAIR_S, silent_s=SILENT_S)
        self._worker_store.delete_old_steps(older_s=REPAIR_S)
        self._clear_fetched()

    def _beat(self) -> None:
        with self._lock:
            jobs = list(self._running.values())
        news = {job.claim: job.news() for job in jobs}
        lost = set(self._worker_store.heartbeat(news))
        for job in jobs:
            if job.claim in lost:
                job.cancel()
        self._measure(jobs)
        self._executor.check()
        self._end_stuck_work()

    def _share_out(self, workflows: WorkflowRunner, *, anew: bool = False) -> None:
        """Share the jobs among workers if their number has changed, or if ``anew``."""
        unfinished = self._worker_store.unfinished()
        if anew or unfinished != self._shared:
            self._shared = unfinished
            workflows.share_out(unfinished, self._n_workers)

    def _count_workers(self, workflows: WorkflowRunner) -> None:
        before = self._n_workers
        self._n_workers = max(self._slot.n_workers, len(self._worker_store.alive(SILENT_S)))
        if max(before, self._n_workers) > 1:
            self._share_out(workflows, anew=True)  # a starting worker may have reset the shares

    def _request_more(self) -> None:
        n_unfinished = sum(self._worker_store.unfinished().values()) if self._slot.n_spare else 0
        if n_unfinished > MANY_JOBS * self._slot.n_workers:
            request_more(self._settings.data_dir)

    def _end_stuck_work(self) -> None:
        """Restart the process to end an engine call for cancelled jobs; the other jobs resume."""
        for owners in self._executor.busy():
            cancelled_at = [one.cancelled_at for one in owners]
            if all(at is not None and time.monotonic() - at > STUCK_S for at in cancelled_at):
                self.stop(EXIT_RESTART)

    def _measure(self, jobs: list[RunningJob]) -> None:
        """Measure the speed of the device over all its jobs."""
        working = [job for job in jobs if job.began_at is not None and job.cancelled_at is None]
        done_s = sum(job.done_s - job.began_from_s for job in working)
        audio_s, work_s = self._measured
        if working:
            self._measured = (audio_s + max(0.0, done_s - self._done_s), work_s + BEAT_S)
        self._done_s = done_s

    def _maintenance(self) -> None:
        self._worker_store.report_alive()
        audio_s, work_s = self._measured
        if audio_s and work_s:
            self._measured = (0.0, 0.0)
            self._worker_store.record_speed(self._executor.loaded, audio_s, work_s)
        self._store.delete_old(self._settings.keep_days)
        for job_id, queue in self._worker_store.orphans(SILENT_S):
            self._worker_store.take_over_orphan(job_id, queue)
        if self._probing is None or not self._probing.is_alive():
            self._probing = threading.Thread(
                target=self._look_up_lengths, name="lengths", daemon=True
            )
            self._probing.start()
        if not self._store.is_idle():
            self._quiet_since = time.monotonic()

    def _clear_fetched(self) -> None:
        """Delete the downloads of finished jobs."""
        found = [folder.name for folder in self._shop.work_dir.glob("*") if is_id(folder.name)]
        for job_id in set(found) - self._store.unfinished(found) if found else ():
            shutil.rmtree(self._shop.work_dir / job_id, ignore_errors=True)
        self._store.sweep_spool()

    def _look_up_lengths(self) -> None:
        """Probe queued recordings, in a thread: opening a remote file can take minutes."""
        from ..media.decode import probe

        with suppress(StoreError):  # the heartbeat gets it, too
            for job_id, source in self._worker_store.without_duration(PROBES):
                try:
                    with file_identity.opened(Path(source), self._store.roots(job_id)) as path:
                        duration_s = probe(path).duration
                except TranscribeError:
                    continue  # the job will report it
                if duration_s is not None:
                    self._worker_store.set_duration(job_id, duration_s)

    def requeue_running(self) -> None:
        self._worker_store.requeue_running()

    def _release(self) -> None:
        """Requeue the running jobs, so that this exit does not count as their crash."""
        self._worker_store.requeue_running()
        self._worker_store.unregister()

    def _log_of(self, worker: str | None) -> Path | None:
        number = (worker or "").rpartition("-")[2]
        if (
            not number.isdecimal()
            or worker_id(self._store.url, self._settings.data_dir, int(number)) != worker
        ):
            return None
        return self._settings.data_dir / WorkerSlot(int(number)).log_name

    def _log(self, text: str) -> None:
        note(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")


def _note_failed_thread(failed: threading.ExceptHookArgs) -> None:
    note(f"a thread failed: {where(failed.exc_value or failed.exc_type())}")


def end_if_not_called_again(within_s: float) -> None:
    """Log every thread's stack and end the process unless this is called again in time.

    The timer runs in C and also ends native code that never returns to Python.
    """
    faulthandler.dump_traceback_later(within_s, exit=True)


def main(arguments: list[str]) -> NoReturn:
    """Run one worker. ``arguments``: its slot, and how its predecessor ended.

    Exits the process without waiting for the threads of jobs and engines.
    """
    code = EXIT_FAILED
    try:
        code = _run(arguments)
    except Exception as error:  # noqa: BLE001 - logged, and the process ends
        note(f"the worker fails: {where(error)}")
    finally:
        os._exit(code)


def _run(arguments: list[str]) -> int:
    slot, end_of_last = _parse_args(arguments)
    chosen = settings()
    make_private_dir(chosen.data_dir)
    lock = hold_worker_lock(chosen.data_dir, slot.number, LOCK_PATIENCE_S)
    if lock is None:
        return EXIT_DONE
    faulthandler.enable()
    threading.excepthook = _note_failed_thread
    end_if_not_called_again(START_LIMIT_S)
    share_arenas(usable_cores())
    note(f"{STARTED} {time.strftime('%Y-%m-%d %H:%M:%S')} pid {os.getpid()}")
    try:
        store = Store(chosen.data_dir, chosen.database_url)
        worker = Worker(store, chosen, slot)
        if end_of_last in ("restart", "store", "failed"):
            worker.requeue_running()
    except StoreError as error:
        note(f"the database cannot be opened: {error}")
        return EXIT_STORE_FAILED

    def end(_signal: int, _frame: FrameType | None) -> None:
        worker.stop(EXIT_DONE)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return worker.serve()


def _parse_args(arguments: list[str]) -> tuple[WorkerSlot, str]:
    parser = argparse.ArgumentParser("worker")
    for field in fields(WorkerSlot):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    parser.add_argument("--after", default="")
    values = vars(parser.parse_args(arguments))
    end_of_last = values.pop("after")
    return WorkerSlot(**values), end_of_last


if __name__ == "__main__":
    main(sys.argv[1:])
