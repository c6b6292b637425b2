"""Accuracy on recordings with known truth: ours, joined into one long file, on non-speech, and the
peer's.

    python benchmarks/accuracy.py [--own] [--model DIR] [--audio DIR] [--windows] [--joined]
    [--non-speech] [--peers]

``--own`` takes the repository's model and recordings, so that a clone alone is enough (with its
test packages). Without a choice of parts all are run. ``--set NAME=JSON`` changes one of our
options, ``--save DIR`` keeps transcripts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    DEFAULT_AUDIO,
    DEFAULT_MODEL,
    OWN_AUDIO,
    SAMPLE_RATE_HZ,
    Bar,
    Samples,
    cores,
    ctranslate2_layout,
    join,
    one_language,
    own_model,
    peer_transcript,
    report,
    write_flac,
)

from transcribe_mcp.domain.transcript import Transcript
from transcribe_mcp.quality.evaluation import FileScore, Score, Truth, load_truth, score, total
from transcribe_mcp.quality.evaluation_table import table

PARTS = ("windows", "joined", "non_speech", "peers")
LEVELS_DBFS = (-60.0, -40.0, -20.0, -6.0)
NON_SPEECH_KIND_S = 100.0  # six kinds: ten minutes in all

Transcriber = Callable[[Path], Transcript]


class Ours:
    """Our pipeline with one loaded engine."""

    def __init__(
        self,
        model: str,
        compute_type: str,
        settings: dict[str, Any],
        save: Path | None,
        engine: str = "ctranslate2",
    ) -> None:
        from transcribe_mcp import Options, load_engine
        from transcribe_mcp.engines import EngineRequest

        self.engine = load_engine(EngineRequest(engine, model, "cpu", compute_type))
        self.options = Options
        self.settings = settings
        self.save = save

    def __call__(self, path: Path, **settings: Any) -> Transcript:
        from transcribe_mcp import transcribe

        transcript = transcribe(path, self.engine, self.options(**self.settings | settings))
        if self.save is not None:
            self.save.mkdir(parents=True, exist_ok=True)
            (self.save / f"{path.stem}.json").write_text(transcript.dumps(), encoding="utf-8")
        return transcript


def judge(
    name: str, truths: Sequence[Truth], transcriber: Transcriber, *, show_files: bool = False
) -> list[FileScore]:
    scores = [score(truth, transcriber(truth.path)) for truth in truths]
    text = table(scores)
    print(f"\n{name}")
    print(text if show_files else "\n".join(text.splitlines()[:: max(1, len(scores) + 1)]))
    return scores


def measure_windows(
    ours: Ours, truths: Sequence[Truth]
) -> tuple[dict[str, Any], list[Bar], list[FileScore]]:
    scores = judge("ours, window by window", truths, ours, show_files=True)
    judged = total(scores)
    figures = judged.to_json()
    starts = figures["word_starts"] or {}
    median_s = starts.get("median_s")
    bars = [
        Bar("word error rate", judged.word_error_rate, "<=", 0.16),
        Bar("languages right", judged.languages_right, "==", judged.languages),
        Bar("word start, median ms", None if median_s is None else median_s * 1000, "<=", 25),
        Bar("word starts within 100 ms", starts.get("within_100_ms"), ">=", 0.92),
        Bar("words without times", judged.untimed_words, "==", 0),
        Bar("words out of order", judged.disordered_words, "==", 0),
    ]
    return figures, bars, scores


def measure_joined(
    ours: Ours, truths: Sequence[Truth], windows: Sequence[FileScore], scratch: Path
) -> tuple[dict[str, Any], list[Bar]]:
    """One long file against its windows: all languages, and the first truth's language alone."""
    figures: dict[str, Any] = {}
    bars = []
    for name, chosen in (("all", list(truths)), (str(truths[0].language), one_language(truths))):
        truth = join(chosen, scratch / f"joined-{name}.flac")
        several = truth.language is None

        def run(path: Path, several: bool = several) -> Transcript:
            return ours(path, multilingual=several)

        [judged] = judge(f"ours, joined, {name}", [truth], run, show_files=True)
        files = {t.path.name for t in chosen}
        apart = total(w for w in windows if w.file in files).word_error_rate
        rate = judged.score.word_error_rate
        change = None if rate is None or apart is None else rate - apart
        figures[name] = judged.to_json() | {"word_error_rate_windows": apart}
        bars.append(Bar(f"joined {name}: word error rate above windows'", change, "<=", 0.01))
        bars.append(Bar(f"joined {name}: words without times", judged.score.untimed_words, "==", 0))
        bars.append(
            Bar(f"joined {name}: words out of order", judged.score.disordered_words, "==", 0)
        )
    return figures, bars


