"""Batches in parts: over several engines at once, and smaller than asked for where memory runs out.

An engine that has not enough memory for a batch raises ``OutOfMemoryError``. The part is then halved, and its halves
are encoded one after the other whenever something is to be done with them, so that never more than one of them is in
memory. No window is lost. Later batches of the recording are cut beforehand; later recordings come in smaller ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

from ..errors import OutOfMemoryError
from ..regions import Window
from ..transcript import Notice, Word
from . import Decoded, DecodingOptions, Engine, EngineInfo, Following, Listener, decode_until, joined, listener_of

Result = TypeVar("Result")
Work = Callable[[Engine, Any, Sequence[int]], list[Result]]


@dataclass(slots=True)
class Part:
    """Some windows of a batch, their places in it, and what their engine made of them (``None``: not kept).

    Not frozen, because what takes memory has to be dropped wherever the part is still referred to.
    """

    engine: Engine
    windows: tuple[Window, ...]
    places: tuple[int, ...]
    inner: Any

    def pieces(self, size: int) -> list[Part]:
        """Parts of at most ``size`` windows, not encoded."""
        spans = [slice(first, first + size) for first in range(0, len(self.windows), size)]
        return [Part(self.engine, self.windows[span], self.places[span], None) for span in spans]

    def select(self, new_place: dict[int, int]) -> Part:
        kept = [i for i, place in enumerate(self.places) if place in new_place]
        inner = self.inner if self.inner is None or len(kept) == len(self.places) else self.inner.select(kept)
        windows = tuple(self.windows[i] for i in kept)
        return Part(self.engine, windows, tuple(new_place[self.places[i]] for i in kept), inner)


@dataclass(slots=True)
class PartedBatch:
    """A batch as its engines encoded it, part by part."""

    parts: list[Part]

    def __len__(self) -> int:
        return sum(len(part.windows) for part in self.parts)

    def select(self, indices: Sequence[int]) -> PartedBatch:
        new_place = {old: new for new, old in enumerate(indices)}
        parts = (part.select(new_place) for part in self.parts if not new_place.keys().isdisjoint(part.places))
        return PartedBatch(list(parts))

    def joined(self, others: Sequence[PartedBatch]) -> PartedBatch:
        """Parts of one engine become one, so that it decodes all their windows at once."""
        parts, n = list(self.parts), len(self)
        for other in others:
            parts += [replace(part, places=tuple(n + place for place in part.places)) for part in other.parts]
            n += len(other)
        encoded: dict[int, list[Part]] = {}  # by engine
        for part in parts:
            if part.inner is not None:
                encoded.setdefault(id(part.engine), []).append(part)
        unkept = [part for part in parts if part.inner is None]
        return PartedBatch([*map(_one, encoded.values()), *unkept])


def _one(parts: Sequence[Part]) -> Part:
    windows = tuple(window for part in parts for window in part.windows)
    places = tuple(place for part in parts for place in part.places)
    return Part(parts[0].engine, windows, places, joined([part.inner for part in parts]))


class Replicas:
    """One engine made of others with the same model, each on a device of its own; one alone only has its memory minded.

    See the protocol ``Engine``.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = tuple(engines)
        self._own = threading.local()  # each caller's threads, one for every engine but the first
        self._limit: int | None = None  # windows that fit into the fullest device, once one had too many

    @property
    def info(self) -> EngineInfo:
        infos = [engine.info for engine in self._engines]
        size = sum(info.batch_size for info in infos)
        warnings = [notice for info in infos for notice in info.warnings]
        if self._limit is not None:
            size = min(size, self._limit * len(infos))
            message = f"the device ran out of memory; at most {self._limit} windows were decoded at once from then on"
            warnings.append(Notice("batch_halved", message))
        return replace(
            infos[0],
            device=",".join(dict.fromkeys(info.device for info in infos)),
            batch_size=size,
            early_windows=sum(info.early_windows for info in infos),
            warnings=tuple(dict.fromkeys(warnings)),
        )

    def listener(self) -> Listener | None:
        return listener_of(self._engines[0])

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        return self._engines[0].notices(options)

    def encode(self, windows: Sequence[Window]) -> PartedBatch:
        n, n_engines = len(windows), len(self._engines)
        edges = [n * i // n_engines for i in range(n_engines + 1)]
        spans = [range(first, stop) for first, stop in pairwise(edges)]
        parts = [
            Part(engine, tuple(windows[i] for i in span), tuple(span), None)
            for engine, span in zip(self._engines, spans, strict=True)
            if span
        ]
        return PartedBatch([one for encoded in self._side_by_side(self._encoded, parts) for one in encoded])

    def detect_language(self, encoded: PartedBatch) -> list[dict[str, float]]:
        return self._each(encoded, lambda engine, inner, places: engine.detect_language(inner))

    def decode(self, encoded: PartedBatch, languages: Sequence[str], options: DecodingOptions) -> list[Decoded]:
        return self._each(
            encoded, lambda engine, inner, places: engine.decode(inner, [languages[i] for i in places], options)
        )

    def decode_until(
        self, encoded: PartedBatch, languages: Sequence[str], options: DecodingOptions, following: Following
    ) -> None:
        def work(engine: Engine, inner: Any, places: Sequence[int]) -> list[None]:
            own = [languages[i] for i in places]
            decode_until(engine, inner, own, options, lambda k, decoded: following(places[k], decoded))
            return [None for _ in places]

        self._each(encoded, work)

    def align(self, encoded: PartedBatch, decoded: Sequence[Decoded], options: DecodingOptions) -> list[list[Word]]:
        return self._each(
            encoded, lambda engine, inner, places: engine.align(inner, [decoded[i] for i in places], options)
        )

    def close(self) -> None:
        self._own = threading.local()
        for engine in self._engines:
            engine.close()

    def _encoded(self, part: Part) -> list[Part]:
        """The part with what its engine makes of it; in pieces that are not kept where that is too much."""
        n, limit = len(part.windows), self._limit or len(part.windows)
        if n > limit:
            return part.pieces(limit)
        try:
            return [replace(part, inner=part.engine.encode(part.windows))]
        except OutOfMemoryError:
            pass
        if n == 1:  # there may be room when the batches before are through
            return [part]
        return part.pieces(self._shrunk(part))

    def _each(self, batch: PartedBatch, work: Work[Result]) -> list[Result]:
        """What ``work`` gives for every window, in order. Parts that turn out too large stay halved in the batch."""
        results: list[Result | None] = [None] * len(batch)
        finished = self._side_by_side(lambda part: self._worked(part, work), batch.parts)
        for pairs in finished:
            for part, found in pairs:
                for place, result in zip(part.places, found, strict=True):
                    results[place] = result
        batch.parts = [part for pairs in finished for part, _ in pairs]
        return results  # type: ignore[return-value]  # every place is in one part

    def _worked(self, part: Part, work: Work[Result]) -> list[tuple[Part, list[Result]]]:
        try:
            return [(part, work(part.engine, self._inner(part), part.places))]
        except OutOfMemoryError:
            if len(part.windows) == 1 and part.inner is None:
                raise
        part.inner = None  # outside the handler, because the error keeps what it was about in memory
        if len(part.windows) == 1:
            return self._worked(part, work)
        return [pair for piece in part.pieces(self._shrunk(part)) for pair in self._worked(piece, work)]

    def _inner(self, part: Part) -> Any:
        return part.engine.encode(part.windows) if part.inner is None else part.inner

    def _shrunk(self, part: Part) -> int:
        """How many windows may fit where those of the part did not."""
        fits = len(part.windows) // 2
        self._limit = fits if self._limit is None else min(self._limit, fits)
        return fits

    def _side_by_side(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """``work`` on all parts: those of one engine one after the other, engines at the same time."""
        found: list[Result | None] = [None] * len(parts)

        def work_on_those_of(engine: Engine) -> None:
            for i, part in enumerate(parts):
                if part.engine is engine:
                    found[i] = work(part)

        first, *others = self._engines
        futures = [
            thread.submit(work_on_those_of, engine) for thread, engine in zip(self._threads(), others, strict=True)
        ]
        try:
            work_on_those_of(first)
        finally:
            wait(futures)
        for future in futures:
            future.result()
        return found  # type: ignore[return-value]  # every part is of one of the engines

    def _threads(self) -> list[ThreadPoolExecutor]:
        """The caller's, for all engines but the first. Libraries keep handles and plans for every thread."""
        threads: list[ThreadPoolExecutor] | None = getattr(self._own, "threads", None)
        if threads is None:
            threads = self._own.threads = [ThreadPoolExecutor(1, "replica") for _ in self._engines[1:]]
        return threads
