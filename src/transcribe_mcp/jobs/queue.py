"""Add, cancel and rewind workflows from any process. ``workflows.py`` runs them.

A job is a workflow; a finished batch of windows is one of its steps. Steps store text, never a
pickled object.

Every call raises ``StoreError`` if the database fails; errors of dbos and SQLAlchemy stay inside.
The first call that needs dbos imports it: that takes half a second, and most processes only read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa

from ..errors import StoreError
from .changes import notify
from .store_errors import shown, store_errors

if TYPE_CHECKING:
    from dbos import DBOSClient, EnqueueOptions

APPLICATION = "transcribe-mcp"
APPLICATION_VERSION = "1"  # of the steps: workflows of another version are not resumed
WORKFLOW = "transcribe"
# Two queues, so that short recordings never wait for long ones.
SHORT = "short"
LONG = "long"


@dataclass(frozen=True, slots=True)
class QueueRules:
    """The maximum of concurrent jobs per worker, and the polling interval of a queue."""

    places: int
    poll_s: float


QUEUES = {SHORT: QueueRules(places=8, poll_s=0.08), LONG: QueueRules(places=3, poll_s=0.5)}

logging.getLogger("dbos").setLevel(logging.ERROR)


@contextmanager
def queue_errors(url: sa.URL) -> Iterator[None]:
    """Translate the errors of the database and of dbos."""
    from dbos import error as dbos_error

    try:
        with store_errors(url):
            yield
    except dbos_error.DBOSException as error:
        raise StoreError(
            f"the queue in {shown(url)} failed: {type(error).__name__}",
            hint="see worker.log in the data directory; try again",
        ) from error


def plain_url(url: sa.URL) -> str:
    drivername = "sqlite" if url.get_backend_name() == "sqlite" else "postgresql"
    return url.set(drivername=drivername).render_as_string(hide_password=False)


class WorkflowQueue:
    """The workflows of a database. Connects when first used."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._url = engine.url

    @cached_property
    def _client(self) -> DBOSClient:
        from dbos import DBOSClient, DBOSPortableJSONSerializer

        return DBOSClient(
            system_database_engine=self._engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            lazy=True,
            retry_connection_errors=False,
        )

    def make_tables(self) -> None:
        """Create or update the tables of dbos. ``DBOS.migrate`` would open connections of its own,
        without the functions that old versions of SQLite lack.
        """
        with queue_errors(self._url):
            self._client._sys_db.run_migrations()

    def add(self, connection: sa.Connection, job_id: str, queue: str, priority: int) -> None:
        """Queue a new job in the caller's transaction. Lower priorities start first."""
        options: EnqueueOptions = {
            "workflow_name": WORKFLOW,
            "queue_name": queue,
            "workflow_id": job_id,
            "app_version": APPLICATION_VERSION,
            "priority": priority,
        }
        with queue_errors(self._url):
            self._client.enqueue_in_transaction(
                cast(sa.Connection, _Unread(connection)), options, job_id
            )

    def cancel(self, job_ids: Sequence[str]) -> None:
        with queue_errors(self._url):
            self._client.cancel_workflows(list(job_ids))

    def requeue(self, job_id: str, queue: str) -> None:
        """Queue a finished job again, with its steps. It may have been queued meanwhile."""
        from dbos import error as dbos_error

        start_step = self.count_steps(job_id) + 1
        try:
            with queue_errors(self._url):
                self._client.rewind_workflow(
                    job_id,
                    start_step=start_step,
                    queue_name=queue,
                    application_version=APPLICATION_VERSION,
                )
            with self._engine.begin() as connection:
                notify(connection)
        except StoreError as error:
            if not isinstance(error.__cause__, dbos_error.DBOSException) or self.stranded([job_id]):
                raise

    def take_over(self, job_id: str, queue: str) -> None:
        """Requeue another worker's job. If that worker still lives, it cannot finish the job."""
        self.cancel([job_id])
        self.requeue(job_id, queue)

    def taken_by_others(self, job_ids: Sequence[str], alive: Sequence[str]) -> list[str]:
        """The jobs among these that a worker not in ``alive`` has taken from the queue."""
        with queue_errors(self._url):
            found = self._client.list_workflows(
                workflow_ids=list(job_ids), status="PENDING", load_input=False, load_output=False
            )
        return [workflow.workflow_id for workflow in found if workflow.executor_id not in alive]

    def stranded(self, job_ids: Sequence[str]) -> list[str]:
        """The jobs among these whose workflow has finished, so that nothing would start them."""
        ended = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
        with queue_errors(self._url):
            found = self._client.list_workflows(
                workflow_ids=list(job_ids), status=ended, load_input=False, load_output=False
            )
        return [workflow.workflow_id for workflow in found]

    def delete(self, job_ids: Sequence[str]) -> None:
        with queue_errors(self._url):
            self._client.delete_workflows(list(job_ids))

    def count_steps(self, job_id: str) -> int:
        with queue_errors(self._url):
            return len(self._client.list_workflow_steps(job_id, load_output=False))

    def steps(self, job_id: str) -> list[str]:
        """The checkpoints of a job, in order."""
        with queue_errors(self._url):
            return [str(step["output"]) for step in self._client.list_workflow_steps(job_id)]


class _Unread:
    """A connection without results, so that a SQLite transaction stays one request.

    dbos only reads whether the row existed before, and the id of a new job is new.
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
