"""Split tokens into words, for any tokenizer and language.

A word includes its punctuation and its leading space. The words together are the whole text, so
digits and symbols get times too. No word ends inside a grapheme cluster. In languages without
spaces, words begin only where a line may.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..domain.text_breaks import cluster_breaks, line_breaks

# Languages without spaces: every unit that may start a line is a word.
UNSPACED_LANGUAGES = frozenset({"bo", "ja", "km", "lo", "my", "th", "yue", "zh"})
OPENING_PUNCTUATION = "\"'“‘«‹„‚¿¡([{<-"  # joins the word that follows
OPENING_BRACKETS = "「『（［｛〈《【〔"  # the same without a space before it
REPLACEMENT = "\ufffd"  # an incomplete UTF-8 sequence decodes to this
CHARACTER_TOKENS = 4  # a character has at most four bytes, a token at least one

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """A word and its tokens ``[first, last)``."""

    text: str
    first: int
    last: int

    def shifted(self, n_tokens: int) -> TokenSpan:
        """The same word after this many more tokens."""
        return TokenSpan(self.text, self.first + n_tokens, self.last + n_tokens)


def split_words(tokens: Sequence[int], decode: Decode, language: str) -> list[TokenSpan]:
    """Split a token sequence into words, in order; every token is in one."""
    spaced = language not in UNSPACED_LANGUAGES
    units = _split_characters(tokens, decode)
    text = "".join(unit.text for unit in units)
    whole = cluster_breaks(text)
    may_begin = whole if spaced else line_breaks(text)
    words: list[TokenSpan] = []
    start = 0  # offset of the unit in the text
    for unit in units:
        # Lines break after a space, but the space belongs to the next word.
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
    """The shortest runs of tokens that decode to whole characters; other tokens stay together."""
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
        # Join consecutive incomplete units.
        if units and REPLACEMENT in unit.text and REPLACEMENT in units[-1].text:
            before = units.pop()
            unit = TokenSpan(decode(tokens[before.first : unit.last]), before.first, unit.last)
        units.append(unit)
        first = unit.last
    return units


@lru_cache(maxsize=1 << 16)  # the same pairs repeat
def _continues(word: str, unit: str, *, spaced: bool) -> bool:
    """Whether ``unit`` continues ``word``."""
    if not word.strip():
        return True  # a lone space starts a word
    if not unit or unicodedata.category(unit[0])[0] == "M":
        return True  # accents and vowel signs belong to the letter before
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
        return False  # fast path for most words
    return all(unicodedata.category(character)[0] in "PZ" for character in text)
