"""CUDA graphs of decoding steps and of the encoder.

Decoding gives the same tokens as ``continuous_batching.EagerSteps``.
"""

from __future__ import annotations

import threading
import warnings
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

STEPS_AT_ONCE = 4  # steps between two checks for finished rows
# size of the encoder's first allocation in tensors (B, T, d): the total is 9.4 with it, 12 to 16
# without
FIRST_PIECE = 6
# Unused rows cost a captured step almost nothing, so a few sizes suffice.
SIZES = (1, 4, 16, 64, 128, 256, 512)


_capturing = threading.Lock()  # one capture at a time on all GPUs


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream for each GPU. Torch's default capture stream belongs to the first GPU."""
    return torch.cuda.Stream(device)


@contextmanager
def captured(graph: torch.cuda.CUDAGraph, device: torch.device, pool: Any) -> Iterator[None]:
    """Capture what this thread queues on the device. Other threads continue."""
    stream = _capture_stream(device)
    usual = torch.cuda.stream(
        torch.cuda.current_stream(device)
    )  # torch does not restore it after a failed capture
    with _capturing, usual, warnings.catch_warnings():
        # Warning of a capture without memory for its first tensor, besides the error.
        warnings.filterwarnings("ignore", "The CUDA Graph is empty")
        with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            yield


@dataclass(frozen=True, slots=True)
class Kind:
    """Key of a captured step; steps of one kind share a graph."""

    size: int
    rules: int  # id() of the rules, which live as long as their engine
    sampled: bool


class CapturedSteps:
    """See ``continuous_batching.Steps``. A step is captured at the first use of its size and kind.

    The device runs steps while the host reads the results of earlier ones.
    """

    def __init__(
        self,
        slots: Slots,
        *,
        int8: bool,
        tuning: kernels.Tuning | None = None,
        capture: bool = True,
    ) -> None:
        self.slots = slots
        self._capture = capture
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
        """Capture a step. A first run with every row done compiles kernels and loads libraries
        without effect.
        """
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
        model = self.slots.model
        state = self.slots.state.first(n_rows)
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
    """Spectrograms (B, n_mels, 3000) -> an ``AudioCache``; B is at most the largest of ``rooms``.

    For small batches the encoder is launch-bound: the GPU finishes before Python has queued all
    kernels. Replaying a CUDA graph removes that cost. A batch size is captured when it is used for
    the second time. Keys and values are not captured, because they would need separate memory.

    Graphs hold memory. If memory runs out they are freed, and the encoder runs uncaptured from
    then on.
    """

    def __init__(
        self,
        model: Whisper,
        make_cache: Callable[[Whisper, Tensor], AudioCache],
        rooms: Sequence[int],
    ) -> None:
        self._model = model
        self._make_cache = make_cache
        self._rooms = rooms
        self._known: set[int] = set()  # batch sizes used before
        self._room: _EncoderRoom | None = None
        self._captures = True
        self._in_use = threading.Lock()  # a replay reads and writes the same addresses

    def __call__(self, mel: Tensor) -> AudioCache:
        with self._in_use:
            if self._captures:
                try:
                    return self._make_cache(self._model, self._states(mel))
                except RuntimeError as error:
                    if not ran_out_of_memory(error):
                        raise
                self._room = None
                self._captures = False
            return self._make_cache(self._model, encode(self._model, mel))

    def give_back(self) -> None:
        with self._in_use:
            self._room = None
            self._captures = False

    def _states(self, mel: Tensor) -> Tensor:
        """(B, T, d); valid until the next call."""
        if len(mel) not in self._known:
            self._known.add(len(mel))
            return encode(self._model, mel)
        if self._room is None or self._room.size < len(mel):
            self._room = None  # free the smaller one before capturing
            self._room = _EncoderRoom(
                self._model, next(size for size in self._rooms if size >= len(mel))
            )
        return self._room.encode(mel)


class _EncoderRoom:
    """Graphs for batches of up to ``size`` windows, and the memory that they share."""

    def __init__(self, model: Whisper, size: int) -> None:
        geometry = model.geometry
        self.size = size
        self._model = model
        frames = (size, geometry.num_mel_bins, 2 * geometry.max_source_positions)
        self._mel = torch.zeros(frames, dtype=torch.float32, device=model.device)
        positions = (size, geometry.max_source_positions, geometry.d_model)
        self._states = torch.zeros(positions, dtype=model.dtype, device=model.device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        # Smaller sizes then fit into the memory of this one.
        self._graphs[size] = self._captured(size)

    def encode(self, mel: Tensor) -> Tensor:
        """(B, T, d); overwritten by the next call."""
        n_windows = len(mel)
        if n_windows not in self._graphs:
            self._graphs[n_windows] = self._captured(n_windows)
        self._mel[:n_windows].copy_(mel)
        self._graphs[n_windows].replay()
        return self._states[:n_windows]

    def _captured(self, n_windows: int) -> torch.cuda.CUDAGraph:
        """Capture a batch size. A run before it lets libraries allocate in this thread. They cannot
        do so during capture, and would choose other kernels.
        """
        encode(self._model, self._mel[:n_windows])
        graph = torch.cuda.CUDAGraph()
        with captured(graph, self._model.device, self._pool):
            if not self._graphs:  # by default PyTorch allocates a block for every requested size
                torch.empty(
                    (FIRST_PIECE, *self._states.shape),
                    dtype=self._model.dtype,
                    device=self._model.device,
                )
            self._states[:n_windows].copy_(encode(self._model, self._mel[:n_windows]))
        return graph
