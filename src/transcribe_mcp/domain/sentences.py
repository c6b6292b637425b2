"""Words -> sentences. Segments are cut anew from the words, so that no window border shows in the result.

Another speaker ends a sentence, and so does final punctuation. Pauses end sentences where a recogniser writes no
punctuation; in text with case and punctuation a speaker may pause in mid-sentence. The rules know no language: case,
spacing and pauses tell an abbreviation from an end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from .text_breaks import line_breaks
from .transcript import Word

PAUSE_S = 1.0  # a pause that ends a sentence, unless the text goes on in lower case to a full stop
LONGEST_PAUSE_S = 4.0  # a pause that always does
ABBREVIATION_PAUSE_S = 0.3  # "U.S.", "J." and "3." end a sentence only before a pause
UNPUNCTUATED_PAUSE_S = 0.4  # ends a sentence where nobody wrote punctuation
UNPUNCTUATED_S = 5.0  # shorter stretches without punctuation stay whole
UNPUNCTUATED_LIMIT = (15.0, 200)  # s, characters
PUNCTUATED_LIMIT = (30.0, 400)  # s, characters; a written sentence is trusted further
MIDDLE = (0.2, 0.8)  # where an overlong stretch is cut, as shares of its words

OPENERS = "\"'([{“‘„‚«‹「『【（《¿¡"
CLOSERS = "\"')]}”’»›」』】）》"
_FINAL = re.compile(rf"[.!?…。．｡！？؟۔।።]+[{re.escape(CLOSERS)}]*$")
_WIDE_FINAL = "。．｡！？"
_DOT = re.compile(rf"(?<![.…])\.[{re.escape(CLOSERS)}]*$")
_CLAUSE = re.compile(rf"[,;:–—、，；：،؛][{re.escape(CLOSERS)}]*$")
_MARKS_ONLY = re.compile(rf"[\s.!?…。．｡！？,;:{re.escape(CLOSERS)}]+$")
_QUOTE_OPENS = re.compile(
    r"\s+[\"']+$"
)  # a straight quotation mark after a space opens, any other closes
_DOTTED = re.compile(
    r"(?:[^\W\d_]\.)+$|\d{1,2}\.$"
)  # initials, "U.S.", "a.m."; ordinals and list numbers
_BEFORE_NAMES = {
    "mr", "mrs", "ms", "dr", "prof", "st", "vs", "hr", "hrn", "mme", "mlle", "mgr", "sr", "sra", "dra", "gen", "col",
    "capt", "lt", "sgt", "rev", "gov", "sen", "messrs", "e.g", "i.e", "z.b", "d.h", "u.a", "p.ex", "cf", "approx", "ca",
    "bzw", "bspw", "evtl", "ggf", "inkl", "vgl",
}  # fmt: skip
_BEFORE_FIGURES = {"no", "nos", "nr", "vol", "fig", "eq", "sec", "art", "tel", "p", "pp", "ch"}


def cut_sentences(words: Sequence[Word]) -> list[list[Word]]:
    """Group words into sentences; joined, the groups are the words again.

    Args:
        words: in order of time, each with its own leading space where the language writes one.

    Returns:
        Sentences, none of them empty. ``"".join(word.text for word in sentence)`` is a sentence's text.
    """
    cased = any(char.isupper() for word in words for char in word.text)
    stops = _next_stops(words) if cased else [math.inf] * len(words)
    sentences: list[list[Word]] = []
    for stretch in _split_where(words, lambda i: _ends_sentence(words, i, stops, cased=cased)):
        sentences += _shortened(stretch)
    return sentences


def _split_where(words: Sequence[Word], ends: Callable[[int], bool]) -> Iterator[list[Word]]:
    first = 0
    for last in range(len(words)):
        if last == len(words) - 1 or (
            ends(last) and _separable(words[last].text, words[last + 1].text)
        ):
            yield list(words[first : last + 1])
            first = last + 1


def _next_stops(words: Sequence[Word]) -> list[float]:
    """For each word, when the next word with final punctuation ends, itself included; infinity where none follows."""
    stops, stop = [math.inf] * len(words), math.inf
    for i in range(len(words) - 1, -1, -1):
        stops[i] = stop = words[i].end if _final(words[i].text.strip()) else stop
    return stops


def _ends_sentence(words: Sequence[Word], i: int, stops: Sequence[float], *, cased: bool) -> bool:
    """Whether a sentence ends after word ``i``, which is not the last one."""
    word, after = words[i], words[i + 1]
    pause_s = _pause_s(word, after)
    if word.speaker and after.speaker and word.speaker != after.speaker:
        return True
    if pause_s >= PAUSE_S:
        goes_on = after.text.strip().lstrip(OPENERS)[:1].islower() and not _final(
            _with_marks(words, i)
        )
        return (
            pause_s >= LONGEST_PAUSE_S
            or not goes_on
            or stops[i + 1] - word.end > PUNCTUATED_LIMIT[0]
        )
    if _only_closes(after.text):
        return False  # a quotation mark on its own belongs to what it closes
    text = _with_marks(words, i)
    final = _final(text)
    if not final:
        return False
    if final[0] in _WIDE_FINAL:
        return True
    if not after.text[:1].isspace() and after.text[:1].isascii():
        return False  # "3." + "14", "example." + "com"
    following = after.text.strip().lstrip(OPENERS)
    if cased and following[:1].islower():
        return False
    return not _DOT.search(text) or not _is_abbreviation(text, following, pause_s)


def _with_marks(words: Sequence[Word], i: int) -> str:
    """The text of word ``i``, with that of the word before it where it is only a mark."""
    text = words[i].text
    return (
        words[i - 1].text.strip() + text.strip() if i > 0 and _only_closes(text) else text.strip()
    )


# The same words come again and again.


@lru_cache(maxsize=1 << 14)
def _separable(before: str, after: str) -> bool:
    """Whether a line may end between the two: not inside a grapheme cluster, nor before a small kana."""
    if before[-1:].isalnum() and after[:1] == " " and after[1:2].isalnum():
        return True  # what nearly all words look like is looked up no further
    space = len(after) - len(after.lstrip())
    return len(before) + space in line_breaks(before + after)


@lru_cache(maxsize=1 << 14)
def _only_closes(text: str) -> bool:
    """Whether it is marks alone, of those that stand behind a word."""
    return bool(_MARKS_ONLY.match(text)) and not _QUOTE_OPENS.match(text)


@lru_cache(maxsize=1 << 14)
def _final(text: str) -> str:
    """The marks at its end that may end a sentence, empty if there are none."""
    found = _FINAL.search(text)
    return found[0] if found else ""


@lru_cache(maxsize=1 << 14)
def _ends_clause(text: str) -> bool:
    return bool(_CLAUSE.search(text))


def _pause_s(before: Word, after: Word) -> float:
    return round(after.start - before.end, 3)


def _is_abbreviation(text: str, following: str, pause_s: float) -> bool:
    bare = text.strip(OPENERS + CLOSERS)
    name = bare.removesuffix(".").lower()
    if name in _BEFORE_NAMES or (name in _BEFORE_FIGURES and following[:1].isdigit()):
        return True
    return bool(_DOTTED.match(bare)) and pause_s < ABBREVIATION_PAUSE_S


def _shortened(stretch: list[Word]) -> list[list[Word]]:
    """A stretch without punctuation at its pauses; what is still too long, at the best place in its middle."""
    if any(_final(text) or _ends_clause(text) for text in (word.text.strip() for word in stretch)):
        return _within(stretch, PUNCTUATED_LIMIT)
    if stretch[-1].end - stretch[0].start <= UNPUNCTUATED_S:
        return _within(stretch, UNPUNCTUATED_LIMIT)
    phrases = _split_where(
        stretch, lambda i: _pause_s(stretch[i], stretch[i + 1]) >= UNPUNCTUATED_PAUSE_S
    )
    return [part for phrase in phrases for part in _within(phrase, UNPUNCTUATED_LIMIT)]


def _within(stretch: list[Word], limit: tuple[float, int]) -> list[list[Word]]:
    limit_s, limit_chars = limit
    parts: list[list[Word]] = []
    waiting = [stretch]
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
    """Index of the word to start anew with: after a clause, at the longest pause, near the middle."""
    low, high = (round(share * len(part)) for share in MIDDLE)
    candidates = range(max(1, low), max(2, min(high + 1, len(part))))

    def merit(i: int) -> tuple[bool, bool, float, float]:
        before, after = part[i - 1], part[i]
        after_clause = _ends_clause(before.text.strip())
        return (
            _separable(before.text, after.text),
            after_clause,
            _pause_s(before, after),
            -abs(i - len(part) / 2),
        )

    return max(candidates, key=merit)
