"""Cut words into subtitle cues by configurable rules.

The cuts are a shortest path over the words. The cost of a cue counts one more cue, a bad place for
its end, and missing reading time. A second shortest path moves starts, so that cues
borrow time from their neighbours. Two rules always hold: cues do not overlap, and no text is lost.
Where time is short, reading speed, minimum duration and gap yield.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat

from ..domain.options import SubtitleRules
from ..domain.sentences import is_abbreviation
from ..domain.text_breaks import cluster_breaks, columns, line_breaks, word_breaks
from ..domain.transcript import Transcript, Word
from .phrases import Phrases, phrases_of
from .speech import Utterance, parts_freely, pieces, turns_apart, utterances

PAUSE_S = 1.0  # cues never span a longer pause, or text would appear too early
BREATH_S = 0.3  # a good place to break
# From its first word to the start of a cue. Viewers hardly notice 15 frames, says the Captioning
# Key of the Described and Captioned Media Program; this is half of that.
MAX_SHIFT_MS = 250
SHIFTS_MS = range(-MAX_SHIFT_MS, MAX_SHIFT_MS + 1, 50)

# Costs, in units of one more cue.
BREAK_AT_SENTENCE = 0.0
BREAK_AT_CLAUSE = 1.0
BREAK_AT_BREATH = 1.5
BREAK_BEFORE_PHRASE = 2.0  # before "and", "of"
BREAK_AT_WORD = 3.0
BREAK_AFTER_LEANING = 5.0  # after "the", "of"
BREAK_INSIDE = 6.0
SENTENCE_INSIDE = 1.5  # the end of one sentence and the start of the next in one cue
TOO_FAST = 1.0  # some reading time is missing
TOO_SHORT = 8.0  # times the missing share of it
UNFAIR = 20.0  # times its square where cues borrow time, so that the fastest lend little
SHIFTED = 0.5  # times the shift of a start as a share of ``MAX_SHIFT_MS``
UNEVEN = 0.5  # times the squared fill of the cue, so that two even cues cost less than uneven ones
# The same for the lines of a cue.
LINE_BREAK = 0.5
LINE_UNEVEN = 6.0

_CLOSING = re.escape("\"')]}”’»›」』】）》")
_SENTENCE = re.compile(rf"[!?…。．｡！？؟۔।][{_CLOSING}]*$")
_DOT = re.compile(rf"\.[{_CLOSING}]*$")
_CLAUSE = re.compile(rf"[,;:–—、，；：،؛][{_CLOSING}]*$")


@dataclass(frozen=True, slots=True)
class Piece:
    """A word or a part of one. ``start_ms`` is ``None`` if not measured; ``text`` keeps its leading
    space.
    """

    text: str
    start_ms: int | None


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle, shown from ``start_ms`` to ``end_ms``: at least one line of at least one
    piece.
    """

    start_ms: int
    end_ms: int
    lines: tuple[tuple[Piece, ...], ...]
    speaker: str | None

    @property
    def text_lines(self) -> list[str]:
        return ["".join(piece.text for piece in line).strip() for line in self.lines]


@dataclass(slots=True)
class _Token:
    """A word, or a piece of one that is wider than a line or contains spaces."""

    text: str  # without the space before it
    space: int  # columns of the space before it
    width: int
    start: float
    end: float
    speaker: str | None
    measured: bool  # whether ``start`` was measured
    break_cost: float = BREAK_AT_SENTENCE  # of ending a cue or a line after it
    breakable: bool = True  # whether Unicode's rules allow a line break after it
    whole: bool = True  # whether it ends at a grapheme cluster boundary
    ends_run: bool = False  # whether a cue must end after it

    def piece(self) -> Piece:
        return Piece(
            " " * self.space + self.text, round(1000 * self.start) if self.measured else None
        )


class _Unit:
    """Tokens without a line break between them."""

    __slots__ = ("break_cost", "end", "space", "start", "tokens", "width")

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self.tokens = tuple(tokens)
        self.space = tokens[0].space
        self.width = sum(token.space + token.width for token in tokens) - self.space
        self.start = tokens[0].start
        self.end = tokens[-1].end
        self.break_cost = tokens[-1].break_cost if tokens[-1].breakable else BREAK_INSIDE


