"""Run one real operation of an engine in a child process; importing and loading are not enough.

    python operations.py ENGINE [--device cpu|cuda|cuda:N|cudnn] [--preload LIBRARY] [--repeat N]

Prints one JSON line at the end. If native code aborts the process, the parent sees the exit status.
Runs by path under any interpreter and imports nothing of ours; engines are imported by name.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A Whisper with every kind of layer, small enough to run in a second.
TINY = {
    "n_mels": 80,
    "n_state": 64,
    "n_head": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "n_vocab": 2000,
}
AUDIO_POSITIONS = 1500
MEL_FRAMES = 3000
TEXT_POSITIONS = 448
TIMESTAMPS = 1501
SPECIALS = (
    "endoftext", "startoftranscript", "en", "translate", "transcribe",
    "startoflm", "startofprev", "nospeech", "notimestamps",
)  # fmt: skip
DECODED_TOKENS = 32
CUDNN = "cudnn"  # pseudo-device: only the cuDNN shim of an old CTranslate2
BENCH = {
    "n_mels": 80,
    "n_state": 256,
    "n_head": 4,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "n_vocab": 8000,
}


def whisper_vocabulary(size: int) -> list[str]:
    """Token texts in Whisper's order: text, special tokens, timestamps."""
    ends = ["<|" + name + "|>" for name in SPECIALS] + [
        f"<|{i * 0.02:.2f}|>" for i in range(TIMESTAMPS)
    ]
    return [f"t{i}" for i in range(size - len(ends))] + ends


def _random_tensors() -> Callable[..., Any]:
    """A function that fills tensors of any shape from one seeded random block, which is fast."""
    np = importlib.import_module("numpy")
    block = np.random.default_rng(0).standard_normal(1 << 16, dtype=np.float32) * np.float32(0.02)
    turns = itertools.count()
    # Rolled, because CTranslate2 stores equal tensors once.
    return lambda *dims: np.resize(np.roll(block, next(turns)), dims)


def save_random_whisper(
    folder: str, shape: dict[str, int], quantization: str | None = None
) -> None:
    """Write a CTranslate2 Whisper of this shape with random weights (seeded) into ``folder``."""
    np = importlib.import_module("numpy")
    specs = importlib.import_module("ctranslate2.specs")
    fill = _random_tensors()
    d = shape["n_state"]

    def linear(layer: Any, out: int, inner: int) -> None:
        layer.weight = fill(out, inner)
        layer.bias = np.zeros(out, dtype=np.float32)

    def norm(layer: Any) -> None:
        layer.gamma = np.ones(d, dtype=np.float32)
        layer.beta = np.zeros(d, dtype=np.float32)

    def attention(block: Any, *widths: int) -> None:
        norm(block.layer_norm)
        for layer, width in zip(block.linear, widths, strict=True):
            linear(layer, width, d)

    def feed_forward(block: Any) -> None:
        norm(block.layer_norm)
        linear(block.linear_0, 4 * d, d)
        linear(block.linear_1, d, 4 * d)

    head = shape["n_head"]
    spec = specs.WhisperSpec(shape["encoder_layers"], head, shape["decoder_layers"], head)
    spec.encoder.conv1.weight = fill(d, shape["n_mels"], 3)
    spec.encoder.conv1.bias = np.zeros(d, dtype=np.float32)
    spec.encoder.conv2.weight = fill(d, d, 3)
    spec.encoder.conv2.bias = np.zeros(d, dtype=np.float32)
    spec.encoder.position_encodings.encodings = fill(AUDIO_POSITIONS, d)
    spec.decoder.position_encodings.encodings = fill(TEXT_POSITIONS, d)
    spec.decoder.embeddings.weight = fill(shape["n_vocab"], d)
    spec.decoder.projection.weight = spec.decoder.embeddings.weight
    norm(spec.encoder.layer_norm)
    norm(spec.decoder.layer_norm)
    for layer in spec.encoder.layer:
        attention(layer.self_attention, 3 * d, d)
        feed_forward(layer.ffn)
    for layer in spec.decoder.layer:
        attention(layer.self_attention, 3 * d, d)
        attention(layer.attention, d, 2 * d, d)
        feed_forward(layer.ffn)
    vocabulary = whisper_vocabulary(shape["n_vocab"])
    spec.register_vocabulary(vocabulary)
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = []
    spec.config.lang_ids = [vocabulary.index("<|en|>")]
    spec.config.alignment_heads = [(shape["decoder_layers"] - 1, 0)]
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(folder)


