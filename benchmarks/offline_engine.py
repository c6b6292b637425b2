"""Word errors of the engine that needs no download, on people reading and speaking, through the public pipeline.

python benchmarks/offline_engine.py [--audio DIRECTORY]
"""

from __future__ import annotations

import argparse
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from common import SHARED, Bar, report

from transcribe_mcp import load_engine, transcribe
from transcribe_mcp.engines import EngineRequest
from transcribe_mcp.evaluation import Truth, TruthSegment, score

RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


@dataclass(frozen=True, slots=True)
class Recording:
    """What is said, and the word error rate that is allowed (``None``: reported only)."""

    file: str
    text: str
    bar: float | None


RECORDINGS = (
    Recording(
        "jfk.flac",  # J. F. Kennedy's inaugural address, with the hall around him
        "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country.",
        None,
    ),
    Recording(
        "two_cities.wav",  # Charles Dickens, "A Tale of Two Cities", chapter 1, read for LibriVox
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
        "foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was "
        "the season of Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, "
        "we had nothing before us, we were all going direct to Heaven, we were all going direct the other way -- in "
        "short, the period was so far like the present period, that some of its noisiest authorities insisted on its "
        "being received, for good or for evil, in the superlative degree of comparison only.",
        0.34,
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=SHARED / "eval" / "human")
    audio: Path = parser.parse_args().audio
    engine = load_engine(EngineRequest(engine="pocketsphinx", offline=True))
    figures = {}
    bars = []
    print(f"{'recording':<16}{'word errors':>12}{'× real time':>13}")
    for recording in RECORDINGS:
        path = audio / recording.file
        transcript = transcribe(path, engine)
        truth = Truth(path, (TruthSegment(recording.text),), "en", transcript.duration)
        judged = score(truth, transcript).score
        rate = judged.word_error_rate
        print(f"{recording.file:<16}{rate:>12.3f}{transcript.realtime_factor:>13.2f}")
        figures[recording.file] = {"word_error_rate": rate, "realtime_factor": transcript.realtime_factor}
        if recording.bar is not None:
            bars.append(Bar(f"word errors, {recording.file}", rate, "<=", recording.bar))
        bars.append(Bar(f"words without a time, {recording.file}", judged.untimed_words, "==", 0))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES / 2**20
    return report("offline_engine", {"recordings": figures, "peak_rss_mib": round(peak_mib)}, bars)


if __name__ == "__main__":
    raise SystemExit(main())
