"""Run the workflows of jobs in a worker. A finished batch of windows is a step.

dbos resumes work only on the executor that started it. An executor id stands for one worker slot,
whose worker holds a lock. On a shared PostgreSQL server, ``WorkflowQueue.take_over`` moves the work
of a worker that is gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, Queue, _dbos
from dbos import error as dbos_error
from dbos._queue import queue_worker_thread

from ..errors import WorkerFailedError
from .changes import Changes, PollPause
from .queue import APPLICATION, APPLICATION_VERSION, QUEUES, WORKFLOW, plain_url, queue_errors
from .store_errors import store_errors

# dbos would poll all queues and look for delayed workflows at least once a second. ``launch`` polls
# after changes instead, and no workflow has a delay.
for _name in ("queue_thread", "background_jobs_thread"):
    setattr(_dbos, _name, lambda *_: None)

QUIET_S = 1.0  # after the last job, before polls become rare

# Raised in the thread of a workflow that was cancelled or moved to another worker.
WorkflowStoppedError = (
    dbos_error.DBOSWorkflowCancelledError,
    dbos_error.DBOSWorkflowConflictIDError,
)


class WorkflowRunner:
    """Runs workflows in this process, each in its own thread.

    Args:
        executor_id: of the worker slot; only one process may use it at a time.
        run: runs a job.
    """

    def __init__(
        self, engine: sa.Engine, url: sa.URL, executor_id: str, run: Callable[[str], None]
    ) -> None:
        self._url = url
        self._queues: dict[str, Queue] = {}
        self._pollers: list[threading.Thread] = []
        self._running: set[str] = set()
        self._ended_at = 0.0
        config: DBOSConfig = {
            "name": APPLICATION,
            "application_version": APPLICATION_VERSION,
            "executor_id": executor_id,
            "system_database_url": plain_url(url),
            "system_database_engine": engine,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "ERROR",
            "run_migrations": False,
            "use_listen_notify": False,
            "notification_listener_polling_interval_sec": 60.0,
            "scheduler_polling_interval_sec": 3600.0,
        }
        self._dbos = DBOS(config=config)

        @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
        def transcribe(job_id: str) -> None:
            self._running.add(job_id)
            try:
                run(job_id)
            finally:
                self._running.discard(job_id)
                self._ended_at = time.monotonic()

    def launch(self, *, shared: bool) -> None:
        """Start with the unfinished work of this executor, then take queued jobs.

        Args:
            shared: there are other workers; take one job per queue until ``share_out``.
        """
        with queue_errors(self._url):
            DBOS.launch()
            for name, rules in QUEUES.items():
                self._queues[name] = DBOS.register_queue(
                    name,
                    worker_concurrency=1 if shared else rules.places,
                    polling_interval_sec=rules.poll_s,
                    on_conflict="always_update",
                )
        internal = self._dbos._registry.get_internal_queue()  # recovered workflows go there
        for queue in (*self._queues.values(), internal):
            pause = PollPause(Changes(self._url), queue.name, self._is_busy)
            poller = threading.Thread(
                target=queue_worker_thread, args=(pause, self._dbos, queue), daemon=True
            )
            poller.start()
            self._pollers.append(poller)

    def check(self) -> None:
        """
        Raises:
            RuntimeError: a queue is no longer polled.
        """
        if not all(poller.is_alive() for poller in self._pollers):
            raise RuntimeError("a thread that polls a queue has ended")

    def _is_busy(self) -> bool:
        """Whether a slot may become free without a change that an idle worker would notice."""
        return bool(self._running) or time.monotonic() - self._ended_at < QUIET_S

    def share_out(self, unfinished: Mapping[str, int], n_workers: int) -> None:
        """Limit every worker to its share of each queue, so that none stays idle.

        Otherwise the first worker would fill all its places. The limits apply to all workers of the
        database; running jobs stay where they are.
        """
        for name, rules in QUEUES.items():
            share = -(-unfinished.get(name, 0) // n_workers) if n_workers > 1 else rules.places
            places = max(1, min(rules.places, share))
            with queue_errors(self._url):
                if self._queues[name].worker_concurrency != places:
                    self._queues[name].set_worker_concurrency(places)


def keep_step(url: sa.URL, name: str, make: Callable[[], str]) -> str:
    """In a workflow: the result of ``make``, or the stored one if this step has finished before.

    ``make`` must not fail: dbos would store the error as the result.

    Raises:
        StoreError: the database fails.
        WorkerFailedError: the job has a different step stored here.
    """
    try:
        with store_errors(url):
            return DBOS.run_step({"name": name}, make)
    except dbos_error.DBOSException as error:
        hint = "transcribe the recording again with force"
        raise WorkerFailedError(
            f"cannot store {name}: {type(error).__name__}", hint=hint
        ) from error
