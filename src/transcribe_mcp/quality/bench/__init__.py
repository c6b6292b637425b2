"""How fast this machine transcribes: one table with stages, the share of what the hardware can do, memory, and peers.

Stages are measured one at a time on the windows of the recording, with the device's queue empty before and after; in
the flow they overlap, which is why its time is less than their sum. ``ceilings`` measures what the device can do at
most; ``peers`` runs other programs, where they are installed, in processes of their own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ... import models
from ...compat.memory import Geometry
from ...domain.options import Options
from ...domain.progress import Progress, no_progress
from ...domain.transcript import Notice, Word
from ...engines import Decoded, DecodingOptions, Encoded, Engine, EngineInfo, Listener, listener_of
from ...engines.batch_size import known_shape
from ...errors import ModelError, UsageError
from ...media.decode import SAMPLE_RATE_HZ, Samples, read
from ...pipeline.offline import transcribe
from ...speech.detector import SpeechDetector
from ...speech.regions import Window
from .ceilings import Ceilings, gpu_peak_bytes, measure_ceilings, peak_bytes, synchronize

SPEECH = Path(__file__).with_name("speech.flac")  # 11 s of one voice, said over and over
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Stage:
    """One line of the table. ``share`` is that of the ceiling named by ``of``; ``None`` where neither is known."""

    name: str
    seconds: float
    times_real_time: float
    share: float | None = None
    of: str = ""


@dataclass(frozen=True, slots=True)
class PeerTime:
    """How long another program took over the same recording, or why it is not known."""

    name: str
    seconds: float | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured."""

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
            "warnings": [
                {"code": notice.code, "message": notice.message} for notice in info.warnings
            ],
            "audio_s": self.audio_s,
            "windows": self.windows,
            "tokens": self.tokens,
            "ceilings": {"flops": self.ceilings.flops, "bytes_per_s": self.ceilings.bytes_per_s},
            "stages": [
                {
                    "name": s.name,
                    "seconds": s.seconds,
                    "times_real_time": s.times_real_time,
                    "share": s.share,
                    "of": s.of,
                }
                for s in self.stages
            ],
            "peak_bytes": self.peak_bytes,
            "gpu_peak_bytes": self.gpu_peak_bytes,
            "peers": [
                {"name": p.name, "seconds": p.seconds, "problem": p.problem} for p in self.peers
            ],
        }

    def table(self) -> str:
        info = self.info
        lines = [
            f"{info.engine} {info.model} on {info.device}, {info.compute_type}, batches of {info.batch_size}",
            f"{self.audio_s / 60:.1f} min of audio: {self.windows} windows, {self.tokens} tokens",
            "",
            f"{'stage':<28}{'seconds':>10}{'× real time':>14}   share of the ceiling",
        ]
        for stage in self.stages:
            share = "" if stage.share is None else f"{stage.share:.0%} of {stage.of}"
            lines.append(
                f"{stage.name:<28}{stage.seconds:>10.3f}{stage.times_real_time:>14.1f}   {share}".rstrip()
            )
        memory = [f"{self.peak_bytes / 1e6:.0f} MB of memory"] if self.peak_bytes else []
        memory += [
            f"{self.gpu_peak_bytes / 1e6:.0f} MB of the GPU's" if self.gpu_peak_bytes else ""
        ]
        lines += ["", "at most " + ", ".join(filter(None, memory))] if any(memory) else []
        if self.peers:
            lines += ["", f"{'peer':<28}{'seconds':>10}{'× real time':>14}   ours is faster"]
        for peer in self.peers:
            if peer.seconds is None:
                lines.append(f"{peer.name:<28}{'-':>10}{'-':>14}   {peer.problem}")
            else:
                speed, gain = self.audio_s / peer.seconds, peer.seconds / self.total_s
                lines.append(
                    f"{peer.name:<28}{peer.seconds:>10.3f}{speed:>14.1f}   {gain:.1f} times"
                )
        return "\n".join(lines) + "\n"


def recording(path: Path | None, minutes: float) -> Samples:
    """The user's recording, or the voice in the package; over and over until ``minutes`` are full."""
    samples = read(path or SPEECH)
    return np.resize(samples, round(minutes * 60 * SAMPLE_RATE_HZ))


