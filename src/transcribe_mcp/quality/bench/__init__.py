"""Measure the speed of this machine: stages, share of the hardware's limits, memory, and peers.

Stages run one at a time on the recording's windows, with synchronised devices. In the whole
pipeline they overlap, so its time is less than their sum. ``ceilings`` measures the device's
limits; ``peers`` runs other programs in separate processes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import models
from ...compat.memory import Geometry
from ...domain.options import Options
from ...domain.progress import Progress, no_progress
from ...engines import DecodingOptions, EngineInfo, Recognizer
from ...engines.model_shape import known_shape
from ...errors import ModelError, UsageError
from ...media.decode import SAMPLE_RATE_HZ, Samples, read
from ...pipeline.checkpoint import Checkpoint
from ...pipeline.offline import transcribe
from ...runtime.executor import Executor
from ...speech.detector import SpeechDetector
from ...speech.regions import Window
from .ceilings import Ceilings, gpu_peak_bytes, measure_ceilings, peak_bytes, run_times_s

SPEECH = Path(__file__).with_name("speech.flac")  # 11 s of one voice, repeated
ALL_STAGES = "total, stages overlapped"
STEPS = 7  # first run, ceilings, four stages, whole pipeline
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Stage:
    """One row. ``share`` is the fraction of the limit ``of``; ``None`` if unknown."""

    name: str
    seconds: float
    times_real_time: float
    share: float | None = None
    of: str = ""


@dataclass(frozen=True, slots=True)
class PeerTime:
    """Time of another program for the same recording, or why there is none."""

    name: str
    seconds: float | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Bench:
    """The results of a benchmark."""

    info: EngineInfo
    audio_s: float
    windows: int
    tokens: int
    stages: tuple[Stage, ...]
    ceilings: Ceilings
    peak_bytes: int | None
    gpu_peak_bytes: int | None
    peers: tuple[PeerTime, ...] = ()

    @property
    def total_s(self) -> float:
        return self.stages[-1].seconds

    def to_json(self) -> dict[str, Any]:
        info = self.info
        return {
            "engine": info.engine,
            "model": info.model,
            "device": info.device,
            "compute_type": info.compute_type,
            "batch_size": info.batch_size,
            "versions": dict(info.versions),
            "warnings": [asdict(notice) for notice in info.warnings],
            "audio_s": self.audio_s,
            "windows": self.windows,
            "tokens": self.tokens,
            "ceilings": asdict(self.ceilings),
            "stages": [asdict(stage) for stage in self.stages],
            "peak_bytes": self.peak_bytes,
            "gpu_peak_bytes": self.gpu_peak_bytes,
            "peers": [asdict(peer) for peer in self.peers],
        }

    def table(self) -> str:
        info = self.info
        lines = [
            (
                f"{info.engine} {info.model} on {info.device}, {info.compute_type}, batches of "
                f"{info.batch_size}"
            ),
            f"{self.audio_s / 60:.1f} min of audio: {self.windows} windows, {self.tokens} tokens",
            "",
            f"{'stage':<28}{'seconds':>10}{'× real time':>14}   share of the limit",
        ]
        for stage in self.stages:
            share = "" if stage.share is None else f"{stage.share:.0%} of {stage.of}"
            lines.append(
                (
                    f"{stage.name:<28}{stage.seconds:>10.3f}{stage.times_real_time:>14.1f}   "
                    f"{share}"
                ).rstrip()
            )
        sizes = {"memory": self.peak_bytes, "GPU memory": self.gpu_peak_bytes}
        memory = [f"{size / 1e6:.0f} MB of {name}" for name, size in sizes.items() if size]
        lines += ["", f"peak: {', '.join(memory)}"] if memory else []
        if self.peers:
            lines += ["", f"{'peer':<28}{'seconds':>10}{'× real time':>14}   speedup of ours"]
        for peer in self.peers:
            if peer.seconds is None:
                lines.append(f"{peer.name:<28}{'-':>10}{'-':>14}   {peer.problem}")
            else:
                figures = f"{peer.seconds:>10.3f}{self.audio_s / peer.seconds:>14.1f}"
                gain = peer.seconds / self.total_s
                lines.append(f"{peer.name:<28}{figures}   {gain:.1f} times")
        return "\n".join(lines) + "\n"


def recording(path: Path | None, minutes: float) -> Samples:
    """The user's recording or the packaged voice, repeated for ``minutes``."""
    return np.resize(read(path or SPEECH), round(minutes * 60 * SAMPLE_RATE_HZ))


