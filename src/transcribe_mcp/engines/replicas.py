"""Batches in parts: over several engines at once, and smaller than asked for where memory runs out.

An engine that has not enough memory for a batch raises ``OutOfMemoryError``. What other windows have in memory is let
go of then, to be encoded again when their turn comes; where that does not suffice the part is halved, and its halves
are encoded one after the other whenever something is to be done with them, so that never more than one of them is in
memory. A window alone has the engine for itself. None is lost, and batches to come are smaller.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

from ..domain.transcript import Notice, Word
from ..errors import EngineFailedError, OutOfMemoryError
from ..speech.regions import Window
from . import Decoded, DecodingOptions, Engine, EngineInfo, Following, Listener, decode_until
from .fallback_listener import listener_with_cpu_behind
from .parted import Part, PartedBatch, Replica

# Words of one are timed while windows of the next are encoded; and what filled the memory is to be more than fits.
BATCHES_IN_MEMORY = 3
FEW_WINDOWS = 4  # before fewer are decoded at once, the CPU finds where there is speech

Result = TypeVar("Result")
Work = Callable[[Engine, Any, Sequence[int]], list[Result]]


class Replicas:
    """One engine made of others with the same model, each on a device of its own; one alone only has its memory minded.

    See the protocol ``Engine``.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._replicas = tuple(map(Replica, engines))
        self._own = threading.local()  # each caller's threads, one for every engine but the first
        self._limit: int | None = (
            None  # windows that fit into the fullest device, once one had too many
        )
        self._deaf: Notice | None = None  # why the CPU finds where there is speech

    @property
    def info(self) -> EngineInfo:
        infos = [replica.engine.info for replica in self._replicas]
        size, most = sum(info.batch_size for info in infos), 0
        warnings = [notice for info in infos for notice in info.warnings]
        if self._deaf is not None:
            warnings.append(self._deaf)
        if self._limit is not None:
            size = most = min(size, self._limit * len(infos))
            message = f"the device ran out of memory; at most {self._limit} windows were decoded at once from then on"
            warnings.append(Notice("batch_halved", message))
        return replace(
            infos[0],
            device=",".join(dict.fromkeys(info.device for info in infos)),
            batch_size=size,
            most_windows=most,
            early_windows=sum(info.early_windows for info in infos),
            warnings=tuple(dict.fromkeys(warnings)),
        )

    def listener(self) -> Listener | None:
        """The first engine's own, until there is no memory for it: from then on the CPU's."""
        if self._deaf is not None:
            return None
        return listener_with_cpu_behind(self._replicas[0].listen, OutOfMemoryError, self._go_deaf)

    def _go_deaf(self, error: EngineFailedError) -> None:
        message = f"the CPU finds where there is speech, because the device ran out of memory for it: {error}"
        self._deaf = Notice("voice_detection_on_cpu", message)

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        return self._replicas[0].engine.notices(options)

    def encode(self, windows: Sequence[Window]) -> PartedBatch:
        n, n_engines = len(windows), len(self._replicas)
        edges = [n * i // n_engines for i in range(n_engines + 1)]
        spans = [range(first, stop) for first, stop in pairwise(edges)]
        parts = [
            Part(replica, tuple(windows[i] for i in span), tuple(span))
            for replica, span in zip(self._replicas, spans, strict=True)
            if span
        ]
        return PartedBatch(
            [one for encoded in self._side_by_side(self._encoded, parts) for one in encoded]
        )

    def detect_language(self, encoded: PartedBatch) -> list[dict[str, float]]:
        return self._each(encoded, lambda engine, inner, places: engine.detect_language(inner))

    def decode(
        self, encoded: PartedBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        return self._each(
            encoded,
            lambda engine, inner, places: engine.decode(
                inner, [languages[i] for i in places], options
            ),
        )

    def decode_until(
        self,
        encoded: PartedBatch,
        languages: Sequence[str],
        options: DecodingOptions,
        following: Following,
    ) -> None:
        def work(engine: Engine, inner: Any, places: Sequence[int]) -> list[None]:
            own = [languages[i] for i in places]
            decode_until(
                engine, inner, own, options, lambda k, decoded: following(places[k], decoded)
            )
            return [None for _ in places]

        self._each(encoded, work)

    def align(
        self, encoded: PartedBatch, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        return self._each(
            encoded,
            lambda engine, inner, places: engine.align(
                inner, [decoded[i] for i in places], options
            ),
        )

    def close(self) -> None:
        self._own = threading.local()
        for replica in self._replicas:
            replica.engine.close()

    def _encoded(self, part: Part) -> list[Part]:
        """The part with what its engine makes of it; not kept, and perhaps in pieces, where that is too much."""
        replica, n, limit = part.replica, len(part.windows), self._limit or len(part.windows)
        if n > limit:
            return part.pieces(limit)
        if replica.is_full:
            return [part]
        try:
            with replica.beside_others(part):
                part.inner = replica.engine.encode(part.windows)
        except OutOfMemoryError:
            n_kept = replica.n_kept()
            if n_kept:  # there may be room when the batches before are through
                replica.is_full = True
                self._shrink((n_kept + n) // BATCHES_IN_MEMORY)
                return [part]
            self._shrink(n // 2)
            return part.pieces(max(1, n // 2))
        return [part]

    def _each(self, batch: PartedBatch, work: Work[Result]) -> list[Result]:
        """What ``work`` gives for every window, in order. Parts that turn out too large stay halved in the batch."""
        results: list[Result | None] = [None] * len(batch)
        n_beside = -(-len(batch) // len(self._replicas))
        for part in batch.parts:
            part.replica.is_full = False
        finished = self._side_by_side(lambda part: self._worked(part, n_beside, work), batch.parts)
        for pairs in finished:
            for part, found in pairs:
                for place, result in zip(part.places, found, strict=True):
                    results[place] = result
        batch.parts = [part for pairs in finished for part, _ in pairs]
        return results  # type: ignore[return-value]  # every place is in one part

    def _worked(
        self, part: Part, n_beside: int, work: Work[Result]
    ) -> list[tuple[Part, list[Result]]]:
        """``n_beside``: windows of its batch that its engine has in memory at most, its own included."""
        n = len(part.windows)
        if part.inner is None and self._limit is not None and n > self._limit:
            return self._in_pieces(part, self._limit, work)
        with part.replica.beside_others(part):
            found = _tried(part, work)
        if found is None:
            found = self._worked_alone(part, n_beside, work)
        if found is not None:
            return [(part, found)]
        self._shrink(n // 2)
        return self._in_pieces(part, n // 2, work)

    def _worked_alone(self, part: Part, n_beside: int, work: Work[Result]) -> list[Result] | None:
        """Raises: OutOfMemoryError where a single window has not enough memory alone. Of more, ``None`` says so."""
        n, replica = len(part.windows), part.replica
        with replica.alone(part) as there_were_others:
            if there_were_others:
                self._shrink(n_beside // 2)
                found = _tried(part, work)
                if found is not None:
                    return found
            if n <= FEW_WINDOWS and replica.stop_listening():
                found = _tried(part, work)
                if found is not None:
                    return found
            part.inner = None
            return (
                work(replica.engine, replica.engine.encode(part.windows), part.places)
                if n == 1
                else None
            )

    def _in_pieces(
        self, part: Part, size: int, work: Work[Result]
    ) -> list[tuple[Part, list[Result]]]:
        return [
            pair
            for piece in part.pieces(size)
            for pair in self._worked(piece, len(piece.windows), work)
        ]

    def _shrink(self, fits: int) -> None:
        """So many windows may fit where there were too many."""
        self._limit = max(1, fits if self._limit is None else min(self._limit, fits))

    def _side_by_side(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """``work`` on all parts: those of one engine one after the other, engines at the same time."""
        found: list[Result | None] = [None] * len(parts)

        def work_on_those_of(replica: Replica) -> None:
            for i, part in enumerate(parts):
                if part.replica is replica:
                    found[i] = work(part)

        first, *others = self._replicas
        futures = [
            thread.submit(work_on_those_of, replica)
            for thread, replica in zip(self._threads(), others, strict=True)
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
            threads = self._own.threads = [
                ThreadPoolExecutor(1, "replica") for _ in self._replicas[1:]
            ]
        return threads


def _tried(part: Part, work: Work[Result]) -> list[Result] | None:
    """``None`` where memory did not suffice. What failed is forgotten then, because it keeps memory."""
    engine = part.replica.engine
    try:
        return work(
            engine, engine.encode(part.windows) if part.inner is None else part.inner, part.places
        )
    except OutOfMemoryError:
        return None
