"""Our PyTorch engine on a GPU against the ceilings of the device and against the peers, all in one
run.

    python benchmarks/gpu.py                     a GPU, about eight minutes
    python benchmarks/gpu.py --small             anywhere, to see that it runs: a small model, two
    minutes of audio
    python benchmarks/gpu.py --scale             1, 2, 4 and 8 GPUs: see gpu_scale.py

Models have random weights and decode exactly 100 tokens in every window of 30 s, in every engine,
without any option (``random_whisper.py``). Every part runs in a process of its own; one that fails
or comes too late is "not measured".
Peers: transformers' ``generate`` (float16, sdpa), CTranslate2 (float16), faster-whisper's batched
pipeline. Those not installed are left out. Times are medians after a warm-up with the device's
queue empty on both sides. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gpu_many
import gpu_parts
import gpu_peers
import gpu_prepare
import gpu_scale
from common import Bar, cores, versions
from gpu_parts import Figures, Setup
from random_whisper import TOKENS, shape_of

PACKAGES = (
    "transcribe-mcp",
    "torch",
    "triton",
    "transformers",
    "ctranslate2",
    "faster-whisper",
    "av",
    "numpy",
)
TURBO = "large-v3-turbo"
LARGE = "large-v3"
FULL = Setup(
    Path(), "cuda", "whisper", "auto", (TURBO, LARGE),
    ("tiny", "base", "small", "medium", LARGE, TURBO), (64, 128), (1, 8, 16, 64), 60.0, 1000, 3,
)  # fmt: skip
SMALL = replace(
    FULL, device="cpu", models=("tiny",), sizes=("tiny",), batches=(2,), memory_batches=(1,),
    minutes=2.0, jobs=3, runs=1,
)  # fmt: skip
PEER_BATCHES = {
    "transformers": {TURBO: (32, 128), LARGE: (32, 64)},
    "ctranslate2": {TURBO: (16, 64), LARGE: (16, 32)},
}
IN_BACKGROUND = ("prepare_mp3", "prepare_ctranslate2", "prepare_sizes")
NEEDS = {
    "pipeline": IN_BACKGROUND,  # encodes the MP3 while the device is idle
    "faster_whisper": ("prepare_ctranslate2",),
    "ctranslate2": ("prepare_ctranslate2",),
    "memory": ("prepare_sizes",),
}


def run_part(name: str, setup: Setup) -> Figures:
    """In the child."""
    kind, _, model = name.partition(":")
    if kind in PEER_BATCHES:
        peer = {"transformers": gpu_peers.transformers, "ctranslate2": gpu_peers.ctranslate2}[kind]
        return peer(setup, model, PEER_BATCHES[kind].get(model, setup.batches))
    if kind == "faster_whisper":
        return gpu_peers.faster_whisper(setup, model)
    modules = (gpu_prepare, gpu_many, gpu_parts)
    part = next(getattr(module, kind) for module in modules if hasattr(module, kind))
    found: Figures = part(setup, *model.split(":")) if model else part(setup)
    return found


def parts(setup: Setup, chosen: Sequence[str]) -> list[str]:
    """In the order of their worth, should the time run out."""
    first = setup.models[0]
    installed = importlib.util.find_spec
    names = [
        "prepare_models",
        "prepare_audio",
        "ceilings",
        *(f"core:{model}" for model in setup.models),
    ]
    names += [f"pipeline:{first}"]
    names += [f"faster_whisper:{first}"] * bool(installed("faster_whisper"))
    names += [f"ctranslate2:{model}" for model in setup.models]
    names += [f"transformers:{model}" for model in setup.models] * bool(installed("transformers"))
    if setup.device != "cpu":
        names += ["memory", f"core:{first}:bfloat16", f"jobs:{setup.sizes[0]}"]
        names += [f"reserved:{first}", f"queue:{first}"]
    if not chosen:
        return names
    needed = ("prepare_models", "prepare_audio", "ceilings")
    wanted = [name for one in chosen for name in names if one in (name, name.partition(":")[0])]
    return [*needed, *wanted]


class Run:
    """Starts the parts as children and gathers what they find."""

    def __init__(self, setup: Setup, budget_s: float) -> None:
        self.setup = setup
        self.budget_s = budget_s
        self.started = time.perf_counter()
        self.found: dict[str, Figures] = {}
        self.problems: dict[str, str] = {}

    @property
    def left_s(self) -> float:
        return self.budget_s - (time.perf_counter() - self.started)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        words = {**asdict(self.setup), "folder": str(self.setup.folder)}
        environment = {**os.environ, "TRANSCRIBE_MCP_CACHE_DIR": str(self.setup.folder / "cache")}
        log = (self.setup.folder / f"{name.replace(':', '-')}.log").open("wb")
        return subprocess.Popen(
            [sys.executable, __file__, "--part", name, "--setup", json.dumps(words)],
            stdout=log, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip

    def finish(self, name: str, child: subprocess.Popen[bytes]) -> None:
        try:
            child.wait(max(5.0, self.left_s))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        said = (self.setup.folder / f"{name.replace(':', '-')}.log").read_text(
            encoding="utf-8", errors="replace"
        )
        took_s = time.perf_counter() - self.started
        if child.returncode == 0:
            self.found[name] = json.loads(said.strip().splitlines()[-1])
            print(
                f"[{took_s:5.0f} s] {name}: {json.dumps(shortened(self.found[name]))}", flush=True
            )
        else:
            self.problems[name] = said[-1500:]
            print(f"[{took_s:5.0f} s] {name}: exit {child.returncode}\n{said[-1500:]}", flush=True)

    def all(self, names: Sequence[str]) -> None:
        background = {}
        for name in names:
            if self.left_s < 5:
                self.problems[name] = "no time was left"
                continue
            for waiting in NEEDS.get(name.partition(":")[0], ()):
                if waiting in background:
                    self.finish(waiting, background.pop(waiting))
            self.finish(name, self.start(name))
            if name == "prepare_audio":
                wanted = {one for other in names for one in NEEDS.get(other.partition(":")[0], ())}
                background = {
                    other: self.start(other) for other in IN_BACKGROUND if other in wanted
                }
        for waiting, child in background.items():
            self.finish(waiting, child)


def shortened(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    return value


def best(figures: Figures | None, key: str = "times_real_time") -> float | None:
    values = [row[key] for row in (figures or {}).values() if isinstance(row, dict) and key in row]
    return max(values, default=None)


def ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None


def shares(run: Run, model: str) -> dict[str, float]:
    """Of the measured ceilings: the encoder of that of matrix products, the decoder of that of
    memory; best batches.
    """
    ceiling = run.found.get("ceilings")
    core = run.found.get(f"core:{model}")
    if not ceiling or not core:
        return {}
    shape = shape_of(model)
    batches = {b: core[f"batch {b}"] for b in run.setup.batches if f"batch {b}" in core}
    batches = {b: row for b, row in batches.items() if "encode_s" in row}
    if not batches:
        return {}
    audio_bytes = 1 if "int8" in core["info"]["compute_type"] else 2
    encode = max(b * shape.encoder_flops / row["encode_s"] for b, row in batches.items())
    decode = max(
        shape.decoding_bytes(b, TOKENS, 2, audio_bytes) / row["decode_s"]
        for b, row in batches.items()
    )
    return {"encoder": encode / ceiling["flops"], "decoder": decode / ceiling["bytes_per_s"]}


def bars(run: Run) -> list[Bar]:
    found = run.found.get
    rows: list[Bar] = []
    goals = {TURBO: (4500.0, 4.0, 1.6), LARGE: (1800.0, 3.5, 2.5)}
    for model in run.setup.models:
        ours = best(found(f"core:{model}"))
        least, to_ctranslate2, to_transformers = goals.get(model, (0.0, 0.0, 0.0))
        rows += [
            Bar(f"{model} core, × real time", ours, ">=", least),
            Bar(
                f"{model} core / CTranslate2",
                ratio(ours, best(found(f"ctranslate2:{model}"))),
                ">=",
                to_ctranslate2,
            ),
            Bar(
                f"{model} core / transformers",
                ratio(ours, best(found(f"transformers:{model}"))),
                ">=",
                to_transformers,
            ),
        ]
        for stage, share in shares(run, model).items():
            rows.append(Bar(f"{model} {stage}, share of the ceiling", share, ">=", 0.6))
    first = run.setup.models[0]
    flow = found(f"pipeline:{first}", {})
    peer = found(f"faster_whisper:{first}", {})
    hours = [row["s"] for name, row in flow.items() if name.startswith("decoded") and "s" in row]
    decoded_s = flow.get("decoded, batch auto", {}).get("s")
    peer_s = min((row["s"] for row in peer.values() if "s" in row), default=None)
    mp3_s = flow.get("mp3", {}).get("s")
    clip_s = flow.get("clip", {}).get("s")
    rows += [
        Bar("hour with words, × faster-whisper batched", ratio(peer_s, decoded_s), ">=", 15.0),
        Bar("hour with words, s", decoded_s, "<=", 1.0),
        Bar("the same at the best batch size, s", min(hours, default=None), "<=", 1.0),
        Bar("hour from MP3 / decoded", ratio(mp3_s, decoded_s), "<=", 1.3),
        Bar("clip of 10 s, ms", clip_s and clip_s * 1000, "<=", 60.0),
        Bar(
            "voice detection, same decisions",
            flow.get("listening", {}).get("same_decisions"),
            ">=",
            0.995,
        ),
    ]
    errors = [abs(row["error"]) for row in found("memory", {}).values() if "error" in row]
    work = found(f"jobs:{run.setup.sizes[0]}", {})
    growth = ratio(work.get("reserved_at_most"), work.get("reserved_by_longest"))
    rows += [
        Bar("memory, worst error of the prediction", max(errors, default=None), "<=", 0.10),
        Bar(
            f"memory reserved over {run.setup.jobs} jobs / by the longest alone", growth, "<=", 1.10
        ),
        Bar(
            "MB left after close()", (work["left_after_close"] / 1e6) if work else None, "<=", 16.0
        ),
    ]
    return rows


def bars_of_many(run: Run) -> list[Bar]:
    first = run.setup.models[0]
    over = run.found.get(f"reserved:{first}", {})
    queued = run.found.get(f"queue:{first}", {})
    growth = ratio(over["many"]["reserved"], over["longest"]["reserved"]) if over else None
    return [
        Bar("memory reserved by 30 recordings / by the longest alone", growth, "<=", 1.2),
        Bar("64 jobs of ten minutes / the decoded hour", queued.get("share"), ">=", 0.85),
    ]


def device_words() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
            or "CPU"
        )
    except OSError:
        return "CPU"


def report(run: Run) -> None:
    rows = [*bars(run), *bars_of_many(run)]
    print(f"\n{device_words()}, {cores()} cores, {time.perf_counter() - run.started:.0f} s")
    flow = run.found.get(f"pipeline:{run.setup.models[0]}", {})
    if media_s := flow.get("mp3, media decoding alone", {}).get("s"):
        print(
            f"The hour cannot be read from MP3 in less than {media_s:.3f} s: its decoding "
            "alone on all cores."
        )
    for bar in rows:
        value = "not measured" if bar.value is None else f"{bar.value:.4g}"
        print(
            f"{bar.name:<52}{value:>14}  {bar.relation} "
            f"{bar.limit:<7g}{'pass' if bar.passed else 'FAIL'}"
        )
    whole = {
        "benchmark": "gpu",
        "device": device_words(),
        "cores": cores(),
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
        "figures": shortened(run.found),
        "shares": {model: shortened(shares(run, model)) for model in run.setup.models},
        "problems": run.problems,
        "bars": [shortened(bar.to_json()) for bar in rows],
    }
    print(json.dumps(whole))


def main() -> None:
    if "--scale" in sys.argv:
        raise SystemExit(gpu_scale.main([word for word in sys.argv[1:] if word != "--scale"]))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="on the CPU, a small model")
    parser.add_argument("--engine", default="whisper")
    parser.add_argument(
        "--parts",
        default="",
        help="in this order, comma-separated: core, pipeline, memory, jobs, reserved, queue, peers",
    )
    parser.add_argument("--models", default="")
    parser.add_argument("--batches", default="")
    parser.add_argument("--budget", type=float, default=530.0, help="seconds for everything")
    parser.add_argument(
        "--work", type=Path, help="folder to keep models and audio in; a temporary one otherwise"
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--setup", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        words = json.loads(asked.setup)
        setup = Setup(**{k: tuple(v) if isinstance(v, list) else v
                         for k, v in words.items() if k != "folder"},
                      folder=Path(words["folder"]))  # fmt: skip
        figures = run_part(asked.part, setup)
        print(f"\n{json.dumps(figures)}", flush=True)
        return
    setup = replace(SMALL if asked.small else FULL, engine=asked.engine)
    if asked.models:
        setup = replace(setup, models=tuple(asked.models.split(",")))
    if asked.batches:
        setup = replace(setup, batches=tuple(map(int, asked.batches.split(","))))
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(replace(setup, folder=folder), asked.budget)
        run.all(parts(run.setup, tuple(filter(None, asked.parts.split(",")))))
        report(run)


if __name__ == "__main__":
    main()
