"""Evidence and voices -> who speaks when."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .clustering import SpeakerBounds, unit, voices_of
from .evidence import Evidence
from .segmentation import FRAME_S, frame_at, start_of
from .speech import PAUSE_S, joined, spans_of

TEMPERATURE = 0.1  # of a window's vote for the voices; cosines differ by a few tenths
EDGE_VOTE = 0.05  # at the edge of a window; 1 in its middle
NEAR_S = 3.0  # where a speaker is looked for who talks at the same time

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpeakerTurn:
    """A turn of the speaker with this number, in seconds."""

    start: float
    end: float
    speaker: int


@dataclass(frozen=True, slots=True)
class Diarization:
    """Who speaks when.

    Attributes:
        exclusive: turns that do not overlap, in order; at each time the speaker in front.
        turns: all turns, which may overlap, in the order of their starts.
        voices: of the speakers, (n_speakers, 192), of length 1.
    """

    exclusive: tuple[SpeakerTurn, ...]
    turns: tuple[SpeakerTurn, ...]
    voices: Array


def diarize(evidence: Evidence, bounds: SpeakerBounds) -> Diarization:
    """Find the speakers and their turns."""
    seconds = evidence.ends - evidence.starts
    voices = voices_of(evidence.embeddings.astype(np.float32), seconds, bounds)
    if not len(voices):
        return Diarization((), (), voices)
    speaker = _speakers_in_front(evidence, voices)
    second = _second_speakers(speaker, evidence.overlap, len(voices))
    numbers = range(len(voices))
    in_front = [turn for k in numbers for turn in _turns(speaker == k, k, 0.0)]
    heard = [turn for k in numbers for turn in _turns((speaker == k) | (second == k), k, PAUSE_S)]
    return Diarization(_in_order(in_front), _in_order(heard), voices)


def _speakers_in_front(evidence: Evidence, voices: Array) -> NDArray[np.intp]:
    """The number of the speaker per frame; -1 for none."""
    votes = np.zeros((len(evidence.speech), len(voices)), np.float32)
    cosines = unit(evidence.embeddings.astype(np.float32)) @ voices.T
    shares = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / TEMPERATURE)
    for start, end, share in zip(evidence.starts, evidence.ends, shares, strict=True):
        first = frame_at(float(start))
        last = min(frame_at(float(end)) + 1, len(votes))
        n = last - first
        if n > 0:
            votes[first:last] += share * _votes_within(n)
    speaker: NDArray[np.intp] = votes.argmax(axis=1)
    is_known = votes.max(axis=1) > 0
    speaker[~(evidence.speech & is_known)] = -1
    return speaker


@lru_cache
def _votes_within(n_frames: int) -> Array:
    """How much a window's vote counts in each of its frames, (n, 1)."""
    return (np.bartlett(n_frames + 2)[1:-1, None] + EDGE_VOTE).astype(np.float32)


def _second_speakers(
    speaker: NDArray[np.intp], overlap: NDArray[np.bool_], n_speakers: int
) -> NDArray[np.intp]:
    """Who speaks at the same time: of the others, the one heard most nearby. -1 for none."""
    second = np.full(len(speaker), -1, np.intp)
    n_near = int(NEAR_S / FRAME_S)
    is_front = (speaker[:, None] == np.arange(n_speakers)).astype(np.int64)
    heard = np.concatenate([np.zeros((1, n_speakers), np.int64), is_front.cumsum(axis=0)])
    frames = np.flatnonzero(overlap & (speaker >= 0))
    lows = np.maximum(0, frames - n_near)
    near = heard[np.minimum(len(speaker), frames + n_near)] - heard[lows]
    near[np.arange(len(frames)), speaker[frames]] = 0
    others = near.argmax(axis=1)
    found = near.max(axis=1, initial=0) > 0
    second[frames[found]] = others[found]
    return second


def _turns(mask: NDArray[np.bool_], speaker: int, pause_s: float) -> list[SpeakerTurn]:
    runs = joined(mask, pause_s) if pause_s else spans_of(mask)
    return [SpeakerTurn(start_of(first), start_of(end), speaker) for first, end in runs]


def _in_order(turns: list[SpeakerTurn]) -> tuple[SpeakerTurn, ...]:
    return tuple(sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker)))
