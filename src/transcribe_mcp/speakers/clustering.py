"""Embeddings -> the number of speakers, and the voice of each.

Spectral clustering (von Luxburg, 2007) of the windows: each is a neighbour of its few most
similar windows, and the largest gap among the eigenvalues of the graph gives the number of
speakers. The neighbourhood of 1.2 % and the merging of clusters above a cosine of 0.875 are
3D-Speaker's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 0.012  # share of the windows
MIN_NEIGHBOURS = 6
SAME_VOICE = 0.875  # cosine above which two clusters are one speaker
MIN_SPEECH_S = 4.0  # a cluster with less is not a speaker, unless the number of speakers is given
MIN_SHARE = 0.01
SHORT_SHARE = 0.1  # the same of a short recording
SURE_WINDOW_S = 1.0  # shorter windows start no clusters
MIN_WINDOWS = 12  # with fewer, eigenvalues say little
SHORT_SAME_VOICE = 0.5  # as SAME_VOICE, with so few windows
MAX_WINDOWS = 1200  # more windows are clustered in groups
MAX_GROUPS = 600  # maximum number of groups
SAME_GROUP = 0.75  # cosine above which neighbours in time may form one group
MAX_GROUP_S = 6.0
MAX_SPEAKERS = 15
_SEED = 0
_ROUNDS = 50  # of k-means
_STARTS = 4

Array = NDArray[np.float32]
Labels = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class SpeakerBounds:
    """Bounds of the number of speakers."""

    least: int = 1
    most: int = MAX_SPEAKERS


def unit(vectors: Array) -> Array:
    """Vectors (..., n) with length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32)


def voices_of(
    embeddings: NDArray[np.floating[Any]], seconds: Array, bounds: SpeakerBounds
) -> Array:
    """The voices (n_speakers, 192), of length 1; none without windows.

    Args:
        embeddings: of windows in the order of time, (n, 192). Those of many hours are never all in
            memory in higher precision.
        seconds: lengths of the windows, (n,).
    """
    if not len(embeddings):
        return np.empty((0, embeddings.shape[1]), np.float32)
    sure = np.flatnonzero(seconds >= SURE_WINDOW_S)
    if len(sure) < max(MIN_WINDOWS, bounds.least):
        sure = np.arange(len(embeddings))
    groups, weights = _grouped(embeddings, sure, seconds[sure])
    cluster = _few_clusters if len(sure) < MIN_WINDOWS else _clusters
    labels = cluster(groups, weights, bounds)
    return _centroids(groups, weights, labels, bounds)


def _grouped(
    embeddings: NDArray[np.floating[Any]], rows: NDArray[np.intp], seconds: Array
) -> tuple[Array, Array]:
    """The windows, or at most ``MAX_GROUPS`` groups of similar ones, and the seconds of each."""
    weights = seconds.astype(np.float32)
    if len(rows) <= MAX_WINDOWS:
        return unit(embeddings[rows].astype(np.float32)), weights
    sums: list[Array] = []
    totals: list[float] = []
    length = 0.0  # of the last sum
    for vector, weight in zip(_units(embeddings, rows), weights.tolist(), strict=True):
        product = float(sums[-1] @ vector) if sums else 0.0
        if sums and product >= SAME_GROUP * length and totals[-1] < MAX_GROUP_S:
            sums[-1] += vector * weight
            totals[-1] += weight
            length = math.sqrt(length**2 + 2 * weight * product + weight**2)
        else:
            sums.append(vector * weight)
            totals.append(weight)
            length = weight
    groups = unit(np.stack(sums))
    weights = np.array(totals, np.float32)
    return _led(groups, weights) if len(groups) > MAX_GROUPS else (groups, weights)


def _units(embeddings: NDArray[np.floating[Any]], rows: NDArray[np.intp]) -> Iterator[Array]:
    """The embeddings of these rows, of length 1, a few at a time."""
    for first in range(0, len(rows), MAX_WINDOWS):
        yield from unit(embeddings[rows[first : first + MAX_WINDOWS]].astype(np.float32))


def _led(vectors: Array, weights: Array) -> tuple[Array, Array]:
    """Groups around ``MAX_GROUPS`` leaders, which are spread evenly in time."""
    leaders = vectors[np.linspace(0, len(vectors) - 1, MAX_GROUPS).astype(np.intp)]
    sums = np.zeros_like(leaders)
    totals = np.zeros(len(leaders), np.float32)
    for start in range(0, len(vectors), MAX_GROUPS):
        part = vectors[start : start + MAX_GROUPS]
        share = weights[start : start + MAX_GROUPS]
        nearest = (part @ leaders.T).argmax(axis=1)
        np.add.at(sums, nearest, part * share[:, None])
        np.add.at(totals, nearest, share)
    used = totals > 0
    return unit(sums[used]), totals[used]


