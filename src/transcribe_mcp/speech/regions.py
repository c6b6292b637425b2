"""Speech probabilities -> regions of speech -> windows of at most 30 s, all on the original clock.

Both steps are streams: each push returns the results that later audio cannot change. Memory does
not grow with the recording.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..domain.audio import SAMPLE_RATE_HZ
from .silero import FRAME_S, FRAME_SAMPLES

__all__ = [
    "FRAME_S",
    "FRAME_SAMPLES",
    "SAMPLE_RATE_HZ",
    "WINDOW_S",
    "Known",
    "Loudness",
    "Region",
    "RegionFinder",
    "RegionRules",
    "Window",
    "WindowCutter",
    "WindowRules",
]

WINDOW_S = 30.0  # input of a Whisper encoder


@dataclass(frozen=True, slots=True)
class Region:
    """An interval of speech, in seconds on the original clock."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Known:
    """The beginning of a window, whose text is known. It is context for the rest.

    Attributes:
        text: its words, each with the space before it.
        end: where it ends, in seconds on the clock of the window.
    """

    text: str
    end: float


@dataclass(frozen=True, slots=True)
class Window:
    """A contiguous part of the recording, at most 30 s, and the speech in it.

    Attributes:
        start: time of the first sample, in seconds on the original clock.
        samples: (n,) float32, mono, 16 kHz; silence between the regions is kept.
        regions: the speech inside, in order, on the original clock; none of the known beginning.
        known: a beginning that is only context; engines return the words after it.
        device_samples: the same samples on the engine's device, if they are there; opaque to other
            code.
    """

    start: float
    samples: NDArray[np.float32]
    regions: tuple[Region, ...]
    known: Known | None = None
    device_samples: Any = field(default=None, repr=False, compare=False)

    @property
    def duration(self) -> float:
        return len(self.samples) / SAMPLE_RATE_HZ

    @property
    def end(self) -> float:
        return self.start + self.duration


@dataclass(frozen=True, slots=True)
class RegionRules:
    """How probabilities become regions.

    Attributes:
        threshold: probability at which speech begins.
        release: probability below which speech ends; lower than ``threshold`` for hysteresis.
        min_silence_s: a shorter pause does not end a region.
        min_speech_s: shorter regions are dropped; loud noise lifts single frames over the
            threshold.
    """

    threshold: float = 0.5
    release: float = 0.35
    min_silence_s: float = 0.16
    min_speech_s: float = 0.096


@dataclass(frozen=True, slots=True)
class WindowRules:
    """How regions are packed into windows.

    Attributes:
        max_s: maximum length of a window.
        lead_s: audio kept before speech; the detector reacts late to soft onsets.
        tail_s: audio kept after speech.
        long_silence_s: a silence of this length always starts a new window.
        min_s: a window is not cut shorter than this to end at a longer pause.
    """

    max_s: float = WINDOW_S
    lead_s: float = 0.5
    tail_s: float = 0.6
    long_silence_s: float = 4.0
    min_s: float = 15.0


