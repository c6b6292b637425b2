"""An engine on a GPU with the CPU behind it: what the GPU fails at, the CPU does again, and the result says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ..compat.gpu_probe import in_words
from ..domain.transcript import Notice, Word
from ..errors import EngineFailedError, OutOfMemoryError
from ..speech.regions import Window
from . import (
    Decoded,
    DecodingOptions,
    Encoded,
    Engine,
    EngineInfo,
    Following,
    Listener,
    decode_until,
    joined,
    listener_of,
)
from .fallback_listener import listener_with_cpu_behind

Result = TypeVar("Result")


def gpu_failed(error: EngineFailedError) -> Notice:
    return Notice("gpu_failed", f"the GPU failed, the CPU goes on: {in_words(str(error))}")


def load_with_cpu_behind(
    load_on_gpu: Callable[[], Engine], load_on_cpu: Callable[[], Engine]
) -> Engine:
    """The GPU's engine, or the CPU's where that one cannot be loaded. Only ``EngineFailedError`` counts as failure."""
    try:
        return FallbackEngine(load_on_gpu(), load_on_cpu)
    except EngineFailedError as error:
        engine = FallbackEngine(load_on_cpu(), None)
        engine.warn(gpu_failed(error))
        return engine


@dataclass(slots=True)
class KeptBatch:
    """A batch as one engine encoded it, with its windows, so that another engine can encode it again."""

    windows: tuple[Window, ...]
    inner: Encoded | None
    encoder: Engine | None

    def __len__(self) -> int:
        return len(self.windows)

    def select(self, indices: Sequence[int]) -> KeptBatch:
        inner = self.inner.select(indices) if self.inner is not None else None
        return KeptBatch(tuple(self.windows[i] for i in indices), inner, self.encoder)

    def joined(self, others: Sequence[KeptBatch]) -> KeptBatch:
        """To be encoded again where parts are from different engines."""
        parts = [self, *others]
        windows = tuple(window for part in parts for window in part.windows)
        inner = [
            part.inner for part in parts if part.inner is not None and part.encoder is self.encoder
        ]
        if len(inner) < len(parts):
            return KeptBatch(windows, None, None)
        return KeptBatch(windows, joined(inner), self.encoder)


class FallbackEngine:
    """See the protocol. ``info`` is that of the engine in use, and ends with why it is not the first one."""

    def __init__(self, engine: Engine, load_on_cpu: Callable[[], Engine] | None) -> None:
        self._engine = engine
        self._load_on_cpu = load_on_cpu
        self._notices: tuple[Notice, ...] = ()
        self._broken: Engine | None = None
        self._is_deaf = False
        self._taking_over = threading.Lock()

    @property
    def info(self) -> EngineInfo:
        info = self._engine.info
        return replace(info, warnings=(*info.warnings, *self._notices))

    def warn(self, notice: Notice) -> None:
        self._notices = (*self._notices, notice)

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        return self._engine.notices(options)

    def encode(self, windows: Sequence[Window]) -> KeptBatch:
        return self._with_fallback(
            lambda engine: KeptBatch(tuple(windows), engine.encode(windows), engine)
        )

    def detect_language(self, encoded: KeptBatch) -> list[dict[str, float]]:
        return self._with_fallback(
            lambda engine: engine.detect_language(_encoded_by(engine, encoded))
        )

    def decode(
        self, encoded: KeptBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        return self._with_fallback(
            lambda engine: engine.decode(_encoded_by(engine, encoded), languages, options)
        )

    def decode_until(
        self,
        encoded: KeptBatch,
        languages: Sequence[str],
        options: DecodingOptions,
        following: Following,
    ) -> None:
        self._with_fallback(
            lambda engine: decode_until(
                engine, _encoded_by(engine, encoded), languages, options, following
            )
        )

    def align(
        self, encoded: KeptBatch, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        return self._with_fallback(
            lambda engine: engine.align(_encoded_by(engine, encoded), decoded, options)
        )

    def listener(self) -> Listener | None:
        """The engine's own, until the GPU fails at it: from then on the CPU's."""
        if self._is_deaf:
            return None
        return listener_with_cpu_behind(
            lambda: listener_of(self._engine), EngineFailedError, self._go_deaf
        )

    def _go_deaf(self, error: EngineFailedError) -> None:
        self._is_deaf = True
        self.warn(gpu_failed(error))

    def close(self) -> None:
        self._engine.close()

    def _with_fallback(self, work: Callable[[Engine], Result]) -> Result:
        engine = self._engine
        try:
            return work(engine)
        except EngineFailedError as error:
            with self._taking_over:
                if self._engine is engine:  # no other thread was before this one
                    if self._load_on_cpu is None:
                        raise
                    self._take_cpu(self._load_on_cpu, error)
        return self._with_fallback(work)

    def _take_cpu(self, load_on_cpu: Callable[[], Engine], error: EngineFailedError) -> None:
        if isinstance(error, OutOfMemoryError):
            self._engine.close()
        else:
            self._broken = (
                self._engine
            )  # freeing memory on a GPU in an error state can end the process
        self._load_on_cpu = None
        self._engine = load_on_cpu()
        self.warn(gpu_failed(error))


def _encoded_by(engine: Engine, batch: KeptBatch) -> Any:
    """The batch as this engine encoded it, encoded again where another engine did."""
    if batch.encoder is not engine:
        batch.inner, batch.encoder = engine.encode(batch.windows), engine
    return batch.inner
