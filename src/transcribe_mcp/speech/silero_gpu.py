"""Silero's network on a GPU: many lanes of a block at once. The audio stays there for the windows
cut from it.

The encoder treats each frame alone, so all frames are rows of a few matrix products. Only the LSTM
needs the past. A block is cut into lanes that run in parallel. Each lane starts from a zero state a
few lanes early; the first lanes start at the beginning, as in the serial run. `SpeechDetector` is
the CPU version.

Each operation takes the GIL and so delays the thread that launches the encoder. So there are few
operations.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from .features_torch import DeviceSamples
from .library_errors import library_errors
from .regions import SAMPLE_RATE_HZ, Window
from .silero import (
    CONTEXT_SAMPLES,
    FRAME_SAMPLES,
    HOP_SAMPLES,
    N_WINDOWS,
    REFLECTED_SAMPLES,
    STATE_SIZE,
    WINDOW_SAMPLES,
    SileroWeights,
    read_weights,
)

TORCH_ERRORS = (RuntimeError, ValueError, MemoryError)
LANE_FRAMES = 250  # 8 s; shorter lanes take fewer steps and have less context
LANES_BEFORE = (
    5  # 40 s of warm-up before each lane: at least 99.7 % of decisions equal the serial run
)
SHORT_FRAMES = LANE_FRAMES * (1 + LANES_BEFORE)  # one lane takes no more steps and is exact
# encoded at once, padded: 80 MB in tensors of always the same sizes
CHUNK_FRAMES = 8192
# up to half of that: tensors so small that PyTorch cuts them from larger segments
FEW_FRAMES = 2048

Samples = NDArray[np.float32]
State = tuple[Tensor, Tensor]  # h, c: (1, 1, 128) each


def lanes_of(n_frames: int) -> tuple[int, int]:
    """Frames per lane (the last may have fewer), and the maximum number of warm-up lanes before
    each.
    """
    return (n_frames, 0) if n_frames <= SHORT_FRAMES else (LANE_FRAMES, LANES_BEFORE)


class SileroGpu:
    """Voice detection on one device, for any number of recordings.

    Raises: EngineUnavailableError: Silero's file is missing or damaged.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.network = LaneNetwork(read_weights(), device)
        new_stream: Any = torch.cuda.Stream  # untyped in torch
        # One stream for all detectors: PyTorch caches freed memory per stream.
        self.stream = new_stream(device) if device.type == "cuda" else None
        # One block is queued at a time, so the memory of one suffices.
        self.queueing = threading.Lock()

    def listen(self) -> GpuSpeechDetector:
        return GpuSpeechDetector(self)


