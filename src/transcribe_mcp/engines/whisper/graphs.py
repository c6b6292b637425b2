"""Captured once and replayed on a GPU: decoding steps, the twin of ``runner.EagerSteps`` token for token; and the
encoder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...compat.gpu_probe import ran_out_of_memory
from . import kernels
from .caches import AudioCache
from .continuous_batching import side_stream
from .decode_slots import RowState, Slots, StepRules, advance
from .model import Whisper, decode, encode, logits_of

STEPS_AT_ONCE = 4  # between two looks at which rows are done
FIRST_PIECE = 6  # tensors (B, T, d) in the encoder's first piece of memory: with it all takes 9.4; without, 12 to 16
# Rows that are not in use cost a captured step next to nothing, so a few sizes will do.
SIZES = (1, 4, 16, 64, 128, 256, 512)


_capturing = threading.Lock()  # one at a time, on whatever GPU


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Each GPU's own: that which torch takes by itself is the same for all, and belongs to the first."""
    return torch.cuda.Stream(device)


@contextmanager
def captured(graph: torch.cuda.CUDAGraph, device: torch.device, pool: Any) -> Iterator[None]:
    """What is queued on the device goes into the graph. Other threads go on."""
    stream = _capture_stream(device)
    usual = torch.cuda.stream(
        torch.cuda.current_stream(device)
    )  # torch does not go back to it where capturing fails
    with (
        _capturing,
        usual,
        torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"),
    ):
        yield


@dataclass(frozen=True, slots=True)
class Kind:
    """What a captured step does; of the same kind, it can be replayed."""

    size: int
    rules: int  # identity of the rules, which live as long as their engine
    sampled: bool


