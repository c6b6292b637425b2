"""Running an iterator ahead in a thread, so that reading and voice detection overlap with decoding."""

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


class Ahead(Iterator[Item]):
    """The same items, made up to ``depth`` ahead of their use.

    What the iterator raises is raised here. Closing stops the thread and closes the iterator, if it is a generator;
    ``wait=False`` leaves that to the thread, once it is through with the item that it is making.
    """

    def __init__(self, items: Iterator[Item], depth: int, *, wait: bool = True) -> None:
        self._items, self._wait = items, wait
        self._results: queue.Queue[_Next[Item] | _Failed | None] = queue.Queue(depth)
        self._stopped = threading.Event()
        # What is not waited for on closing is waited for when Python ends.
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=wait)

    def is_ready(self) -> bool:
        """Whether the next item, or the end, is there without waiting. The first to ask makes the thread begin."""
        self._begin()
        return self._stopped.is_set() or not self._results.empty()

    def __next__(self) -> Item:
        self._begin()
        result = None if self._stopped.is_set() else self._results.get()
        if isinstance(result, _Next):
            return result.item
        self.close()
        if isinstance(result, _Failed):
            raise result.error
        raise StopIteration

    def close(self) -> None:
        """Also after Ctrl-C while the thread starts: it must not be at work when the interpreter ends."""
        self._stopped.set()
        if self._wait and self._thread.is_alive():
            self._thread.join()

    def _begin(self) -> None:
        if self._thread.ident is None and not self._stopped.is_set():
            self._thread.start()

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
