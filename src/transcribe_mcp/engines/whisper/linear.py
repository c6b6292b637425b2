"""Linear layers: the same product in the layouts that different devices compute fastest.

Each is made from float32 weights (outputs, inputs) and a bias (outputs,) and called with (..., inputs).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Linear(Protocol):
    def __call__(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""

    def gelu(self, x: Tensor) -> Tensor:
        """The same, through GELU."""


MakeLinear = Callable[[Tensor, Tensor], Linear]


class Dense:
    """Weights in the precision of the activations. GELU is the exact one, as Whisper was trained with."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        return functional.gelu(self(x))


class FusedDense(Dense):
    """GELU in the epilogue of the product, for 16 bits on CUDA: the activations make one trip to memory less.

    cuBLASLt has GELU's tanh form only. It differs from the exact one by at most 5e-4, which is less than bfloat16 and
    hardly more than float16 resolve at the values where it does.
    """

    def gelu(self, x: Tensor) -> Tensor:
        flat = torch._addmm_activation(self.bias, x.reshape(-1, x.shape[-1]), self.weight.t(), use_gelu=True)
        return flat.view(*x.shape[:-1], flat.shape[-1])


class Int8Dense:
    """8-bit weights with a scale for every output, activations made 8-bit as they come: twice as fast on most CPUs.

    Activations take the 7 bits that AVX2 adds up without overflow.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        scales = (weight.abs().amax(dim=1) / 127).clamp_min(1e-12).double()
        zeros = torch.zeros(len(scales), dtype=torch.long)
        values = torch.round(weight / scales.float()[:, None]).to(torch.int8)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of its removal one day; what replaces it has no packed weights
            quantized = torch._make_per_channel_quantized_tensor(values, scales, zeros, 0)
            self._packed = torch.ops.quantized.linear_prepack(quantized, bias.float())

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.quantized.linear_dynamic(x, self._packed, True)
        return result

    def gelu(self, x: Tensor) -> Tensor:
        return functional.gelu(self(x))
