"""Evidence and voices -> who speaks when."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .clustering import SpeakerBounds, unit, voices_of
from .evidence import Evidence
from .segmentation import FRAME_S, frame_at, start_of
from .speech import joined, spans_of

TEMPERATURE = 0.1  # scale of a window's votes; cosines differ by a few tenths
EDGE_VOTE = 0.05  # at the edge of a window; 1 in its middle
BLOCK_WINDOWS = 2048
BLOCK_FRAMES = 1 << 16  # frames whose votes are in memory at once
MIN_PAUSE_S = (
    0.3  # a shorter pause does not end a turn, because turns are found longer than they are
)
MIN_OVERLAP_S = MIN_PAUSE_S  # a shorter one is a change of speakers without a pause
ADJACENT_S = 1.0  # maximum distance of the nearest speaker for speech too short for a window
FAR = 1 << 30  # frames
NEAR_S = 3.0  # context in which a simultaneous speaker is searched

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
        exclusive: turns of the main speaker at each time, in order, without overlap.
        turns: all turns, which may overlap, in the order of their starts.
        voices: of the speakers, (n_speakers, 192), of length 1.
    """

    exclusive: tuple[SpeakerTurn, ...]
    turns: tuple[SpeakerTurn, ...]
    voices: Array


def diarize(evidence: Evidence, bounds: SpeakerBounds) -> Diarization:
    """Find the speakers and their turns."""
    seconds = evidence.ends - evidence.starts
    voices = voices_of(evidence.embeddings, seconds, bounds)
    if not len(voices):
        return Diarization((), (), voices)
    speaker = _speakers_in_front(evidence, voices)
    second = _second_speakers(speaker, _long_enough(evidence.overlap), len(voices))
    numbers = range(len(voices))
    in_front = [turn for k in numbers for turn in _turns(speaker == k, k, 0.0)]
    heard = [
        turn for k in numbers for turn in _turns((speaker == k) | (second == k), k, MIN_PAUSE_S)
    ]
    return Diarization(_in_order(in_front), _in_order(heard), voices)


def _speakers_in_front(evidence: Evidence, voices: Array) -> NDArray[np.int16]:
    """The number of the speaker per frame; -1 for none."""
    n_frames = len(evidence.speech)
    shares = np.concatenate(
        [
            _shares(evidence.embeddings[first : first + BLOCK_WINDOWS], voices)
            for first in range(0, len(evidence.embeddings), BLOCK_WINDOWS)
        ]
    )
    firsts = np.array([frame_at(start) for start in evidence.starts.tolist()], np.intp)
    ends = np.array([frame_at(end) + 1 for end in evidence.ends.tolist()], np.intp)
    ends = np.minimum(ends, n_frames)
    speaker = np.full(n_frames, -1, np.int16)
    for low in range(0, n_frames, BLOCK_FRAMES):
        high = min(low + BLOCK_FRAMES, n_frames)
        votes = np.zeros((high - low, len(voices)), np.float32)
        for i in np.flatnonzero((firsts < high) & (ends > np.maximum(firsts, low))):
            own = shares[i] * _votes_within(int(ends[i] - firsts[i]))
            begin = max(firsts[i], low)
            end = min(ends[i], high)
            votes[begin - low : end - low] += own[begin - firsts[i] : end - firsts[i]]
        is_known = evidence.speech[low:high] & (votes.max(axis=1) > 0)
        speaker[low:high][is_known] = votes.argmax(axis=1)[is_known]
    _fill(speaker, evidence.speech)
    return speaker


def _fill(speaker: NDArray[np.int16], speech: NDArray[np.bool_]) -> None:
    """Assign speech outside of windows to the nearest main speaker, in place.

    Windows omit speech that is too short to identify a voice, such as a syllable between pauses.
    """
    n_near = int(ADJACENT_S / FRAME_S)
    known = speaker.copy()
    for first, end in spans_of(speech & (speaker < 0)):
        before = _first_known(known[max(0, first - n_near) : first][::-1])
        after = _first_known(known[end : end + n_near])
        n_before = (end - first + after[0] - before[0] + 1) // 2  # frames nearer to the one before
        middle = first + min(max(0, n_before), end - first)
        speaker[first:middle] = before[1]
        speaker[middle:end] = after[1]


def _first_known(speaker: NDArray[np.int16]) -> tuple[int, int]:
    """Frames to the first speaker, and their number; -1 for none, far away."""
    known = np.flatnonzero(speaker >= 0)
    return (int(known[0]), int(speaker[known[0]])) if len(known) else (FAR, -1)


def _shares(embeddings: NDArray[np.float16], voices: Array) -> Array:
    """The votes of each window for the voices, 1 for the most similar one."""
    cosines = unit(embeddings.astype(np.float32)) @ voices.T
    return np.asarray(np.exp((cosines - cosines.max(axis=1, keepdims=True)) / TEMPERATURE))


@lru_cache
def _votes_within(n_frames: int) -> Array:
    """The weight of a window's vote in each of its frames, (n, 1)."""
    return (np.bartlett(n_frames + 2)[1:-1, None] + EDGE_VOTE).astype(np.float32)


def _long_enough(overlap: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The overlap without what is shorter than ``MIN_OVERLAP_S``."""
    kept = np.zeros_like(overlap)
    for first, end in spans_of(overlap):
        kept[first:end] = (end - first) * FRAME_S >= MIN_OVERLAP_S
    return kept


def _second_speakers(
    speaker: NDArray[np.int16], overlap: NDArray[np.bool_], n_speakers: int
) -> NDArray[np.int16]:
    """The simultaneous speaker: of the others, the one who talks most nearby. -1 for none."""
    second = np.full(len(speaker), -1, np.int16)
    n_near = int(NEAR_S / FRAME_S)
    frames = np.flatnonzero(overlap & (speaker >= 0))
    lows = np.maximum(0, frames - n_near)
    highs = np.minimum(len(speaker), frames + n_near)
    near = np.zeros((n_speakers, len(frames)), np.int32)
    for k in range(n_speakers):  # one at a time: hours have millions of frames
        heard = np.append(np.int32(0), (speaker == k).cumsum(dtype=np.int32))
        near[k] = heard[highs] - heard[lows]
    near[speaker[frames], np.arange(len(frames))] = 0
    others = near.argmax(axis=0)
    found = near.max(axis=0, initial=0) > 0
    second[frames[found]] = others[found]
    return second


def _turns(mask: NDArray[np.bool_], speaker: int, pause_s: float) -> list[SpeakerTurn]:
    runs = joined(mask, pause_s) if pause_s else spans_of(mask)
    return [SpeakerTurn(start_of(first), start_of(end), speaker) for first, end in runs]


def _in_order(turns: list[SpeakerTurn]) -> tuple[SpeakerTurn, ...]:
    return tuple(sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker)))
