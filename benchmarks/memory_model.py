"""Peak memory of Whisper by size, batch and precision, measured and compared with
``compat.memory``'s prediction.

    python benchmarks/memory_model.py                          every engine that this machine can
    run python benchmarks/memory_model.py --engines torch --models tiny,large-v3 --batches 1,8

Weights are random; memory does not depend on them. Engines: ``torch`` (plain PyTorch with static
caches on CUDA, peak of ``torch.cuda.max_memory_allocated``, driver context not included),
``ctranslate2`` (CUDA; peak of the device's used memory while it runs, read from NVML every
millisecond, less what was used before: run it on an idle GPU), ``cpu`` (CTranslate2; peak resident
memory of the process). Each measurement runs in a process of its own. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from common import versions

from transcribe_mcp.compat.memory import Geometry, geometry, memory_need
from transcribe_mcp.compat.operations import run_whisper, save_random_whisper
from transcribe_mcp.compat.preload import preload_cublas

PRECISIONS = {"torch": ("float16",), "ctranslate2": ("float16", "int8_float16"), "cpu": ("int8",)}
TIMEOUT_S = 580
DECODED_STEPS = 24  # static caches: more steps need no more memory
MAX_LENGTH = 448
WITHIN = 0.15


def shape_of(one: Geometry) -> dict[str, int]:
    return {name: value for name, value in asdict(one).items() if name != "model"}


# --- plain PyTorch --------------------------------------------------------------------------------


class PlainWhisper:
    """Whisper in plain PyTorch with random weights, float16 and fused attention."""

    def __init__(self, one: Geometry, device: str = "cuda") -> None:
        self.torch = importlib.import_module("torch")
        self.functional = self.torch.nn.functional
        self.options = {"device": device, "dtype": self.torch.float16}
        self.one = one
        self.d = one.n_state
        self.conv1 = self.torch.randn(self.d, one.n_mels, 3, **self.options) * 0.02
        self.conv2 = self.torch.randn(self.d, self.d, 3, **self.options) * 0.02
        self.positions = self.torch.randn(1500, self.d, **self.options)
        self.encoder = [self.layer(False) for _ in range(one.encoder_layers)]
        self.decoder = [self.layer(True) for _ in range(one.decoder_layers)]
        self.embedding = self.weight(one.n_vocab, self.d)
        self.text_positions = self.weight(448, self.d)

    def weight(self, out: int, inner: int) -> Any:
        return self.torch.randn(out, inner, **self.options) * 0.02

    def layer(self, cross: bool) -> dict[str, Any]:
        names = ("q", "k", "v", "o", *(("cq", "ck", "cv", "co") if cross else ()))
        weights = {name: self.weight(self.d, self.d) for name in names}
        norms = range(3 if cross else 2)
        weights |= {f"n{i}": self.torch.ones(self.d, **self.options) for i in norms}
        up = self.weight(4 * self.d, self.d)
        return {**weights, "up": up, "down": self.weight(self.d, 4 * self.d)}

    def heads_of(self, x: Any, weight: Any) -> Any:
        heads = self.one.n_head
        y = self.functional.linear(x, weight)
        return y.view(y.shape[0], y.shape[1], heads, self.d // heads).transpose(1, 2)

    def attend(self, q: Any, k: Any, v: Any, out: Any) -> Any:
        y = self.functional.scaled_dot_product_attention(q, k, v)
        y = y.transpose(1, 2).reshape(q.shape[0], q.shape[2], self.d)
        return self.functional.linear(y, out)

    def norm(self, x: Any, weight: Any) -> Any:
        return self.functional.layer_norm(x, (self.d,), weight)

    def feed_forward(self, x: Any, w: dict[str, Any], weight: Any) -> Any:
        wide = self.functional.linear(self.norm(x, weight), w["up"])
        return x + self.functional.linear(self.functional.gelu(wide), w["down"])

    def encode(self, batch: int) -> Any:
        """(batch, 1500, d): the encoder's output for random mel spectrograms."""
        gelu = self.functional.gelu
        x = self.torch.randn(batch, self.one.n_mels, 3000, **self.options)
        x = gelu(self.functional.conv1d(x, self.conv1, padding=1))
        x = gelu(self.functional.conv1d(x, self.conv2, padding=1, stride=2)).transpose(1, 2)
        x = x + self.positions
        for w in self.encoder:
            y = self.norm(x, w["n0"])
            q, k, v = (self.heads_of(y, w[name]) for name in "qkv")
            x = x + self.attend(q, k, v, w["o"])
            x = self.feed_forward(x, w, w["n1"])
        return x

    def decode(self, audio: Any, steps: int) -> None:
        """Decode ``steps`` tokens per window with preallocated caches."""
        batch = len(audio)
        heads = self.one.n_head
        cross = [[self.heads_of(audio, w[name]) for name in ("ck", "cv")] for w in self.decoder]
        del audio  # as an engine would, before the decoder allocates
        size = (len(self.decoder), 2, batch, heads, 448, self.d // heads)
        cache = self.torch.zeros(size, **self.options)
        token = self.torch.zeros(batch, 1, dtype=self.torch.long, device=self.options["device"])
        for step in range(steps):
            x = self.embedding[token] + self.text_positions[step]
            for i, w in enumerate(self.decoder):
                y = self.norm(x, w["n0"])
                for which, name in enumerate("kv"):
                    cache[i, which, :, :, step : step + 1] = self.heads_of(y, w[name])
                past = cache[i, :, :, :, : step + 1]
                x = x + self.attend(self.heads_of(y, w["q"]), past[0], past[1], w["o"])
                q = self.heads_of(self.norm(x, w["n2"]), w["cq"])
                x = x + self.attend(q, *cross[i], w["co"])
                x = self.feed_forward(x, w, w["n1"])
            token = self.functional.linear(x, self.embedding).float().argmax(-1)


def torch_peak_bytes(one: Geometry, batch: int) -> int:
    """Peak GPU memory of encoding ``batch`` windows and decoding them."""
    torch = importlib.import_module("torch")
    with torch.inference_mode():
        model = PlainWhisper(one)
        model.decode(model.encode(batch), DECODED_STEPS)
        torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated())


