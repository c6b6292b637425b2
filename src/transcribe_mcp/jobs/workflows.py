"""Durable workflows in the worker: a job is one, a finished batch of windows is one of its steps.

dbos gives work back to the executor that began it and to no other: an executor id stands for one worker of one device
on one machine, which holds a lock. Where several machines share a PostgreSQL server, ``WorkflowQueue.take_over`` moves
the work of a worker that is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, Queue
from dbos import error as dbos_error

from ..errors import WorkerFailedError
from .queue import APPLICATION, APPLICATION_VERSION, QUEUES, WORKFLOW, plain_url, queue_errors
from .store_errors import store_errors

# Raised in the worker's thread of a workflow that was cancelled or handed to another worker.
WorkflowStoppedError = (
    dbos_error.DBOSWorkflowCancelledError,
    dbos_error.DBOSWorkflowConflictIDError,
)


class WorkflowRunner:
    """Runs workflows in this process, each in a thread of its own.

    Args:
        executor_id: who runs them; no two processes may use the same at the same time.
        run: does the work of a job.
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
        """Begin: first what this executor left unfinished, then what is queued.

        Args:
            shared: there are other workers. Until ``share_out`` says more, each takes one job of a queue.
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
        """Let every worker of the store take its share of each queue's jobs and no more, so that none is left idle.

        Who looks first would otherwise take all that it has places for. The numbers are every worker's, whoever sets
        them, and jobs that run stay where they are.
        """
        for name, rules in QUEUES.items():
            share = -(-unfinished.get(name, 0) // n_workers) if n_workers > 1 else rules.places
            places = max(1, min(rules.places, share))
            with queue_errors(self._url):
                if self._queues[name].worker_concurrency != places:
                    self._queues[name].set_worker_concurrency(places)


def keep_step(url: sa.URL, name: str, make: Callable[[], str]) -> str:
    """In a workflow: what ``make`` gives, or gave when this step was finished before.

    ``make`` must not fail: an error would be kept like a result. What can fail comes before.

    Raises:
        StoreError: the database fails.
        WorkerFailedError: this step does not fit those that the job finished before.
    """
    try:
        with store_errors(url):
            return DBOS.run_step({"name": name}, make)
    except dbos_error.DBOSException as error:
        hint = "transcribe the recording again with force"
        raise WorkerFailedError(
            f"{name} cannot be stored: {type(error).__name__}", hint=hint
        ) from error
