"""Edits of turns. The cost of an edit depends on the turns it touches, not on their number."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain

from .speaker_labels import PAUSE_S, joined_turns, with_overlap
from .transcript import Segment, Turn


class TurnEdits:
    """The turns of a transcript while sentences and names of speakers change.

    After the first change, turns of one speaker that nearly touch are joined.
    """

    def __init__(self, turns: Iterable[Turn]) -> None:
        self._before = tuple(turns)
        self._is_changed = False
        # By name. Listed turns have no name, so renaming takes constant time.
        self._of: dict[str, list[Turn]] = {}
        for turn in self._before:
            self._of.setdefault(turn.speaker, []).append(Turn(turn.start, turn.end, ""))

    @property
    def speakers(self) -> set[str]:
        return {speaker for speaker, turns in self._of.items() if turns}

    def result(self) -> tuple[Turn, ...]:
        if not self._is_changed:
            return self._before
        named = (Turn(t.start, t.end, name) for name, turns in self._of.items() for t in turns)
        return with_overlap(named)

    def give(self, given: Sequence[Segment], speaker: str | None, left: Container[str]) -> None:
        """Give sentences to a speaker; ``None``: to nobody. A transcript without turns gets none.

        Args:
            given: in order, as they were before.
            left: speakers who still have sentences. The turns of others are dropped.
        """
        if not given or not self.speakers:
            return
        taken: dict[str, list[Segment]] = {}
        for segment in given:
            taken.setdefault(segment.speaker or "", []).append(segment)
        for name, segments in taken.items():
            if name not in left:
                self._of.pop(name, None)
            elif name in self._of:
                self._take(self._of[name], segments)
        if speaker:
            self._add(speaker, [Turn(each.start, each.end, "") for each in given])
        self._join_all()

    def rename(self, old: str, new: str) -> None:
        """Rename a speaker, to a new or an existing name."""
        turns = self._of.pop(old, [])
        others = self._of.pop(new, [])
        self._of[new] = max(turns, others, key=len)
        self._add(new, turns if self._of[new] is others else others)
        self._join_all()

    def _take(self, turns: list[Turn], taken: Sequence[Segment]) -> None:
        touched: Sequence[int] = range(len(turns))
        if self._is_changed:
            touched = sorted(set(chain.from_iterable(_near(turns, each, 0) for each in taken)))
        for number in reversed(touched):
            turns[number : number + 1] = joined_turns(list(_without(turns[number], taken)))

    def _add(self, speaker: str, new: Iterable[Turn]) -> None:
        turns = self._of.setdefault(speaker, [])
        for turn in new:
            near = _near(turns, turn, 2 * PAUSE_S) if self._is_changed else range(0)
            turns[near.start : near.stop] = joined_turns([*turns[near.start : near.stop], turn])

    def _join_all(self) -> None:
        """Only once: later changes keep turns joined."""
        if not self._is_changed:
            self._of = {name: list(joined_turns(turns)) for name, turns in self._of.items()}
        self._is_changed = True


def _near(turns: Sequence[Turn], span: Turn | Segment, margin_s: float) -> range:
    """The numbers of turns that touch a span, of turns in order that do not overlap."""
    first = bisect_left(turns, span.start - margin_s, key=lambda turn: turn.end)
    return range(first, bisect_right(turns, span.end + margin_s, key=lambda turn: turn.start))


def _without(turn: Turn, taken: Sequence[Segment]) -> Iterator[Turn]:
    """The parts of a turn outside of sentences. Parts need a minimum length."""
    start = turn.start
    for segment in taken[bisect_left(taken, start, key=lambda segment: segment.end) :]:
        if segment.start >= turn.end:
            break
        if segment.start - start > PAUSE_S:
            yield Turn(start, segment.start, turn.speaker)
        start = max(start, segment.end)
    if start == turn.start or turn.end - start > PAUSE_S:
        yield Turn(start, turn.end, turn.speaker)