def cut_cues(
    transcript: Transcript, rules: SubtitleRules, *, label_speakers: bool = False
) -> list[Cue]:
    """Cut a transcript into cues, in order; every word is in exactly one.

    Args:
        transcript: words give the times; a segment without words shares its time among its
            characters.
        rules: see ``SubtitleRules``.
        label_speakers: put ``Name:`` before the first words of each turn.
    """
    turns = turns_apart(transcript)
    if len(turns) > 1:
        cues = [
            cue for turn in turns for cue in cut_cues(turn, rules, label_speakers=label_speakers)
        ]
        return sorted(cues, key=lambda cue: cue.start_ms)
    tokens = _tokens(transcript, rules, label_speakers=label_speakers)
    groups: list[list[_Unit]] = []
    first = 0
    for i, token in enumerate(tokens):
        if token.ends_run:
            until = (
                tokens[i + 1].start - rules.min_gap_s
                if i + 1 < len(tokens)
                else transcript.duration
            )
            groups += _cheapest_cut(_units(tokens[first : i + 1], rules), until, rules)
            first = i + 1
    return _timed(groups, transcript.duration, rules)


def _tokens(transcript: Transcript, rules: SubtitleRules, *, label_speakers: bool) -> list[_Token]:
    tokens: list[_Token] = []
    phrases = phrases_of(transcript.language)
    speaker: str | None = None
    for utterance in utterances(transcript):
        label = utterance.speaker if label_speakers and utterance.speaker != speaker else None
        speaker = utterance.speaker or speaker
        tokens += _utterance_tokens(utterance, rules, label, phrases)
    _mark_breaks(tokens)
    return tokens


def _mark_breaks(tokens: list[_Token]) -> None:
    """Mark where a line may end, and where a cue must."""
    text = "".join(" " * token.space + token.text for token in tokens)
    lines = line_breaks(text)
    words = word_breaks(text)
    whole = cluster_breaks(text)
    position = 0
    for token, after in pairwise(tokens):
        position += token.space + len(token.text)
        token.breakable = position + after.space in lines
        token.whole = position in whole
        if not after.space and position not in words:
            token.break_cost = BREAK_INSIDE
        paused = after.start - token.end >= PAUSE_S
        token.ends_run = token.speaker != after.speaker or (paused and token.breakable)
    if tokens:
        tokens[-1].ends_run = True


def _units(tokens: Sequence[_Token], rules: SubtitleRules) -> list[_Unit]:
    """Group tokens into units. A unit wider than a line is cut between words or clusters."""
    units: list[_Unit] = []
    unit: list[_Token] = []
    width = 0
    for token in tokens:
        if unit and unit[-1].whole and width + token.space + token.width > rules.max_line_chars:
            units.append(_Unit(unit))
            unit = []
        width = token.width + (width + token.space if unit else 0)
        unit.append(token)
        if token.breakable or token is tokens[-1]:
            units.append(_Unit(unit))
            unit = []
    return units


def _utterance_tokens(
    said: Utterance, rules: SubtitleRules, label: str | None, phrases: Phrases
) -> list[_Token]:
    """Tokens of one utterance with their break costs; the last cost is set later."""
    tokens = [token for word in said.words for token in _split(word, said.speaker, rules)]
    if not tokens:
        whole = Word(said.start, said.end, said.text)
        tokens = _split(whole, said.speaker, rules, measured=False)
    if label or not parts_freely(tokens[0].text[0]):
        tokens[0].space = 1  # separates it from the label or the sentence before
    labels: list[_Token] = []
    if label:
        labels = _split(
            Word(tokens[0].start, tokens[0].start, f" {label}:"),
            said.speaker,
            rules,
            measured=False,
        )
    for token in labels:
        token.break_cost = BREAK_INSIDE
    for token, after in pairwise(tokens):
        token.break_cost = _break_cost(token, after, phrases)
    return labels + tokens


def _split(
    word: Word, speaker: str | None, rules: SubtitleRules, *, measured: bool = True
) -> list[_Token]:
    tokens: list[_Token] = []
    for piece in pieces(word, rules.max_line_chars, split_wide=not measured):
        text = piece.text.strip()
        space = int(piece.text[0] == " ")
        tokens.append(
            _Token(
                text, space, columns(text), piece.start, piece.end, speaker, measured and not tokens
            )
        )
    return tokens


