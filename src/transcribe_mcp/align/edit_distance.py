"""Align two sequences of words with the fewest edits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 256  # rows of the distance matrix in memory while tracing back


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