class RegionFinder:
    """Converts speech probabilities to regions, each no longer than a window."""

    def __init__(self, rules: RegionRules | None = None, *, max_s: float = WINDOW_S) -> None:
        self._rules = rules or RegionRules()
        margins = WindowRules()
        self._max_frames = int((max_s - margins.lead_s - margins.tail_s) / FRAME_S)
        self._next_frame = 0
        self._open: list[float] = []  # probabilities of the open region
        self._start = 0  # its first frame
        self._quiet = 0  # frames below ``release`` at its end

    @property
    def final_until_s(self) -> float:
        """No later region begins before this time."""
        return (self._start if self._open else self._next_frame) * FRAME_S

    @property
    def is_open(self) -> bool:
        """Whether a region has begun that has not ended yet."""
        return bool(self._open)

    @property
    def speech_since_s(self) -> float | None:
        """The start of the open region, once it is too long to be dropped."""
        speech_s = (len(self._open) - self._quiet) * FRAME_S
        is_speech = self._open and speech_s >= self._rules.min_speech_s
        return self._start * FRAME_S if is_speech else None

    def push(self, probabilities: NDArray[np.float32], *, last: bool = False) -> list[Region]:
        """Take (n,) probabilities of the next frames; return the regions that end in them."""
        rules = self._rules
        min_silence_frames = round(rules.min_silence_s / FRAME_S)
        regions: list[Region] = []
        onsets = np.flatnonzero(probabilities >= rules.threshold)  # to skip silence in one step
        first_frame = self._next_frame
        values = probabilities.tolist()
        at = 0
        while at < len(values):
            if not self._open:
                next_onset = int(np.searchsorted(onsets, at))
                if next_onset == len(onsets):
                    break
                at = int(onsets[next_onset])
                self._begin(first_frame + at, [values[at]])
            else:
                self._open.append(values[at])
                self._quiet = self._quiet + 1 if values[at] < rules.release else 0
                if self._quiet >= min_silence_frames:
                    regions += self._close(len(self._open) - self._quiet)
                elif len(self._open) >= self._max_frames:
                    regions += self._split()
            at += 1
        self._next_frame = first_frame + len(values)
        if last and self._open:
            regions += self._close(len(self._open) - self._quiet)
        return regions

    def _begin(self, start: int, probabilities: list[float]) -> None:
        self._start = start
        self._open = probabilities
        self._quiet = 0

    def _close(self, n_frames: int) -> list[Region]:
        self._open = []
        if n_frames * FRAME_S < self._rules.min_speech_s:
            return []
        return [Region(self._start * FRAME_S, (self._start + n_frames) * FRAME_S)]

    def _split(self) -> list[Region]:
        """Cut a region without a pause at the least probable frame of its second half."""
        half = len(self._open) // 2
        smooth = np.convolve(self._open, np.ones(5) / 5, mode="same")
        cut = half + int(np.argmin(smooth[half:-8]))
        rest = self._open[cut:]
        regions = self._close(cut)
        self._begin(self._start + cut, rest)
        return regions


