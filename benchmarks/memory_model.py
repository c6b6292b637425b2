"""Peak memory of Whisper by size, batch and precision, measured and compared with ``compat.memory``'s prediction.

    python benchmarks/memory_model.py                          every engine that this machine can run
    python benchmarks/memory_model.py --engines torch --models tiny,large-v3 --batches 1,8

Weights are random; memory does not depend on them. Engines: ``torch`` (plain PyTorch with static caches on CUDA, peak
of ``torch.cuda.max_memory_allocated``, driver context not included), ``ctranslate2`` (CUDA; peak of the device's used
memory while it runs, read from NVML every millisecond, less what was used before: run it on an idle GPU), ``cpu``
(CTranslate2; peak resident memory of the process). Each measurement runs in a process of its own.
Last line: one JSON object.
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


# --- plain PyTorch ----------------------------------------------------------------------------------------------------


def torch_peak_bytes(one: Geometry, batch: int) -> int:
    """Encode ``batch`` windows and decode with preallocated caches, float16, fused attention."""
    torch = importlib.import_module("torch")
    options = {"device": "cuda", "dtype": torch.float16}
    functional = torch.nn.functional
    d, heads = one.n_state, one.n_head

    def linear(out: int, inner: int) -> Any:
        return torch.randn(out, inner, **options) * 0.02

    def layer(cross: bool) -> dict[str, Any]:
        names = ("q", "k", "v", "o", *(("cq", "ck", "cv", "co") if cross else ()))
        norms = {f"n{i}": torch.ones(d, **options) for i in range(3 if cross else 2)}
        return {
            **{name: linear(d, d) for name in names},
            **norms,
            "up": linear(4 * d, d),
            "down": linear(d, 4 * d),
        }

    def split(x: Any) -> Any:
        return x.view(x.shape[0], x.shape[1], heads, d // heads).transpose(1, 2)

    def attend(q: Any, k: Any, v: Any, out: Any) -> Any:
        y = functional.scaled_dot_product_attention(q, k, v)
        return functional.linear(y.transpose(1, 2).reshape(q.shape[0], q.shape[2], d), out)

    def norm(x: Any, weight: Any) -> Any:
        return functional.layer_norm(x, (d,), weight)

    def feed_forward(x: Any, w: dict[str, Any], weight: Any) -> Any:
        return x + functional.linear(
            functional.gelu(functional.linear(norm(x, weight), w["up"])), w["down"]
        )

    with torch.inference_mode():
        conv1, conv2 = (
            torch.randn(d, one.n_mels, 3, **options) * 0.02,
            torch.randn(d, d, 3, **options) * 0.02,
        )
        positions = torch.randn(1500, d, **options)
        encoder = [layer(False) for _ in range(one.encoder_layers)]
        decoder = [layer(True) for _ in range(one.decoder_layers)]
        embedding, text_positions = linear(one.n_vocab, d), linear(448, d)
        x = torch.randn(batch, one.n_mels, 3000, **options)
        x = functional.gelu(functional.conv1d(x, conv1, padding=1))
        x = (
            functional.gelu(functional.conv1d(x, conv2, padding=1, stride=2)).transpose(1, 2)
            + positions
        )
        for w in encoder:
            y = norm(x, w["n0"])
            q, k, v = (split(functional.linear(y, w[name])) for name in "qkv")
            x = x + attend(q, k, v, w["o"])
            x = feed_forward(x, w, w["n1"])
        audio = [[split(functional.linear(x, w[name])) for name in ("ck", "cv")] for w in decoder]
        size = (len(decoder), 2, batch, heads, 448, d // heads)
        cache = torch.zeros(size, **options)
        token = torch.zeros(batch, 1, dtype=torch.long, device="cuda")
        for step in range(DECODED_STEPS):
            x = embedding[token] + text_positions[step]
            for i, w in enumerate(decoder):
                y = norm(x, w["n0"])
                cache[i, 0, :, :, step : step + 1] = split(functional.linear(y, w["k"]))
                cache[i, 1, :, :, step : step + 1] = split(functional.linear(y, w["v"]))
                q = split(functional.linear(y, w["q"]))
                x = x + attend(
                    q, cache[i, 0, :, :, : step + 1], cache[i, 1, :, :, : step + 1], w["o"]
                )
                x = x + attend(
                    split(functional.linear(norm(x, w["n2"]), w["cq"])), *audio[i], w["co"]
                )
                x = feed_forward(x, w, w["n1"])
            token = functional.linear(x, embedding).float().argmax(-1)
        torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated())


# --- CTranslate2 ------------------------------------------------------------------------------------------------------


class _Memory(ctypes.Structure):
    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


def nvml_used() -> Callable[[], int]:
    """A function that reads the bytes in use on the first GPU."""
    library = ctypes.CDLL("libnvidia-ml.so.1")
    handle, memory = ctypes.c_void_p(), _Memory()
    library.nvmlInit_v2()
    library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))

    def used() -> int:
        library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        return int(memory.used)

    return used


@contextmanager
def highest(read: Callable[[], int]) -> Iterator[list[int]]:
    """Reads every millisecond; the list's one item is the highest value so far."""
    found, done = [read()], threading.Event()

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
    module, resource = importlib.import_module("ctranslate2"), importlib.import_module("resource")
    model = module.models.Whisper(folder, device="cpu", compute_type=precision)
    run_whisper(model, shape_of(one), batch, 32)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


# --- the comparison ---------------------------------------------------------------------------------------------------


def measure(engine: str, model: str, precision: str, batch: int, folder: str) -> dict[str, Any]:
    """One row, measured in a child process; ``measured_bytes`` is None with the reason where it failed."""
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
        measured, problem = None, "timeout"
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
    """A folder with the model for CTranslate2's engines, made once for all batches; empty for PyTorch."""
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
        f"{'engine':<13}{'model':<18}{'precision':<14}{'batch':>6}{'measured MB':>13}{'predicted MB':>14}{'error':>8}"
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
    print(json.dumps({"benchmark": "memory_model", "device": device_words(), "versions": installed, "within": WITHIN,
                      "worst_error": worst, "rows": rows}))  # fmt: skip
    return None


if __name__ == "__main__":
    main()
