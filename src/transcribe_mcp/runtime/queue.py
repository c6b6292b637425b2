"""Recordings, their queued windows, and the order of work."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..domain.progress import Progress, no_progress
from ..domain.transcript import Notice
from ..engines import DecodingOptions, EngineInfo, VoiceDetector
from ..errors import CancelledError
from ..speech.regions import WINDOW_S, Window
from .stage import Part, Stage, Task

AGEING = 60.0  # seconds of audio by which a recording moves forward per second of waiting
Results = list[tuple[Task, Any]]


@dataclass(frozen=True, slots=True)
class Claim:
    """A recording's requirements of an executor.

    Attributes:
        spec: the model; equal specs share a loaded model.
        left_s: remaining seconds of audio. Short work goes first.
        sequential: one batch at a time, and none before the last one is saved.
        is_durable: results are saved, so a crash loses only unsaved ones; see
            ``Recording.saved``.
        progress: receives the progress of loading the model.
    """

    spec: Any = None
    left_s: float = 0.0
    sequential: bool = False
    is_durable: bool = False
    progress: Progress = no_progress


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """Free capacity of a device.

    Attributes:
        size: tasks of a full batch.
        n_encoded: tasks already in the batch.
        part_of: the recordings of these.
        chunk: tasks to encode at once; 0: whole batches only.
        least: minimum number of tasks for a call while more will follow.
    """

    size: int
    n_encoded: int = 0
    part_of: frozenset[Recording] = frozenset()
    chunk: int = 0
    least: int = 1


class Host(Protocol):
    """The executor as its recordings see it."""

    def work(self, seen: int) -> None:
        """Do some work, or wait for a change after ``seen``."""

    def notices(self, spec: Any, options: DecodingOptions) -> tuple[Notice, ...]: ...

    def voice_detector(self, spec: Any) -> VoiceDetector | None: ...

    def closed(self) -> None:
        """A recording was closed."""


class Recording:
    """One recording in an executor. A feeder submits windows; the owner collects results and closes
    it.
    """

    def __init__(self, queue: WindowQueue, claim: Claim, host: Host) -> None:
        self._queue = queue
        self._host = host
        self.claim = claim
        self.left_s = claim.left_s
        self.sequential = claim.sequential
        self.known_info: EngineInfo | None = None  # until the model is loaded
        self.batch_size = 0  # 0: the model's choice
        self.ahead_s = math.inf
        self.rest_s = math.inf  # end of the last submitted window, in seconds
        self.tasks: deque[Task] = deque()
        self.n_at_work = 0
        self.n_unsaved = 0
        self.has_ended = True
        self.waits_since = time.monotonic()
        self.cancelled_at: float | None = None
        self.error: BaseException | None = None
        self.timings: dict[str, float] = {}
        self._results: deque[Results] = deque()

    # --- the feeder ----------------------------------------------------------------------------

    def begin(self, batch_size: int, ahead_s: float) -> None:
        """Start another pass over the recording.

        Args:
            batch_size: windows per batch; 0 lets the model choose.
            ahead_s: seconds of audio that may be queued.
        """
        with self._queue.changed:
            self.batch_size = batch_size
            self.ahead_s = ahead_s
            self.rest_s = math.inf
            self.has_ended = False
            self.timings.clear()

    def submit(self, stage: Stage, windows: Sequence[Window], rest_s: float = math.inf) -> None:
        """Queue windows. Blocks while enough audio is queued.

        Raises:
            CancelledError: the recording was closed.
        """
        with self._queue.changed:
            self._queue.changed.wait_for(lambda: self.error is not None or self._has_room)
            if self.error is not None:
                raise CancelledError("the recording was closed") from self.error
            if not self.tasks:
                self.waits_since = time.monotonic()
            self.rest_s = rest_s
            self.tasks.extend(Task(self, stage, window) for window in windows)
            self._queue.notify()

    @property
    def _has_room(self) -> bool:
        """The recordings share the queue's capacity; a full batch always fits."""
        queued_s = sum(task.window.duration for task in self.tasks)
        return len(self.tasks) < self.size or queued_s <= self.ahead_s / len(self._queue.recordings)

    def end(self) -> None:
        with self._queue.changed:
            self.has_ended = True
            self._queue.notify()

    def fail(self, error: BaseException) -> None:
        with self._queue.changed:
            if self.error is None:
                self.error = error
            self.tasks.clear()
            self._queue.notify()

    # --- the owner -----------------------------------------------------------------------------

    def results(self) -> Iterator[Results]:
        """Results as batches finish, until all tasks are done.

        Raises:
            TranscribeError: the error of the feeder or the device.
            CancelledError: the recording was closed by another thread.
        """
        while True:
            with self._queue.changed:
                seen = self._queue.n_changes
                found = self._results.popleft() if self._results else None
                if found is None and self.error is not None:
                    raise self.error
                if found is None and self.is_done:
                    return
            if found is None:
                self._host.work(seen)
            else:
                yield found

    def saved(self) -> None:
        """One item of ``results`` is saved."""
        with self._queue.changed:
            self.n_unsaved -= 1
            self._queue.notify()

    def cancel(self) -> None:
        """Release the owner at once. A call in progress continues without this recording."""
        with self._queue.changed:
            self.cancelled_at = self.cancelled_at or time.monotonic()
            self._results.clear()
        self.fail(CancelledError("the job was stopped"))

    def close(self) -> None:
        self.fail(CancelledError("the recording was closed"))
        with self._queue.changed:
            self._results.clear()
            self._queue.recordings.discard(self)
            self._queue.notify()
        self._host.closed()

    def load(self) -> None:
        """Wait until the model is loaded.

        Raises:
            TranscribeError: it cannot be loaded.
        """
        while True:
            with self._queue.changed:
                seen = self._queue.n_changes
                if self.error is not None:
                    raise self.error
                if self.known_info is not None:
                    return
            self._host.work(seen)

    @property
    def info(self) -> EngineInfo:
        """The model in use. It changes when the CPU takes over, or memory runs out."""
        assert self.known_info is not None
        return self.known_info

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        """Notices about options that the model does not fully support."""
        return self._host.notices(self.claim.spec, options)

    def voice_detector(self) -> VoiceDetector | None:
        return self._host.voice_detector(self.claim.spec)

    # --- the queue, with its lock held ---------------------------------------------------------

    @property
    def size(self) -> int:
        return self.batch_size or self.info.batch_size

    @property
    def has_given_all(self) -> bool:
        return self.has_ended and not self.tasks

    @property
    def is_done(self) -> bool:
        return self.has_given_all and not self.n_at_work

    @property
    def can_give(self) -> bool:
        if not self.tasks or (self.sequential and self.n_at_work):
            return False
        # One batch is decoded while another is aligned, so one may be unsaved.
        overlaps = self.info.concurrent_align and not self.sequential
        return not self.claim.is_durable or self.n_unsaved <= int(overlaps)

    @property
    def is_voting(self) -> bool:
        return bool(self.tasks) and bool(self.tasks[0].stage.is_open)

    def is_ready(self, size: int) -> bool:
        return self.has_ended or len(self.tasks) >= size

    def rank(self) -> float:
        return self.left_s - AGEING * (time.monotonic() - self.waits_since)

    def give(self, room: int, request: BatchRequest, taken: Sequence[Task]) -> list[Task]:
        """Up to ``room`` more tasks for a batch that has ``taken``."""
        n = min(room, len(self.tasks))
        if not self.is_voting or self in request.part_of:
            return self._take(range(n))
        left = request.size - request.n_encoded - len(taken)
        is_first = not request.part_of and not taken
        if not is_first and min(request.size, len(self.tasks)) > left:
            return []  # the first batch must hold all windows that vote
        is_alone = request.chunk > 0 and len(self._queue.recordings) == 1
        if not self.is_ready(request.size) and not is_alone:
            return []
        if request.chunk:
            return self._take(range(n))
        return self._take({round(i * (len(self.tasks) - 1) / max(1, n - 1)) for i in range(n)})

    def _take(self, chosen: Container[int]) -> list[Task]:
        taken = [task for i, task in enumerate(self.tasks) if i in chosen]
        self.tasks = deque(task for i, task in enumerate(self.tasks) if i not in chosen)
        self.n_at_work += len(taken)
        self.waits_since = time.monotonic()
        return taken

    def deliver(self, found: Results) -> None:
        self.n_at_work -= len(found)
        if self.error is None:
            self._results.append(found)
            self.n_unsaved += 1


