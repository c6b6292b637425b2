"""The schedule of one device.

``step`` encodes queued windows, decodes a batch that is full or should not wait longer, and
finishes the previous batch. If the model allows it, other threads align words and encode windows
during decoding. ``phases`` handles exhausted memory and device failures.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

from ..engines import GpuModel, Recognizer
from ..errors import OutOfMemoryError
from .memory import BATCHES_IN_MEMORY
from .phases import DETECTORS_GIVE_WAY, PhaseRunner
from .queue import BatchRequest, WindowQueue
from .stage import Part, Task

ALMOST_FULL = (
    0.75  # fraction of a batch that is decoded early if the device would otherwise be idle
)
MIN_CHUNK_SHARE = 4  # during decoding, a quarter of a chunk justifies a call


class Device(PhaseRunner):
    """See the module. One thread at a time calls ``step``."""

    def __init__(
        self, queue: WindowQueue, spec: Any, loaded: Recognizer | GpuModel, n_devices: int = 1
    ) -> None:
        super().__init__(queue, loaded)
        self._spec = spec
        self._n_devices = n_devices
        self._lanes: dict[str, ThreadPoolExecutor] = {}
        self._encodes_in_turn = False  # once, after encoding in the other thread failed

    # --- the schedule --------------------------------------------------------------------------

    def step(self, *, takes: bool = True) -> bool:
        """Do the next piece of work. Returns whether there was any.

        ``takes``: whether it may take windows from the queue, or only finish its own.
        """
        self._forget_closed()
        if takes and self._encode_more():
            return True
        part = self._next_batch(takes=takes)
        if part is not None:
            self._decode_next(part)
            return True
        return self._finish_waiting(takes=takes)

    def _forget_closed(self) -> None:
        with self._queue.changed:
            lists = [self._encoded, self._decoded]
            if self._aligning is None:
                lists.append(self._aligned)
            for parts in lists:
                parts[:] = [
                    part for part in parts if any(one.error is None for one in part.recordings)
                ]

    def _request(self) -> BatchRequest:
        """With the lock of the queue held."""
        part_of = frozenset(chain.from_iterable(part.recordings for part in self._encoded))
        of_batch = part_of or self._queue.givers(self._spec)[:1]
        asked = (-(-one.batch_size // self._n_devices) for one in of_batch)
        size = self._budget.size(max((one or self.info.batch_size for one in asked), default=1))
        n_encoded = sum(map(len, self._encoded))
        if self._n_devices > 1:  # they end at the same time
            size = min(size, max(n_encoded, self._queue.share(self._spec, self._n_devices)))
        chunk = min(self.info.encode_chunk, size)
        if self._n_devices > 1:
            chunk = min(chunk, max(1, size - n_encoded))
        least = -(-chunk // MIN_CHUNK_SHARE) if self.info.concurrent_encode else 1
        return BatchRequest(size, n_encoded, part_of, chunk, least)

    def _take(self) -> list[Task]:
        with self._queue.changed:
            request = self._request()
            if request.n_encoded >= request.size or self._budget.is_full:
                return []
            return self._queue.take(self._spec, request)

    def _encode_more(self) -> bool:
        beside = self.info.concurrent_encode and not self._budget.in_sequence
        if beside and not self._encodes_in_turn:
            return self._encode_beside()
        tasks = self._take()
        self._encodes_in_turn = False
        if not tasks:
            return False
        part = Part(tasks)
        try:
            is_encoded = self._attempt(part, lambda part: None)
        except Exception as error:  # noqa: BLE001 - the owners of the windows raise it
            self._queue.fail(part.recordings, error)
            return True
        if is_encoded:
            self._encoded.append(part)
        else:
            self._no_room_for(part)
        return True

    def _no_room_for(self, part: Part) -> None:
        """Encode it later, when there is space."""
        n_held = sum(map(len, self._held()))
        n = len(part)
        if n == 1 and not n_held:
            self._encoded += self._through(part, lambda part: None)
            return
        self._queue.put_back(part.tasks)
        self._budget.is_full = n_held > 0
        if n_held:
            self._budget.shrink((n_held + n) // BATCHES_IN_MEMORY)
        elif n > DETECTORS_GIVE_WAY or not self._release_detectors():
            self._budget.shrink(n // 2)

    def _next_batch(self, *, takes: bool) -> Part | None:
        with self._queue.changed:
            request = self._request()
            if not request.n_encoded:
                return None
            if request.n_encoded < request.size and not self._budget.is_full and takes:
                falters = (
                    self.info.encode_chunk > 0
                    and not self.info.concurrent_encode
                    and request.n_encoded >= ALMOST_FULL * request.size
                )
                is_due = self.info.encode_chunk == 0 or self._queue.is_due(
                    self._spec, request, falters=falters
                )
                if self._encoding is not None or not is_due:
                    return None
            return self._first(request.size)

    def _first(self, size: int) -> Part:
        """The first encoded windows as one part."""
        chosen: list[Part] = []
        while self._encoded and size:
            part = self._encoded.pop(0)
            if len(part) > size:
                self._encoded.insert(0, part.select(range(size, len(part)), encoded=True))
                part = part.select(range(size), encoded=True)
            chosen.append(part)
            size -= len(part)
        if len(chosen) == 1:
            return chosen[0]
        batches = [part.batch for part in chosen if part.batch is not None]
        return Part([task for part in chosen for task in part.tasks], self.model.join(batches))

    def _decode_next(self, part: Part) -> None:
        self._budget.is_full = False
        if self.info.concurrent_encode and not self._budget.in_sequence:
            self._encode_beside()
        self._align_beside()  # on a GPU not before: its Python code would delay the encoding
        self._decoded = self._through(part, self._decode)
        self._take_aligned()
        self._aligned = self._decoded
        self._decoded = []
        if self.info.concurrent_encode:
            self._align_beside()
        elif not self.info.concurrent_align or self._budget.in_sequence:
            self._take_aligned()

    def _finish_waiting(self, *, takes: bool) -> bool:
        """Finish the last batch if there is nothing else to do."""
        if not self._aligned:
            was_full = self._budget.is_full
            self._budget.is_full = False
            return was_full
        if self._aligning is None:
            owners = chain.from_iterable(part.recordings for part in self._aligned)
            is_due = any(one.has_given_all or one.sequential for one in owners)
            if takes and not is_due and not self._budget.is_full:
                return False
            self._align_beside()
        if self._aligning is not None and not self._aligning.done() and not self._budget.is_full:
            return False
        self._take_aligned()
        return True

    def _take_aligned(self) -> None:
        """Deliver the previous batch, after aligning its words if necessary."""
        self._wait_for_alignment()
        done: list[Part] = []
        for part in self._aligned:
            done += [part] if part.results is not None else self._through(part, self._finish)
        improved: list[Part] = []
        for part in done:
            improved += self._through(part, self._improve) if self._may_improve(part) else [part]
        self._aligned = []
        self._queue.deliver(improved)

    # --- other threads -------------------------------------------------------------------------

    def _beside(self, name: str, work: Callable[[], None]) -> Future[None]:
        lane = self._lanes.setdefault(name, ThreadPoolExecutor(1, name))
        future = lane.submit(work)
        future.add_done_callback(lambda _: self._queue.notify())
        return future

    def _align_beside(self) -> None:
        if not self._aligned or self._aligning is not None or self._budget.in_sequence:
            return
        if self.info.concurrent_align:
            self._aligning = self._beside("align", self._align)

    def _align(self) -> None:
        for part in self._aligned:
            if part.batch is not None and part.results is None:
                with self._busy_with(part.recordings, "align"):
                    self._finish(part)

    def _wait_for_alignment(self) -> None:
        """Failed work is repeated by the device thread, which handles errors."""
        if self._aligning is not None:
            error = self._aligning.exception()
            self._budget.in_sequence |= isinstance(error, OutOfMemoryError)
            self._aligning = None

    def _encode_beside(self) -> bool:
        if self._encoding is None:
            tasks = self._take()
            if tasks:
                with self._queue.changed:  # the thread signals its end
                    self._encoding = self._beside("encode", partial(self._encode_ahead, tasks))
        return False  # the device thread is still idle

    def _encode_ahead(self, tasks: list[Task]) -> None:
        """Encode up to one batch ahead of the decoded one."""
        while tasks:
            part = Part(tasks)
            try:
                with self._busy_with(part.recordings, "encode"), self.timed("encode", part.tasks):
                    part.batch = self.encode(part.windows)
            except Exception:  # noqa: BLE001 - the thread of the device tries again, and handles it
                self._encodes_in_turn = True
                self._queue.put_back(tasks)
                self._encoding = None
                return
            with self._queue.changed:
                self._encoded.append(part)
                self._queue.notify()
                tasks = self._take()
                if not tasks:
                    self._encoding = None

    def close(self) -> None:
        self.rest()
        self.model.close()

    def rest(self) -> None:
        """Stop the threads and drop all windows, without waiting for an encoding in progress."""
        for name, lane in self._lanes.items():
            lane.shutdown(wait=name == "align", cancel_futures=True)
        self._lanes.clear()
        self._encoding = self._aligning = None
        self._encoded = []
        self._decoded = []
        self._aligned = []
