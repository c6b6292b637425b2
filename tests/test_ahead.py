"""An iterator runs ahead in a thread: in order, no further than allowed, and it ends with its
reader.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE_S

from transcribe_mcp.runtime.prefetch import Prefetcher


class Source:
    """Counts up, says how far it is, and whether it was closed."""

    def __init__(self, n: int, fails_at: int | None = None) -> None:
        self.n = n
        self.fails_at = fails_at
        self.made = 0
        self.progressed = threading.Semaphore(0)
        self.closed = threading.Event()
        self.thread: threading.Thread | None = None

    def items(self) -> Generator[int, None, None]:
        self.thread = threading.current_thread()
        try:
            for i in range(self.n):
                if i == self.fails_at:
                    raise LookupError(f"item {i} cannot be made")
                self.made = i + 1
                self.progressed.release()
                yield i
        finally:
            self.closed.set()

    def wait_until_made(self, n: int) -> None:
        for _ in range(n):
            assert self.progressed.acquire(timeout=PATIENCE_S)


def test_items_are_made_in_another_thread() -> None:
    source = Source(3)

    assert list(Prefetcher(source.items(), 1)) == [0, 1, 2]
    assert source.thread is not threading.current_thread()


@settings(max_examples=30)
@given(st.lists(st.one_of(st.none(), st.integers()), max_size=30), st.integers(1, 5))
def test_the_items_are_those_of_the_iterator_in_order(items: list[int | None], depth: int) -> None:
    assert list(Prefetcher(iter(items), depth)) == items


def test_what_the_iterator_raises_is_raised_after_the_items_before_it() -> None:
    source = Source(5, fails_at=2)
    received = []

    with pytest.raises(LookupError, match="item 2"):
        received.extend(item for item in Prefetcher(source.items(), 4))

    reader = Prefetcher(Source(5, fails_at=2).items(), 4)
    assert [next(reader), next(reader)] == [0, 1]
    with pytest.raises(LookupError, match="item 2"):
        next(reader)
    assert_stopped(source)


def test_even_what_is_no_ordinary_exception_arrives() -> None:
    def interrupted() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    reader = Prefetcher(interrupted(), 1)

    assert next(reader) == 1
    with pytest.raises(KeyboardInterrupt):
        next(reader)


def test_closing_stops_the_thread_and_closes_the_iterator() -> None:
    source = Source(1_000_000)
    reader = Prefetcher(source.items(), 2)
    assert next(reader) == 0

    reader.close()

    assert_stopped(source)
    assert source.made < 10


def test_a_reader_that_fails_stops_the_thread() -> None:
    source = Source(1_000_000)

    with pytest.raises(ZeroDivisionError), closing(Prefetcher(source.items(), 2)) as reader:
        next(reader)
        raise ZeroDivisionError

    assert_stopped(source)


def test_a_closed_reader_is_at_its_end() -> None:
    reader = Prefetcher(Source(5).items(), 2)
    assert next(reader) == 0

    reader.close()

    assert list(reader) == []


def test_no_more_is_made_than_was_allowed() -> None:
    depth = 3
    source = Source(100)
    reader = Prefetcher(source.items(), depth)

    for received in range(1, 6):
        assert next(reader) == received - 1
        assert source.made <= received + depth + 1  # those that wait, and one that waits for room
    source.wait_until_made(5 + depth)  # and so many are made without being asked for
    assert source.made <= 5 + depth + 1
    reader.close()


def test_a_reader_that_never_began_leaves_nothing_behind() -> None:
    source = Source(3)
    before = threading.active_count()

    Prefetcher(source.items(), 2).close()

    assert threading.active_count() == before
    assert source.made == 0


def assert_stopped(source: Source) -> None:
    assert source.closed.is_set()
    assert source.thread is not None
    assert not source.thread.is_alive()
