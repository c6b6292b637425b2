"""Words that are said again and again are kept, loops of the decoder are not; and every run gives
the same text.

    python benchmarks/repetition.py [--model DIR] [--engine ctranslate2] [--runs 10] [--cases DIR]
    [--loops DIR]

``--cases`` is a folder of recordings whose names are in ``TRUTHS``; without, those of the
repository. ``--loops`` is a folder that ``repetition_set.py`` made. A number counts as one word:
how its digits are grouped is up to the model.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import OWN_AUDIO, Bar, real_model, report

from transcribe_mcp import Options, Transcript, load_engine, transcribe
from transcribe_mcp.align.edit_distance import align
from transcribe_mcp.engines import Decoded, DecodingOptions, EngineRequest, Recognizer

CASES = OWN_AUDIO.parent / "repetition"
PHRASE = "we will wait for you "
TRUTHS = {
    "chorus_5": PHRASE * 5 + "and then we go home",
    "chorus_7": PHRASE * 7 + "and then we go home",
    "chorus_9": PHRASE * 9 + "and then we go home",
    "stop": "stop " * 10 + "put that thing down right now",
    "yes_call": "can you see it " + "yes " * 8 + "i can see it very well from over here",
    "number": "my number is 5555555999",
    "fast": "this is a very fast speaker who reads out the terms and conditions at the end "
    "of an advertisement "
    "on radio without any pause so that nobody can follow what is being said about interest "
    "rates and fees",
}
TRUTHS["r9_fast"] = TRUTHS["fast"]
LOST_SHARE = 0.05
LETTERS_PER_SECOND = 40.0  # more than anybody says
TURNS = 5  # of a phrase in a row, with times that stand still


def load(model: Path, engine: str) -> Recognizer:
    return load_engine(EngineRequest(engine=engine, model=str(model), device="cpu", offline=True))


def first_decodings(engine: Recognizer, path: Path) -> Iterator[tuple[float, Decoded]]:
    """Seconds of speech in each window of a recording, and what greedy decoding makes of it."""
    from transcribe_mcp.media.decode import read
    from transcribe_mcp.speech.detector import SpeechDetector
    from transcribe_mcp.speech.regions import Region, RegionFinder, WindowCutter

    samples = read(path)
    finder = RegionFinder()
    found = finder.push(SpeechDetector(1).push(samples, last=True), last=True)
    regions = [Region(region.start, min(region.end, len(samples) / 16_000)) for region in found]
    windows = list(WindowCutter().push(samples, regions, finder.final_until_s, last=True))
    if windows:
        decoded = engine.decode(engine.encode(windows), ["en"] * len(windows), DecodingOptions())
        for window, one in zip(windows, decoded, strict=True):
            yield sum(region.end - region.start for region in window.regions), one


def words_of(text: str) -> list[str]:
    joined = re.sub(r"(?<=\d)[-, ]+(?=\d)", "", text.lower())
    return re.findall(r"[a-z0-9']+", joined)


def lost_share(truth: str, text: str) -> float:
    """Words of the truth in whose place there is nothing."""
    expected = words_of(truth)
    return sum(heard is None for _, heard in align(expected, words_of(text))) / len(expected)


def measure_cases(
    engine: Recognizer, paths: Sequence[Path], runs: int
) -> tuple[dict[str, Any], list[Bar]]:
    figures: dict[str, Any] = {}
    for path in paths:
        results = [transcribe(path, engine, Options(language="en")) for _ in range(runs)]
        lost = [lost_share(TRUTHS[path.stem], result.text) for result in results]
        silent = sum(
            share > 0 and not result.warnings for share, result in zip(lost, results, strict=True)
        )
        figures[path.stem] = {
            "texts": len({result.text for result in results}),
            "lost": max(lost),
            "lost_without_warning": silent,
            "warnings": sorted({notice.code for notice in results[0].warnings}),
        }
        print(f"{path.stem:<12}{figures[path.stem]}  {results[0].text}")
    rows = figures.values()
    return figures, [
        Bar("most words lost in a run", max(row["lost"] for row in rows), "<=", LOST_SHARE),
        Bar("different texts of one recording", max(row["texts"] for row in rows), "==", 1),
    ]


def is_looping(transcript: Transcript, speech_s: float) -> bool:
    """More text than the speech can hold, or words in a row whose times stand still."""
    standing = longest = 0
    for word in transcript.words:
        standing = standing + 1 if word.end - word.start < 0.05 else 0
        longest = max(longest, standing)
    return len(transcript.text) > LETTERS_PER_SECOND * max(0.5, speech_s) or longest > 2 * TURNS


def measure_loops(
    engine: Recognizer, paths: Sequence[Path], runs: int
) -> tuple[dict[str, Any], list[Bar]]:
    figures: dict[str, Any] = {"recordings": len(paths), "looping": [], "texts": 1}
    for path in paths:
        speech_s = sum(seconds for seconds, _ in first_decodings(engine, path))
        results = [transcribe(path, engine, Options(language="en")) for _ in range(runs)]
        figures["texts"] = max(figures["texts"], len({result.text for result in results}))
        looping = is_looping(results[0], speech_s)
        figures["looping"] += [path.name] if looping else []
        codes = [notice.code for notice in results[0].warnings]
        print(
            f"{path.name:<28}{'LOOPS' if looping else 'caught'}  {codes}  {results[0].text[:100]}",
            flush=True,
        )
    return figures, [
        Bar("recordings that loop when decoded once", len(paths), ">=", 20),
        Bar("of them looping in the transcript", len(figures["looping"]), "==", 0),
        Bar("different texts of one of them", figures["texts"], "==", 1),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--engine", default="ctranslate2")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("--loops", type=Path)
    arguments = parser.parse_args()
    engine = load(arguments.model or real_model(), arguments.engine)
    cases = sorted(path for path in arguments.cases.glob("*.flac") if path.stem in TRUTHS)
    figures: dict[str, Any] = {}
    figures["cases"], bars = measure_cases(engine, cases, arguments.runs)
    if arguments.loops is not None:
        loops = sorted(arguments.loops.glob("*.flac"))
        figures["loops"], more = measure_loops(engine, loops, min(2, arguments.runs))
        bars += more
    return report("repetition", figures, bars)


if __name__ == "__main__":
    raise SystemExit(main())
