"""Run an iterator ahead in a thread, to overlap reading with decoding."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


class Prefetcher(Iterator[Item]):
    """The same items, computed up to ``depth`` ahead.

    Errors of the iterator are raised here. Closing stops the thread and closes the iterator, if it
    is a generator.
    """

    def __init__(self, items: Iterator[Item], depth: int) -> None:
        self._items = items
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, "prefetch")
        self._ahead: deque[Future[Item]] = deque()
        self._is_closed = False

    def __next__(self) -> Item:
        if self._is_closed:
            raise StopIteration
        try:
            while len(self._ahead) <= self._depth:
                self._ahead.append(self._pool.submit(next, self._items))
            return self._ahead.popleft().result()
        except BaseException:  # StopIteration is one
            self.close()
            raise

    def close(self) -> None:
        """Wait for the item in progress: the thread must end before the interpreter."""
        self._is_closed = True
        self._pool.shutdown(cancel_futures=True)
        if isinstance(self._items, Generator):
            self._items.close()