class GpuSpeechDetector:
    """Voice detection for one recording, called from one thread. See ``engines.VoiceDetector``."""

    # 15 MB on the device. Longer blocks are hardly faster, and delay the first windows.
    block_s = 240.0

    def __init__(self, silero: SileroGpu) -> None:
        self._network = silero.network
        self._queueing = silero.queueing
        self._device = silero.device
        self._stream = silero.stream
        self._audio = torch.zeros(
            CONTEXT_SAMPLES, device=self._device
        )  # kept for windows and for the incomplete frame
        self._origin = -CONTEXT_SAMPLES  # sample of the recording at which _audio begins
        self._next = 0  # sample at which the next frame begins
        self._state = _empty_state(self._device)
        self._placed: WeakSet[DeviceSamples] = WeakSet()

    def push(self, samples: Samples, *, last: bool = False) -> Samples:
        """As ``SpeechDetector.push``: (n,) samples -> probabilities of the frames completed
        (n_frames,).
        """
        with self._working():
            with self._queueing:
                probabilities = self._queue(samples, last=last)
                queued = None if self._stream is None else self._stream.record_event()
            if queued is not None:
                queued.synchronize()
            found: Samples = probabilities.numpy()
            return found

    def _queue(self, samples: Samples, *, last: bool) -> Tensor:
        """Launch the network on a block; wait for the probabilities (n,) in main memory."""
        self._append(samples)
        end = self._origin + len(self._audio)
        if last:
            n_frames = -((self._next - end) // FRAME_SAMPLES)
        else:
            n_frames = (end - self._next) // FRAME_SAMPLES
        if n_frames <= 0:
            return torch.empty(0)
        first = self._next - CONTEXT_SAMPLES - self._origin
        n_heard = CONTEXT_SAMPLES + n_frames * FRAME_SAMPLES
        heard = self._audio[first : first + n_heard]
        if len(heard) < n_heard:
            heard = functional.pad(heard, (0, n_heard - len(heard)))
        probabilities, self._state = self._network.probabilities(heard, self._state)
        self._next += n_frames * FRAME_SAMPLES
        on_host = torch.empty(len(probabilities), pin_memory=self._stream is not None)
        return on_host.copy_(probabilities, non_blocking=True)

    def place(self, windows: Sequence[Window], keep_from: float) -> list[Window]:
        """The windows with their samples on the device; drops audio before ``keep_from`` (s)."""
        with self._working():
            placed = [replace(window, device_samples=self._cut(window)) for window in windows]
            self._placed.update(
                window.device_samples for window in placed if window.device_samples is not None
            )
            keep = min(int(keep_from * SAMPLE_RATE_HZ), self._next - CONTEXT_SAMPLES)
            if keep > self._origin:
                self._audio = self._audio[keep - self._origin :]
                self._origin = keep
        return placed

    def close(self) -> None:
        self._audio = self._audio[:0].clone()
        for placed in self._placed:
            placed.samples = None

    def _cut(self, window: Window) -> DeviceSamples | None:
        first = round(window.start * SAMPLE_RATE_HZ) - self._origin
        samples = self._audio[first : first + len(window.samples)] if first >= 0 else None
        return (
            DeviceSamples(samples)
            if samples is not None and len(samples) == len(window.samples)
            else None
        )

    def _append(self, samples: Samples) -> None:
        if not len(samples):
            return
        new = torch.from_numpy(np.ascontiguousarray(samples, np.float32))
        if self._stream is not None and not new.is_pinned():
            new = new.pin_memory()  # the CPU waits for copies of memory that is not pinned
        self._audio = torch.cat([self._audio, new.to(self._device, non_blocking=True)])

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Use this detector's stream, and turn torch's errors into ours."""
        failed = f"voice detection on {self._device} failed"
        errors = library_errors(launch_errors, failed, "use a smaller batch or a smaller model")
        with errors, torch.inference_mode(), torch.cuda.stream(self._stream):
            yield


class LaneNetwork:
    """Silero's network on ``device``, LSTM in lanes."""

    def __init__(self, weights: SileroWeights, device: torch.device) -> None:
        self.basis = _tensor(np.concatenate([weights.cosine, weights.sine]).T).to(
            device
        )  # (256, 258)
        self.layers = []
        n_steps = N_WINDOWS
        for convolution in weights.convolutions():
            matrix = convolution.as_matrix(n_steps)
            n_steps = convolution.n_steps_out(n_steps)
            self.layers.append(_linear(matrix.T, np.tile(convolution.bias, n_steps)).to(device))
        self.lstm = _lstm(weights).to(device)
        self.from_input = _parameter(
            self.lstm, "weight_ih_l0"
        ).t()  # the part that the kernel needs
        self.from_state = _parameter(self.lstm, "weight_hh_l0").half()
        self.bias = _parameter(self.lstm, "bias_ih_l0") + _parameter(self.lstm, "bias_hh_l0")
        self.output = _linear(weights.output_weight.T, weights.output_bias).to(device)
        self.in_one_launch = device.type == "cuda" and not _kernel_problem(device)

    def probabilities(self, heard: Tensor, state: State) -> tuple[Tensor, State]:
        """(64 + 512 n,) samples, context first, and the state before them -> probabilities (n,),
        the state after.
        """
        frames = heard.unfold(0, CONTEXT_SAMPLES + FRAME_SAMPLES, FRAME_SAMPLES)
        features = []
        while len(frames):
            size = CHUNK_FRAMES if len(frames) > CHUNK_FRAMES // 2 else FEW_FRAMES
            features.append(self.encode(frames[:size]))
            frames = frames[size:]
        states, state = self.remember(torch.cat(features), state)
        return torch.sigmoid(self.output(torch.relu(states))).flatten(), state

    def encode(self, frames: Tensor) -> Tensor:
        """(n, 576) samples -> (n, 128) features. Convolutions over four steps are matrix products
        of all of them.

        At most ``CHUNK_FRAMES``; more than ``FEW_FRAMES`` are padded to that number.
        """
        n_frames = len(frames)
        if n_frames > FEW_FRAMES:
            frames = functional.pad(frames, (0, 0, 0, CHUNK_FRAMES - n_frames))
        reflected = frames[:, -1 - REFLECTED_SAMPLES : -1].flip(1)
        windows = torch.cat([frames, reflected], dim=1).unfold(1, WINDOW_SAMPLES, HOP_SAMPLES)
        re, im = (windows.reshape(-1, WINDOW_SAMPLES) @ self.basis).chunk(2, dim=1)
        x = torch.hypot(re, im).view(len(frames), -1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x[:n_frames]

    def remember(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """The LSTM over (n, 128) features in lanes -> its outputs (n, 128), its state after the
        last.
        """
        if self.in_one_launch:
            return self.remember_in_one_launch(features, state)
        return self.remember_by_library(features, state)

    def remember_by_library(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """The same with torch's LSTM."""
        size, before = lanes_of(len(features))
        begins = range(0, len(features), size)
        heard = [features[max(0, begin - before * size) : begin + size] for begin in begins]
        h, c = torch.zeros((2, 1, len(heard), STATE_SIZE), device=features.device)
        h[:, : before + 1], c[:, : before + 1] = state  # lanes that start at the first frame
        outputs, after = self.lstm(pack_sequence(heard, enforce_sorted=False), (h, c))
        padded, _ = pad_packed_sequence(outputs, batch_first=True)
        own = [
            row[min(begin, before * size) :][:size]
            for row, begin in zip(padded, begins, strict=True)
        ]
        return torch.cat(own)[: len(features)], (after[0][:, -1:].clone(), after[1][:, -1:].clone())

    def remember_in_one_launch(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """The same with our own kernel."""
        from .lstm_kernels import run_lanes

        gates = torch.addmm(self.bias, features, self.from_input)
        return run_lanes(gates, self.from_state, state, *lanes_of(len(features)))


def _parameter(module: nn.Module, name: str) -> Tensor:
    return dict(module.named_parameters())[name].detach()


@cache
def has_triton() -> bool:
    """Triton comes with torch on Linux; elsewhere steps run uncaptured on torch's own kernels."""
    try:
        from . import lstm_kernels  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def _kernel_problem(device: torch.device) -> str:
    """Why the LSTM cannot run in one launch there; empty if it can."""
    if not has_triton():
        return "Triton is not installed"
    from .lstm_kernels import problem

    return problem(device)


@cache
def launch_errors() -> tuple[type[Exception], ...]:
    """The errors of PyTorch, and of Triton if it is installed."""
    if not has_triton():
        return TORCH_ERRORS
    from .lstm_kernels import TRITON_ERRORS

    return (*TORCH_ERRORS, *TRITON_ERRORS)


def _empty_state(device: torch.device) -> State:
    h, c = torch.zeros((2, 1, 1, STATE_SIZE), device=device)
    return h, c


def _tensor(values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def _linear(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": _tensor(weight), "bias": _tensor(bias)})
    return layer


def _lstm(weights: SileroWeights) -> nn.LSTM:
    """ONNX orders the gates i o f c, PyTorch i f c o."""

    def reordered(values: NDArray[np.float32]) -> Tensor:
        i, o, f, c = np.split(values, 4)
        return _tensor(np.concatenate([i, f, c, o]))

    lstm = nn.LSTM(STATE_SIZE, STATE_SIZE, batch_first=True)
    bias_input, bias_hidden = np.split(weights.lstm_bias[0], 2)
    lstm.load_state_dict(
        {
            "weight_ih_l0": reordered(weights.lstm_input[0]),
            "weight_hh_l0": reordered(weights.lstm_hidden[0]),
            "bias_ih_l0": reordered(bias_input),
            "bias_hh_l0": reordered(bias_hidden),
        }
    )
    return lstm
