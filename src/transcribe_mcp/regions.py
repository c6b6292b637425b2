"""Speech probabilities -> regions of speech -> windows of at most 30 s, all on the original clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW_S = 30.0  # what a Whisper encoder sees at once


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of speech, in seconds on the original clock."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Window:
    """A contiguous stretch of the recording, at most 30 s, and the speech in it.

    Attributes:
        start: seconds on the original clock at which ``samples`` begins.
        samples: (n,) float32, mono, 16 kHz; silence between the regions is kept.
        regions: the speech inside, in order, on the original clock.
    """

    start: float
    samples: NDArray[np.float32]
    regions: tuple[Region, ...]

    @property
    def duration(self) -> float:
        return len(self.samples) / 16_000

    @property
    def end(self) -> float:
        return self.start + self.duration
