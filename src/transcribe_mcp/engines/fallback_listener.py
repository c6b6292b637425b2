"""Voice detection on the engine's device with the CPU's behind it: what the device fails at, the CPU goes on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineFailedError
from ..speech.detector import FRAME_SAMPLES, SpeechDetector
from ..speech.regions import Window
from . import Listener

Told = Callable[[EngineFailedError], None]


def listener_with_cpu_behind(
    listen: Callable[[], Listener | None], gives_way_to: type[EngineFailedError], told: Told
) -> Listener | None:
    """What ``listen`` gives, replaced by the CPU at the first error of this kind, of which ``told`` is told.

    ``None`` where there is no such listener, or where it fails at once: the pipeline then has its own voice detection.
    """
    try:
        inner = listen()
    except gives_way_to as error:
        told(error)
        return None
    return None if inner is None else FallbackListener(inner, gives_way_to, told)


class FallbackListener:
    """See the protocol."""

    def __init__(self, inner: Listener, gives_way_to: type[EngineFailedError], told: Told) -> None:
        self._inner: Listener | None = inner
        self._gives_way_to, self._told = gives_way_to, told
        self._detector: SpeechDetector | None = None
        self.block_s = inner.block_s
        self._frames = self._samples = 0  # given back, and heard

    def push(self, samples: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        found = self._pushed(samples, last=last)
        self._samples += len(samples)
        self._frames += len(found)
        return found

    def _pushed(self, samples: NDArray[np.float32], *, last: bool) -> NDArray[np.float32]:
        if self._inner is not None:
            try:
                return self._inner.push(samples, last=last)
            except self._gives_way_to as error:
                self._give_way(error)
        if self._detector is None:
            self._detector = SpeechDetector()
            # The frame begun is lost with the device: it counts as silence, and the others keep their places.
            samples = np.concatenate(
                [np.zeros(self._samples - self._frames * FRAME_SAMPLES, np.float32), samples]
            )
        return self._detector.push(samples, last=last)

    def place(self, windows: Sequence[Window], keep_from: float) -> Sequence[Window]:
        if self._inner is not None:
            try:
                return self._inner.place(windows, keep_from)
            except self._gives_way_to as error:
                self._give_way(error)
        return windows

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()

    def _give_way(self, error: EngineFailedError) -> None:
        self._inner = None
        self._told(error)
