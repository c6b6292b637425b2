"""An engine as one of several jobs sees it: what it asks, the thread that owns the device carries out.

See ``device.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..domain.options import EngineSpec
from ..domain.progress import Progress
from ..domain.transcript import Notice, Word
from ..engines import Decoded, DecodingOptions, Encoded, EngineInfo
from ..errors import CancelledError
from ..speech.regions import Window


@dataclass(frozen=True, slots=True)
class Shared:
    """Some windows of a batch that an engine encoded for several jobs."""

    whole: Encoded
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, indices: Sequence[int]) -> Shared:
        return Shared(self.whole, tuple(self.indices[i] for i in indices))


@dataclass(eq=False, slots=True)
class Call:
    """Something that a job asks of the engine."""

    owner: SharedEngine
    kind: str
    group: Any = None  # calls of one kind with equal groups can be one call of the engine
    encoded: Shared | None = None
    items: Sequence[Any] = ()  # one per window: windows, languages, or what was decoded
    result: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Owner(Protocol):
    """The thread that owns the device, as jobs see it."""

    def ask(self, call: Call) -> Any:
        """What the engine answers, once it has."""

    def changed(self, change: Callable[[], None]) -> None:
        """Change something that the thread looks at."""

    def leave(self, member: SharedEngine) -> None: ...

    def info(self, choice: EngineSpec) -> EngineInfo: ...

    def notices(self, member: SharedEngine, options: DecodingOptions) -> tuple[Notice, ...]: ...


class SharedEngine:
    """A device's engine as one job sees it. See ``engines.Engine`` for the methods."""

    def __init__(
        self, device: Owner, choice: EngineSpec, left_s: float, progress: Progress
    ) -> None:
        self._device = device
        self.choice = choice
        self.left_s = left_s
        self.progress = progress
        self.waiting: Call | None = None
        self.asked: Call | None = None  # also while it is carried out
        self.cancelled_at: float | None = None  # monotonic clock
        self.between_batches = True

    @property
    def cancelled(self) -> bool:
        return self.cancelled_at is not None

    def load(self) -> None:
        self._device.ask(Call(self, "load"))

    @property
    def info(self) -> EngineInfo:
        # A batch is kept before the next one begins: a worker that dies costs one.
        return replace(
            self._device.info(self.choice), early_windows=0, encodes_aside=False, aligns_aside=False
        )

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        return self._device.notices(self, options)

    def encode(self, windows: Sequence[Window]) -> Shared:
        self.between_batches = False
        encoded: Shared = self._device.ask(Call(self, "encode", items=tuple(windows)))
        return encoded

    def detect_language(self, encoded: Shared) -> list[dict[str, float]]:
        detected: list[dict[str, float]] = self._device.ask(Call(self, "detect", encoded=encoded))
        return detected

    def decode(
        self, encoded: Shared, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        decoded: list[Decoded] = self._device.ask(
            Call(self, "decode", options, encoded, tuple(languages))
        )
        return decoded

    def align(
        self, encoded: Shared, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        words: list[list[Word]] = self._device.ask(
            Call(self, "align", options, encoded, tuple(decoded))
        )
        return words

    def batch_done(self, left_s: float) -> None:
        """Nothing more is asked of this batch: others need not wait while its job is at something else."""

        def change() -> None:
            self.between_batches, self.left_s = True, left_s

        self._device.changed(change)

    def cancel(self) -> None:
        """Let the job's thread go, which gets ``CancelledError``; a call that the engine is in goes on without it."""

        def change() -> None:
            self.cancelled_at = time.monotonic()
            self.waiting = None
            if self.asked is not None:
                settle(self.asked.result, error=CancelledError("the job was stopped"))

        self._device.changed(change)

    def close(self) -> None:
        self._device.leave(self)


def joined(calls: Sequence[Call]) -> Encoded:
    """The windows of several calls, which are of one batch."""
    parts = [call.encoded for call in calls if call.encoded is not None]
    indices = [i for part in parts for i in part.indices]
    whole = parts[0].whole
    return whole if indices == list(range(len(whole))) else whole.select(indices)


def split(results: Sequence[Any], calls: Sequence[Call]) -> list[list[Any]]:
    parts, first = [], 0
    for call in calls:
        n = len(call.encoded or ())
        parts.append(list(results[first : first + n]))
        first += n
    return parts


def settle(result: Future[Any], value: Any = None, error: BaseException | None = None) -> None:
    if result.done():  # the job was cancelled meanwhile
        return
    if error is not None:
        result.set_exception(error)
    else:
        result.set_result(value)
