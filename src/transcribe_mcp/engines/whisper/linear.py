"""Linear layers in the layouts and precisions that are fastest on each device.

Each is built from float32 weights (outputs, inputs) and a bias (outputs,). Inputs are (...,
inputs).
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
        """The same, followed by GELU."""


ENGINE = "fbgemm"  # torch's int8 backend on x86; the only one that takes float32 activations
MakeLinear = Callable[[Tensor, Tensor], Linear]


class Dense:
    """Weights in the precision of the activations. GELU is exact, as in Whisper's training."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        return functional.gelu(self(x))


class FusedDense(Dense):
    """GELU fused into the product, for 16-bit precisions on CUDA. Saves one pass over the
    activations.

    cuBLASLt only has the tanh approximation. Its error is at most 5e-4, below the resolution of
    bfloat16 and close to that of float16 at those values.
    """

    def gelu(self, x: Tensor) -> Tensor:
        flat = torch._addmm_activation(
            self.bias, x.reshape(-1, x.shape[-1]), self.weight.t(), use_gelu=True
        )
        return flat.view(*x.shape[:-1], flat.shape[-1])


class Bfloat16Dense(Dense):
    """bfloat16 products for float32 activations. The output of GELU stays bfloat16 for the next
    layer.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(weight.to(torch.bfloat16), bias.to(torch.bfloat16))

    def __call__(self, x: Tensor) -> Tensor:
        return self._narrow(x).float()

    def gelu(self, x: Tensor) -> Tensor:
        return _gelu_(self._narrow(x))

    def _narrow(self, x: Tensor) -> Tensor:
        return super().__call__(x.to(torch.bfloat16))


class Int8Dense:
    """int8 products with one scale per output and one per row of the activations. Twice as fast on
    most CPUs.

    Each row is quantized on its own, so a window's text does not depend on the other windows of the
    batch.
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
    """int8 products with one scale for all activations of a call. Cheaper; for inputs that always
    come together.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._packed = _packed(weight, bias.float())

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.quantized.linear_dynamic(x, self._packed, False)
        return result

    def gelu(self, x: Tensor) -> Tensor:
        return _gelu_(self(x))


# AVX2 adds two uint8 x int8 products in 16 bits. With 7-bit weights they cannot overflow. The
# weights lose precision, because activations have outliers.
WEIGHT_STEPS = 63
INPUT_STEPS = 127
INPUT_ZERO = 128
assert 2 * 255 * WEIGHT_STEPS < 2**15


def has_int8_products() -> bool:
    """Whether torch has FBGEMM on this CPU."""
    return ENGINE in torch.backends.quantized.supported_engines


def pack(values: Tensor, scales: Tensor | None = None, bias: Tensor | None = None) -> Any:
    """Pack int8 weights (outputs, inputs), magnitude <= ``WEIGHT_STEPS``, for ``product``."""
    if torch.backends.quantized.engine != ENGINE:
        torch.backends.quantized.engine = ENGINE
    with warnings.catch_warnings():
        # The deprecation warning: the replacement has no packed weights.
        warnings.simplefilter("ignore", UserWarning)
        if scales is None:
            quantized = torch._make_per_tensor_quantized_tensor(values, 1.0, 0)
        else:
            zeros = torch.zeros(len(scales), dtype=torch.long)
            quantized = torch._make_per_channel_quantized_tensor(values, scales.double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(quantized, bias)


def _packed(weight: Tensor, bias: Tensor | None = None) -> Any:
    """Quantize with one scale per output, and pack."""
    scales = (weight.abs().amax(dim=1) / WEIGHT_STEPS).clamp_min(1e-12)
    return pack(torch.round(weight / scales[:, None]).to(torch.int8), scales, bias)


def product(x: Tensor, scale: float, zero: int, packed: Any) -> Tensor:
    """Quantize x (..., inputs) float32 with ``scale`` and multiply -> (..., outputs).

    Quantized values are 0 to 255; ``zero`` stands for 0.0.
    """
    result: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        x, scale, zero, packed
    )
    return result


def _gelu_(x: Tensor) -> Tensor:
    """GELU in place."""
    result: Tensor = torch.ops.aten.gelu_(x)
    return result
