"""Switch to the CPU when a GPU fails or runs out of memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from weakref import WeakSet

from ..compat.gpu_probe import in_words
from ..domain.transcript import Notice
from ..engines import Recognizer, VoiceDetector
from ..errors import EngineFailedError, OutOfMemoryError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..speech.detector import SpeechDetector
    from ..speech.regions import Window


def gpu_failed(error: EngineFailedError) -> Notice:
    return Notice("gpu_failed", f"the GPU failed; the CPU took over: {in_words(str(error))}")


class DetectorPool:
    """The voice detectors that run on one device. They share its memory with the model.

    After the first failure, this and all later recordings use the detector on the CPU.

    Args:
        fall_back: decides whether the CPU may take over after an error: it saves a notice or raises
            the error.
    """

    def __init__(self, fall_back: Callable[[EngineFailedError], None]) -> None:
        self._lock = threading.RLock()
        self._fall_back = fall_back
        self._is_closed = False
        self._detectors: WeakSet[DetectorWithFallback] = WeakSet()

    def open(self, model: Recognizer) -> VoiceDetector | None:
        """A detector for one recording; ``None`` if it must run on the CPU."""
        with self._lock:
            if self._is_closed:
                return None
            try:
                inner = model.voice_detector()
            except EngineFailedError as error:
                self.failed(error)
                return None
            if inner is None:
                return None
            detector = DetectorWithFallback(inner, self)
            self._detectors.add(detector)
            return detector

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No detector works or is opened until the block ends."""
        with ExitStack() as stack:
            stack.enter_context(self._lock)
            for detector in list(self._detectors):
                stack.enter_context(detector.lock)
            yield

    def failed(self, error: EngineFailedError) -> None:
        self._fall_back(error)
        self._is_closed = True

    def release(self) -> bool:
        """Free the memory of all detectors, paused. Returns whether there were any."""
        detectors = list(self._detectors)
        self._detectors.clear()
        for detector in detectors:
            detector.release()
        return bool(detectors)

    def __len__(self) -> int:
        return len(self._detectors)


class DetectorWithFallback:
    """A detector on a device, replaced by the one on the CPU when it fails. See
    ``engines.VoiceDetector``.
    """

    def __init__(self, inner: VoiceDetector, pool: DetectorPool) -> None:
        self.lock = threading.RLock()  # held during calls
        self._inner: VoiceDetector | None = inner
        self._pool = pool
        self._cpu: SpeechDetector | None = None
        self._is_released = False
        self.block_s = inner.block_s
        self._n_frames = 0
        self._n_samples = 0

    def push(self, samples: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        found = self._push(samples, last=last)
        self._n_samples += len(samples)
        self._n_frames += len(found)
        return found

    def _push(self, samples: NDArray[np.float32], *, last: bool) -> NDArray[np.float32]:
        if self._inner is not None:
            try:
                with self.lock:
                    return self._on_device().push(samples, last=last)
            except EngineFailedError as error:
                self._give_up(error)
        if self._cpu is None:
            import numpy as np

            from ..speech.detector import FRAME_SAMPLES, SpeechDetector

            self._cpu = SpeechDetector()
            # The device had part of a frame. Silence in its place keeps later frames aligned.
            n_missing = self._n_samples - self._n_frames * FRAME_SAMPLES
            samples = np.concatenate([np.zeros(n_missing, np.float32), samples])
        return self._cpu.push(samples, last=last)

    def place(self, windows: Sequence[Window], keep_from: float) -> Sequence[Window]:
        if self._inner is not None:
            try:
                with self.lock:
                    return self._on_device().place(windows, keep_from)
            except EngineFailedError as error:
                self._give_up(error)
        return windows

    def release(self) -> None:
        if self._inner is not None:
            self._is_released = True
            self._inner.close()

    close = release

    def _on_device(self) -> VoiceDetector:
        if self._is_released or self._inner is None:
            raise OutOfMemoryError("the windows being transcribed need all memory")
        return self._inner

    def _give_up(self, error: EngineFailedError) -> None:
        self._inner = None
        self._pool.failed(error)