class Loudness:
    """Replaces voice activity detection when all audio counts as speech.

    Louder frames get higher values, none below the threshold: nothing is dropped, and long windows
    are cut at their quietest frame.
    """

    def __init__(self) -> None:
        self._rest: NDArray[np.float32] = np.empty(0, dtype=np.float32)

    def push(self, samples: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        """Take (n,) samples; return one value in [0.5, 1] per complete frame, like
        ``SpeechDetector.push``.
        """
        samples = np.concatenate([self._rest, samples])
        if last:
            samples = np.pad(samples, (0, -len(samples) % FRAME_SAMPLES))
        n_frames = len(samples) // FRAME_SAMPLES
        frames = samples[: n_frames * FRAME_SAMPLES].reshape(n_frames, FRAME_SAMPLES)
        self._rest = samples[n_frames * FRAME_SAMPLES :]
        power = np.einsum("fs,fs->f", frames, frames) / FRAME_SAMPLES
        decibels = 10 * np.log10(power + 1e-10)  # -100 to 0
        return np.asarray(np.clip(1 + decibels / 200, 0.5, 1.0), dtype=np.float32)


class WindowCutter:
    """Cuts windows from blocks of audio and their regions. Blocks are held until their last window
    is cut.

    The samples of a window are a view if they lie in one block: copying an hour takes longer than
    the GPU does.
    """

    def __init__(self, rules: WindowRules | None = None) -> None:
        self._rules = rules or WindowRules()
        self._blocks: deque[NDArray[np.float32]] = deque()  # contiguous
        self._origin = 0  # first sample of the first block, on the original clock
        self._end = 0  # end of the last block
        self._keep_from = 0  # first sample that a later window may have
        self._regions: deque[Region] = deque()
        self._floor = 0.0  # end of the latest window

    @property
    def kept_from_s(self) -> float:
        """No later window begins before this time."""
        return self._keep_from / SAMPLE_RATE_HZ

    def push(
        self,
        samples: NDArray[np.float32],
        regions: Sequence[Region],
        final_until_s: float,
        *,
        last: bool = False,
    ) -> Iterator[Window]:
        """Take the next samples and the new regions; yield the windows that no later region can
        change.

        Args:
            samples: (n,) float32 that follow the last push.
            regions: regions found since the last push, in order.
            final_until_s: no later region begins before this time.
        """
        if len(samples):
            self._blocks.append(samples)
            self._end += len(samples)
        self._regions.extend(regions)
        while self._regions and (last or self._is_final(final_until_s)):
            yield self._cut(self._take(), final_until_s if not self._regions and not last else None)
        self._drop(final_until_s)

    def _is_final(self, final_until_s: float) -> bool:
        first = self._regions[0].start
        return final_until_s - first > self._rules.max_s + self._rules.long_silence_s

    def _take(self) -> tuple[Region, ...]:
        """The regions of the next window: as many as fit, up to the longest pause near its end."""
        rules = self._rules
        start = self._regions[0].start
        room = rules.max_s - rules.lead_s - rules.tail_s
        fitting: list[Region] = []
        for region in self._regions:
            if fitting and (
                region.start - fitting[-1].end >= rules.long_silence_s or region.end - start > room
            ):
                break
            fitting.append(region)
        n = len(fitting)
        overflows = (
            n < len(self._regions)
            and self._regions[n].start - fitting[-1].end < rules.long_silence_s
        )
        if overflows:
            n = self._best_cut(fitting, self._regions[n].start)
        return tuple(self._regions.popleft() for _ in range(n))

    def _best_cut(self, fitting: Sequence[Region], next_start: float) -> int:
        """The number of regions to keep: the best sum of pause after the window (at most 1 s) and
        relative length.
        """
        starts = [region.start for region in fitting[1:]] + [next_start]
        best = len(fitting)
        best_score = -1.0
        for n, (region, following) in enumerate(zip(fitting, starts, strict=True), start=1):
            length = region.end - fitting[0].start
            if length < self._rules.min_s and n < len(fitting):
                continue
            score = min(following - region.end, 1.0) + length / self._rules.max_s
            if score >= best_score:
                best = n
                best_score = score
        return best

    def _cut(self, regions: tuple[Region, ...], limit: float | None) -> Window:
        """The window of these regions, with some silence on both sides but no audio of a
        neighbour.
        """
        rules = self._rules
        ceiling = self._regions[0].start if self._regions else limit
        start = max(self._floor, regions[0].start - rules.lead_s)
        end = regions[-1].end + rules.tail_s
        if ceiling is not None:
            end = max(regions[-1].end, min(end, (regions[-1].end + ceiling) / 2))
        first = max(self._keep_from, round(start * SAMPLE_RATE_HZ))
        stop = min(
            round(end * SAMPLE_RATE_HZ), self._end, first + round(rules.max_s * SAMPLE_RATE_HZ)
        )
        self._floor = max(first, stop) / SAMPLE_RATE_HZ
        return Window(first / SAMPLE_RATE_HZ, self._samples(first, stop), regions)

    def _samples(self, first: int, stop: int) -> NDArray[np.float32]:
        """Samples [first, stop) of the recording."""
        parts = []
        at = self._origin
        for block in self._blocks:
            part = block[max(0, first - at) : max(0, stop - at)]
            at += len(block)
            if len(part):
                parts.append(part)
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])

    def _drop(self, final_until_s: float) -> None:
        """Drop the blocks that no later window needs."""
        needed = self._regions[0].start if self._regions else final_until_s
        self._keep_from = max(self._keep_from, int((needed - self._rules.lead_s) * SAMPLE_RATE_HZ))
        while self._blocks and self._origin + len(self._blocks[0]) <= self._keep_from:
            self._origin += len(self._blocks.popleft())
