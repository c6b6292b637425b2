"""A store's transactions, on SQLite through its writer and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from ..errors import StoreBusyError
from .database import check_file, database_url, defer, open_engine
from .store_errors import shown, store_errors
from .writer_link import ConflictError, RequirementError

Result = TypeVar("Result")

CONFLICTS = 20  # tries of a transaction that others come between


class Transactions:
    """Open for as long as its process lives; safe from several threads."""

    def __init__(self, data_dir: Path, configured_url: str = "") -> None:
        self.data_dir = data_dir
        self.url = database_url(data_dir, configured_url)
        self.engine = open_engine(self.url)

    def close(self) -> None:
        self.engine.dispose()

    def check_file(self) -> None:
        """
        Raises:
            StoreReplacedError: the file was deleted, or another lies at its path.
        """
        with store_errors(self.url):
            check_file(self.engine)

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction; the database's errors leave as ours, on SQLite only when it ends.

        On SQLite, one that looks at results of what it has written, or at rows after ``write_from_now``, may be refused
        with ``StoreBusyError`` because another writer came between: ``transact`` then tries again.
        """
        with store_errors(self.url), self.engine.begin() as connection:
            defer(connection)
            yield connection

    def transact(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Do ``work`` in a transaction, again where another writer came between. Gives what ``work`` gives.

        Raises:
            StoreBusyError: others came between every time.
        """
        last: Exception | None = None
        for _ in range(CONFLICTS):
            try:
                with self.begin() as connection:
                    result = work(connection)
            except RequirementError as error:
                last = error
            except StoreBusyError as error:
                if not isinstance(error.__cause__, ConflictError):
                    raise
                last = error
            else:
                return result
        message = f"others changed the same jobs in {shown(self.url)} {CONFLICTS} times in a row"
        raise StoreBusyError(message, hint="try again") from last
