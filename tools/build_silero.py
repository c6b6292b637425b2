"""Build the three files of Silero's voice activity detector that the package ships.

    pip install onnx faster-whisper==1.2.1
    python tools/build_silero.py [silero_vad_v6.onnx]

The source is Silero VAD v6 (https://github.com/snakers4/silero-vad, MIT licence), in the ONNX
export that the wheel of faster-whisper 1.2.1 carries. For each frame of 64 + 512 samples its graph
computes:

    reflect pad → 4 windows of 256, hop 128 → |STFT| (129 bins) → 4 convolutions (kernel 3, ReLU) →
    (128,) → LSTM (128) → ReLU → 128 weights → sigmoid → probability

Only the LSTM carries state from frame to frame. So the graph is split:

    silero_encoder.onnx    even (4 n, 128), odd (4 n, 127) → features (n, 128); any frames, in any
    order silero_recurrent.onnx  features (n, 1, 128), h and c (1, 1, 128) → probability (n,),
    h_next, c_next silero.npz     the weights for the GPU detector, as in ``SileroWeights``

The encoder computes the same numbers in a form that suits a CPU:

- Over a frame of 4 steps, each convolution is one matrix product with a row per frame.
- The cosine rows of the STFT are even and its sine rows odd about the middle of the window. Folding
  the window in half halves that product; ``transcribe_mcp.speech.silero.folded_windows`` does it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from transcribe_mcp.speech import silero

SOURCE_SHA256 = "4cbf549b8326f60f80f2536d9eefeb450a9abe83365a098031c89719f1be17d2"
# ONNX Runtime has read these versions since 1.12.
IR_VERSION = 8
OPERATOR_SET = 16

N_BINS = silero.WINDOW_SAMPLES // 2 + 1
HALF = silero.WINDOW_SAMPLES // 2

Shape = Sequence[str | int]


def main() -> None:
    source = Path(sys.argv[1]) if sys.argv[1:] else default_source()
    content = source.read_bytes()
    if hashlib.sha256(content).hexdigest() != SOURCE_SHA256:
        sys.exit(f"error: {source} is not the file that this program was written for")
    weights = named_weights(onnx.load_from_string(content))
    np.savez(silero.WEIGHTS, **asdict(weights))
    for path, model in (
        (silero.ENCODER, encoder_graph(weights)),
        (silero.RECURRENT, recurrent_graph(weights)),
    ):
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
    for path in (silero.WEIGHTS, silero.ENCODER, silero.RECURRENT):
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{checksum}  {path.name}  {path.stat().st_size} bytes")


def default_source() -> Path:
    spec = importlib.util.find_spec("faster_whisper")
    if spec is None or spec.origin is None:
        sys.exit("error: install faster-whisper==1.2.1, or give the path of silero_vad_v6.onnx")
    return Path(spec.origin).parent / "assets" / "silero_vad_v6.onnx"


def named_weights(model: onnx.ModelProto) -> silero.SileroWeights:
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    basis = tensors["encoder.feature_extractor.forward_basis_buffer"]
    cosine, sine = basis.reshape(2, N_BINS, silero.WINDOW_SAMPLES)
    assert np.array_equal(cosine[:, 1:HALF], cosine[:, :HALF:-1]), "cosine rows are not even"
    assert np.array_equal(sine[:, 1:HALF], -sine[:, :HALF:-1]), "sine rows are not odd"
    assert not cosine[:, 0].any()
    assert not sine[:, [0, HALF]].any()
    convolutions = {}
    for i in range(len(silero.STRIDES)):
        for part in ("weight", "bias"):
            convolutions[f"conv{i}_{part}"] = tensors[f"encoder.conv_layers.{i}.{part}"]
    return silero.SileroWeights(
        cosine=cosine.copy(),
        sine=sine.copy(),
        **convolutions,
        lstm_input=tensors["onnx::LSTM_209"],
        lstm_hidden=tensors["onnx::LSTM_210"],
        lstm_bias=tensors["onnx::LSTM_211"],
        output_weight=tensors["decoder.conv1d.weight"].reshape(silero.STATE_SIZE, 1),
        output_bias=tensors["decoder.conv1d.bias"],
    )


def encoder_graph(weights: silero.SileroWeights) -> onnx.ModelProto:
    first, *rest = weights.convolutions()
    # The first two of the 4 output steps see steps 0-2, the last two steps 1-3: two products
    # without the zero blocks.
    matrix = first.as_matrix(silero.N_WINDOWS)
    n_seen = 3 * N_BINS
    n_half = matrix.shape[1] // 2
    tensors: dict[str, NDArray[np.generic]] = {
        "cosine": weights.cosine[:, 1 : HALF + 1].T,
        "sine": weights.sine[:, 1:HALF].T,
        "frame_shape": np.array([-1, silero.N_WINDOWS * N_BINS]),
        "axis": np.array([1]),
        "early_from": np.array([0]),
        "early_to": np.array([n_seen]),
        "late_from": np.array([N_BINS]),
        "late_to": np.array([N_BINS + n_seen]),
        "early_weight": matrix[:n_seen, :n_half],
        "late_weight": matrix[N_BINS:, n_half:],
        "half_bias": np.tile(first.bias, silero.N_WINDOWS // 2),
    }
    node = helper.make_node
    nodes = [
        node("MatMul", ["even", "cosine"], ["re"]),
        node("MatMul", ["odd", "sine"], ["im"]),
        node("Mul", ["re", "re"], ["re2"]),
        node("Mul", ["im", "im"], ["im2"]),
        node("Add", ["re2", "im2"], ["power"]),
        node("Sqrt", ["power"], ["magnitude"]),
        node("Reshape", ["magnitude", "frame_shape"], ["spectra"]),
        node("Slice", ["spectra", "early_from", "early_to", "axis"], ["early"]),
        node("Slice", ["spectra", "late_from", "late_to", "axis"], ["late"]),
        node("Gemm", ["early", "early_weight", "half_bias"], ["early_out"]),
        node("Gemm", ["late", "late_weight", "half_bias"], ["late_out"]),
        node("Concat", ["early_out", "late_out"], ["sum0"], axis=1),
        node("Relu", ["sum0"], ["out0"]),
    ]
    n_steps = silero.N_WINDOWS
    for i, convolution in enumerate(rest, start=1):
        tensors[f"weight{i}"] = convolution.as_matrix(n_steps)
        n_steps = convolution.n_steps_out(n_steps)
        tensors[f"bias{i}"] = np.tile(convolution.bias, n_steps)
        nodes.append(node("Gemm", [f"out{i - 1}", f"weight{i}", f"bias{i}"], [f"sum{i}"]))
        output = "features" if convolution is rest[-1] else f"out{i}"
        nodes.append(node("Relu", [f"sum{i}"], [output]))
    inputs = {"even": ("windows", HALF), "odd": ("windows", HALF - 1)}
    return as_model(nodes, tensors, inputs, {"features": ("frames", silero.STATE_SIZE)})


def recurrent_graph(weights: silero.SileroWeights) -> onnx.ModelProto:
    tensors: dict[str, NDArray[np.generic]] = {
        "lstm_input": weights.lstm_input,
        "lstm_hidden": weights.lstm_hidden,
        "lstm_bias": weights.lstm_bias,
        "output_weight": weights.output_weight,
        "output_bias": weights.output_bias,
        "flat": np.array([-1]),
    }
    state = (1, 1, silero.STATE_SIZE)
    lstm_inputs = ["features", "lstm_input", "lstm_hidden", "lstm_bias", "", "h", "c"]
    lstm_outputs = ["states", "h_next", "c_next"]
    node = helper.make_node
    nodes = [
        node("LSTM", lstm_inputs, lstm_outputs, hidden_size=silero.STATE_SIZE),
        node("Relu", ["states"], ["active"]),
        node("MatMul", ["active", "output_weight"], ["weighted"]),
        node("Add", ["weighted", "output_bias"], ["logit"]),
        node("Sigmoid", ["logit"], ["sigmoid"]),
        node("Reshape", ["sigmoid", "flat"], ["probability"]),
    ]
    inputs = {"features": ("frames", 1, silero.STATE_SIZE), "h": state, "c": state}
    outputs = {"probability": ("frames",), "h_next": state, "c_next": state}
    return as_model(nodes, tensors, inputs, outputs)


def as_model(
    nodes: Sequence[onnx.NodeProto],
    tensors: dict[str, NDArray[np.generic]],
    inputs: dict[str, Shape],
    outputs: dict[str, Shape],
) -> onnx.ModelProto:
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(values), name)
        for name, values in tensors.items()
    ]
    graph = helper.make_graph(nodes, "silero", values_of(inputs), values_of(outputs), initializers)
    opset = helper.make_opsetid("", OPERATOR_SET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


def values_of(shapes: dict[str, Shape]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]


if __name__ == "__main__":
    main()
