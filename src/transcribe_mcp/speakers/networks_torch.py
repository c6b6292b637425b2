"""The two networks on a GPU, with PyTorch.

They compute what `networks.CpuNetworks` computes, from the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..models.tensors import read_tensors
from . import features as kaldi
from .embedding import rows_of
from .networks import checked
from .protocol import Array, Rows
from .segmentation import N_FRAMES, STEP_SAMPLES, TWO_SPEAKERS, WINDOW_SAMPLES

N_HIDDEN = 128
DENSE_BLOCKS = ((12, 1), (24, 2), (16, 2))  # layers and dilation of each
GROWTH = 32  # channels that a dense layer adds
RESIDUAL_BLOCKS = ("layer1.0", "layer1.1", "layer2.0", "layer2.1")
CONVOLUTION_BATCH = 32  # windows of 10 s per call of the convolutions, which need more memory
HEAD_BATCH = 128  # windows of 1.5 s per call of the first convolutions, for the same reason
LOG_MEL_FRAMES = 1 << 14  # at once

Weights = dict[str, Tensor]


class GpuNetworks:
    """Segmentation and embeddings on one device.

    Args:
        device: on a GPU, embeddings are computed in float16.

    Raises:
        EngineUnavailableError: a weight file is missing or damaged.
    """

    segmentation_batch = 128  # the LSTM takes hardly longer for more windows
    embedding_batch = 1024

    def __init__(self, device: torch.device) -> None:
        self._device = device
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        self._segmentation = Segmentation(_weights("segmentation"), device)
        self._campplus = CamPlusPlus(_weights("campplus"), device, dtype)
        new_stream: Any = torch.cuda.Stream  # untyped in torch
        self._stream = new_stream(device) if device.type == "cuda" else None

    def close(self) -> None:
        """The weights are freed with the object."""

    def on_device(self, samples: Array) -> Tensor:
        with self._at_work():
            return torch.from_numpy(np.ascontiguousarray(samples)).to(self._device)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        with self._at_work():
            return torch.cat(list(parts))

    def segment(self, samples: Tensor) -> Array:
        with self._at_work():
            windows = samples.unfold(0, WINDOW_SAMPLES, STEP_SAMPLES)
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                return _in_parts(self._segmentation, windows, self.segmentation_batch)

    def log_mel(self, samples: Tensor) -> Tensor:
        with self._at_work():
            frames = samples.unfold(0, kaldi.FRAME_SAMPLES, kaldi.HOP_SAMPLES)
            return torch.cat([self._features(part) for part in _parts(frames, LOG_MEL_FRAMES)])

    def embed(self, features: Tensor, firsts: Rows, lengths: Rows) -> Array:
        with self._at_work():
            rows = torch.from_numpy(rows_of(firsts, lengths)).to(self._device)
            counts = torch.from_numpy(lengths).to(self._device)[:, None, None]
            known = torch.arange(rows.shape[1], device=self._device)[None, :, None] < counts

            def embed(part: Tensor) -> Tensor:
                windows = features[rows[part]]
                means = (windows * known[part]).sum(dim=1, keepdim=True) / counts[part]
                return self._campplus(windows - means)

            numbers = torch.arange(len(firsts), device=self._device)
            return _in_parts(embed, numbers, self.embedding_batch)

    def _features(self, frames: Tensor) -> Tensor:
        frames = frames - frames.mean(dim=1, keepdim=True)
        before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        frames = (frames - kaldi.PRE_EMPHASIS * before) * self._window
        power = torch.fft.rfft(frames, kaldi.N_FFT)[:, :-1].abs().square()
        mel: Tensor = power @ self._mel_filters
        return mel.clamp_min(kaldi.FLOOR).log()

    @cached_property
    def _window(self) -> Tensor:
        return torch.from_numpy(kaldi.window()).to(self._device)

    @cached_property
    def _mel_filters(self) -> Tensor:
        return torch.from_numpy(kaldi.mel_filters()).to(self._device)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            yield


class Segmentation:
    """segmentation-3.0: windows of samples (n, 160,000) -> (n, 589, 3), see ``SpeakerNetworks``.

    In float32: in float16 or TF32 one decision in 200 differs from the CPU's.
    """

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self._weights = {name: value.to(device) for name, value in weights.items()}
        self._lstm = nn.LSTM(60, N_HIDDEN, 4, bidirectional=True, batch_first=True)
        self._lstm.load_state_dict(dict(_lstm_states(weights)))
        self._lstm.to(device).eval()  # in training mode it would keep every state
        self._lstm.flatten_parameters()

    def __call__(self, samples: Tensor) -> Tensor:
        weights = self._weights
        parts = [self._convolved(part) for part in _parts(samples, CONVOLUTION_BATCH)]
        x, _ = self._lstm(torch.cat(parts).transpose(1, 2))
        assert x.shape[1] == N_FRAMES
        for layer in ("linear0", "linear1"):
            x = functional.linear(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
            x = functional.leaky_relu(x, 0.01)
        scores = functional.linear(x, weights["output.weight"], weights["output.bias"])
        probabilities = scores.float().softmax(dim=2)
        speech = 1 - probabilities[:, :, 0]
        overlap = probabilities[:, :, TWO_SPEAKERS:].sum(dim=2)
        return torch.stack([speech, overlap, scores.argmax(dim=2)], dim=2)

    def _convolved(self, samples: Tensor) -> Tensor:
        """The filters over the samples (n, 160,000) -> (n, 60, 589)."""
        weights = self._weights
        x = functional.instance_norm(
            samples[:, None], weight=weights["wave_norm.weight"], bias=weights["wave_norm.bias"]
        )
        x = functional.conv1d(x, weights["conv0.weight"], stride=10).abs_()
        for i in range(3):
            if i:
                x = functional.conv1d(x, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"])
            x = functional.max_pool1d(x, 3, 3)
            norm = (weights[f"norm{i}.weight"], weights[f"norm{i}.bias"])
            x = functional.instance_norm(x, weight=norm[0], bias=norm[1])
            x = functional.leaky_relu(x, 0.01)
        return x


class CamPlusPlus:
    """CAM++: windows of normalized features (n, 148, 80) -> embeddings (n, 192).

    The first convolutions have the channels last, which suits Tensor Cores. Later ones have them
    first, (channels, n, frames). So a dense layer appends its output to its input without a copy.
    """

    def __init__(self, weights: Weights, device: torch.device, dtype: torch.dtype) -> None:
        self._weights = {
            name: _laid_out(name, value).to(device, dtype) for name, value in weights.items()
        }
        self._dtype = dtype

    def __call__(self, features: Tensor) -> Tensor:
        x = torch.cat([self._head(part) for part in _parts(features, HEAD_BATCH)])
        x = self._convolution(functional.conv1d, x, "tdnn", stride=2, padding=2).relu_()
        x = x.transpose(0, 1)
        for block, (n_layers, dilation) in enumerate(DENSE_BLOCKS, start=1):
            x = self._dense_block(x, f"block{block}", n_layers, dilation)
            x = self._normalized(x, f"transit{block}.norm")
            x = _pointwise(self._weights[f"transit{block}.weight"], x)
        x = self._normalized(x, "pooled.norm").float()
        pooled = torch.cat([x.mean(dim=2), x.std(dim=2)]).to(self._dtype)
        return self._pointwise_layer(pooled, "embedding").T

    def _head(self, features: Tensor) -> Tensor:
        x = features.to(self._dtype).transpose(1, 2)[:, None]
        x = self._convolution(functional.conv2d, x, "head.conv1", padding=1).relu_()
        x = x.contiguous(memory_format=torch.channels_last)
        for name in RESIDUAL_BLOCKS:
            block = f"head.{name}"
            stride = (2, 1) if name.endswith(".0") else (1, 1)
            conv = functional.conv2d
            y = self._convolution(conv, x, f"{block}.conv1", padding=1, stride=stride).relu_()
            y = self._convolution(conv, y, f"{block}.conv2", padding=1)
            if name.endswith(".0"):
                x = self._convolution(conv, x, f"{block}.shortcut", stride=stride)
            x = (y + x).relu_()
        x = self._convolution(functional.conv2d, x, "head.conv2", padding=1, stride=(2, 1)).relu_()
        return x.flatten(1, 2)

    def _dense_block(self, x: Tensor, name: str, n_layers: int, dilation: int) -> Tensor:
        n_in = len(x)
        block = x.new_empty(n_in + n_layers * GROWTH, *x.shape[1:])
        block[:n_in] = x
        for i in range(n_layers):
            end = n_in + i * GROWTH
            layer = f"{name}.{i + 1}"
            y = self._normalized(block[:end], f"{layer}.norm")
            y = self._pointwise_layer(y, f"{layer}.narrow").relu_()
            # The mean over the window and over its only segment.
            context = self._pointwise_layer(2 * y.mean(dim=2), f"{layer}.context1").relu_()
            gate = self._pointwise_layer(context, f"{layer}.context2").sigmoid_()
            # The convolution over three frames: one product each, shifted by the dilation.
            before, local, after = _pointwise(self._weights[f"{layer}.local.weight"], y).chunk(3)
            local[:, :, dilation:] += before[:, :, :-dilation]
            local[:, :, :-dilation] += after[:, :, dilation:]
            torch.mul(local, gate[:, :, None], out=block[end : end + GROWTH])
        return block

    def _convolution(self, conv: Callable[..., Tensor], x: Tensor, name: str, **how: Any) -> Tensor:
        return conv(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], **how)

    def _normalized(self, x: Tensor, name: str) -> Tensor:
        scale = self._weights[f"{name}.scale"][:, None, None]
        shift = self._weights[f"{name}.shift"][:, None, None]
        return torch.addcmul(shift, x, scale).relu_()

    def _pointwise_layer(self, x: Tensor, name: str) -> Tensor:
        return _pointwise(self._weights[f"{name}.weight"], x, self._weights[f"{name}.bias"])


def _laid_out(name: str, weight: Tensor) -> Tensor:
    """In the files convolutions over frames have one row, which suits the CPU. Those over three
    frames become three layers over one frame, (3 n_out, n_in).
    """
    if name.startswith("head."):
        is_map = weight.ndim == 4
        return weight.contiguous(memory_format=torch.channels_last) if is_map else weight
    weight = weight.squeeze(2) if weight.ndim == 4 else weight
    is_local = name.endswith(".local.weight")
    return weight.permute(2, 0, 1).flatten(0, 1).contiguous() if is_local else weight


def _pointwise(weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution over one frame: channels (n_in, ...) -> (n_out, ...)."""
    flat = x.reshape(len(x), -1)
    matrix = weight.reshape(len(weight), -1)
    y = matrix @ flat if bias is None else torch.addmm(bias[:, None], matrix, flat)
    return y.view(len(weight), *x.shape[1:])


def _in_parts(work: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Array:
    return torch.cat([work(part) for part in _parts(rows, size)]).float().cpu().numpy()


def _parts(rows: Tensor, size: int) -> Iterator[Tensor]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _weights(name: str) -> Weights:
    (path,) = checked([f"{name}.safetensors"])
    tensors = read_tensors(path)
    return {key: torch.from_numpy(tensor.read_float32()) for key, tensor in tensors.items()}


def _lstm_states(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """The layers under PyTorch's names and in its order of the gates."""
    for i in range(4):
        for way, suffix in enumerate(("", "_reverse")):
            for kind in ("ih", "hh"):
                gates = weights[f"lstm{i}.weight_{kind}"][way]
                yield f"weight_{kind}_l{i}{suffix}", _in_torch_order(gates)
            for kind, bias in zip(
                ("ih", "hh"), weights[f"lstm{i}.bias"][way].chunk(2), strict=True
            ):
                yield f"bias_{kind}_l{i}{suffix}", _in_torch_order(bias)


def _in_torch_order(gates: Tensor) -> Tensor:
    """From ONNX's order of the gates (i o f c) to PyTorch's (i f g o)."""
    i, o, f, g = gates.chunk(4)
    return torch.cat([i, f, g, o])
