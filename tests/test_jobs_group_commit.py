"""What several threads want at once is done once for all of them, and each gets its own answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from patience import PATIENCE_S, until

from transcribe_mcp.jobs.group_commit import GroupCommit


class Clerk:
    """Halves even numbers, as many as are there at once, when the door is open; an angry one throws
    out everybody.
    """

    def __init__(self) -> None:
        self.door, self.inside = threading.Event(), threading.Event()
        self.angry_at: int | None = None
        self.rounds: list[list[int]] = []
        self.halved = GroupCommit(self._work)

    def _work(self, wishes: Sequence[int]) -> list[int | Exception]:
        self.rounds.append(sorted(wishes))
        self.inside.set()
        assert self.door.wait(PATIENCE_S)
        if self.angry_at in wishes:
            raise OSError("closed")
        return [ValueError(f"{wish} is odd") if wish % 2 else wish // 2 for wish in wishes]


def answers(clerk: Clerk, first: int, others: Sequence[int]) -> dict[int, object]:
    """What each gets, where ``others`` come while ``first`` is carried out."""
    with ThreadPoolExecutor(1 + len(others)) as threads:
        results = {first: threads.submit(clerk.halved, first)}
        assert clerk.inside.wait(PATIENCE_S)
        results |= {wish: threads.submit(clerk.halved, wish) for wish in others}
        until(lambda: len(clerk.halved._waiting) == len(others), "the others wait")
        clerk.door.set()
        return {
            wish: result.exception(PATIENCE_S) or result.result()
            for wish, result in results.items()
        }


def test_those_that_wait_are_served_in_one_round_each_with_its_own_answer() -> None:
    clerk = Clerk()

    got = answers(clerk, 2, [4, 5, 6, 8])

    assert clerk.rounds == [[2], [4, 5, 6, 8]]
    assert {wish: got[wish] for wish in (2, 4, 6, 8)} == {2: 1, 4: 2, 6: 3, 8: 4}
    assert repr(got[5]) == "ValueError('5 is odd')"


def test_a_round_that_fails_is_done_one_by_one() -> None:
    clerk = Clerk()
    clerk.angry_at = 6

    got = answers(clerk, 2, [4, 6, 8])

    assert (got[4], got[8]) == (2, 4)
    assert isinstance(got[6], OSError)
    assert clerk.halved(10) == 5, "whoever comes later is served"


def test_whoever_comes_alone_has_the_error_itself() -> None:
    clerk = Clerk()
    clerk.door.set()
    with pytest.raises(ValueError, match="7 is odd"):
        clerk.halved(7)
