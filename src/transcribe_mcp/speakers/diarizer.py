"""The pipeline: samples -> frames -> segments -> embeddings -> evidence of the speakers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..domain.audio import SAMPLE_RATE_HZ
from .bandwidth import BandMeter
from .embedding import Embedder
from .evidence import Evidence
from .features import HOP_SAMPLES, FeatureBuffer, n_frames_of
from .protocol import SpeakerNetworks
from .segmentation import FIRST_SAMPLE, FRAME_S, FRAME_SAMPLES, Frames, Segmenter, start_of
from .speech import DETECTED, HEARD, PAUSE_S, joined, segments_of, speech_of

OVERLAPPED = 0.5  # probability of two speakers
MAX_RUN_S = 60.0  # maximum length of sound without a pause in one step
DETECTOR_FRAME_S = 0.032

Array = NDArray[np.float32]


class Diarizer:
    """The evidence of one recording's speakers, pushed block by block.

    Neither the length of the blocks nor the number of threads changes the result.
    """

    def __init__(self, networks: SpeakerNetworks) -> None:
        self._networks = networks
        self._segmenter = Segmenter(networks)
        self._embedder = Embedder(networks.embed, networks.embedding_batch)
        self._features = FeatureBuffer(networks.log_mel, networks.joined)
        self._band = BandMeter()
        self._detected = np.empty(0, np.float32)  # the detector's frames that are still needed
        self._n_dropped = 0  # number of dropped frames
        self._open: list[Frames] = []
        self._first = 0  # number of the first open frame
        self._speech: list[NDArray[np.bool_]] = []
        self._overlap: list[NDArray[np.bool_]] = []

    def push(self, samples: Array, detected: Array, *, last: bool = False) -> None:
        """Take the next samples (n,) and the probabilities of speech of the voice detector."""
        self._band.push(samples)
        there = self._networks.on_device(samples)
        self._features.push(there, last=last)
        self._detected = np.concatenate([self._detected, detected])
        self._open.append(self._segmenter.push(there, last=last))
        frames = Frames.joined(self._open)
        n_done = self._take_runs(frames, last)
        self._open = [frames.since(n_done)]
        self._first += n_done
        self._embedder.run(self._features, last=last)
        self._features.drop(self._embedder.needs(_first_feature(self._first)))
        n_past = int(_detector_rows(np.array(self._first))) - self._n_dropped
        n_past = min(n_past, len(self._detected))
        self._detected = self._detected[n_past:]
        self._n_dropped += n_past

    def evidence(self) -> Evidence:
        """After the last push."""
        starts, ends, vectors = self._embedder.found()
        speech = np.concatenate([np.empty(0, np.bool_), *self._speech])
        overlap = np.concatenate([np.empty(0, np.bool_), *self._overlap])
        wide = self._band.is_wide(starts, ends)
        return Evidence(speech, overlap, starts, ends, vectors, wide)

    def _take_runs(self, frames: Frames, last: bool) -> int:
        """Process the finished runs of sound; return the number of frames done."""
        detected = self._detected_at(len(frames))
        is_sound = (frames.speech >= HEARD) | (detected >= DETECTED)
        n_known = len(frames) if last else self._n_known()
        longest = int(MAX_RUN_S / FRAME_S)
        n_pause = int(PAUSE_S / FRAME_S) + 1
        speech = np.zeros(len(frames), np.bool_)
        n_done = 0
        for first, end in joined(is_sound[:n_known]):
            while end - first > longest:
                self._take(frames, detected, slice(first, first + longest), speech)
                n_done = first = first + longest
            if not last and end + n_pause > n_known:
                break
            self._take(frames, detected, slice(first, end), speech)
            n_done = end
        else:
            n_done = max(n_done, n_known if last else n_known - n_pause)
        self._speech.append(speech[:n_done])
        self._overlap.append((frames.overlap[:n_done] >= OVERLAPPED) & speech[:n_done])
        return n_done

    def _take(self, frames: Frames, detected: Array, run: slice, speech: NDArray[np.bool_]) -> None:
        speech[run] = speech_of(frames.speech[run], detected[run])
        for first, end in segments_of(speech[run], frames.change[run]):
            start = self._first + run.start + first
            stop = self._first + run.start + end
            n_samples = round(start_of(stop) * SAMPLE_RATE_HZ)
            last = min(self._features.end, n_frames_of(n_samples))
            self._embedder.push(_first_feature(start), last)

    def _n_known(self) -> int:
        """Number of open frames with detector probabilities and features."""
        n_rows = self._n_dropped + len(self._detected)
        detected = round(n_rows * DETECTOR_FRAME_S * SAMPLE_RATE_HZ)
        n_samples = min(detected, self._features.end * HOP_SAMPLES)
        n_frames = (n_samples - FIRST_SAMPLE) // FRAME_SAMPLES - self._first
        return max(0, min(n_frames, sum(map(len, self._open))))

    def _detected_at(self, n_frames: int) -> Array:
        """The detector's probabilities at the middles of the open frames; 0 where unknown."""
        rows = _detector_rows(self._first + np.arange(n_frames)) - self._n_dropped
        return np.append(self._detected, np.float32(0))[np.minimum(rows, len(self._detected))]


def _detector_rows(frames: NDArray[np.intp]) -> NDArray[np.intp]:
    """The frames of the detector at the middles of frames."""
    middles_s = (frames + 0.5) * FRAME_S + FIRST_SAMPLE / SAMPLE_RATE_HZ
    return (middles_s / DETECTOR_FRAME_S).astype(np.intp)


def _first_feature(frame: int) -> int:
    """The first frame of features in a frame of the segmentation or after it."""
    return math.ceil(start_of(frame) * SAMPLE_RATE_HZ / HOP_SAMPLES)