def run_whisper(
    model: Any, shape: dict[str, int], batch: int = 1, max_length: int = DECODED_TOKENS
) -> int:
    """Encode ``batch`` windows of noise and decode each; return the number of tokens."""
    np = importlib.import_module("numpy")
    ctranslate2 = importlib.import_module("ctranslate2")
    mel = np.random.default_rng(1).standard_normal(
        (batch, shape["n_mels"], MEL_FRAMES), dtype=np.float32
    )
    encoded = model.encode(
        ctranslate2.StorageView.from_array(np.ascontiguousarray(mel)), to_cpu=False
    )
    first = shape["n_vocab"] - TIMESTAMPS - len(SPECIALS)
    prompt = [
        first + SPECIALS.index(name)
        for name in ("startoftranscript", "en", "transcribe", "notimestamps")
    ]
    results = model.generate(
        encoded, [prompt] * batch, beam_size=1, max_length=max_length, suppress_tokens=[first]
    )
    return sum(len(result.sequences_ids[0]) for result in results)


def ctranslate2(device: str, repeat: int) -> dict[str, Any]:
    module = importlib.import_module("ctranslate2")
    if device == CUDNN:
        return {
            "version": module.__version__,
            "steps": open_cudnn_shim(Path(str(module.__file__)).parent.parent),
        }
    shape = BENCH if repeat else TINY
    with tempfile.TemporaryDirectory() as folder:
        save_random_whisper(folder, shape)
        kind, _, index = device.partition(":")
        compute_type = "float16" if kind == "cuda" else "int8"
        model = module.models.Whisper(
            folder, device=kind, device_index=int(index or 0), compute_type=compute_type
        )
        tokens = run_whisper(model, shape)
        steps = ["load", "encode", f"decode {tokens} tokens"]
        found = {"version": module.__version__, "steps": steps, "compute_type": model.compute_type}
        if repeat:
            found["seconds"] = [_timed(run_whisper, model, shape) for _ in range(repeat)]
        return found


def _timed(function: Any, *arguments: Any) -> float:
    started = time.perf_counter()
    function(*arguments)
    return round(time.perf_counter() - started, 6)


def open_cudnn_shim(site: Path) -> list[str]:
    """Open the cuDNN shim of wheels before 4.6.3, which aborts if cuDNN is missing."""
    steps = []
    for path in (site / "ctranslate2.libs").glob("libcudnn*.so*"):
        handle = ctypes.c_void_p()
        steps.append(
            f"cudnnCreate: status {ctypes.CDLL(str(path)).cudnnCreate(ctypes.byref(handle))}"
        )
    return steps


def torch(device: str, repeat: int) -> dict[str, Any]:
    module = importlib.import_module("torch")
    steps = []
    x = module.ones(64, 64, device=device)
    steps.append("tensor")
    if float((x @ x).sum()) != 64.0**3:
        raise RuntimeError("wrong result of a matrix product")
    steps.append("matrix product")
    layer = module.nn.Conv1d(80, 32, 3, padding=1).to(device)
    layer(module.ones(1, 80, 100, device=device)).sum().item()
    steps.append("convolution")
    return {"version": module.__version__, "steps": steps}


def onnxruntime(device: str, repeat: int) -> dict[str, Any]:
    module = importlib.import_module("onnxruntime")
    np = importlib.import_module("numpy")
    session = module.InferenceSession(_onnx_sum(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.ones(4, dtype=np.float32)})
    if y.tolist() != [2.0, 2.0, 2.0, 2.0]:
        raise RuntimeError(f"wrong result of a sum: {y}")
    return {
        "version": module.__version__,
        "steps": ["session", "run"],
        "providers": module.get_available_providers(),
    }


def _onnx_sum() -> bytes:
    """The ONNX model y = x + x as bytes, without a model file or the onnx package."""

    def field(number: int, payload: int | bytes) -> bytes:
        if isinstance(payload, int):
            return bytes([number << 3, payload])
        return bytes([number << 3 | 2, len(payload)]) + payload

    def value(name: bytes) -> bytes:
        tensor = field(1, 1) + field(2, field(1, field(1, 4)))  # element type float, shape (4,)
        return field(1, name) + field(2, field(1, tensor))

    node = field(1, b"x") + field(1, b"x") + field(2, b"y") + field(4, b"Add")
    graph = field(1, node) + field(2, b"g") + field(11, value(b"x")) + field(12, value(b"y"))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))  # IR version, graph, operator set


OPERATIONS = {"ctranslate2": ctranslate2, "torch": torch, "onnxruntime": onnxruntime}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=OPERATIONS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preload", action="append", default=[])
    parser.add_argument("--repeat", type=int, default=0)
    asked = parser.parse_args()
    for library in asked.preload:
        ctypes.CDLL(library)
    started = time.perf_counter()
    found = OPERATIONS[asked.engine](asked.device, asked.repeat)
    found.update(device=asked.device, took_s=round(time.perf_counter() - started, 3))
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