def _break_cost(token: _Token, after: _Token, phrases: Phrases) -> float:
    """Cost of ending a cue between two words of one utterance."""
    text = token.text
    following = after.text
    if _SENTENCE.search(text):
        return BREAK_AT_SENTENCE
    if _DOT.search(text):
        if is_abbreviation(text, following, after.start - token.end):
            return BREAK_INSIDE  # "Mr.", "St.", "U.S." belong to the next word
        return BREAK_AT_CLAUSE if following[0].islower() else BREAK_AT_SENTENCE
    if _CLAUSE.search(text):
        return BREAK_AT_CLAUSE
    if after.start - token.end >= BREATH_S:
        return BREAK_AT_BREATH
    if text.lower() in phrases.leans:
        return BREAK_AFTER_LEANING
    return BREAK_BEFORE_PHRASE if following.lower() in phrases.begins else BREAK_AT_WORD


def _cheapest_cut(units: list[_Unit], until: float, rules: SubtitleRules) -> list[list[_Unit]]:
    """Cut a run of words into cues; ``until`` is the start of the next run."""
    count = len(units)
    free_until = [unit.start - rules.min_gap_s for unit in units[1:]] + [until]
    full = rules.max_line_chars * rules.max_lines
    widths = range(sum(unit.space + unit.width for unit in units) + 1)
    needed_s = [min(rules.max_cue_s, rules.reading_ms(width) / 1000) for width in widths]
    uneven = [UNEVEN * (width / full) ** 2 for width in widths]
    least = [math.inf] * count + [0.0]  # least[i]: cost of everything from word i on
    end_of = [0] * count  # end_of[i]: best end of the cue that starts with word i
    for first in range(count - 1, -1, -1):
        for last, width, inner in _candidates(units, first, rules):
            free_s = max(0.0, free_until[last] - units[first].start)
            cost = (
                1
                + inner
                + units[last].break_cost
                + _scarcity(free_s, needed_s[width])
                + uneven[width]
                + least[last + 1]
            )
            if cost < least[first]:
                least[first] = cost
                end_of[first] = last + 1
    return _groups(units, repeat(end_of))


def _groups(units: list[_Unit], ends: Iterable[list[int]]) -> list[list[_Unit]]:
    """Cut units into groups: ``end_of[first]`` is the end of the group that starts at ``first``."""
    groups: list[list[_Unit]] = []
    first = 0
    for end_of in ends:
        if first == len(units):
            break
        groups.append(units[first : end_of[first]])
        first = end_of[first]
    return groups


def _candidates(
    units: list[_Unit], first: int, rules: SubtitleRules
) -> Iterator[tuple[int, int, float]]:
    """Possible cues from a word on: (index of the last word, columns, cost of sentence ends
    inside).
    """
    start = units[first].start
    lines = 1
    line_width = width = 0
    inner = 0.0
    for last in range(first, len(units)):
        unit = units[last]
        if last > first:
            if unit.end - start > rules.max_cue_s:
                return
            inner += SENTENCE_INSIDE if units[last - 1].break_cost == BREAK_AT_SENTENCE else 0.0
            width += unit.space
            line_width += unit.space
        if last > first and line_width + unit.width > rules.max_line_chars:
            lines += 1
            width -= unit.space
            line_width = 0
            if lines > rules.max_lines:
                return
        width += unit.width
        line_width += unit.width
        yield last, width, inner


def _timed(groups: list[list[_Unit]], duration: float, rules: SubtitleRules) -> list[Cue]:
    """Assign screen times in whole milliseconds, at least one each."""
    gap_ms = round(1000 * rules.min_gap_s)
    max_cue_ms = int(1000 * rules.max_cue_s)
    wrapped = [_wrapped(group, rules) for group in groups]
    needed_ms = [min(max_cue_ms, rules.reading_ms(_columns(lines))) for lines in wrapped]
    starts_ms: list[int] = []
    for group in groups:  # words with equal times follow each other by 1 ms
        starts_ms.append(max(round(1000 * group[0].start), starts_ms[-1] + 1 if starts_ms else 0))
    starts_ms = _shifted(starts_ms, needed_ms, round(1000 * duration), gap_ms)
    cues: list[Cue] = []
    for i, (group, start_ms) in enumerate(zip(groups, starts_ms, strict=True)):
        end_ms = max(round(1000 * group[-1].end), start_ms + needed_ms[i])
        end_ms = min(end_ms, start_ms + max_cue_ms)
        if i + 1 < len(groups):
            free_ms = starts_ms[i + 1] - start_ms
            end_ms = min(end_ms, start_ms + (free_ms - gap_ms if free_ms > gap_ms else free_ms))
        else:
            end_ms = max(min(end_ms, round(1000 * duration)), start_ms + 1)
        lines = tuple(_pieces(line) for line in wrapped[i])
        cues.append(Cue(start_ms, end_ms, lines, group[0].tokens[0].speaker))
    return cues