def _few_clusters(vectors: Array, weights: Array, bounds: SpeakerBounds) -> Labels:
    """Merge the most similar clusters while they may be one speaker."""
    labels = np.arange(len(vectors))
    while len(found := np.unique(labels)) > bounds.least:
        sums = [(vectors[labels == k] * weights[labels == k, None]).sum(axis=0) for k in found]
        i, j, cosine = most_alike(unit(np.stack(sums)))
        if cosine < SHORT_SAME_VOICE and len(found) <= bounds.most:
            break
        labels[labels == found[j]] = found[i]
    return labels


def most_alike(voices: Array) -> tuple[int, int, float]:
    """Two voices and their cosine."""
    alike = voices @ voices.T
    np.fill_diagonal(alike, -np.inf)
    i, j = divmod(int(alike.argmax()), len(voices))
    return i, j, float(alike[i, j])


def _clusters(vectors: Array, weights: Array, bounds: SpeakerBounds) -> Labels:
    most = min(bounds.most, len(vectors))
    if most == 1:
        return np.zeros(len(vectors), np.intp)
    values, maps = np.linalg.eigh(_laplacian(vectors))
    least = min(bounds.least, most)
    gaps = np.diff(values[: most + 1])
    n = least + int(gaps[least - 1 : most].argmax()) if len(gaps) >= least else least
    return _k_means(maps[:, :n].astype(np.float32), n)


def _laplacian(vectors: Array) -> NDArray[np.float64]:
    affinity = (vectors @ vectors.T).astype(np.float64)
    n = len(affinity)
    n_cut = max(0, min(int((1 - NEIGHBOURS) * n), n - MIN_NEIGHBOURS))
    if n_cut:
        cut = np.argpartition(affinity, n_cut - 1, axis=1)[:, :n_cut]
        np.put_along_axis(affinity, cut, 0.0, axis=1)
    affinity = 0.5 * (affinity + affinity.T)
    np.fill_diagonal(affinity, 0.0)
    return np.diag(np.abs(affinity).sum(axis=1)) - affinity


def _k_means(points: Array, n: int) -> Labels:
    """The best of several seeded runs of k-means++ (Arthur and Vassilvitskii, 2007)."""
    random = np.random.default_rng(_SEED)
    best: tuple[float, Labels] | None = None
    for _ in range(_STARTS):
        centres = points[random.integers(len(points))][None]
        while len(centres) < n:
            distances = _distances(points, centres).min(axis=1)
            total = distances.sum()
            shares = distances / total if total > 0 else None
            centres = np.concatenate([centres, points[random.choice(len(points), p=shares)][None]])
        labels = _distances(points, centres).argmin(axis=1)
        for _ in range(_ROUNDS):
            for k in range(n):
                if (labels == k).any():
                    centres[k] = points[labels == k].mean(axis=0)
            before = labels
            labels = _distances(points, centres).argmin(axis=1)
            if np.array_equal(before, labels):
                break
        error = float(_distances(points, centres).min(axis=1).sum())
        if best is None or error < best[0]:
            best = (error, labels)
    assert best is not None
    return best[1]


def _distances(points: Array, centres: Array) -> NDArray[np.float64]:
    return np.asarray(((points[:, None] - centres[None]).astype(np.float64) ** 2).sum(axis=2))


def _centroids(vectors: Array, weights: Array, labels: Labels, bounds: SpeakerBounds) -> Array:
    """The voices of the clusters, with similar ones merged and small ones dropped within the
    bounds.
    """
    found = np.unique(labels)
    sums = [(vectors[labels == k] * weights[labels == k, None]).sum(axis=0) for k in found]
    seconds = [float(weights[labels == k].sum()) for k in found]
    counts = [int((labels == k).sum()) for k in found]
    alike = float(np.linalg.norm(sums, axis=1).sum()) / max(sum(seconds), 1e-9)
    while len(sums) > bounds.least:
        certain = _certainties(counts, alike)
        i, j, cosine = most_alike(unit(np.stack(sums)) / certain[:, None])
        if cosine < SAME_VOICE:
            break
        sums[i] = sums[i] + sums[j]
        seconds[i] += seconds[j]
        counts[i] += counts[j]
        del sums[j], seconds[j], counts[j]
    total = sum(seconds)
    enough = max(min(MIN_SPEECH_S, SHORT_SHARE * total), MIN_SHARE * total)
    while len(sums) > bounds.least and min(seconds) < enough:
        smallest = seconds.index(min(seconds))
        del sums[smallest], seconds[smallest]
    return unit(np.stack(sums))


def _certainties(counts: Sequence[int], alike: float) -> Array:
    """The expected cosine (n,) of the mean of this many windows with their voice.

    The mean of few windows is less similar to its voice than the mean of many. So the cosine of two
    such means is lower than that of the voices.

    Args:
        alike: the expected cosine of a single window.
    """
    n = np.array(counts, np.float32)
    return np.asarray(alike / np.sqrt(alike**2 + (1 - alike**2) / n), np.float32)
