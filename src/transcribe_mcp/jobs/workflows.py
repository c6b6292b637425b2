"""Run the workflows of jobs in a worker. A finished batch of windows is a step.

dbos resumes work only on the executor that started it. An executor id stands for one worker slot,
whose worker holds a lock. On a shared PostgreSQL server, ``WorkflowQueue.take_over`` moves the work
of a worker that is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, Queue
from dbos import error as dbos_error

from ..errors import WorkerFailedError
from .queue import APPLICATION, APPLICATION_VERSION, QUEUES, WORKFLOW, plain_url, queue_errors
from .store_errors import store_errors

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
        }
        DBOS(config=config)

        @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
        def transcribe(job_id: str) -> None:
            run(job_id)

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
