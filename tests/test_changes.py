"""Workers notice new work at once, and without work they hardly query."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from patience import until
from postgres import new_database, server

from transcribe_mcp.jobs import changes
from transcribe_mcp.jobs.changes import Changes, PollPause, notify
from transcribe_mcp.jobs.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        yield Database(tmp_path)
    else:
        with server() as url:
            yield Database(tmp_path, new_database(url))


def commit(database: Database) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("INSERT INTO speeds VALUES ('any', 0, 0)")
        notify(connection)
        connection.exec_driver_sql("DELETE FROM speeds")


def test_a_commit_of_another_connection_is_seen(database: Database) -> None:
    with closing(database), closing(Changes(database.url)) as watched:
        watched.seen()  # opens its connection
        assert not watched.seen()
        commit(database)
        until(watched.seen, "the change is seen")
        until(lambda: not watched.seen(), "it is seen once, or for a while")


def test_a_database_that_fails_counts_as_changed(tmp_path: Path) -> None:
    with closing(Database(tmp_path)) as database, closing(Changes(database.url)) as watched:
        watched.seen()
        watched._connection.close()
        assert watched.seen()
        assert watched.seen()  # opens it again
        assert not watched.seen()


def enqueue(database: Database, queue: str) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO workflow_status (workflow_uuid, status, queue_name) "
            f"VALUES ('{queue}', 'ENQUEUED', '{queue}')"
        )


def test_a_pause_ends_with_a_workflow_and_when_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "IDLE_POLL_S", threading.TIMEOUT_MAX)
    with closing(Database(tmp_path)) as database, closing(Changes(database.url)) as watched:
        is_busy = False
        pause = PollPause(watched, "mine", lambda: is_busy)
        waiting = threading.Thread(target=pause.wait, args=(0.01,))
        waiting.start()
        commit(database)
        enqueue(database, "another")
        waiting.join(0.1)
        assert waiting.is_alive()
        enqueue(database, "mine")
        waiting.join()
        is_busy = True
        assert pause.wait(0.01) is False  # a place may be free
        pause.set()
        assert pause.wait(0.01) is True


def test_a_queued_workflow_is_seen(database: Database) -> None:
    with closing(database), closing(Changes(database.url)) as watched:
        assert not watched.has_queued("mine")
        if database.url.get_backend_name() == "sqlite":
            enqueue(database, "mine")
            assert watched.has_queued("mine")


def test_the_version_changes_with_the_content(tmp_path: Path) -> None:
    with closing(Database(tmp_path)) as database:
        before = database.version()
        assert before == database.version() is not None
        commit(database)
        assert database.version() != before
