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


def ahead(items: Iterator[Item], depth: int, *, wait: bool = True) -> Generator[Item, None, None]:
    """The same items, made up to ``depth`` ahead of their use.

    What the iterator raises is raised here. Closing this generator stops the thread and closes the iterator, if it is
    a generator itself; ``wait=False`` leaves that to the thread, once it is through with the item that it is making.
    """
    results: queue.Queue[_Next[Item] | _Failed | None] = queue.Queue(depth)
    stopped = threading.Event()

    def put(result: _Next[Item] | _Failed | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                results.put(result, timeout=POLL_S)
                return

    def run() -> None:
        try:
            while not stopped.is_set():
                put(_Next(next(items)))
        except StopIteration:
            put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the reader, who raises it
            put(_Failed(error))
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=run, name="ahead", daemon=wait)  # not waited for here, it is when Python ends
    try:
        thread.start()  # Ctrl-C may come while it starts: it must not be at work when the interpreter ends
        while (result := results.get()) is not None:
            if isinstance(result, _Failed):
                raise result.error
            yield result.item
    finally:
        stopped.set()
        if wait and thread.is_alive():
            thread.join()
