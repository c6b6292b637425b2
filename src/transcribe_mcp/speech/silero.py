"""Silero's voice detection network: the weights of the shipped ONNX file, laid out anew as two ONNX graphs.

The shipped graph (`silero_vad_v6.onnx` in the wheel of `faster-whisper`) is, per frame of 64 + 512 samples:

    reflect pad → 4 windows of 256, hop 128 → |STFT| (129 bins) → 4 convolutions (kernel 3, ReLU) → (128,)
    → LSTM (128) → ReLU → 128 weights → sigmoid → probability

Only the LSTM looks across frames. So the part before it becomes `encoder_graph`, which may run on many stretches at
once and in any order, and the rest `recurrent_graph`, which carries (h, c) along. Both compute what the shipped
graph computes; the encoder is only arranged better for a CPU: over a frame of 4 steps each convolution is one matrix
product with many frames as rows (the shipped form is one tiny product per frame), and the transform uses that its
cosine rows are even and its sine rows odd about the window's middle, which halves that product.

The ONNX files are read and written here by hand: the few fields needed of protobuf's wire format
(https://protobuf.dev/programming-guides/encoding/) and of onnx.proto3 (https://github.com/onnx/onnx) are no reason
for a dependency.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transcribe_mcp.errors import EngineUnavailableError

FRAME_SAMPLES = 512
CONTEXT_SAMPLES = 64  # of the frame before, seen again in front of each frame
STATE_SIZE = 128  # of h and of c; also the width of what the encoder hands over

WINDOW_SAMPLES = 256
HOP_SAMPLES = 128
N_WINDOWS = 4  # per frame
_N_BINS = WINDOW_SAMPLES // 2 + 1
_HALF = WINDOW_SAMPLES // 2
REFLECTED_SAMPLES = (N_WINDOWS - 1) * HOP_SAMPLES + WINDOW_SAMPLES - CONTEXT_SAMPLES - FRAME_SAMPLES
assert REFLECTED_SAMPLES == 64

_ASSET = Path("assets", "silero_vad_v6.onnx")
_HINT = "pip install 'faster-whisper>=1.2.1,<2' puts the file back"

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Convolution:
    """weight (n_out, n_in, 3), bias (n_out,); zero padding of 1 at both ends."""

    weight: Array
    bias: Array
    stride: int


@dataclass(frozen=True, slots=True)
class SileroWeights:
    cosine: Array  # (129, 256), windowed, even about sample 128
    sine: Array  # (129, 256), windowed, odd about sample 128
    convolutions: tuple[Convolution, ...]
    lstm_input: Array  # (1, 512, 128), ONNX's gate order i o f c
    lstm_hidden: Array  # (1, 512, 128)
    lstm_bias: Array  # (1, 1024)
    output_weight: Array  # (128, 1)
    output_bias: Array  # (1,)


def shipped_model() -> Path:
    """Where `faster-whisper` keeps the network; the package itself is not imported.

    Raises: EngineUnavailableError when the package or the file is missing.
    """
    spec = importlib.util.find_spec("faster_whisper")
    if spec is None or not spec.submodule_search_locations:
        raise EngineUnavailableError(
            "voice detection needs a file of faster-whisper, which is missing", hint=_HINT
        )
    path = Path(spec.submodule_search_locations[0]) / _ASSET
    if not path.is_file():
        raise EngineUnavailableError(f"voice detection model not found: {path}", hint=_HINT)
    return path


def read_weights(path: Path) -> SileroWeights:
    """The weights in the shipped ONNX file.

    Raises: EngineUnavailableError when the file is damaged or is another network.
    """
    try:
        tensors = dict(_float_tensors(path.read_bytes()))
        weights = _named_weights(tensors)
    except OSError as error:
        raise EngineUnavailableError(
            f"cannot read the voice detection model {path}: {error}", hint=_HINT
        ) from error
    except (KeyError, ValueError, IndexError) as error:
        message = f"not the voice detection model this release knows: {path}: {error}"
        raise EngineUnavailableError(message, hint=_HINT) from error
    return weights


def _named_weights(tensors: dict[str, Array]) -> SileroWeights:
    basis = tensors["encoder.feature_extractor.forward_basis_buffer"].reshape(
        2, _N_BINS, WINDOW_SAMPLES
    )
    cosine, sine = basis
    if not np.array_equal(cosine[:, 1:_HALF], cosine[:, :_HALF:-1]) or cosine[:, 0].any():
        raise ValueError("the cosine rows of the transform are not even")
    if not np.array_equal(sine[:, 1:_HALF], -sine[:, :_HALF:-1]) or sine[:, [0, _HALF]].any():
        raise ValueError("the sine rows of the transform are not odd")
    return SileroWeights(
        cosine=cosine,
        sine=sine,
        convolutions=tuple(
            Convolution(
                tensors[f"encoder.conv_layers.{i}.weight"].reshape(n_out, n_in, 3),
                tensors[f"encoder.conv_layers.{i}.bias"].reshape(n_out),
                stride,
            )
            for i, (n_out, n_in, stride) in enumerate(
                [(128, _N_BINS, 1), (64, 128, 2), (64, 64, 2), (128, 64, 1)]
            )
        ),
        lstm_input=tensors["onnx::LSTM_209"].reshape(1, 4 * STATE_SIZE, STATE_SIZE),
        lstm_hidden=tensors["onnx::LSTM_210"].reshape(1, 4 * STATE_SIZE, STATE_SIZE),
        lstm_bias=tensors["onnx::LSTM_211"].reshape(1, 8 * STATE_SIZE),
        output_weight=tensors["decoder.conv1d.weight"].reshape(STATE_SIZE, 1),
        output_bias=tensors["decoder.conv1d.bias"].reshape(1),
    )


def folded_windows(samples: Array) -> tuple[Array, Array]:
    """(64 + 512 n,) samples, context first -> even (4 n, 128) and odd (4 n, 127) parts of their STFT windows.

    Sample 0 of a window is left out: its weight is zero.
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
    left, right = windows[:, :, 1:_HALF], windows[:, :, :_HALF:-1]
    even = np.empty((n_frames, N_WINDOWS, _HALF), np.float32)
    np.add(left, right, out=even[:, :, :-1])
    even[:, :, -1] = windows[:, :, _HALF]
    odd = np.subtract(left, right)
    return even.reshape(-1, _HALF), odd.reshape(-1, _HALF - 1)


