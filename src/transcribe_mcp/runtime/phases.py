"""Runs a phase of a stage on a device, with retries.

If memory runs out, the phase is retried exclusively on the device, then in halves, down to one
window. If the device fails, the CPU takes over. In both cases the phase starts again from the
windows, so none is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from threading import Lock
from typing import Any

from ..domain.transcript import Notice
from ..engines import EncodedBatch, EngineInfo, GpuModel, Recognizer, VoiceDetector
from ..errors import EngineFailedError, OutOfMemoryError, WindowDataError
from ..speech.regions import Window
from .failover import DetectorPool, gpu_failed
from .memory import MemoryBudget
from .queue import Recording, WindowQueue
from .stage import Part, Stage, Task

DETECTORS_GIVE_WAY = 4  # below this batch size, voice detection moves to the CPU

Phase = Callable[[Part], None]


class PhaseRunner:
    """See the module. Its state belongs to the device thread; the queue's lock guards what other
    threads add.
    """

    def __init__(self, queue: WindowQueue, loaded: Recognizer | GpuModel) -> None:
        self._queue = queue
        self._notices: list[Notice] = []
        self._load_on_cpu: Callable[[], Recognizer] | None = None
        self._has_cpu_behind = isinstance(loaded, GpuModel)
        self._broken: Recognizer | None = None
        self._budget = MemoryBudget()
        self._encoded: list[Part] = []  # not decoded
        self._decoded: list[Part] = []  # not aligned
        self._aligned: list[Part] = []  # being aligned, or improved
        self._encode_lock = Lock()  # a model encodes in one thread at a time
        self._encoding: Future[None] | None = None
        self._aligning: Future[None] | None = None
        self.at_work: dict[
            str, frozenset[Recording]
        ] = {}  # by thread: the owners of its current call
        self.detectors = DetectorPool(self._detector_failed)
        self.model = self._loaded(loaded)

    def _loaded(self, loaded: Recognizer | GpuModel) -> Recognizer:
        if not isinstance(loaded, GpuModel):
            return loaded
        if isinstance(loaded.loaded, EngineFailedError):
            self._notices.append(gpu_failed(loaded.loaded))
            return loaded.load_on_cpu()
        self._load_on_cpu = loaded.load_on_cpu
        return loaded.loaded

    @property
    def info(self) -> EngineInfo:
        return self.model.info

    @property
    def batch_size(self) -> int:
        return self._budget.size(self.info.batch_size)

    def notices(self) -> list[Notice]:
        return [*self.info.warnings, *self._notices, *self._budget.notices()]

    def voice_detector(self) -> VoiceDetector | None:
        return self.detectors.open(self.model)

    @property
    def is_idle(self) -> bool:
        return not (self._encoded or self._decoded or self._aligned or self._encoding)

    # --- what stages use -----------------------------------------------------------------------

    def encode(self, windows: Sequence[Window]) -> EncodedBatch:
        with self._encode_lock:
            return self.model.encode(windows)

    @contextmanager
    def timed(self, name: str, tasks: Sequence[Task]) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            share = (time.perf_counter() - start) / max(1, len(tasks))
            with self._queue.changed:
                for task in tasks:
                    timings = task.recording.timings
                    timings[name] = timings.get(name, 0.0) + share

    # --- the phases ----------------------------------------------------------------------------

    def _decode(self, part: Part) -> None:
        part.drafts = self._by_group(part, lambda stage, own: stage.decode(self, own))

    def _finish(self, part: Part) -> None:
        part.results = self._by_group(part, lambda stage, own: stage.finish(self, own))

    def _improve(self, part: Part) -> None:
        part.results = self._by_group(part, lambda stage, own: stage.improve(self, own))

    @staticmethod
    def _by_group(part: Part, work: Callable[[Stage, Part], list[Any]]) -> list[Any]:
        found: dict[int, Any] = {}
        for rows in part.groups():
            own = part.select(rows, encoded=True)
            found.update(zip(rows, work(own.tasks[0].stage, own), strict=True))
        return [found[row] for row in range(len(part))]

    def _may_improve(self, part: Part) -> bool:
        if all(one.error is not None for one in part.recordings):
            return False
        pairs = zip(part.tasks, part.results or (), strict=True)
        return any(task.stage.may_improve(self, result) for task, result in pairs)

    # --- memory and failures -------------------------------------------------------------------

    def _through(self, part: Part, phase: Phase) -> list[Part]:
        """The part after the phase; in pieces if memory is low, none if it failed."""
        try:
            return self._run(part, phase)
        except WindowDataError as error:
            owners = part.recordings
            if len(owners) > 1:  # only one of them causes the error
                rows = range(len(part))
                pieces = [
                    part.select([row for row in rows if part.tasks[row].recording is one])
                    for one in owners
                ]
                return [done for piece in pieces for done in self._through(piece, phase)]
            self._queue.fail(owners, error)
        except Exception as error:  # noqa: BLE001 - the owners of the windows raise it
            self._queue.fail(part.recordings, error)
        return []

    def _run(self, part: Part, phase: Phase) -> list[Part]:
        limit = self._budget.limit
        n = len(part)
        if part.batch is None and limit is not None and n > limit:
            return self._in_pieces(part, limit, phase)
        if self._attempt(part, phase) or self._attempt_alone(part, phase):
            return [part]
        if n > 1:
            self._budget.shrink(n // 2)
            return self._in_pieces(part, n // 2, phase)
        self._fail_over(self._budget.error())
        return self._run(part, phase)

    def _in_pieces(self, part: Part, size: int, phase: Phase) -> list[Part]:
        """One piece at a time, so that only one is in memory."""
        part.batch = None
        done: list[Part] = []
        for piece in part.split(size):
            found = self._run(piece, phase)
            for one in found:
                one.batch = None
            done += found
        return done

    def _attempt(self, part: Part, phase: Phase) -> bool:
        """Returns ``False`` if memory runs out. Then nothing refers to the failed tensors."""
        try:
            with self._busy_with(part.recordings):
                if part.batch is None:
                    with self.timed("encode", part.tasks):
                        part.batch = self.encode(part.windows)
                phase(part)
            return True
        except OutOfMemoryError as error:
            self._budget.ran_out(error)
            return False
        except WindowDataError:
            raise
        except EngineFailedError as error:
            self._fail_over(error)
        part.batch = None
        return self._attempt(part, phase)

    def _attempt_alone(self, part: Part, phase: Phase) -> bool:
        """Retry without other work on the device, then also without other windows in memory."""
        with self._alone(part) as there_were_others:
            if there_were_others:
                self._budget.shrink(len(part) // 2)
                if self._attempt(part, phase):
                    return True
            gives_way = len(part) <= DETECTORS_GIVE_WAY and self._release_detectors()
            if gives_way and self._attempt(part, phase):
                return True
            part.batch = None
            return len(part) == 1 and self._attempt(part, phase)

    @contextmanager
    def _alone(self, part: Part | None) -> Iterator[bool]:
        """Exclusive use of the device, with all other windows evicted.

        Yields whether anything had to stop or be evicted.
        """
        self._budget.is_full = True  # stops the encoding thread
        running = [one for one in (self._aligning, self._encoding) if one is not None]
        wait(running)
        with self.detectors.paused():
            others = [one for one in self._held() if one is not part]
            with self._queue.changed:
                for waiting in reversed(self._encoded):
                    if waiting is not part:
                        self._queue.put_back(waiting.tasks)
                self._encoded = []
            for one in others:
                one.batch = None
            try:
                yield bool(running or others or len(self.detectors))
            finally:
                self._budget.is_full = False

    def _held(self) -> list[Part]:
        parts = [*self._encoded, *self._decoded, *self._aligned]
        return [part for part in parts if part.batch is not None]

    def _release_detectors(self) -> bool:
        with self.detectors.paused():
            return self.detectors.release()

    def _fail_over(self, error: EngineFailedError) -> None:
        """Continue on the CPU.

        Raises:
            EngineFailedError: no CPU can take over.
        """
        if self._load_on_cpu is None:
            raise error
        load = self._load_on_cpu
        self._load_on_cpu = None
        with self._alone(None):
            if isinstance(error, OutOfMemoryError):
                self.model.close()
            else:
                self._broken = self.model  # freeing memory of a broken GPU can end the process
            self.model = load()
            self._budget = MemoryBudget()
            self._notices.append(gpu_failed(error))

    def _detector_failed(self, error: EngineFailedError) -> None:
        if isinstance(error, OutOfMemoryError):
            message = (
                f"voice detection moved to the CPU, because the device ran out of memory: {error}"
            )
            self._notices.append(Notice("voice_detection_on_cpu", message))
        elif not self._has_cpu_behind:
            raise error
        elif not any(notice.code == "gpu_failed" for notice in self._notices):
            self._notices.append(gpu_failed(error))

    @contextmanager
    def _busy_with(
        self, recordings: frozenset[Recording], thread: str = "device"
    ) -> Iterator[None]:
        self.at_work[thread] = recordings
        try:
            yield
        finally:
            self.at_work.pop(thread, None)
