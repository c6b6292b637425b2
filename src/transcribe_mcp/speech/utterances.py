"""Live audio -> utterances, while it arrives: `SpeechDetector` and `RegionFinder`, frame by frame.

An utterance begins with speech and ends with a pause. One that is longer than a window is cut at
its best pause, so it has several windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..domain.audio import SAMPLE_RATE_HZ
from .detector import SpeechDetector
from .regions import FRAME_SAMPLES, Region, RegionFinder, RegionRules, Window

HYSTERESIS = RegionRules().threshold - RegionRules().release
MIN_RELEASE = 0.01

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TurnRules:
    """When an utterance begins and ends.

    Attributes:
        threshold: probability at which speech begins.
        prefix_s: audio kept before speech.
        silence_s: a pause of this length ends an utterance.
    """

    threshold: float = 0.5
    prefix_s: float = 0.3
    silence_s: float = 0.5


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """An utterance has begun; its first window starts at ``at_s``."""

    at_s: float


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """An utterance has ended. All its windows were yielded before."""

    at_s: float


Found = SpeechStarted | Window | SpeechStopped


class UtteranceFinder:
    """Finds the utterances of one stream. Times count from its first sample.

    Raises:
        EngineUnavailableError: see ``SpeechDetector``.
    """

    def __init__(self, rules: TurnRules) -> None:
        self._rules = rules
        self._detector = SpeechDetector(threads=1)
        self._regions = self._new_finder()
        self._held = np.empty(0, np.float32)  # from ``_origin`` to the end of the stream
        self._origin = 0  # sample number
        self._region_origin = 0  # sample at which ``_regions`` began to count
        self._n_frames = 0  # since then
        self._is_speech = False
        self._floor = 0  # end of the last window; later ones do not overlap it

    @property
    def end_s(self) -> float:
        """Seconds of the stream so far."""
        return (self._origin + len(self._held)) / SAMPLE_RATE_HZ

    def push(self, samples: Samples) -> Iterator[Found]:
        """Take the next samples (n,), 16 kHz mono."""
        self._held = np.concatenate([self._held, samples])
        yield from self._follow(self._detector.push(samples))

    def flush(self) -> Iterator[Found]:
        """End the utterance now, and start again after it."""
        end = self._origin + len(self._held)
        yield from self._follow(self._detector.push(np.empty(0, np.float32), last=True))
        for region in self._regions.push(np.empty(0, np.float32), last=True):
            yield self._window(region, end)
        if self._is_speech:
            self._is_speech = False
            yield SpeechStopped(end / SAMPLE_RATE_HZ)
        self.clear()

    def clear(self) -> None:
        """Drop buffered audio, and start again."""
        self._origin += len(self._held)
        self._held = np.empty(0, np.float32)
        self._detector.reset()
        self._regions = self._new_finder()
        self._region_origin = self._floor = self._origin
        self._n_frames = 0
        self._is_speech = False

    def _new_finder(self) -> RegionFinder:
        threshold = self._rules.threshold
        release = max(MIN_RELEASE, threshold - HYSTERESIS)
        return RegionFinder(RegionRules(threshold, release, self._rules.silence_s))

    def _follow(self, probabilities: Samples) -> Iterator[Found]:
        for at in range(len(probabilities)):
            regions = self._regions.push(probabilities[at : at + 1])
            self._n_frames += 1
            since_s = self._regions.speech_since_s
            if since_s is not None and not self._is_speech:
                self._is_speech = True
                yield SpeechStarted(self._first(since_s) / SAMPLE_RATE_HZ)
            now = self._region_origin + self._n_frames * FRAME_SAMPLES
            for region in regions:
                # A region that was cut without a pause continues after the cut.
                is_cut = self._regions.is_open
                yield self._window(region, self._sample(region.end) if is_cut else now)
            if self._is_speech and not self._regions.is_open:
                self._is_speech = False
                yield SpeechStopped(now / SAMPLE_RATE_HZ)
            self._drop()

    def _sample(self, at_s: float) -> int:
        """The sample of the stream at a time of ``_regions``."""
        return self._region_origin + round(at_s * SAMPLE_RATE_HZ)

    def _first(self, since_s: float) -> int:
        """The first sample of the window for speech that begins then."""
        prefix = round(self._rules.prefix_s * SAMPLE_RATE_HZ)
        return max(self._floor, self._origin, self._sample(since_s) - prefix)

    def _window(self, region: Region, stop: int) -> Window:
        first = self._first(region.start)
        stop = min(stop, self._origin + len(self._held))
        self._floor = stop
        offset_s = self._region_origin / SAMPLE_RATE_HZ
        end_s = min(region.end + offset_s, stop / SAMPLE_RATE_HZ)
        samples = self._held[first - self._origin : stop - self._origin]
        return Window(first / SAMPLE_RATE_HZ, samples, (Region(region.start + offset_s, end_s),))

    def _drop(self) -> None:
        """Drop samples that no later window can need."""
        needed = self._first(self._regions.final_until_s)
        if needed > self._origin:
            self._held = self._held[needed - self._origin :]
            self._origin = needed