def encoder_graph(weights: SileroWeights) -> bytes:
    """ONNX model: even (4 n, 128), odd (4 n, 127) -> features (n, 128)."""
    first, *rest = weights.convolutions
    # Of the 4 steps out, the first two see steps 0-2 and the last two see 1-3: two products without the zero blocks.
    matrix = as_matrix(first, N_WINDOWS)
    n_seen, n_half = 3 * _N_BINS, matrix.shape[1] // 2
    tensors: dict[str, NDArray[np.generic]] = {
        "cosine": weights.cosine[:, 1 : _HALF + 1].T,
        "sine": weights.sine[:, 1:_HALF].T,
        "frame_shape": np.array([-1, N_WINDOWS * _N_BINS]),
        "axis": np.array([1]),
        "early_from": np.array([0]),
        "early_to": np.array([n_seen]),
        "late_from": np.array([_N_BINS]),
        "late_to": np.array([_N_BINS + n_seen]),
        "early_weight": matrix[:n_seen, :n_half],
        "late_weight": matrix[_N_BINS:, n_half:],
        "half_bias": np.tile(first.bias, N_WINDOWS // 2),
    }
    nodes = [
        _node("MatMul", ["even", "cosine"], ["re"]),
        _node("MatMul", ["odd", "sine"], ["im"]),
        _node("Mul", ["re", "re"], ["re2"]),
        _node("Mul", ["im", "im"], ["im2"]),
        _node("Add", ["re2", "im2"], ["power"]),
        _node("Sqrt", ["power"], ["magnitude"]),
        _node("Reshape", ["magnitude", "frame_shape"], ["spectra"]),
        _node("Slice", ["spectra", "early_from", "early_to", "axis"], ["early"]),
        _node("Slice", ["spectra", "late_from", "late_to", "axis"], ["late"]),
        _node("Gemm", ["early", "early_weight", "half_bias"], ["early_out"]),
        _node("Gemm", ["late", "late_weight", "half_bias"], ["late_out"]),
        _node("Concat", ["early_out", "late_out"], ["sum0"], axis=1),
        _node("Relu", ["sum0"], ["out0"]),
    ]
    n_steps = N_WINDOWS
    for i, convolution in enumerate(rest, start=1):
        matrix = as_matrix(convolution, n_steps)
        n_steps = -(-n_steps // convolution.stride)
        tensors |= {f"weight{i}": matrix, f"bias{i}": np.tile(convolution.bias, n_steps)}
        nodes.append(_node("Gemm", [f"out{i - 1}", f"weight{i}", f"bias{i}"], [f"sum{i}"]))
        nodes.append(
            _node("Relu", [f"sum{i}"], [f"out{i}" if convolution is not rest[-1] else "features"])
        )
    inputs = [_value("even", ["windows", _HALF]), _value("odd", ["windows", _HALF - 1])]
    return _model(nodes, tensors, inputs, [_value("features", ["frames", STATE_SIZE])])


def recurrent_graph(weights: SileroWeights) -> bytes:
    """ONNX model: features (n, 1, 128), h and c (1, 1, 128) -> probability (n,), h_next, c_next."""
    tensors: dict[str, NDArray[np.generic]] = {
        "lstm_input": weights.lstm_input,
        "lstm_hidden": weights.lstm_hidden,
        "lstm_bias": weights.lstm_bias,
        "output_weight": weights.output_weight,
        "output_bias": weights.output_bias,
        "flat": np.array([-1]),
    }
    state = [1, 1, STATE_SIZE]
    lstm_inputs = ["features", "lstm_input", "lstm_hidden", "lstm_bias", "", "h", "c"]
    nodes = [
        _node("LSTM", lstm_inputs, ["states", "h_next", "c_next"], hidden_size=STATE_SIZE),
        _node("Relu", ["states"], ["active"]),
        _node("MatMul", ["active", "output_weight"], ["weighted"]),
        _node("Add", ["weighted", "output_bias"], ["logit"]),
        _node("Sigmoid", ["logit"], ["sigmoid"]),
        _node("Reshape", ["sigmoid", "flat"], ["probability"]),
    ]
    inputs = [_value("features", ["frames", 1, STATE_SIZE]), _value("h", state), _value("c", state)]
    outputs = [_value("probability", ["frames"]), _value("h_next", state), _value("c_next", state)]
    return _model(nodes, tensors, inputs, outputs)


def as_matrix(convolution: Convolution, n_steps: int) -> Array:
    """The convolution over `n_steps` steps as one matrix (n_steps n_in, n_steps_out n_out)."""
    n_out, n_in, n_taps = convolution.weight.shape
    n_steps_out = -(-n_steps // convolution.stride)
    matrix = np.zeros((n_steps, n_in, n_steps_out, n_out), np.float32)
    for step_out in range(n_steps_out):
        for tap in range(n_taps):
            step = step_out * convolution.stride + tap - 1
            if 0 <= step < n_steps:
                matrix[step, :, step_out, :] = convolution.weight[:, :, tap].T
    return matrix.reshape(n_steps * n_in, n_steps_out * n_out)


# Protobuf's wire format: a field is a key (number << 3 | wire type) and a varint, 4 or 8 bytes, or length and bytes.

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType


def _float_tensors(model: bytes) -> Iterator[tuple[str, Array]]:
    """(name, values) of the float32 initialisers of an ONNX model."""
    graph = dict(_fields(model))[7]
    if not isinstance(graph, bytes):
        raise ValueError("the graph is a number")
    for number, value in _fields(graph):
        if number == 5 and isinstance(value, bytes):
            content = dict(_fields(value))
            name, raw = content[8], content[9]
            if content[2] == _FLOAT and isinstance(name, bytes) and isinstance(raw, bytes):
                yield name.decode(), np.frombuffer(raw, "<f4").astype(np.float32)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        wire_type = key & 7
        if wire_type == _VARINT:
            value, at = _read_varint(message, at)
            yield key >> 3, value
            continue
        if wire_type == _LENGTH:
            size, at = _read_varint(message, at)
        elif wire_type in (_FOUR_BYTES, _EIGHT_BYTES):
            size = 4 if wire_type == _FOUR_BYTES else 8
        else:
            raise ValueError(f"wire type {wire_type} at byte {at}")
        if at + size > len(message):
            raise ValueError(f"cut off at byte {len(message)}")
        yield key >> 3, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | _LENGTH) + _varint(len(encoded)) + encoded


def _node(operator: str, inputs: list[str], outputs: list[str], **attributes: int) -> bytes:
    """NodeProto; the attributes are of type INT (2)."""
    fields = (
        [_bytes(1, name) for name in inputs]
        + [_bytes(2, name) for name in outputs]
        + [_bytes(4, operator)]
    )
    fields += [
        _bytes(5, _bytes(1, key) + _number(3, value) + _number(20, 2))
        for key, value in attributes.items()
    ]
    return b"".join(fields)


def _tensor(name: str, values: NDArray[np.generic]) -> bytes:
    """TensorProto of float32 or int64, little-endian."""
    is_float = values.dtype.kind == "f"
    raw = np.ascontiguousarray(values, "<f4" if is_float else "<i8").tobytes()
    shape = b"".join(_number(1, size) for size in values.shape)
    return shape + _number(2, _FLOAT if is_float else _INT64) + _bytes(8, name) + _bytes(9, raw)


def _value(name: str, shape: Sequence[str | int]) -> bytes:
    """ValueInfoProto of a float32 tensor; a size that varies has a name."""
    sizes = [_number(1, size) if isinstance(size, int) else _bytes(2, size) for size in shape]
    tensor_type = _number(1, _FLOAT) + _bytes(2, b"".join(_bytes(1, size) for size in sizes))
    return _bytes(1, name) + _bytes(2, _bytes(1, tensor_type))


def _model(
    nodes: list[bytes],
    tensors: dict[str, NDArray[np.generic]],
    inputs: list[bytes],
    outputs: list[bytes],
) -> bytes:
    """ModelProto, IR version 8, operator set 16: what ONNX Runtime has read since 1.12."""
    graph = [_bytes(1, node) for node in nodes] + [_bytes(2, "silero")]
    graph += [_bytes(5, _tensor(name, values)) for name, values in tensors.items()]
    graph += [_bytes(11, value) for value in inputs] + [_bytes(12, value) for value in outputs]
    return _number(1, 8) + _bytes(7, b"".join(graph)) + _bytes(8, _bytes(1, "") + _number(2, 16))
