"""Silero's voice activity detection network: its files, sizes and encoder input.

`tools/build_silero.py` describes the network and builds the files; `silero_LICENSE.txt` is their
licence. The CPU detector runs the two ONNX graphs, the GPU detector computes with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..domain.audio import SAMPLE_RATE_HZ
from ..errors import EngineUnavailableError

ENCODER = Path(__file__).with_name("silero_encoder.onnx")
RECURRENT = Path(__file__).with_name("silero_recurrent.onnx")
WEIGHTS = Path(__file__).with_name("silero.npz")
PURPOSE = "voice detection"  # for messages

FRAME_SAMPLES = 512  # one probability each
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ
CONTEXT_SAMPLES = 64  # end of the previous frame, repeated before each frame
STATE_SIZE = 128  # of h and of c, and the number of features per frame

WINDOW_SAMPLES = 256
HOP_SAMPLES = 128
N_WINDOWS = 4  # per frame
STRIDES = (1, 2, 2, 1)  # of the convolutions
_HALF = WINDOW_SAMPLES // 2
REFLECTED_SAMPLES = (N_WINDOWS - 1) * HOP_SAMPLES + WINDOW_SAMPLES - CONTEXT_SAMPLES - FRAME_SAMPLES
assert REFLECTED_SAMPLES == 64

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Convolution:
    """weight (n_out, n_in, 3), bias (n_out,); zero padding of 1 at both ends."""

    weight: Array
    bias: Array
    stride: int

    def n_steps_out(self, n_steps: int) -> int:
        return -(-n_steps // self.stride)

    def as_matrix(self, n_steps: int) -> Array:
        """The convolution over ``n_steps`` steps as one matrix (n_steps n_in, n_steps_out
        n_out).
        """
        n_out, n_in, n_taps = self.weight.shape
        n_steps_out = self.n_steps_out(n_steps)
        matrix = np.zeros((n_steps, n_in, n_steps_out, n_out), np.float32)
        for step_out in range(n_steps_out):
            for tap in range(n_taps):
                step = step_out * self.stride + tap - 1
                if 0 <= step < n_steps:
                    matrix[step, :, step_out, :] = self.weight[:, :, tap].T
        return matrix.reshape(n_steps * n_in, n_steps_out * n_out)


@dataclass(frozen=True, slots=True)
class SileroWeights:
    """The tensors of ``silero.npz``."""

    cosine: Array  # (129, 256), windowed, even about sample 128
    sine: Array  # (129, 256), windowed, odd about sample 128
    conv0_weight: Array  # (128, 129, 3)
    conv0_bias: Array  # (128,)
    conv1_weight: Array  # (64, 128, 3)
    conv1_bias: Array  # (64,)
    conv2_weight: Array  # (64, 64, 3)
    conv2_bias: Array  # (64,)
    conv3_weight: Array  # (128, 64, 3)
    conv3_bias: Array  # (128,)
    lstm_input: Array  # (1, 512, 128), ONNX's gate order i o f c
    lstm_hidden: Array  # (1, 512, 128)
    lstm_bias: Array  # (1, 1024)
    output_weight: Array  # (128, 1)
    output_bias: Array  # (1,)

    def convolutions(self) -> list[Convolution]:
        weights = (self.conv0_weight, self.conv1_weight, self.conv2_weight, self.conv3_weight)
        biases = (self.conv0_bias, self.conv1_bias, self.conv2_bias, self.conv3_bias)
        return list(map(Convolution, weights, biases, STRIDES))


def read_weights(path: Path = WEIGHTS) -> SileroWeights:
    """Read the weights of the network.

    Raises:
        EngineUnavailableError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file) as tensors:
            return SileroWeights(**tensors)
    except (OSError, EOFError, ValueError, TypeError, BadZipFile) as error:
        raise unreadable(path, PURPOSE, error) from error


def unreadable(path: Path, purpose: str, reason: object) -> EngineUnavailableError:
    """The error for a file of a packaged network."""
    return EngineUnavailableError(
        f"cannot read the {purpose} model {path}: {reason}",
        hint="pip install --force-reinstall transcribe-mcp",
    )


def folded_windows(samples: Array) -> tuple[Array, Array]:
    """Fold the STFT windows of whole frames into their even and odd parts, the inputs of the
    encoder.

    Args:
        samples: (64 + 512 n,) float32, context first.

    Returns:
        The even part (4 n, 128) and the odd part (4 n, 127). Sample 0 of a window is left out: its
        weight is zero.
    """
    n_frames = (len(samples) - CONTEXT_SAMPLES) // FRAME_SAMPLES
    n_seen = CONTEXT_SAMPLES + FRAME_SAMPLES
    step = samples.itemsize
    seen = np.lib.stride_tricks.as_strided(
        samples, (n_frames, n_seen), (FRAME_SAMPLES * step, step), writeable=False
    )
    frames = np.empty((n_frames, n_seen + REFLECTED_SAMPLES), np.float32)
    frames[:, :n_seen] = seen
    frames[:, n_seen:] = seen[:, -2 : -2 - REFLECTED_SAMPLES : -1]
    windows = np.lib.stride_tricks.as_strided(
        frames, (n_frames, N_WINDOWS, WINDOW_SAMPLES), (frames.strides[0], HOP_SAMPLES * step, step)
    )
    left = windows[:, :, 1:_HALF]
    right = windows[:, :, :_HALF:-1]
    even = np.empty((n_frames, N_WINDOWS, _HALF), np.float32)
    np.add(left, right, out=even[:, :, :-1])
    even[:, :, -1] = windows[:, :, _HALF]
    odd = np.subtract(left, right)
    return even.reshape(-1, _HALF), odd.reshape(-1, _HALF - 1)