def measure(
    engine: Engine,
    samples: Samples,
    options: Options,
    runs: int = 3,
    progress: Progress = no_progress,
) -> Bench:
    """Every stage by itself, then the whole flow; medians of ``runs`` after a warm-up.

    ``progress`` hears of ``bench`` in steps.
    """
    audio_s = len(samples) / SAMPLE_RATE_HZ
    watched = _Watched(engine)
    steps = [
        "the flow, first time",
        "the ceilings",
        "speech",
        "encode",
        "decode",
        "words",
        "the flow",
    ]

    def step(name: str) -> None:
        progress("bench", steps.index(name), len(steps))

    step("the flow, first time")
    transcript = transcribe(samples, watched, options)
    batches = watched.batches
    step("the ceilings")
    ceilings = measure_ceilings(engine.info)
    shape = _shape_of(engine.info)
    decoding = DecodingOptions(task=options.task)
    languages = [transcript.language or engine.info.languages[0]]
    encoded = [engine.encode(batch) for batch in batches]
    spoken = [engine.decode(one, languages * len(one), decoding) for one in encoded]
    step("speech")
    seconds = {"speech": _median_s(lambda: _listen(engine, samples, options), runs)}
    step("encode")
    seconds["encode"] = _median_s(lambda: [engine.encode(batch) for batch in batches], runs)
    step("decode")
    seconds["decode"] = _median_s(
        lambda: [engine.decode(one, languages * len(one), decoding) for one in encoded], runs
    )
    step("words")
    seconds["words"] = _median_s(
        lambda: [
            engine.align(one, text, decoding) for one, text in zip(encoded, spoken, strict=True)
        ],
        runs,
    )
    encoded.clear()  # its memory is wanted
    step("the flow")
    seconds["all of it, overlapped"] = _median_s(lambda: transcribe(samples, engine, options), runs)
    lengths = [[len(text.tokens) for text in batch] for batch in spoken]
    shares = _shares(seconds, ceilings, shape, lengths, engine.info.compute_type)
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


@dataclass(slots=True)
class _Watched:
    """An engine, and the batches that it was given."""

    engine: Engine
    batches: list[Sequence[Window]] = field(default_factory=list)

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    def listener(self) -> Listener | None:
        return listener_of(self.engine)

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        return self.engine.notices(options)

    def encode(self, windows: Sequence[Window]) -> Encoded:
        self.batches.append(windows)
        return self.engine.encode(windows)

    def detect_language(self, encoded: Any) -> list[dict[str, float]]:
        return self.engine.detect_language(encoded)

    def decode(
        self, encoded: Any, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        return self.engine.decode(encoded, languages, options)

    def align(
        self, encoded: Any, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        return self.engine.align(encoded, decoded, options)

    def close(self) -> None:
        self.engine.close()


def _median_s(work: Callable[[], Any], runs: int) -> float:
    taken = []
    for _ in range(runs):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        taken.append(time.perf_counter() - start)
    return max(statistics.median(taken), 1e-9)


def _listen(engine: Engine, samples: Samples, options: Options) -> None:
    listener = listener_of(engine)
    block_s = listener.block_s if listener else 300.0
    detector = listener or SpeechDetector(options.threads)
    size = round(block_s * SAMPLE_RATE_HZ)
    for first in range(0, len(samples), size):
        detector.push(samples[first : first + size], last=first + size >= len(samples))


def _shape_of(info: EngineInfo) -> Geometry | None:
    """The model's dimensions; ``None`` where it is of another kind."""
    try:
        checkpoint = models.find_cached(info.model)
    except (ModelError, UsageError):
        return None
    return None if checkpoint is None else known_shape(checkpoint)


def _shares(
    seconds: dict[str, float],
    ceilings: Ceilings,
    shape: Geometry | None,
    lengths: list[list[int]],
    compute_type: str,
) -> dict[str, tuple[float, str]]:
    """Of the ceilings, where the model's dimensions and the size of its numbers are known."""
    item = ITEM_BYTES.get(compute_type.partition("+")[0])
    if shape is None or item is None:
        return {}
    n_windows = sum(map(len, lengths))
    flops = n_windows * shape.encoder_flops / seconds["encode"]
    audio_item = 1 if "+" in compute_type else item
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
