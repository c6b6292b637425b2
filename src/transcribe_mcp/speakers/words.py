"""Words and turns -> the speaker of each word. Every word gets one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..domain.text_marks import CLOSERS, SENTENCE_MARKS
from ..domain.transcript import Word
from .turns import SpeakerTurn

NEAR_WORDS = 2  # a change moves by at most this many words,
NEAR_S = 0.4  # and by at most this long,
PAUSE_S = 0.15  # to a pause of at least this length
SHORT_WORD_S = 0.4


def speakers_of(words: Sequence[Word], turns: Sequence[SpeakerTurn]) -> list[int]:
    """The number of the speaker of each word.

    Args:
        words: in order.
        turns: in order, without overlap; at least one.
    """
    speakers = [turn.speaker for turn in _turns_of(words, turns)]
    return _without_islands(words, _at_pauses(words, speakers))


def _turns_of(words: Sequence[Word], turns: Sequence[SpeakerTurn]) -> list[SpeakerTurn]:
    """For each word the turn with which it overlaps most, or else the nearest one."""
    found = []
    first = 0  # of the turns that end after the start of the word
    for word in words:
        while first < len(turns) - 1 and turns[first].end <= word.start:
            first += 1
        candidates = turns[max(0, first - 1) : first + 1]
        last = first + 1
        while last < len(turns) and turns[last].start < word.end:
            candidates = [*candidates, turns[last]]
            last += 1
        found.append(max(candidates, key=lambda turn: _overlap_s(word, turn)))
    return found


def _overlap_s(word: Word, turn: SpeakerTurn) -> float:
    """Seconds that both share; negative is the distance between them."""
    return min(word.end, turn.end) - max(word.start, turn.start)


def _at_pauses(words: Sequence[Word], speakers: list[int]) -> list[int]:
    """Move changes of the speaker to the end of a sentence or the largest pause nearby."""
    moved = list(speakers)
    changes = [i for i in range(1, len(words)) if speakers[i] != speakers[i - 1]]
    edges = [0, *changes, len(words)]
    for before, change, after in zip(edges[:-2], changes, edges[2:], strict=True):
        low = max(before + 1, change - NEAR_WORDS)
        high = min(after - 1, change + NEAR_WORDS)
        near = [i for i in range(low, high + 1) if _is_near(words, i, change)]
        best = max(near, key=lambda i: (_break(words, i), i == change), default=change)
        if _break(words, best) < PAUSE_S:
            continue
        for i in range(min(best, change), max(best, change)):
            moved[i] = speakers[change] if best < change else speakers[change - 1]
    return moved


def _is_near(words: Sequence[Word], i: int, change: int) -> bool:
    return abs(words[i].start - words[change].start) <= NEAR_S or (
        abs(words[i - 1].end - words[change - 1].end) <= NEAR_S
    )


def _break(words: Sequence[Word], i: int) -> float:
    """The pause before word ``i`` in seconds; the end of a sentence counts as one more second."""
    before = words[i - 1].text.rstrip(CLOSERS + " ")
    return words[i].start - words[i - 1].end + (before[-1:] in SENTENCE_MARKS and before != "")


def _without_islands(words: Sequence[Word], speakers: list[int]) -> list[int]:
    """A single short word between two segments of one speaker is that speaker's, unless there is a
    break on both sides of it.
    """
    kept = list(speakers)
    runs = [list(run) for _, run in itertools.groupby(range(len(words)), key=lambda i: speakers[i])]
    for before, run, after in zip(runs, runs[1:], runs[2:], strict=False):
        first = run[0]
        is_short = len(run) == 1 and words[first].end - words[first].start < SHORT_WORD_S
        stands_alone = _break(words, first) >= PAUSE_S and _break(words, first + 1) >= PAUSE_S
        if is_short and not stands_alone and speakers[before[0]] == speakers[after[0]]:
            kept[first] = speakers[before[0]]
    return kept
