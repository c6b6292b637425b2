"""Writers of one process at a SQLite file: each has its turn, in the order in which they came."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from job_places import until

from transcribe_mcp.jobs.turns import Turns, connection_class

PATIENCE_S = 60.0


class Desk:
    """A file with one table, and connections to it that take turns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.turns = Turns()
        with closing(self.connect()) as connection:
            connection.execute("PRAGMA journal_mode=WAL").close()
            connection.execute("CREATE TABLE IF NOT EXISTS notes (writer INTEGER)").close()

    def connect(self, patience_s: float = PATIENCE_S) -> sqlite3.Connection:
        kind = connection_class(self.turns, patience_s)
        return sqlite3.connect(self.path, timeout=5, isolation_level="IMMEDIATE", check_same_thread=False, factory=kind)

    def write(self, number: int) -> None:
        with closing(self.connect()) as connection:
            connection.execute("INSERT INTO notes VALUES (?)", (number,)).close()
            connection.commit()

    def writers(self) -> list[int]:
        with closing(self.connect()) as connection:
            return [writer for (writer,) in connection.execute("SELECT writer FROM notes ORDER BY rowid")]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    return Desk(tmp_path / "notes.db")


def test_writers_go_in_the_order_in_which_they_came(desk: Desk) -> None:
    others = [threading.Thread(target=desk.write, args=(number,)) for number in range(1, 9)]
    with closing(desk.connect()) as first:
        first.execute("INSERT INTO notes VALUES (0)").close()
        for n, other in enumerate(others):
            other.start()
            until(lambda n=n: desk.turns.n_waiting == n + 1, "another waits")  # type: ignore[misc]
        assert desk.writers() == [], "who reads does not wait"
        first.commit()
    for other in others:
        other.join(PATIENCE_S)

    assert desk.writers() == list(range(9))


def test_a_process_with_many_writers_leaves_another_its_place(desk: Desk) -> None:
    """Connections that share no turns are as those of two processes."""
    elsewhere = Desk(desk.path)
    ours = [threading.Thread(target=desk.write, args=(number,)) for number in range(1, 5)]
    other = threading.Thread(target=elsewhere.write, args=(100,))
    with closing(desk.connect()) as first:
        first.execute("INSERT INTO notes VALUES (0)").close()
        for n, one in enumerate(ours):
            one.start()
            until(lambda n=n: desk.turns.n_waiting == n + 1, "another waits")  # type: ignore[misc]
        other.start()
        until(lambda: elsewhere.turns.is_taken, "the other process has begun to try")
        first.commit()
    for one in (*ours, other):
        one.join(PATIENCE_S)

    assert sorted(desk.writers()) == [0, 1, 2, 3, 4, 100]
    assert desk.writers()[-1] != 100


def test_a_writer_whose_turn_does_not_come_says_so_and_others_go_on(desk: Desk) -> None:
    with closing(desk.connect()) as first, closing(desk.connect(patience_s=0.05)) as hasty:
        first.execute("INSERT INTO notes VALUES (0)").close()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            hasty.execute("INSERT INTO notes VALUES (1)").close()
        first.commit()
    desk.write(2)

    assert desk.writers() == [0, 2]


@pytest.mark.parametrize("end", ["rollback", "close", "error", "error in many", "nothing written"])
def test_the_turn_goes_on_however_a_transaction_ends(desk: Desk, end: str) -> None:
    connection = desk.connect()
    if end == "error":
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            connection.execute("INSERT INTO nowhere VALUES (0)").close()
        connection.rollback()
    elif end == "error in many":
        with pytest.raises(sqlite3.ProgrammingError):
            connection.executemany("INSERT INTO notes VALUES (?)", [(1,), (2, 3)]).close()
        connection.rollback()
    elif end == "nothing written":
        connection.execute("BEGIN").close()
        connection.commit()
    else:
        connection.execute("INSERT INTO notes VALUES (1)").close()
        getattr(connection, end)()
    desk.write(2)
    connection.close()

    assert desk.writers() == [2]
