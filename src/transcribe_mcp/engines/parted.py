"""Batches in parts, each of one engine, and who may use its memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ..errors import OutOfMemoryError
from ..speech.regions import Window
from . import Encoded, Engine, Listener, joined, listener_of


class Replica:
    """An engine, who is at work on it, and what is in its memory."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.is_full = False  # windows found no room: no more are kept until something is done with those that did
        self._parts: WeakSet[Part] = WeakSet()
        self._listeners: WeakSet[_TurnTaking] = WeakSet()
        self._at_work: list[Part | _TurnTaking] = []
        self._is_taken = False  # by one alone
        self._changed = threading.Condition()

    def add(self, part: Part) -> None:
        with self._changed:
            self._parts.add(part)

    def n_kept(self) -> int:
        """Windows, each counted once, in however many batches it is."""
        with self._changed:
            return len(
                {
                    id(window)
                    for part in self._parts
                    if part.inner is not None
                    for window in part.windows
                }
            )

    def listen(self) -> Listener | None:
        """The engine's own listener, which gives way where memory is needed for something else."""
        inner = listener_of(self.engine)
        if inner is None:
            return None
        listener = _TurnTaking(inner, self)
        with self._changed:
            self._listeners.add(listener)
        return listener

    @contextmanager
    def beside_others(self, one: Part | _TurnTaking) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken)
            self._at_work.append(one)
        try:
            yield
        finally:
            with self._changed:
                self._at_work.remove(one)
                self._changed.notify_all()

    @contextmanager
    def alone(self, part: Part) -> Iterator[bool]:
        """Nobody else is at work, and no other windows are in memory. Tells whether that was otherwise."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken)
            self._is_taken = True
        try:
            yield self._cleared_of_all_but(part)
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()

    def _cleared_of_all_but(self, part: Part) -> bool:
        with self._changed:
            there_were_others = bool(self._at_work or self._listeners)
            self._changed.wait_for(lambda: not self._at_work)
            for other in self._parts:
                if other is not part and other.inner is not None:
                    there_were_others, other.inner = True, None
        return there_were_others

    def stop_listening(self) -> bool:
        """Give back what listeners have in memory; to be called alone. Whether there were any."""
        with self._changed:
            listeners = [*self._listeners]
            self._listeners.clear()
        for listener in listeners:
            listener.give_way()
        return bool(listeners)


class _TurnTaking:
    """A listener of an engine whose memory others need as well: see the protocol."""

    def __init__(self, inner: Listener, replica: Replica) -> None:
        self._inner, self._replica = inner, replica
        self._gave_way = False
        self.block_s = inner.block_s

    def push(self, samples: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        """Raises: OutOfMemoryError from when it gave way on."""
        with self._replica.beside_others(self):
            if self._gave_way:
                raise OutOfMemoryError("there is none left beside the windows that are transcribed")
            return self._inner.push(samples, last=last)

    def place(self, windows: Sequence[Window], keep_from: float) -> Sequence[Window]:
        with self._replica.beside_others(self):
            return windows if self._gave_way else self._inner.place(windows, keep_from)

    def close(self) -> None:
        self._inner.close()

    def give_way(self) -> None:
        self._gave_way = True
        self._inner.close()


@dataclass(slots=True, eq=False, weakref_slot=True)
class Part:
    """Some windows of a batch, their places in it, and what their engine made of them (``None``: not kept).

    Not frozen, because what takes memory has to be dropped wherever the part is still referred to.
    """

    replica: Replica
    windows: tuple[Window, ...]
    places: tuple[int, ...]
    inner: Any = None

    def __post_init__(self) -> None:
        self.replica.add(self)

    def pieces(self, size: int) -> list[Part]:
        """Parts of at most ``size`` windows, not encoded."""
        spans = [slice(first, first + size) for first in range(0, len(self.windows), size)]
        return [Part(self.replica, self.windows[span], self.places[span]) for span in spans]

    def select(self, new_place: dict[int, int]) -> Part:
        inner = self.inner
        kept = [i for i, place in enumerate(self.places) if place in new_place]
        inner = inner if inner is None or len(kept) == len(self.places) else inner.select(kept)
        windows = tuple(self.windows[i] for i in kept)
        return Part(self.replica, windows, tuple(new_place[self.places[i]] for i in kept), inner)


@dataclass(slots=True)
class PartedBatch:
    """A batch as its engines encoded it, part by part."""

    parts: list[Part]

    def __len__(self) -> int:
        return sum(len(part.windows) for part in self.parts)

    def select(self, indices: Sequence[int]) -> PartedBatch:
        new_place = {old: new for new, old in enumerate(indices)}
        parts = (
            part.select(new_place)
            for part in self.parts
            if not new_place.keys().isdisjoint(part.places)
        )
        return PartedBatch(list(parts))

    def joined(self, others: Sequence[PartedBatch]) -> PartedBatch:
        """Parts of one engine become one, so that it decodes all their windows at once."""
        parts, n = list(self.parts), len(self)
        for other in others:
            parts += [
                replace(part, places=tuple(n + place for place in part.places))
                for part in other.parts
            ]
            n += len(other)
        encoded: dict[Replica, list[tuple[Part, Encoded]]] = {}
        unkept = []
        for part in parts:
            inner = part.inner  # asked once: another thread may let go of it
            if inner is None:
                unkept.append(part)
            else:
                encoded.setdefault(part.replica, []).append((part, inner))
        return PartedBatch([*(_one(replica, kept) for replica, kept in encoded.items()), *unkept])


def _one(replica: Replica, kept: Sequence[tuple[Part, Encoded]]) -> Part:
    windows = tuple(window for part, _ in kept for window in part.windows)
    places = tuple(place for part, _ in kept for place in part.places)
    return Part(replica, windows, places, joined([inner for _, inner in kept]))
