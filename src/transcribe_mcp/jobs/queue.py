"""Durable workflows: a job is one, a finished batch of windows is one of its steps. The only file that knows dbos.

Front ends hold a ``WorkflowQueue``: it adds, cancels and rewinds workflows, and runs none. The worker holds a
``WorkflowRunner``. What a workflow and a step keep is text, never a pickled object.

dbos gives work back to the executor that began it and to no other: an executor id stands for one worker of one device
on one machine, which holds a lock. Where several machines share a PostgreSQL server, ``take_over`` moves the work of a
worker that is gone.

Every call raises ``StoreError`` where the database fails: no error of dbos or SQLAlchemy leaves this file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from dbos import (
    DBOS,
    DBOSClient,
    DBOSConfig,
    DBOSPortableJSONSerializer,
    EnqueueOptions,
    Queue,
)
from dbos import error as dbos_error

from ..errors import StoreError, WorkerFailedError
from .store_errors import shown, store_errors

APPLICATION = "transcribe-mcp"
APPLICATION_VERSION = "1"  # of the steps that a workflow takes: work begun by another version is not resumed
WORKFLOW = "transcribe"
SHORT, LONG = "short", "long"  # long recordings have places of their own, so that short ones are never behind them


@dataclass(frozen=True, slots=True)
class QueueRules:
    """How many jobs of a queue one worker runs at once at most, and how often it looks for more."""

    places: int
    poll_s: float


QUEUES = {SHORT: QueueRules(places=8, poll_s=0.08), LONG: QueueRules(places=3, poll_s=0.5)}

# Raised in the worker's thread of a workflow that was cancelled or handed to another worker.
WorkflowStoppedError = (dbos_error.DBOSWorkflowCancelledError, dbos_error.DBOSWorkflowConflictIDError)


logging.getLogger("dbos").setLevel(logging.ERROR)


@contextmanager
def _queue_errors(url: sa.URL) -> Iterator[None]:
    """Translate the errors of the database and of dbos."""
    try:
        with store_errors(url):
            yield
    except dbos_error.DBOSException as error:
        hint = "see worker.log in the data directory; try again"
        raise StoreError(f"the queue in {shown(url)} failed: {type(error).__name__}", hint=hint) from error


def make_workflow_tables(url: sa.URL) -> None:
    """Make or update dbos's own tables."""
    with _queue_errors(url):
        DBOS.migrate(_plain(url))


def _plain(url: sa.URL) -> str:
    drivername = "sqlite" if url.get_backend_name() == "sqlite" else "postgresql"
    return url.set(drivername=drivername).render_as_string(hide_password=False)


class WorkflowQueue:
    """What may be done to workflows from any process. Cheap to make; connects when first used."""

    def __init__(self, engine: sa.Engine) -> None:
        self._url = engine.url
        self._client = DBOSClient(
            system_database_engine=engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            lazy=True,
            retry_connection_errors=False,
        )

    def add(self, connection: sa.Connection, job_id: str, queue: str, priority: int) -> None:
        """Queue a new job in the caller's transaction. Lower priorities start sooner."""
        options: EnqueueOptions = {
            "workflow_name": WORKFLOW,
            "queue_name": queue,
            "workflow_id": job_id,
            "app_version": APPLICATION_VERSION,
            "priority": priority,
        }
        with _queue_errors(self._url):
            self._client.enqueue_in_transaction(cast(sa.Connection, _Unread(connection)), options, job_id)

    def cancel(self, job_ids: Sequence[str]) -> None:
        with _queue_errors(self._url):
            self._client.cancel_workflows(list(job_ids))

    def again(self, job_id: str, queue: str) -> None:
        """Queue a job that has ended once more; the steps that it finished stay. It may have been queued meanwhile."""
        start_step = self.count_steps(job_id) + 1
        try:
            with _queue_errors(self._url):
                self._client.rewind_workflow(
                    job_id, start_step=start_step, queue_name=queue, application_version=APPLICATION_VERSION
                )
        except StoreError as error:
            if not isinstance(error.__cause__, dbos_error.DBOSException) or self.stranded([job_id]):
                raise

    def take_over(self, job_id: str, queue: str) -> None:
        """Queue a job again that another worker began. Should that worker still live, it can end it no more."""
        self.cancel([job_id])
        self.again(job_id, queue)

    def taken_by_others(self, job_ids: Sequence[str], alive: Sequence[str]) -> list[str]:
        """Those of the jobs that a worker which is not ``alive`` has taken from the queue."""
        with _queue_errors(self._url):
            found = self._client.list_workflows(
                workflow_ids=list(job_ids), status="PENDING", load_input=False, load_output=False
            )
        return [workflow.workflow_id for workflow in found if workflow.executor_id not in alive]

    def stranded(self, job_ids: Sequence[str]) -> list[str]:
        """Those of the jobs whose workflow has ended, so that nothing will ever begin them."""
        ended = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
        with _queue_errors(self._url):
            found = self._client.list_workflows(
                workflow_ids=list(job_ids), status=ended, load_input=False, load_output=False
            )
        return [workflow.workflow_id for workflow in found]

    def forget(self, job_ids: Sequence[str]) -> None:
        with _queue_errors(self._url):
            self._client.delete_workflows(list(job_ids))

    def count_steps(self, job_id: str) -> int:
        with _queue_errors(self._url):
            return len(self._client.list_workflow_steps(job_id, load_output=False))

    def steps(self, job_id: str) -> list[str]:
        """What the finished steps of a job kept, in order."""
        with _queue_errors(self._url):
            return [str(step["output"]) for step in self._client.list_workflow_steps(job_id)]


class _Unread:
    """A connection whose results nobody asks for, so that a SQLite transaction is sent as a whole.

    Of a row with an id that is new, dbos only wants to know whether it was there before.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: Any, parameters: Any = None) -> _Unread:
        self._connection.execute(statement, parameters).close()
        return self

    def fetchone(self) -> None:
        return None


class WorkflowRunner:
    """Runs workflows in this process, each in a thread of its own.

    Args:
        executor_id: who runs them; no two processes may use the same at the same time.
        run: does the work of a job.
    """

    def __init__(self, engine: sa.Engine, url: sa.URL, executor_id: str, run: Callable[[str], None]) -> None:
        self._url = url
        self._queues: dict[str, Queue] = {}
        config: DBOSConfig = {
            "name": APPLICATION,
            "application_version": APPLICATION_VERSION,
            "executor_id": executor_id,
            "system_database_url": _plain(url),
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
        with _queue_errors(self._url):
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
            with _queue_errors(self._url):
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
        raise WorkerFailedError(f"{name} cannot be stored: {type(error).__name__}", hint=hint) from error