# -- non-speech ------------------------------------------------------------------------------------


def non_speech() -> Iterator[tuple[str, Samples]]:
    """(kind, samples): each 100 s, a quarter at each level; the same on every machine."""
    kinds = {
        "silence": _silence,
        "white": _white,
        "pink": _pink,
        "tones": _tones,
        "clicks": _clicks,
        "hum": _hum,
    }
    n = round(NON_SPEECH_KIND_S / len(LEVELS_DBFS) * SAMPLE_RATE_HZ)
    for seed, (kind, make) in enumerate(kinds.items()):
        random = np.random.default_rng(seed)
        parts = []
        for level in LEVELS_DBFS:
            samples = make(random, n)
            peak = np.abs(samples).max()
            parts.append(samples / peak * 10 ** (level / 20) if peak else samples)
        yield kind, np.concatenate(parts).astype(np.float32)


def _silence(random: np.random.Generator, n: int) -> Samples:
    return np.zeros(n, np.float32)


def _white(random: np.random.Generator, n: int) -> Samples:
    return random.standard_normal(n).astype(np.float32)


def _pink(random: np.random.Generator, n: int) -> Samples:
    spectrum = np.fft.rfft(random.standard_normal(n))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    return np.fft.irfft(spectrum, n).astype(np.float32)


