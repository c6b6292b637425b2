"""Fills a folder with shards of spoken sentences for training, on every core.

A shard is NAME.npy (int16 samples at 16 kHz, utterances end to end) and NAME.pickle (their records,
without samples). It appears under its name only when complete, so that training can start on the
first while the rest is being made.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from speech import SAMPLE_RATE_HZ, Synthesizer, draw_voice, record_of

SHARD_SAMPLES = 20 * 60 * SAMPLE_RATE_HZ
LANGUAGE_SHARES = {"en": 0.46, "de": 0.28, "es": 0.26}
SOURCE_SHARES = {
    "en": {
        "main": 0.62,
        "phrases": 0.12,
        "stories": 0.08,
        "fortunes": 0.06,
        "words": 0.08,
        "numbers": 0.04,
    },
    "de": {
        "main": 0.36,
        "phrases": 0.16,
        "stories": 0.14,
        "help": 0.12,
        "manual": 0.01,
        "words": 0.17,
        "numbers": 0.04,
    },
    "es": {
        "main": 0.36,
        "stories": 0.20,
        "help": 0.18,
        "manual": 0.01,
        "words": 0.21,
        "numbers": 0.04,
    },
}


def endless(sentences: list[str], part: int, n_parts: int, seed: int) -> Iterator[str]:
    """This part's share of the sentences, shuffled anew each time round."""
    mine = sentences[part::n_parts] or sentences
    rng = np.random.default_rng(seed)
    while True:
        for i in rng.permutation(len(mine)):
            yield mine[i]


def make_shard(corpus_path: Path, out: Path, index: int, n_shards: int, held_out: bool) -> float:
    """Speaks one shard; returns its hours."""
    path = out / f"shard_{index:05d}.npy"
    if path.exists():
        return 0.0
    corpus = _corpus(corpus_path)
    synthesizer = _synthesizer()
    rng = np.random.default_rng([index, int(held_out)])
    languages = list(LANGUAGE_SHARES)
    streams: dict[tuple[str, str], Iterator[str]] = {}
    samples = np.zeros(SHARD_SAMPLES, np.int16)
    records = []
    filled = 0
    while True:
        language = str(rng.choice(languages, p=list(LANGUAGE_SHARES.values())))
        shares = {"test": 1.0} if held_out else SOURCE_SHARES[language]
        source = str(rng.choice(list(shares), p=list(shares.values())))
        if (language, source) not in streams:
            streams[language, source] = endless(corpus[language][source], index, n_shards, index)
        utterance = synthesizer.say(
            next(streams[language, source]), language, draw_voice(language, rng)
        )
        if utterance is None or utterance.duration > 15:
            continue
        if filled + len(utterance.samples) > SHARD_SAMPLES:
            break
        samples[filled : filled + len(utterance.samples)] = utterance.samples
        records.append(record_of(utterance, filled))
        filled += len(utterance.samples)
    path.with_suffix(".pickle").write_bytes(pickle.dumps(records))
    unfinished = path.with_suffix(f".{os.getpid()}")
    with unfinished.open("wb") as file:
        np.save(file, samples)
    unfinished.replace(path)
    return filled / SAMPLE_RATE_HZ / 3600


_state: dict[str, object] = {}


def _corpus(path: Path) -> dict[str, dict[str, list[str]]]:
    if "corpus" not in _state:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            _state["corpus"] = json.load(file)
    return _state["corpus"]  # type: ignore[return-value]


def _synthesizer() -> Synthesizer:
    if "synthesizer" not in _state:
        _state["synthesizer"] = Synthesizer()
    return _state["synthesizer"]  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", type=Path, help="sentences.json.gz from text.py")
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument("--hours", type=float, default=300.0, help="speech to make (default 300)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument(
        "--held-out", action="store_true", help="speak the sentences kept out of training"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    n_shards = max(1, round(arguments.hours * 3600 * SAMPLE_RATE_HZ / SHARD_SAMPLES))
    started = time.monotonic()
    hours = 0.0
    with ProcessPoolExecutor(arguments.processes) as pool:
        jobs = [
            pool.submit(
                make_shard, arguments.sentences, arguments.out, i, n_shards, arguments.held_out
            )
            for i in range(n_shards)
        ]
        for i, job in enumerate(jobs, 1):
            hours += job.result()
            if i % 60 == 0 or i == n_shards:
                print(
                    f"{hours:.1f} h of speech after {time.monotonic() - started:.0f} s", flush=True
                )


if __name__ == "__main__":
    main()
