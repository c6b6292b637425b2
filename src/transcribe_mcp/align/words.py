"""Tokens -> words, for any tokenizer and any language.

A word is what a reader would call one, with the punctuation that hangs on it and its leading space. Nothing is left
out: the texts of the words put together are the text, so digits and symbols get times too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Written without spaces between words; every unit that can stand alone counts as a word there.
UNSPACED_LANGUAGES = frozenset({"bo", "ja", "km", "lo", "my", "th", "yue", "zh"})
OPENING_PUNCTUATION = "\"'“‘«‹„‚¿¡([{<-"  # leans on the word that follows
REPLACEMENT = "\ufffd"  # what an incomplete UTF-8 sequence decodes to

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
    words: list[TokenSpan] = []
    for unit in _split_characters(tokens, decode):
        if words and _continues(words[-1].text, unit.text, spaced=spaced):
            words[-1] = TokenSpan(words[-1].text + unit.text, words[-1].first, unit.last)
        else:
            words.append(unit)
    return words


def _split_characters(tokens: Sequence[int], decode: Decode) -> list[TokenSpan]:
    """The shortest runs of tokens that decode to whole characters."""
    units: list[TokenSpan] = []
    first = 0
    for last in range(1, len(tokens) + 1):
        text = decode(tokens[first:last])
        if REPLACEMENT in text and last < len(tokens):
            continue
        units.append(TokenSpan(text, first, last))
        first = last
    return units


def _continues(word: str, unit: str, *, spaced: bool) -> bool:
    """Whether ``unit`` belongs to the word before it."""
    if not unit.strip():
        return True
    if _is_punctuation(word):
        return not unit.startswith(" ") or word.strip() in OPENING_PUNCTUATION
    if _is_punctuation(unit):
        return not (unit.startswith(" ") and unit.strip()[0] in OPENING_PUNCTUATION)
    return spaced and not unit.startswith(" ")


def _is_punctuation(text: str) -> bool:
    return all(unicodedata.category(character)[0] in "PZ" for character in text)
