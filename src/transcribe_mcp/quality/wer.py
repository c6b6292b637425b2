"""Normalise two texts and align their words with the fewest errors."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..align.words import UNSPACED_LANGUAGES

BLOCK_ROWS = 256  # rows of the distance matrix in memory while tracing back

_HESITATIONS = {"hmm", "mm", "mhm", "mmm", "uh", "um"}
_CONTRACTIONS = {
    "won't": "will not",
    "can't": "can not",
    "cannot": "can not",
    "let's": "let us",
    "shan't": "shall not",
}
_SUFFIXES = {
    "n't": " not",
    "'re": " are",
    "'ll": " will",
    "'ve": " have",
    "'d": " would",
    "'m": " am",
}
# After these words, 's means "is".
_IS_PRONOUNS = {
    "it",
    "he",
    "she",
    "that",
    "what",
    "there",
    "here",
    "who",
    "where",
    "how",
}
_AMERICAN = {
    "behaviour": "behavior", "centre": "center", "cheque": "check", "colour": "color",
    "favour": "favor", "favourite": "favorite", "grey": "gray", "harbour": "harbor",
    "honour": "honor", "labour": "labor", "litre": "liter", "metre": "meter", "mum": "mom",
    "neighbour": "neighbor", "organisation": "organization", "organise": "organize",
    "programme": "program", "realise": "realize", "recognise": "recognize", "theatre": "theater",
    "travelled": "traveled", "travelling": "traveling", "tyre": "tire",
}  # fmt: skip


def normalise(text: str, language: str | None) -> list[str]:
    """The words to compare: a lighter form of Whisper's normalisation.

    NFKC and lower case. Marks, symbols and punctuation separate words; an apostrophe inside a word
    is dropped ("l'eau" is "leau"). Umlauts and accents stay. English: contractions are expanded
    ("won't" is "will not"), hesitations ("um") dropped, two dozen British spellings made American.
    Languages without spaces: one word per character. Numbers stay: "2" is not "two".
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("ʼ", "'")
    if language == "en":
        text = re.sub(r"[\w']+", lambda match: _spelled_out(match.group()), text)
    text = re.sub(r"(?<=\w)'(?=\w)", "", text)
    text = "".join(" " if unicodedata.category(c)[0] in "SPCZ" else c for c in text)
    if language in UNSPACED_LANGUAGES:
        return [c for c in text if not c.isspace()]
    words = text.split()
    if language == "en":
        words = [_AMERICAN.get(word, word) for word in words if word not in _HESITATIONS]
    return words


def _spelled_out(word: str) -> str:
    if word in _CONTRACTIONS:
        return _CONTRACTIONS[word]
    for suffix, full in _SUFFIXES.items():
        if word.endswith(suffix) and word != suffix:
            return word.removesuffix(suffix) + full
    stem = word.removesuffix("'s")
    return f"{stem} is" if stem != word and stem in _IS_PRONOUNS else word


def align(
    reference: Sequence[str], hypothesis: Sequence[str]
) -> list[tuple[int | None, int | None]]:
    """Align words by Levenshtein distance.

    Returns index pairs in order; ``None`` on the left is an insertion, on the right a deletion.
    Rows are vectorised and only every ``BLOCK_ROWS``-th is stored, so hours of speech take seconds
    and some megabytes.
    """
    ids: dict[str, int] = {}
    ref = np.array([ids.setdefault(word, len(ids)) for word in reference], dtype=np.int32)
    hyp = np.array([ids.setdefault(word, len(ids)) for word in hypothesis], dtype=np.int32)
    starts = [np.zeros(len(hyp) + 1, dtype=np.int32)]
    for top in range(0, len(ref) - BLOCK_ROWS, BLOCK_ROWS):
        starts.append(_rows(starts[-1], ref[top : top + BLOCK_ROWS], hyp)[-1].copy())
    pairs: list[tuple[int | None, int | None]] = []
    j = len(hyp)
    for block in range(len(starts) - 1, -1, -1):
        top = block * BLOCK_ROWS
        matrix = _rows(starts[block], ref[top : top + BLOCK_ROWS], hyp)
        i = len(matrix) - 1
        while i > 0 or (top == 0 and j > 0):
            here = matrix[i, j]
            if (
                i > 0
                and j > 0
                and here == matrix[i - 1, j - 1] - int(ref[top + i - 1] == hyp[j - 1])
            ):
                i -= 1
                j -= 1
                pairs.append((top + i, j))
            elif i > 0 and here == matrix[i - 1, j] + 1:
                i -= 1
                pairs.append((top + i, None))
            else:
                j -= 1
                pairs.append((None, j))
    return pairs[::-1]


def _rows(
    first: NDArray[np.int32], ref: NDArray[np.int32], hyp: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Rows of (distance - column); ``first`` is row 0: (len(ref) + 1, len(hyp) + 1).

    Minus the column, an insertion costs 0, so a running minimum handles a row's insertions. A match
    gains 1, a substitution costs 0, a deletion 1.
    """
    matrix = np.empty((len(ref) + 1, len(hyp) + 1), dtype=np.int32)
    matrix[0] = first
    paired = np.empty(len(hyp), dtype=np.int32)
    for above, row, word in zip(matrix, matrix[1:], ref, strict=False):
        np.subtract(above[:-1], hyp == word, out=paired)
        np.add(above, 1, out=row)
        np.minimum(row[1:], paired, out=row[1:])
        np.minimum.accumulate(row, out=row)
    return matrix
