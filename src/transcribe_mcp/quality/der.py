"""Diarization error rate: missed speech, false alarms and confused speakers, as NIST defines them
(https://www.nist.gov/itl/iad/mig/rich-transcription-evaluation).

Overlapped speech counts for each speaker. Speakers are matched one to one so that the least speech
is confused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..domain.transcript import Turn

COLLAR_S = 0.25  # collar on each side of a reference boundary in the lenient figure

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DiarizationErrors:
    """Additive figures in seconds.

    Attributes:
        reference_s: speech of all speakers.
        missed_s: speech without a speaker.
        false_alarm_s: speakers without speech.
        confused_s: speech of another speaker.
    """

    reference_s: float = 0.0
    missed_s: float = 0.0
    false_alarm_s: float = 0.0
    confused_s: float = 0.0

    def __add__(self, other: DiarizationErrors) -> DiarizationErrors:
        return DiarizationErrors(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )

    @property
    def rate(self) -> float | None:
        """The diarization error rate; ``None`` without any speech."""
        errors_s = self.missed_s + self.false_alarm_s + self.confused_s
        return errors_s / self.reference_s if self.reference_s else None


def diarization_errors(
    reference: Sequence[Turn], found: Sequence[Turn], collar_s: float = 0.0
) -> DiarizationErrors:
    """Compare turns with those of a reference.

    Args:
        collar_s: seconds before and after each reference boundary that do not count.
    """
    borders = np.array([(turn.start, turn.end) for turn in reference]).reshape(-1)
    collars = np.stack([borders - collar_s, borders + collar_s], axis=1)
    spans = [*collars.reshape(-1), *borders, *((t.start, t.end) for t in found)]
    edges = np.unique(np.hstack([np.empty(0), *spans]))
    true = _presence(reference, edges)
    other = _presence(found, edges)
    seconds = np.diff(edges)
    for start, end in np.searchsorted(edges, collars):
        seconds[start:end] = 0.0
    n_true = true.sum(axis=1)
    n_other = other.sum(axis=1)
    together_s = (true * seconds[:, None]).T @ other
    return DiarizationErrors(
        float(n_true @ seconds),
        float(np.maximum(n_true - n_other, 0) @ seconds),
        float(np.maximum(n_other - n_true, 0) @ seconds),
        max(0.0, float(np.minimum(n_true, n_other) @ seconds) - assigned_total(together_s)),
    )


def _presence(turns: Sequence[Turn], edges: Matrix) -> Matrix:
    """1 where a speaker talks, 0 elsewhere: (n_edges - 1, n_speakers)."""
    columns = {name: i for i, name in enumerate(sorted({turn.speaker for turn in turns}))}
    presence = np.zeros((max(0, len(edges) - 1), len(columns)))
    for turn in turns:
        first, end = np.searchsorted(edges, (turn.start, turn.end))
        presence[first:end, columns[turn.speaker]] = 1.0
    return presence


def assigned_total(gains: Matrix) -> float:
    """The largest sum of ``gains`` (n, m) with at most one from each row and each column.

    The Hungarian method with shortest augmenting paths (Jonker and Volgenant, 1987).
    """
    if not gains.size:
        return 0.0
    costs = gains.max() - (gains if gains.shape[0] <= gains.shape[1] else gains.T)
    n, m = costs.shape
    row_of = np.full(m + 1, -1, np.intp)  # of each column; the last column starts the paths
    row_potential = np.zeros(n)
    column_potential = np.zeros(m + 1)
    for row in range(n):
        row_of[m] = row
        _augment(costs, row_of, row_potential, column_potential)
    columns = np.flatnonzero(row_of[:m] >= 0)
    return float(gains.max() * n - costs[row_of[columns], columns].sum())


def _augment(
    costs: Matrix, row_of: NDArray[np.intp], row_potential: Matrix, column_potential: Matrix
) -> None:
    """Assign one more row: that of the last column."""
    m = costs.shape[1]
    slack = np.full(m, np.inf)
    before = np.full(m, m, np.intp)
    is_used = np.zeros(m + 1, np.bool_)
    column = m
    while row_of[column] >= 0:
        is_used[column] = True
        row = row_of[column]
        reduced = costs[row] - row_potential[row] - column_potential[:m]
        is_better = (reduced < slack) & ~is_used[:m]
        slack[is_better] = reduced[is_better]
        before[is_better] = column
        open_slack = np.where(is_used[:m], np.inf, slack)
        following = int(open_slack.argmin())
        step = open_slack[following]
        row_potential[row_of[is_used]] += step
        column_potential[is_used] -= step
        slack[~is_used[:m]] -= step
        column = following
    while column != m:
        row_of[column] = row_of[before[column]]
        column = int(before[column])
