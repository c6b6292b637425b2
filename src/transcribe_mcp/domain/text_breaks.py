"""Positions for cutting text, and its width in columns.

Grapheme clusters (UAX #29), line breaks (UAX #14) and words come from ICU, whose dictionaries cover
Thai, Lao, Khmer, Burmese, Chinese and Japanese. Columns come from wcwidth. All code that cuts text
uses this module, not ``len``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

# CSS's strict line breaking: no small kana, no prolonged sound mark and no iteration mark starts a
# line.
_LOCALE = "und-u-lb-strict"
JOINERS = "\u200c\u200d"  # invisible parts of emoji and of Persian and Hindi words
# Marks of repetition and abbreviation in Thai and Lao; ICU separates some words from them.
_REPEATS = "ๆໆฯຯ"
_SURROGATE = re.compile("[\ud800-\udfff]")  # possible in file names, but not allowed by ICU


def clusters(text: str) -> list[str]:
    """The grapheme clusters (user-perceived characters) of ``text``. Joined, they are the text."""
    from icu4py.breakers import CharacterBreaker

    return _parts(text, CharacterBreaker(_encodable(text), _LOCALE))


def cluster_breaks(text: str) -> frozenset[int]:
    """Offsets in ``text`` between grapheme clusters, including 0 and the end."""
    if text.isascii():
        return frozenset(range(len(text) + 1))
    return _offsets(clusters(text))


def line_breaks(text: str) -> frozenset[int]:
    """Offsets in ``text`` of possible line breaks, including 0 and the end.

    Korean separates words by spaces, so a Korean word is not broken.
    """
    from icu4py.breakers import LineBreaker

    offsets = _offsets(LineBreaker(_encodable(text), _LOCALE))
    return frozenset(
        i
        for i in offsets
        if not 0 < i < len(text)
        or (text[i] not in _REPEATS and not (_is_hangul(text[i - 1]) and _is_hangul(text[i])))
    )


def word_breaks(text: str) -> frozenset[int]:
    """Offsets in ``text`` of the starts of words and marks, including 0 and the end."""
    from icu4py.breakers import WordBreaker

    return _offsets(WordBreaker(_encodable(text), _LOCALE))


def line_units(text: str) -> list[str]:
    """The parts of ``text`` between possible line breaks. Joined, they are the text."""
    offsets = sorted(line_breaks(text))
    return [text[first:last] for first, last in pairwise(offsets)]


def columns(text: str) -> int:
    """Width on a screen: East Asian wide characters and emoji take two columns, combining marks
    none.
    """
    if text.isascii():
        return len(text)
    from wcwidth import width

    return width(text, control_codes="ignore")


def head(text: str, limit: int) -> str:
    """The longest start of ``text`` up to a possible line break, at most ``limit`` characters.

    If that is less than half of ``limit``, it ends between grapheme clusters; if one cluster is
    longer than ``limit``, inside it. The result is never empty for a positive ``limit``.
    """
    if len(text) <= limit:
        return text
    near = text[: 2 * limit]  # a break depends on the following text
    end = max((i for i in line_breaks(near) if i <= limit), default=0)
    if 2 * end < limit:
        end = 0
        for cluster in clusters(near):
            if end + len(cluster) > limit:
                break
            end += len(cluster)
    return text[: end or limit]


def shortened(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` characters, with an ellipsis if it is cut."""
    return text if len(text) <= limit else head(text, limit - 1) + "…"


def _encodable(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _parts(text: str, parts: Iterable[str]) -> list[str]:
    """Slices of the original text; ICU got one without surrogates."""
    found = []
    end = 0
    for part in parts:
        found.append(text[end : end + len(part)])
        end += len(part)
    return found


def _offsets(parts: Iterable[str]) -> frozenset[int]:
    offsets = [0]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    return frozenset(offsets)


@lru_cache(maxsize=4096)
def _is_hangul(char: str) -> bool:
    return unicodedata.name(char, "").startswith("HANGUL")
