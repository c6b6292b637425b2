"""Words -> sentences. Segments are built from the words alone, so window boundaries do not affect
them.

A sentence ends at final punctuation or at a change of speaker. Without punctuation, pauses end it;
with case and punctuation, a speaker may pause inside a sentence. The rules are the same for all
languages: case, spacing and pauses distinguish an abbreviation from an end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from .text_breaks import line_breaks
from .text_marks import CLAUSE_MARKS, CLOSERS, OPENERS, SENTENCE_MARKS, WIDE_SENTENCE_MARKS
from .transcript import Word

PAUSE_S = 1.0  # ends a sentence, unless the text continues in lower case to a full stop
MAX_PAUSE_S = 4.0  # always ends a sentence
ABBREVIATION_PAUSE_S = 0.3  # "U.S.", "J." and "3." end a sentence only before a pause
UNPUNCTUATED_PAUSE_S = 0.4  # ends a sentence in text without punctuation
UNPUNCTUATED_S = 5.0  # shorter text without punctuation is not split
UNPUNCTUATED_LIMIT = (15.0, 200)  # s, characters
PUNCTUATED_LIMIT = (30.0, 400)  # s, characters; punctuated sentences may be longer
MIDDLE = (0.2, 0.8)  # range for the cut of an overlong part, as shares of its words

_FINAL = re.compile(rf"[{SENTENCE_MARKS}]+[{re.escape(CLOSERS)}]*$")
_DOT = re.compile(rf"(?<![.…])\.[{re.escape(CLOSERS)}]*$")
_CLAUSE = re.compile(rf"[{CLAUSE_MARKS}][{re.escape(CLOSERS)}]*$")
_MARKS_ONLY = re.compile(rf"[\s.!?…。．｡！？,;:{re.escape(CLOSERS)}]+$")
# A straight quotation mark opens after a space and closes elsewhere.
_QUOTE_OPENS = re.compile(r"\s+[\"']+$")
# Initials, "U.S.", "a.m."; ordinals and list numbers.
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+$|\d{1,2}\.$")
_BEFORE_NAMES = {
    "mr", "mrs", "ms", "dr", "prof", "st", "vs", "hr", "hrn", "mme", "mlle", "mgr", "sr", "sra",
    "dra", "gen", "col", "capt", "lt", "sgt", "rev", "gov", "sen", "messrs", "e.g", "i.e", "z.b",
    "d.h", "u.a", "p.ex", "cf", "approx", "ca", "bzw", "bspw", "evtl", "ggf", "inkl", "vgl",
}  # fmt: skip
_BEFORE_FIGURES = {"no", "nos", "nr", "vol", "fig", "eq", "sec", "art", "tel", "p", "pp", "ch"}


def cut_sentences(words: Sequence[Word]) -> list[list[Word]]:
    """Group words into sentences without changing their order.

    Args:
        words: in order of time; ``text`` includes a leading space if the language uses spaces.

    Returns:
        Sentences, none empty. The text of one is ``"".join(word.text for word in sentence)``.
    """
    cased = any(char.isupper() for word in words for char in word.text)
    stops = _next_stops(words) if cased else [math.inf] * len(words)
    sentences = _split_where(words, lambda i: _ends_sentence(words, i, stops, cased=cased))
    return [part for sentence in sentences for part in _limited(sentence)]


def _split_where(words: Sequence[Word], ends: Callable[[int], bool]) -> Iterator[list[Word]]:
    first = 0
    for last in range(len(words)):
        if last == len(words) - 1 or (
            ends(last) and _separable(words[last].text, words[last + 1].text)
        ):
            yield list(words[first : last + 1])
            first = last + 1


def _next_stops(words: Sequence[Word]) -> list[float]:
    """For each word, the end of the next word with final punctuation, or infinity."""
    stops: list[float] = []
    stop = math.inf
    for word in reversed(words):
        if _final(word.text.strip()):
            stop = word.end
        stops.append(stop)
    return stops[::-1]


def _ends_sentence(words: Sequence[Word], i: int, stops: Sequence[float], *, cased: bool) -> bool:
    """Whether a sentence ends after word ``i``, which is not the last one."""
    word = words[i]
    after = words[i + 1]
    pause_s = _pause_s(word, after)
    text = _with_marks(words, i)
    final = _final(text)
    following = after.text.strip().lstrip(OPENERS)
    if word.speaker and after.speaker and word.speaker != after.speaker:
        return True
    if pause_s >= PAUSE_S:
        continues = following[:1].islower() and not final
        is_far = stops[i + 1] - word.end > PUNCTUATED_LIMIT[0]
        return pause_s >= MAX_PAUSE_S or not continues or is_far
    if not final or _only_closes(after.text):
        return False  # a closing mark belongs to the text before it
    if final[0] in WIDE_SENTENCE_MARKS:
        return True
    return not _continues_sentence(text, after.text, pause_s, cased=cased)


def _continues_sentence(text: str, after: str, pause_s: float, *, cased: bool) -> bool:
    """Whether a sentence continues after ``text``, which has a final mark, and a short pause."""
    following = after.strip().lstrip(OPENERS)
    if not after[:1].isspace() and after[:1].isascii():
        return True  # "3." + "14", "example." + "com"
    if cased and following[:1].islower():
        return True
    return bool(_DOT.search(text)) and is_abbreviation(text, following, pause_s)


def _with_marks(words: Sequence[Word], i: int) -> str:
    """The text of word ``i``, together with the word before if it is only a mark."""
    text = words[i].text
    before = words[i - 1].text.strip() if i > 0 and _only_closes(text) else ""
    return before + text.strip()


# Cached, because few words make up most of a text.


@lru_cache(maxsize=1 << 14)
def _separable(before: str, after: str) -> bool:
    """Whether a line break is possible between two words."""
    if before[-1:].isalnum() and after[:1] == " " and after[1:2].isalnum():
        return True  # the usual case, without a call to ICU
    space = len(after) - len(after.lstrip())
    return len(before) + space in line_breaks(before + after)


@lru_cache(maxsize=1 << 14)
def _only_closes(text: str) -> bool:
    """Whether a text has only marks that close or end something."""
    return bool(_MARKS_ONLY.match(text)) and not _QUOTE_OPENS.match(text)


@lru_cache(maxsize=1 << 14)
def _final(text: str) -> str:
    """The sentence marks at the end of a text, with closing marks; empty if there are none."""
    found = _FINAL.search(text)
    return found[0] if found else ""


@lru_cache(maxsize=1 << 14)
def _ends_clause(text: str) -> bool:
    return bool(_CLAUSE.search(text))


def _pause_s(before: Word, after: Word) -> float:
    return round(after.start - before.end, 3)


def is_abbreviation(text: str, following: str, pause_s: float) -> bool:
    """Whether a text with a full stop at its end is an abbreviation, an initial or an ordinal.

    Args:
        text: one word.
        following: the next word, without opening marks.
        pause_s: seconds between the two.
    """
    bare = text.strip(OPENERS + CLOSERS)
    name = bare.removesuffix(".").lower()
    if name in _BEFORE_NAMES or (name in _BEFORE_FIGURES and following[:1].isdigit()):
        return True
    return bool(_DOTTED.match(bare)) and pause_s < ABBREVIATION_PAUSE_S


def _limited(words: list[Word]) -> list[list[Word]]:
    """Split words without punctuation at pauses, then overlong parts near their middle."""
    texts = [word.text.strip() for word in words]
    if any(_final(text) or _ends_clause(text) for text in texts):
        return _within(words, PUNCTUATED_LIMIT)
    if words[-1].end - words[0].start <= UNPUNCTUATED_S:
        return _within(words, UNPUNCTUATED_LIMIT)
    phrases = _split_where(
        words, lambda i: _pause_s(words[i], words[i + 1]) >= UNPUNCTUATED_PAUSE_S
    )
    return [part for phrase in phrases for part in _within(phrase, UNPUNCTUATED_LIMIT)]


def _within(words: list[Word], limit: tuple[float, int]) -> list[list[Word]]:
    limit_s, limit_chars = limit
    parts: list[list[Word]] = []
    waiting = [words]
    while waiting:
        part = waiting.pop()
        too_long = (
            part[-1].end - part[0].start > limit_s
            or sum(len(word.text) for word in part) > limit_chars
        )
        if too_long and len(part) > 1:
            cut = _best_cut(part)
            waiting += [part[cut:], part[:cut]]
        else:
            parts.append(part)
    return parts


def _best_cut(part: list[Word]) -> int:
    """Index of the first word after the cut: after a clause, at the longest pause, near the
    middle.
    """
    low, high = (round(share * len(part)) for share in MIDDLE)
    candidates = range(max(1, low), max(2, min(high + 1, len(part))))

    def merit(i: int) -> tuple[bool, bool, float, float]:
        before = part[i - 1]
        after = part[i]
        return (
            _separable(before.text, after.text),
            _ends_clause(before.text.strip()),
            _pause_s(before, after),
            -abs(i - len(part) / 2),
        )

    return max(candidates, key=merit)
