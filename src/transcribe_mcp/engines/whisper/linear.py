"""Linear layers: the same product in the layouts that different devices compute fastest.

Each is made from float32 weights (outputs, inputs) and a bias (outputs,) and called with (..., inputs).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Linear(Protocol):
    def __call__(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""

    def gelu(self, x: Tensor) -> Tensor:
        """The same, through GELU."""


ENGINE = "fbgemm"  # torch's 8-bit products on x86, the only ones that take activations in float32
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
        flat = torch._addmm_activation(
            self.bias, x.reshape(-1, x.shape[-1]), self.weight.t(), use_gelu=True
        )
        return flat.view(*x.shape[:-1], flat.shape[-1])


class Bfloat16Dense(Dense):
    """Products of bfloat16 for activations in float32. GELU's are left in bfloat16, for the layer that takes them."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(weight.to(torch.bfloat16), bias.to(torch.bfloat16))

    def __call__(self, x: Tensor) -> Tensor:
        return self._narrow(x).float()

    def gelu(self, x: Tensor) -> Tensor:
        return _gelu_(self._narrow(x))

    def _narrow(self, x: Tensor) -> Tensor:
        return super().__call__(x.to(torch.bfloat16))


class Int8Dense:
    """8-bit products, a scale for every output and one for every row of the activations: twice as fast on most CPUs.

    A row is made 8-bit by itself, so that what a window says does not depend on those decoded beside it.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._packed = _packed(weight)
        self._bias = bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        largest = x.abs().amax(dim=-1, keepdim=True).clamp_min_(1e-12)
        return (
            product(x / largest, 1 / INPUT_STEPS, INPUT_ZERO, self._packed)
            .mul_(largest)
            .add_(self._bias)
        )

    def gelu(self, x: Tensor) -> Tensor:
        return _gelu_(self(x))


class Int8DenseAtOnce:
    """8-bit products, one scale for all activations of a call: less to do for each. For what comes in one piece."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._packed = _packed(weight, bias.float())

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.quantized.linear_dynamic(x, self._packed, False)
        return result

    def gelu(self, x: Tensor) -> Tensor:
        return _gelu_(self(x))


# AVX2 adds two products of an unsigned and a signed 8-bit number into 16 bits: with weights of 7 bits they cannot
# overflow. It is the weights that get along with less, since activations have outliers.
WEIGHT_STEPS = 63
INPUT_STEPS, INPUT_ZERO = 127, 128
assert 2 * 255 * WEIGHT_STEPS < 2**15


def has_int8_products() -> bool:
    """On processors for which torch is built without FBGEMM there are none that this file could use."""
    return ENGINE in torch.backends.quantized.supported_engines


def pack(values: Tensor, scales: Tensor | None = None, bias: Tensor | None = None) -> Any:
    """8-bit numbers (outputs, inputs), at most ``WEIGHT_STEPS`` large, and the scale of every output -> what
    ``product`` takes, in the layout that it is computed in."""
    if torch.backends.quantized.engine != ENGINE:
        torch.backends.quantized.engine = ENGINE
    with warnings.catch_warnings():
        # Of its removal one day; what replaces it has no packed weights.
        warnings.simplefilter("ignore", UserWarning)
        if scales is None:
            quantized = torch._make_per_tensor_quantized_tensor(values, 1.0, 0)
        else:
            zeros = torch.zeros(len(scales), dtype=torch.long)
            quantized = torch._make_per_channel_quantized_tensor(values, scales.double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(quantized, bias)


def _packed(weight: Tensor, bias: Tensor | None = None) -> Any:
    """A scale for every output."""
    scales = (weight.abs().amax(dim=1) / WEIGHT_STEPS).clamp_min(1e-12)
    return pack(torch.round(weight / scales[:, None]).to(torch.int8), scales, bias)


def product(x: Tensor, scale: float, zero: int, packed: Any) -> Tensor:
    """x (..., inputs) float32, made 8-bit in steps of ``scale`` -> (..., outputs).

    Steps are numbered from 0 to 255, of which ``zero`` is 0.0.
    """
    result: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        x, scale, zero, packed
    )
    return result


def _gelu_(x: Tensor) -> Tensor:
    """In place."""
    result: Tensor = torch.ops.aten.gelu_(x)
    return result