def _shifted(
    starts_ms: Sequence[int], needed_ms: Sequence[int], end_ms: int, gap_ms: int
) -> list[int]:
    """Move starts of cues by up to ``MAX_SHIFT_MS`` where one would be too short to read.

    The first cue starts no earlier, because another turn may be before it.
    """
    first_ms = starts_ms[0] if starts_ms else 0
    until_ms = max(end_ms, starts_ms[-1] + 1) if starts_ms else end_ms
    least = {until_ms + gap_ms: 0.0}  # by start: cost from there on
    following: list[dict[int, int]] = []  # by start: best start of the next cue; last cue first
    for word_ms, needed in zip(reversed(starts_ms), reversed(needed_ms), strict=True):
        after = least
        least = {}
        following.append({})
        for start_ms in (word_ms + shift_ms for shift_ms in SHIFTS_MS):
            costs = [
                (cost + _haste(next_ms - gap_ms - start_ms, needed, UNFAIR), next_ms)
                for next_ms, cost in after.items()
                if first_ms <= start_ms < next_ms
            ]
            if costs:
                cost, following[-1][start_ms] = min(costs)
                least[start_ms] = cost + SHIFTED * abs(start_ms - word_ms) / MAX_SHIFT_MS
    start_ms = min(least, key=least.__getitem__)
    shifted: list[int] = []
    for next_of in reversed(following):
        shifted.append(start_ms)
        start_ms = next_of[start_ms]
    return shifted


def _scarcity(free_s: float, needed_s: float) -> float:
    """Cost of a cue that needs more time than it has: it borrows some, and the rest is missing."""
    borrowed = min(1.0, max(0.0, 1000 * (needed_s - free_s) / MAX_SHIFT_MS))
    missing = _haste(free_s + MAX_SHIFT_MS / 1000, needed_s)
    return SHIFTED * borrowed + missing


def _haste(shown: float, needed: float, unfair: float = 0.0) -> float:
    """Cost of a cue that stays up for less than its reading time."""
    if shown >= needed:
        return 0.0
    missing = 1 - max(0.0, shown) / needed
    return TOO_FAST + TOO_SHORT * missing + unfair * missing**2


def _columns(lines: Sequence[Sequence[_Unit]]) -> int:
    return sum(unit.space + unit.width for line in lines for unit in line) - sum(
        line[0].space for line in lines
    )


def _pieces(line: Sequence[_Unit]) -> tuple[Piece, ...]:
    return tuple(token.piece() for unit in line for token in unit.tokens)


def _wrapped(units: list[_Unit], rules: SubtitleRules) -> list[list[_Unit]]:
    """Wrap a cue into as few lines as possible, as even as good break points allow."""
    count = len(units)
    widest = rules.max_line_chars
    least = [0.0 if first == count else math.inf for first in range(count + 1)]  # with no line left
    ends: list[list[int]] = []  # ends[k][first]: best end of the first of k + 1 lines
    while math.isinf(least[0]):
        before = least
        least = [math.inf] * (count + 1)
        ends.append([count] * (count + 1))
        for first in range(count):
            width = -units[first].space
            for last in range(first, count):
                width += units[last].space + units[last].width
                if width > widest and last > first:  # a single cluster may be wider than a line
                    break
                cost = before[last + 1] + LINE_UNEVEN * (1 - width / widest) ** 2
                cost += LINE_BREAK * units[last].break_cost if last + 1 < count else 0.0
                if cost < least[first]:
                    least[first] = cost
                    ends[-1][first] = last + 1
    return _groups(units, reversed(ends))