class CapturedSteps:
    """See ``runner.Steps``. A step is captured at the first use of its size and kind.

    The device runs steps while the host looks at how the steps before them ended.
    """

    def __init__(
        self,
        slots: Slots,
        *,
        int8: bool,
        tuning: kernels.Tuning | None = None,
        capture: bool = True,
    ) -> None:
        self.slots, self._capture = slots, capture
        self._audio = kernels.AudioShape.of(slots.model, slots.queries, int8=int8)
        self._tuning = tuning
        self._graphs: dict[Kind, torch.cuda.CUDAGraph] = {}
        self._kept_alive: list[StepRules] = []
        self._pool = torch.cuda.graph_pool_handle()
        self._done = torch.empty(slots.capacity, dtype=torch.bool, pin_memory=True)
        self._looked = torch.cuda.Event()
        self._n_looked = 0

    def run(self, rules: StepRules, n_rows: int) -> None:
        self._done[:n_rows].copy_(self.slots.state.done[:n_rows], non_blocking=True)
        self._looked.record()
        self._n_looked = n_rows
        size = next(
            size
            for size in (*SIZES, self.slots.capacity)
            if size >= n_rows or size == self.slots.capacity
        )
        sampled = any(temperature > 0 for temperature in self.slots.temperatures)
        kind = Kind(min(size, self.slots.capacity), id(rules), sampled)
        if not self._capture:
            for _ in range(STEPS_AT_ONCE):
                self._step(kind, rules)
            return
        if kind not in self._graphs:
            self._graphs[kind] = self._captured(kind, rules)
            self._kept_alive.append(rules)
        self._graphs[kind].replay()

    def finished(self) -> list[int]:
        self._looked.synchronize()
        done: list[int] = torch.nonzero(self._done[: self._n_looked])[:, 0].tolist()
        return done

    def _captured(self, kind: Kind, rules: StepRules) -> torch.cuda.CUDAGraph:
        """Runs once with every row done, so that nothing changes: kernels are compiled, libraries loaded."""
        done = self.slots.state.done.clone()
        self.slots.state.done.fill_(True)
        stream = side_stream(self.slots.model.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._step(kind, rules)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with captured(graph, self.slots.model.device, self._pool):
            for _ in range(STEPS_AT_ONCE):
                self._step(kind, rules)
        self.slots.state.done.copy_(done)
        return graph

    def logits(self, n_rows: int) -> torch.Tensor:
        model, state = self.slots.model, self.slots.state.first(n_rows)
        tuning = self._tuning or kernels.tuning_for(n_rows)
        attention = kernels.TritonAttention(self.slots, n_rows, self._audio, tuning)
        states = decode(model, state.token[:, None], state.position[:, None], attention)
        return logits_of(model, states[:, 0])

    def _step(self, kind: Kind, rules: StepRules) -> None:
        choose: Callable[[RowState, torch.Tensor, StepRules], None] = kernels.advance
        if kind.sampled or rules.rules.timestamps is not None:
            choose = advance
        choose(self.slots.state.first(kind.size), self.logits(kind.size), rules)


class CapturedEncoder:
    """Spectrograms (B, n_mels, 3000), B at most the largest of ``rooms``, -> an ``AudioCache``.

    Kernels by the hundred are queued one by one, and after each the host takes its turn with Python's other threads, so
    that a few windows are over on the device before their last kernel is queued. So from the second time on a number of
    windows is encoded in one go. Keys and values are not in it: captured, they would need room for themselves.

    What is captured holds memory. Where that runs out it is given back, and never taken again.
    """

    def __init__(
        self,
        model: Whisper,
        make_cache: Callable[[Whisper, Tensor], AudioCache],
        rooms: Sequence[int],
    ) -> None:
        self._model, self._make_cache, self._rooms = model, make_cache, rooms
        self._known: set[int] = set()  # numbers of windows that were encoded before
        self._room: _EncoderRoom | None = None
        self._captures = True
        self._in_use = (
            threading.Lock()
        )  # what is replayed reads and writes the same places every time

    def __call__(self, mel: Tensor) -> AudioCache:
        with self._in_use:
            if self._captures:
                try:
                    return self._make_cache(self._model, self._states(mel))
                except RuntimeError as error:
                    if not ran_out_of_memory(error):
                        raise
                self._room, self._captures = None, False
            return self._make_cache(self._model, encode(self._model, mel))

    def give_back(self) -> None:
        with self._in_use:
            self._room, self._captures = None, False

    def _states(self, mel: Tensor) -> Tensor:
        """(B, T, d), to be used before the next are asked for."""
        if len(mel) not in self._known:
            self._known.add(len(mel))
            return encode(self._model, mel)
        if self._room is None or self._room.size < len(mel):
            self._room = None  # what the smaller one held is given back before anything is captured
            self._room = _EncoderRoom(
                self._model, next(size for size in self._rooms if size >= len(mel))
            )
        return self._room.encode(mel)


class _EncoderRoom:
    """What encodes up to ``size`` windows, captured for each number of them, and the memory that all of that shares."""

    def __init__(self, model: Whisper, size: int) -> None:
        geometry = model.geometry
        self.size, self._model = size, model
        frames = (size, geometry.num_mel_bins, 2 * geometry.max_source_positions)
        self._mel = torch.zeros(frames, dtype=torch.float32, device=model.device)
        positions = (size, geometry.max_source_positions, geometry.d_model)
        self._states = torch.zeros(positions, dtype=model.dtype, device=model.device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs[size] = self._captured(
            size
        )  # before all smaller numbers, which then find all they need

    def encode(self, mel: Tensor) -> Tensor:
        """(B, T, d), written over by the next."""
        n_windows = len(mel)
        if n_windows not in self._graphs:
            self._graphs[n_windows] = self._captured(n_windows)
        self._mel[:n_windows].copy_(mel)
        self._graphs[n_windows].replay()
        return self._states[:n_windows]

    def _captured(self, n_windows: int) -> torch.cuda.CUDAGraph:
        """Runs once before: libraries make for every thread what they need, and cannot while something is captured."""
        encode(self._model, self._mel[:n_windows])
        graph = torch.cuda.CUDAGraph()
        with captured(graph, self._model.device, self._pool):
            if (
                not self._graphs
            ):  # by itself PyTorch takes a piece for every size that it is asked for
                torch.empty(
                    (FIRST_PIECE, *self._states.shape),
                    dtype=self._model.dtype,
                    device=self._model.device,
                )
            self._states[:n_windows].copy_(encode(self._model, self._mel[:n_windows]))
        return graph