def _tones(random: np.random.Generator, n: int) -> Samples:
    """A tone of another pitch every second, with gaps, as of a telephone."""
    t = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    seconds = [
        np.sin(2 * np.pi * random.uniform(100, 3000) * t) * (t < 0.7)
        for _ in range(n // SAMPLE_RATE_HZ)
    ]
    return np.concatenate(seconds).astype(np.float32)


def _clicks(random: np.random.Generator, n: int) -> Samples:
    samples = np.zeros(n, np.float32)
    decay = np.exp(-np.arange(160) / 20).astype(np.float32)
    for at in random.integers(0, n - len(decay), size=2 * n // SAMPLE_RATE_HZ):
        samples[at : at + len(decay)] += decay * random.choice([-1, 1])
    return samples


def _hum(random: np.random.Generator, n: int) -> Samples:
    """Mains hum of 50 Hz with its harmonics."""
    t = np.arange(n) / SAMPLE_RATE_HZ
    harmonics = [
        np.sin(2 * np.pi * 50 * k * t + random.uniform(0, 2 * np.pi)) / k for k in range(1, 9)
    ]
    return np.sum(harmonics, axis=0).astype(np.float32)


def measure_non_speech(ours: Ours, scratch: Path) -> tuple[dict[str, Any], list[Bar]]:
    truths = []
    blocks = []
    for kind, samples in non_speech():
        path = scratch / f"{kind}.flac"
        truths.append(Truth(path, (), None, write_flac(path, [samples])))
        blocks.append(samples)
    whole = scratch / "non-speech.flac"
    truths.append(Truth(whole, (), None, write_flac(whole, blocks)))
    figures = {}
    bars = []
    for vad in (True, False):

        def run(path: Path, vad: bool = vad) -> Transcript:
            return ours(path, vad=vad)

        name = "voice detection on" if vad else "voice detection off"
        scores = judge(f"ours, non-speech, {name}", truths, run, show_files=True)
        figures[name] = {entry.file: entry.score.invented_words for entry in scores}
        if vad:
            bars = [
                Bar(f"invented words, {s.file}", s.score.invented_words, "==", 0) for s in scores
            ]
    return figures, bars


# -- the peer --------------------------------------------------------------------------------------


def measure_peers(model: Path, compute_type: str, truths: Sequence[Truth]) -> dict[str, Score]:
    """faster-whisper 1.2 on the same model: greedy, with word timestamps; the batched pipeline with
    its own regions.
    """
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    directory = ctranslate2_layout(model, compute_type)
    peer = WhisperModel(
        str(directory), device="cpu", compute_type=compute_type, cpu_threads=cores()
    )
    batched = BatchedInferencePipeline(peer)

    def sequential(path: Path) -> Transcript:
        return peer_transcript(*peer.transcribe(str(path), beam_size=1, word_timestamps=True))

    def one_temperature(path: Path) -> Transcript:
        return peer_transcript(
            *peer.transcribe(str(path), beam_size=1, word_timestamps=True, temperature=0.0)
        )

    def in_batches(path: Path) -> Transcript:
        return peer_transcript(
            *batched.transcribe(str(path), beam_size=1, word_timestamps=True, batch_size=8)
        )

    ways = {
        "sequential": sequential,
        "sequential, one temperature": one_temperature,
        "batched": in_batches,
    }
    return {
        name: total(judge(f"faster-whisper, {name}", truths, way)) for name, way in ways.items()
    }


def peer_bars(peers: dict[str, Score], windows: Sequence[FileScore]) -> list[Bar]:
    rates = [
        s.word_error_rate
        for name, s in peers.items()
        if name.startswith("sequential") and s.word_error_rate
    ]
    ours = total(windows).word_error_rate
    return [
        Bar(
            "word error rate above faster-whisper sequential's",
            None if ours is None else ours - min(rates),
            "<=",
            0,
        )
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--own", action="store_true", help="the repository's model and recordings")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--compute-type", default="int8")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=JSON", help="one of our options"
    )
    parser.add_argument("--save", type=Path, help="keep our transcripts there")
    for part in PARTS:
        parser.add_argument("--" + part.replace("_", "-"), action="store_true")
    arguments = parser.parse_args()
    arguments.model = arguments.model or (own_model() if arguments.own else DEFAULT_MODEL)
    arguments.audio = arguments.audio or (OWN_AUDIO if arguments.own else DEFAULT_AUDIO)
    parts = {part for part in PARTS if getattr(arguments, part)} or set(PARTS)
    truths = load_truth(arguments.audio)
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    windows: list[FileScore] = []
    if parts != {"peers"}:
        ours = Ours(
            str(arguments.model), arguments.compute_type, _settings(arguments.set), arguments.save
        )
    if parts & {"windows", "joined"}:
        figures["windows"], bars, windows = measure_windows(ours, truths)
    with tempfile.TemporaryDirectory() as scratch:
        if "joined" in parts:
            figures["joined"], more = measure_joined(ours, truths, windows, Path(scratch))
            bars += more
        if "non_speech" in parts:
            figures["non_speech"], more = measure_non_speech(ours, Path(scratch))
            bars += more
    if "peers" in parts:
        peers = measure_peers(arguments.model, arguments.compute_type, truths)
        figures["peers"] = {name: judged.to_json() for name, judged in peers.items()}
        bars += peer_bars(peers, windows) if windows else []
    return report("accuracy", figures, bars)


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    settings = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        parsed = json.loads(value)
        settings[name] = tuple(parsed) if isinstance(parsed, list) else parsed
    return settings


if __name__ == "__main__":
    raise SystemExit(main())
