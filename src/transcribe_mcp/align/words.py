"""Tokens -> words, for any tokenizer and any language.

A word is what a reader would call one, with the punctuation that hangs on it and its leading space. Nothing is left
out: the texts of the words put together are the text, so digits and symbols get times too. No word ends inside a
grapheme cluster, and in languages without spaces none begins where a line may not.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..domain.text_breaks import cluster_breaks, line_breaks

# Written without spaces between words; every unit that may start a line counts as a word there.
UNSPACED_LANGUAGES = frozenset({"bo", "ja", "km", "lo", "my", "th", "yue", "zh"})
OPENING_PUNCTUATION = "\"'“‘«‹„‚¿¡([{<-"  # leans on the word that follows
OPENING_BRACKETS = "「『（［｛〈《【〔"  # does so without a space before it
REPLACEMENT = "\ufffd"  # what an incomplete UTF-8 sequence decodes to
CHARACTER_TOKENS = 4  # a character is at most four bytes, and a token at least one

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """A word and the tokens ``[first, last)`` that spell it."""

    text: str
    first: int
    last: int


def split_words(tokens: Sequence[int], decode: Decode, language: str) -> list[TokenSpan]:
    """The words of a token sequence, in order; together they hold every token."""
    spaced = language not in UNSPACED_LANGUAGES
    units = _split_characters(tokens, decode)
    text = "".join(unit.text for unit in units)
    whole = cluster_breaks(text)
    may_begin = whole if spaced else line_breaks(text)
    words: list[TokenSpan] = []
    start = 0  # of the unit in the text
    for unit in units:
        # A line ends after a space, but the space belongs to the word behind it.
        torn = start not in (whole if unit.text[:1] == " " else may_begin)
        start += len(unit.text)
        if words and (torn or _continues(words[-1].text, unit.text, spaced=spaced)):
            words[-1] = _joined(words[-1], unit)
        else:
            words.append(unit)
    if len(words) > 1 and not words[-1].text.strip():
        words[-2:] = [_joined(words[-2], words[-1])]
    return words


def _joined(word: TokenSpan, unit: TokenSpan) -> TokenSpan:
    return TokenSpan(word.text + unit.text, word.first, unit.last)


def _split_characters(tokens: Sequence[int], decode: Decode) -> list[TokenSpan]:
    """The shortest runs of tokens that decode to whole characters; tokens that spell none stay together."""
    units: list[TokenSpan] = []
    first = 0
    while first < len(tokens):
        unit = TokenSpan(decode(tokens[first : first + 1]), first, first + 1)
        if REPLACEMENT in unit.text:
            for last in range(first + 2, min(first + CHARACTER_TOKENS, len(tokens)) + 1):
                text = decode(tokens[first:last])
                if REPLACEMENT not in text:
                    unit = TokenSpan(text, first, last)
                    break
        if (
            units and REPLACEMENT in unit.text and REPLACEMENT in units[-1].text
        ):  # as broken as the one before it
            before = units.pop()
            unit = TokenSpan(decode(tokens[before.first : unit.last]), before.first, unit.last)
        units.append(unit)
        first = unit.last
    return units


@lru_cache(maxsize=1 << 16)  # the same pairs come again and again
def _continues(word: str, unit: str, *, spaced: bool) -> bool:
    """Whether ``unit`` belongs to the word before it."""
    if not word.strip():
        return True  # a space by itself is the beginning of a word
    if not unit or unicodedata.category(unit[0])[0] == "M":
        return True  # an accent or a vowel sign stands on the letter before it
    if not unit.strip():
        return False
    if _is_punctuation(word):
        return not unit.startswith(" ") or word.strip() in OPENING_PUNCTUATION
    if _is_punctuation(unit):
        opens = unit.startswith(" ") and unit.strip()[0] in OPENING_PUNCTUATION
        return not opens and unit[0] not in OPENING_BRACKETS
    if not spaced:
        return word[-1].isascii() and word[-1].isalnum() and unit[0].isascii() and unit[0].isalnum()
    return not unit.startswith(" ")


@lru_cache(maxsize=1 << 16)
def _is_punctuation(text: str) -> bool:
    if text.lstrip(" ")[:1].isalnum():
        return False  # what nearly all words begin with is looked up no further
    return all(unicodedata.category(character)[0] in "PZ" for character in text)