class WindowQueue:
    """The recordings of an executor. One lock guards them and everything that devices share with
    them.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.n_changes = 0
        self.recordings: set[Recording] = set()

    def notify(self) -> None:
        with self.changed:
            self.n_changes += 1
            self.changed.notify_all()

    def wait(self, seen: int, timeout_s: float | None = None) -> bool:
        """Wait for a change after ``seen``. Returns whether there was one."""
        with self.changed:
            return self.changed.wait_for(lambda: self.n_changes != seen, timeout_s)

    def first(self, stays_with: Any = None) -> Recording | None:
        """The next recording. ``stays_with``: keep to this spec while other models wait."""
        waiting = [one for one in self.recordings if one.error is None]
        waiting = [one for one in waiting if one.known_info is None or one.can_give]
        stays = stays_with is not None
        return min(
            waiting,
            key=lambda one: (stays and one.claim.spec != stays_with, one.rank()),
            default=None,
        )

    def givers(self, spec: Any) -> list[Recording]:
        """Recordings with tasks for this model, in order of priority."""
        return sorted([one for one in self.of(spec) if one.can_give], key=Recording.rank)

    def of(self, spec: Any) -> list[Recording]:
        return [
            one
            for one in self.recordings
            if one.claim.spec == spec and one.known_info is not None and one.error is None
        ]

    def share(self, spec: Any, n_devices: int) -> int:
        """One device's share of the tasks if no more will follow; otherwise any number."""
        own = self.of(spec)
        if not all(one.has_ended for one in own):
            return sys.maxsize
        n_left = sum(len(one.tasks) + one.n_at_work for one in own)
        return max(1, -(-n_left // n_devices))

    def take(self, spec: Any, request: BatchRequest) -> list[Task]:
        givers = self.givers(spec)
        # A recording that votes in this batch adds all its windows before others join.
        givers.sort(key=lambda one: not (one.is_voting and one in request.part_of))
        n_queued = sum(len(one.tasks) for one in givers)
        least = request.least if request.chunk else request.size
        if n_queued < least and not any(one.is_ready(request.size) for one in givers):
            return []
        room = request.chunk or request.size
        tasks: list[Task] = []
        for one in givers:
            if len(tasks) < room:
                tasks += one.give(room - len(tasks), request, tasks)
        if tasks:
            self.notify()  # feeders wait for space
        return tasks

    def is_due(self, spec: Any, request: BatchRequest, *, falters: bool) -> bool:
        """Whether an incomplete batch should not wait, because nothing can be added to it now.

        ``falters``: the device would be idle, so the batch starts unless the rest of the audio fits
        into it.
        """
        if any(one.has_given_all or one.sequential for one in request.part_of):
            return True
        if any(
            one not in request.part_of and one.is_ready(request.size) for one in self.givers(spec)
        ):
            return True  # they need a separate batch
        rest_s = sum(one.rest_s for one in self.of(spec) if not one.has_given_all)
        return falters and rest_s > (request.size - request.n_encoded) * WINDOW_S

    def put_back(self, tasks: Sequence[Task]) -> None:
        with self.changed:
            for task in reversed(tasks):
                task.recording.n_at_work -= 1
                if task.recording.error is None:
                    task.recording.tasks.appendleft(task)
            self.notify()

    def deliver(self, parts: Sequence[Part]) -> None:
        found: dict[Recording, Results] = {}
        for part in parts:
            for task, result in zip(part.tasks, part.results or (), strict=True):
                found.setdefault(task.recording, []).append((task, result))
        with self.changed:
            for recording, results in found.items():
                recording.deliver(results)
            self.notify()

    def fail(self, recordings: frozenset[Recording], error: BaseException) -> None:
        for recording in recordings:
            recording.fail(error)
