"""Silero's network on a GPU: the audio of a block in many lanes at once, and kept there for the windows cut from it.

The encoder looks at one frame alone, so all frames go through it as rows of a few matrix products. Only the LSTM looks
back. A block is cut into lanes that run side by side, each at first from an empty memory, then again from the state in
which the lane before it ended, and so on until no state at a seam moves any more. After k rounds a lane has heard k - 1
lanes before itself; with as many rounds as lanes the result would be that of the serial run. `SpeechDetector` is the
twin of this on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..errors import EngineFailedError
from ..regions import SAMPLE_RATE_HZ, Window
from ..silero import (
    CONTEXT_SAMPLES,
    FRAME_SAMPLES,
    HOP_SAMPLES,
    N_WINDOWS,
    REFLECTED_SAMPLES,
    STATE_SIZE,
    WINDOW_SAMPLES,
    SileroWeights,
    as_matrix,
    read_weights,
    shipped_model,
)

LANE_FRAMES = 250  # 8 s; shorter lanes need fewer steps a round and more rounds
MAX_ROUNDS = 6  # 40 s heard before every lane: at least 997 of 1000 decisions are those of the serial run
SHORT_FRAMES = LANE_FRAMES * MAX_ROUNDS  # as many lanes as rounds take as many steps as one lane, which is exact
SETTLED = 0.01  # states lie within ±1; a change as small as this at a seam moves no decision
CHUNK_FRAMES = 2048  # frames that the encoder takes at once: bounds its memory to 20 MB, in pieces of few sizes

Samples = NDArray[np.float32]
State = tuple[Tensor, Tensor]  # h, c: (1, n_lanes, 128) each


class Ears:
    """Voice detection on one device, for any number of recordings.

    Raises: EngineUnavailableError when Silero's file is missing or another network.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.network = LaneNetwork(read_weights(shipped_model()), device)
        new_stream: Any = torch.cuda.Stream  # torch leaves it without types
        # One for all: what a stream gave back, PyTorch keeps for that stream alone.
        self.stream = new_stream(device) if device.type == "cuda" else None

    def listen(self) -> DeviceListener:
        return DeviceListener(self)