def measure(
    engine: Executor,
    samples: Samples,
    options: Options,
    runs: int = 3,
    progress: Progress = no_progress,
) -> Bench:
    """Time each stage, then the whole pipeline: medians of ``runs`` after a warm-up.

    Calls ``progress`` with ``bench`` and the step.
    """
    audio_s = len(samples) / SAMPLE_RATE_HZ
    noted = _Noted(samples)
    model = engine.models[0]
    progress("bench", 0, STEPS)
    transcript = transcribe(samples, engine, options, checkpoints=noted)
    batches = noted.batches
    progress("bench", 1, STEPS)
    ceilings = measure_ceilings(engine.info)
    decoding = DecodingOptions(task=options.task)
    languages = [transcript.language or engine.info.languages[0]]
    encoded = [model.encode(batch) for batch in batches]
    decoded = [model.decode(one, languages * len(one), decoding) for one in encoded]
    work: dict[str, Callable[[], object]] = {
        "speech": lambda: _detect_speech(model, samples, options),
        "encode": lambda: [model.encode(batch) for batch in batches],
        "decode": lambda: [model.decode(b, languages * len(b), decoding) for b in encoded],
        "words": lambda: [model.align(*b, decoding) for b in zip(encoded, decoded, strict=True)],
        ALL_STAGES: lambda: transcribe(samples, engine, options),
    }
    seconds: dict[str, float] = {}
    for number, (name, run) in enumerate(work.items(), start=2):
        if name == ALL_STAGES:
            encoded.clear()  # frees memory for the whole pipeline
        progress("bench", number, STEPS)
        seconds[name] = max(statistics.median(run_times_s(run, runs)), 1e-9)
    lengths = [[len(text.tokens) for text in batch] for batch in decoded]
    shares = _shares(seconds, ceilings, engine.info, lengths)
    return Bench(
        info=engine.info,
        audio_s=audio_s,
        windows=sum(map(len, batches)),
        tokens=sum(map(sum, lengths)),
        stages=tuple(
            Stage(name, s, audio_s / s, *shares.get(name, ())) for name, s in seconds.items()
        ),
        ceilings=ceilings,
        peak_bytes=peak_bytes(),
        gpu_peak_bytes=gpu_peak_bytes(engine.info),
    )


class _Noted:
    """Checkpoints that only record which windows shared a batch."""

    def __init__(self, samples: Samples) -> None:
        self.batches: list[list[Window]] = []
        self._samples = samples

    def load(self) -> list[str]:
        return []

    def save(self, text: str) -> None:
        checkpoint = Checkpoint.loads(text)
        assert checkpoint is not None
        batch = []
        for window in checkpoint.windows:
            first = round(window.start * SAMPLE_RATE_HZ)
            batch.append(Window(window.start, self._samples[first : first + window.n_samples], ()))
        self.batches.append(batch)

    def keep_speakers(self, evidence: bytes) -> None:
        """Not measured."""


def _detect_speech(model: Recognizer, samples: Samples, options: Options) -> None:
    on_device = model.voice_detector()
    block_s = on_device.block_s if on_device else 300.0
    detector = on_device or SpeechDetector(options.threads)
    size = round(block_s * SAMPLE_RATE_HZ)
    for first in range(0, len(samples), size):
        detector.push(samples[first : first + size], last=first + size >= len(samples))


def _shape_of(info: EngineInfo) -> Geometry | None:
    """The model's dimensions, or ``None`` for other model families."""
    try:
        checkpoint = models.find_cached(info.model)
    except (ModelError, UsageError):
        return None
    return None if checkpoint is None else known_shape(checkpoint)


def _shares(
    seconds: dict[str, float], ceilings: Ceilings, info: EngineInfo, lengths: list[list[int]]
) -> dict[str, tuple[float, str]]:
    """Shares of the ceilings, if model dimensions and number size are known."""
    shape = _shape_of(info)
    item = ITEM_BYTES.get(info.compute_type.partition("+")[0])
    if shape is None or item is None:
        return {}
    flops = sum(map(len, lengths)) * shape.encoder_flops / seconds["encode"]
    audio_item = 1 if "+" in info.compute_type else item
    read_bytes = sum(
        shape.decoding_bytes(len(batch), max(batch, default=0), item, audio_item)
        for batch in lengths
    )
    return {
        "encode": (flops / ceilings.flops, f"{ceilings.flops / 1e12:.3g} TFLOP/s"),
        "decode": (
            read_bytes / seconds["decode"] / ceilings.bytes_per_s,
            f"{ceilings.bytes_per_s / 1e9:.3g} GB/s",
        ),
    }
