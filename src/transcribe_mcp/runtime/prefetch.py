"""Run an iterator ahead in a thread, to overlap reading with decoding."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
POLL_S = 0.1  # how soon a thread that waits for room notices that nobody reads any more


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


@dataclass(frozen=True, slots=True)
class _Next(Generic[Item]):
    item: Item


class Prefetcher(Iterator[Item]):
    """The same items, made up to ``depth`` ahead of their use.

    What the iterator raises is raised here. Closing stops the thread and closes the iterator, if it
    is a generator.
    """

    def __init__(self, items: Iterator[Item], depth: int) -> None:
        self._items = items
        self._results: queue.Queue[_Next[Item] | _Failed | None] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def __next__(self) -> Item:
        if self._thread.ident is None and not self._stopped.is_set():
            self._thread.start()
        result = None if self._stopped.is_set() else self._results.get()
        if isinstance(result, _Next):
            return result.item
        self.close()
        if isinstance(result, _Failed):
            raise result.error
        raise StopIteration

    def close(self) -> None:
        """Also after Ctrl-C while the thread starts: it must not be at work when the interpreter
        ends.
        """
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._put(_Next(next(self._items)))
        except StopIteration:
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the reader, who raises it
            self._put(_Failed(error))
        finally:
            if isinstance(self._items, Generator):
                self._items.close()

    def _put(self, result: _Next[Item] | _Failed | None) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._results.put(result, timeout=POLL_S)
                return