class DeviceListener:
    """See the protocol ``engines.Listener``: hears one recording, from one thread, on the stream of its ears."""

    block_s = 240.0  # 15 MB on the device; twice the frames take hardly longer, and the first are to be heard soon

    def __init__(self, ears: Ears) -> None:
        self._network, self._device, self._stream = ears.network, ears.device, ears.stream
        self._audio = torch.zeros(CONTEXT_SAMPLES, device=self._device)  # held for windows and for the frame begun
        self._origin = -CONTEXT_SAMPLES  # sample of the recording at which _audio begins
        self._next = 0  # sample at which the next frame begins
        self._state = _empty_state(1, self._device)

    def push(self, samples: Samples, *, last: bool = False) -> Samples:
        """As ``SpeechDetector.push``: (n,) samples -> probabilities of the frames completed (n_frames,)."""
        with self._working():
            self._append(samples)
            end = self._origin + len(self._audio)
            n_frames = -((self._next - end) // FRAME_SAMPLES) if last else (end - self._next) // FRAME_SAMPLES
            if n_frames <= 0:
                return np.empty(0, np.float32)
            first = self._next - CONTEXT_SAMPLES - self._origin
            n_heard = CONTEXT_SAMPLES + n_frames * FRAME_SAMPLES
            heard = self._audio[first : first + n_heard]
            heard = functional.pad(heard, (0, n_heard - len(heard)))
            probabilities, self._state = self._network.probabilities(heard, self._state)
            self._next += n_frames * FRAME_SAMPLES
            found: Samples = probabilities.cpu().numpy()
            return found

    def place(self, windows: Sequence[Window], keep_from: float) -> list[Window]:
        """The windows with their samples on the device as well; audio before ``keep_from`` (s) is forgotten."""
        with self._working():
            placed = [replace(window, placed=self._cut(window)) for window in windows]
            keep = min(int(keep_from * SAMPLE_RATE_HZ), self._next - CONTEXT_SAMPLES)
            if keep > self._origin:
                self._audio = self._audio[keep - self._origin :]
                self._origin = keep
        return placed

    def _cut(self, window: Window) -> Tensor | None:
        first = round(window.start * SAMPLE_RATE_HZ) - self._origin
        samples = self._audio[first : first + len(window.samples)] if first >= 0 else None
        return samples if samples is not None and len(samples) == len(window.samples) else None

    def _append(self, samples: Samples) -> None:
        if not len(samples):
            return
        new = torch.from_numpy(np.ascontiguousarray(samples, np.float32))
        if self._stream is not None and not new.is_pinned():
            new = new.pin_memory()  # what is not pinned is sent with the host waiting
        self._audio = torch.cat([self._audio, new.to(self._device, non_blocking=True)])

    @contextmanager
    def _working(self) -> Iterator[None]:
        """The door through which torch's errors leave as ours, on the stream of this listener."""
        try:
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                yield
        except RuntimeError as error:
            raise EngineFailedError(f"voice detection on {self._device} failed: {error}") from error


class LaneNetwork:
    """Silero's network on ``device``, LSTM in lanes."""

    def __init__(self, weights: SileroWeights, device: torch.device) -> None:
        self.basis = _tensor(np.concatenate([weights.cosine, weights.sine]).T).to(device)  # (256, 258)
        self.layers = []
        n_steps = N_WINDOWS
        for convolution in weights.convolutions:
            matrix = as_matrix(convolution, n_steps)
            n_steps = -(-n_steps // convolution.stride)
            self.layers.append(_linear(matrix.T, np.tile(convolution.bias, n_steps)).to(device))
        self.lstm = _lstm(weights).to(device)
        self.from_input = _parameter(self.lstm, "weight_ih_l0").t()  # what the kernel needs of it
        self.from_state = _parameter(self.lstm, "weight_hh_l0").half()
        self.bias = _parameter(self.lstm, "bias_ih_l0") + _parameter(self.lstm, "bias_hh_l0")
        self.output = _linear(weights.output_weight.T, weights.output_bias).to(device)

    def probabilities(self, heard: Tensor, state: State) -> tuple[Tensor, State]:
        """(64 + 512 n,) samples, context first, and the state before them -> probabilities (n,), the state after."""
        frames = heard.unfold(0, CONTEXT_SAMPLES + FRAME_SAMPLES, FRAME_SAMPLES)
        chunks = range(0, len(frames), CHUNK_FRAMES)
        features = torch.cat([self.encode(frames[first : first + CHUNK_FRAMES]) for first in chunks])
        states, state = self.remember(features, state)
        return torch.sigmoid(self.output(torch.relu(states))).flatten(), state

    def encode(self, frames: Tensor) -> Tensor:
        """(n, 576) samples -> (n, 128) features. Convolutions over four steps are matrix products of all of them."""
        reflected = frames[:, -1 - REFLECTED_SAMPLES : -1].flip(1)
        windows = torch.cat([frames, reflected], dim=1).unfold(1, WINDOW_SAMPLES, HOP_SAMPLES)
        re, im = (windows.reshape(-1, WINDOW_SAMPLES) @ self.basis).chunk(2, dim=1)
        x = torch.hypot(re, im).view(len(frames), -1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x

    def remember(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """The LSTM over (n, 128) features in lanes -> its outputs (n, 128), its state after the last."""
        if features.device.type == "cuda" and has_triton():
            return self.remember_in_one_launch_a_round(features, state)
        return self.remember_in_library_steps(features, state)

    def remember_in_library_steps(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """The same by torch's LSTM."""
        size = LANE_FRAMES if len(features) > SHORT_FRAMES else len(features)
        n_lanes = -(-len(features) // size)
        missing = n_lanes * size - len(features)
        lanes = functional.pad(features, (0, 0, 0, missing)).view(n_lanes, size, STATE_SIZE)
        lengths = torch.tensor([*[size] * (n_lanes - 1), size - missing])
        packed = pack_padded_sequence(lanes, lengths, batch_first=True)
        before = _behind(state, _empty_state(n_lanes, features.device))
        for _ in range(min(n_lanes, MAX_ROUNDS)):
            outputs, after = self.lstm(packed, before)
            moved, before = before, _behind(state, after)
            if n_lanes == 1 or _distance(before, moved) < SETTLED:
                break
        states, _ = pad_packed_sequence(outputs, batch_first=True)
        return states.reshape(-1, STATE_SIZE)[: len(features)], (after[0][:, -1:].clone(), after[1][:, -1:].clone())

    def remember_in_one_launch_a_round(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """The same by a kernel of our own. All rounds are run: asking whether states still move would mean waiting."""
        from .lane_kernels import run_lanes

        gates = torch.addmm(self.bias, features, self.from_input)
        size = LANE_FRAMES if len(features) > SHORT_FRAMES else len(features)
        n_lanes = -(-len(features) // size)
        before = _behind(state, _empty_state(n_lanes, features.device))
        for _ in range(min(n_lanes, MAX_ROUNDS)):
            states, hidden, cell = run_lanes(gates, self.from_state, before[0][0], before[1][0], size)
            after = hidden[None], cell[None]
            before = _behind(state, after)
        return states, (after[0][:, -1:].clone(), after[1][:, -1:].clone())


def _parameter(module: nn.Module, name: str) -> Tensor:
    return dict(module.named_parameters())[name].detach()


@cache
def has_triton() -> bool:
    """Triton comes with torch on Linux; elsewhere steps run uncaptured on torch's own kernels."""
    try:
        from . import lane_kernels  # noqa: F401
    except ImportError:
        return False
    return True


def _behind(first: State, after: State) -> State:
    """The states that lanes start from: the first lane from ``first``, each other from where the one before ended."""
    h, c = (torch.cat([start, end[:, :-1]], dim=1) for start, end in zip(first, after, strict=True))
    return h, c


def _distance(one: State, other: State) -> float:
    return float((one[0] - other[0]).abs().max())


def _empty_state(n_lanes: int, device: torch.device) -> State:
    h, c = torch.zeros((2, 1, n_lanes, STATE_SIZE), device=device)
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