# --- CTranslate2 ----------------------------------------------------------------------------------


class _Memory(ctypes.Structure):
    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


def nvml_used() -> Callable[[], int]:
    """A function that reads the bytes in use on the first GPU."""
    library = ctypes.CDLL("libnvidia-ml.so.1")
    handle = ctypes.c_void_p()
    memory = _Memory()
    library.nvmlInit_v2()
    library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))

    def used() -> int:
        library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        return int(memory.used)

    return used


@contextmanager
def highest(read: Callable[[], int]) -> Iterator[list[int]]:
    """Reads every millisecond; the list's one item is the highest value so far."""
    found = [read()]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            found[0] = max(found[0], read())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        found[0] = max(found[0], read())


def ctranslate2_peak_bytes(one: Geometry, batch: int, precision: str, folder: str) -> int:
    module = importlib.import_module("ctranslate2")
    preload_cublas()
    used = nvml_used()
    before = used()
    with highest(used) as peak:
        model = module.models.Whisper(folder, device="cuda", compute_type=precision)
        run_whisper(model, shape_of(one), batch, MAX_LENGTH)
    return peak[0] - before


def cpu_peak_bytes(one: Geometry, batch: int, precision: str, folder: str) -> int:
    module = importlib.import_module("ctranslate2")
    resource = importlib.import_module("resource")
    model = module.models.Whisper(folder, device="cpu", compute_type=precision)
    run_whisper(model, shape_of(one), batch, 32)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


# --- the comparison -------------------------------------------------------------------------------


def measure(engine: str, model: str, precision: str, batch: int, folder: str) -> dict[str, Any]:
    """One row, measured in a child process; ``measured_bytes`` is None with the reason where it
    failed.
    """
    predicted = memory_need(geometry(model), engine, precision, batch).total_bytes
    row: dict[str, Any] = {"engine": engine, "model": model, "precision": precision, "batch": batch}
    command = [sys.executable, __file__, "--child", engine, model, precision, str(batch), folder]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        measured = int(done.stdout.split()[-1]) if done.returncode == 0 else None
        problem = (
            ""
            if measured
            else (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        )
    except subprocess.TimeoutExpired:
        measured = None
        problem = "timeout"
    error = predicted / measured - 1 if measured else None
    row |= {
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "error": error,
        "problem": problem,
    }
    return row | {"took_s": round(time.perf_counter() - started, 1)}


def child(engine: str, model: str, precision: str, batch: str, folder: str) -> None:
    one = geometry(model)
    if engine == "torch":
        print(torch_peak_bytes(one, int(batch)))
    else:
        measured = {"ctranslate2": ctranslate2_peak_bytes, "cpu": cpu_peak_bytes}[engine]
        print(measured(one, int(batch), precision, folder))


@contextmanager
def saved(engine: str, model: str) -> Iterator[str]:
    """A folder with the model for CTranslate2's engines, made once for all batches; empty for
    PyTorch.
    """
    with tempfile.TemporaryDirectory() as folder:
        if engine != "torch":
            quantization = "int8" if engine == "cpu" else "float16"
            command = [sys.executable, __file__, "--save", model, quantization, folder]
            subprocess.run(command, check=True, timeout=TIMEOUT_S)
        yield folder


def engines_here() -> list[str]:
    try:
        nvml_used()
    except OSError:
        return ["cpu"]
    has_torch = importlib.util.find_spec("torch") is not None
    return [*(["torch"] if has_torch else []), "ctranslate2"]


def device_words() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
            or "CPU"
        )
    except OSError:
        return "CPU"


def show(row: dict[str, Any]) -> None:
    numbers = f"{row['predicted_bytes'] / 1e6:>14.0f}{row['error'] or 0:>8.1%}"
    shown = (
        f"{row['measured_bytes'] / 1e6:>13.0f}{numbers}"
        if row["measured_bytes"]
        else f"  {row['problem']}"
    )
    print(
        f"{row['engine']:<13}{row['model']:<18}{row['precision']:<14}{row['batch']:>6}{shown}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", help="comma-separated: torch, ctranslate2, cpu")
    parser.add_argument("--models", default="tiny,base,small,medium,large-v3,large-v3-turbo")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--save", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return child(*asked.child)
    if asked.save:
        model, quantization, folder = asked.save
        return save_random_whisper(folder, shape_of(geometry(model)), quantization)
    rows = []
    print(
        f"{'engine':<13}{'model':<18}{'precision':<14}{'batch':>6}"
        f"{'measured MB':>13}{'predicted MB':>14}{'error':>8}"
    )
    for engine in asked.engines.split(",") if asked.engines else engines_here():
        for model in asked.models.split(","):
            with saved(engine, model) as folder:
                for precision in PRECISIONS[engine]:
                    for batch in map(int, asked.batches.split(",")):
                        rows.append(measure(engine, model, precision, batch, folder))
                        show(rows[-1])
    measured = [row for row in rows if row["measured_bytes"]]
    worst = max((abs(row["error"]) for row in measured), default=None)
    installed = versions(("ctranslate2", "torch", "numpy"))
    answer = {"device": device_words(), "versions": installed, "within": WITHIN}
    answer |= {"worst_error": worst, "rows": rows}
    print(json.dumps({"benchmark": "memory_model", **answer}))
    return None


if __name__ == "__main__":
    main()
