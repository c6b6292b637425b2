"""Search for recordings on which greedy decoding loops, for ``repetition.py``.

    python benchmarks/repetition_set.py SOURCES OUT [--model DIR] [--wanted 24] [--tries 4000]

SOURCES is a folder of spoken recordings (any format, searched recursively), for example the prompts
of Debian's ``asterisk-core-sounds-en-wav``. Some of them in a row are damaged in one of several
ways, all from a fixed seed. A recording is kept as FLAC when a window of it runs into the token
limit at temperature 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from common import SAMPLE_RATE_HZ, Samples, real_model, write_flac

LONGEST_S = 28.0
SILENCE_S = 0.5
TOKEN_LIMIT = 224  # of a Whisper model in one window
SUFFIXES = {".flac", ".mp3", ".ogg", ".opus", ".wav"}

Random = np.random.Generator
Damage = Callable[[Random, Samples], Samples]


def noise(random: Random, x: Samples) -> Samples:
    level = np.sqrt(np.square(x).mean() + 1e-12) * 10 ** (-random.uniform(-8, 8) / 20)
    return x + random.standard_normal(len(x)) * level


def stutter(random: Random, x: Samples) -> Samples:
    at = int(random.uniform(0, max(1, len(x) - SAMPLE_RATE_HZ)))
    piece = x[at : at + int(random.uniform(0.15, 1.5) * SAMPLE_RATE_HZ)]
    return np.concatenate([x[:at], *[piece] * int(random.integers(4, 25)), x[at + len(piece) :]])


def shuffled(random: Random, x: Samples) -> Samples:
    size = int(random.uniform(0.08, 0.5) * SAMPLE_RATE_HZ)
    pieces = [x[i : i + size] for i in range(0, len(x), size)]
    return np.concatenate([pieces[i] for i in random.permutation(len(pieces))])


def _at_speed(x: Samples, factor: float) -> Samples:
    return np.interp(np.arange(0, len(x) - 1, factor), np.arange(len(x)), x)


def fast(random: Random, x: Samples) -> Samples:
    return _at_speed(x, random.uniform(1.3, 2.6))


def slow(random: Random, x: Samples) -> Samples:
    return _at_speed(x, random.uniform(0.4, 0.7))


def few_bits(random: Random, x: Samples) -> Samples:
    steps = random.uniform(3, 8)
    return np.round(x * steps) / steps


def muffled(random: Random, x: Samples) -> Samples:
    size = int(random.integers(8, 40))
    return np.convolve(x, np.ones(size) / size, "same")


def backwards(random: Random, x: Samples) -> Samples:
    return x[::-1]


def under_chords(random: Random, x: Samples) -> Samples:
    t = np.arange(len(x)) / SAMPLE_RATE_HZ
    chord = sum(np.sin(2 * np.pi * pitch_hz * t) for pitch_hz in (220, 277, 330, 440))
    level = np.sqrt(np.square(x).mean() + 1e-12) * random.uniform(0.3, 1.5)
    return x + chord * (np.sin(4 * np.pi * t) > 0) * level


def both(first: Damage, second: Damage) -> Damage:
    return lambda random, x: second(random, first(random, x))


DAMAGES: dict[str, Damage] = {
    "noise": noise,
    "stutter": stutter,
    "shuffled": shuffled,
    "fast": fast,
    "slow": slow,
    "few_bits": few_bits,
    "muffled": muffled,
    "backwards": backwards,
    "under_chords": under_chords,
    "fast_noise": both(fast, noise),
    "shuffled_noise": both(shuffled, noise),
    "stutter_noise": both(stutter, noise),
}


def damaged(random: Random, sources: Sequence[Path], damage: Damage) -> Samples:
    from transcribe_mcp.media.decode import read

    chosen = [
        read(sources[int(i)]) for i in random.integers(0, len(sources), int(random.integers(1, 5)))
    ]
    pauses = [np.zeros(int(random.uniform(0, SILENCE_S) * SAMPLE_RATE_HZ)) for _ in chosen]
    x = damage(
        random, np.concatenate([part for pair in zip(chosen, pauses, strict=True) for part in pair])
    )
    x = x[: round(LONGEST_S * SAMPLE_RATE_HZ)] / max(1.0, float(np.abs(x).max()))
    silence = np.zeros(round(SILENCE_S * SAMPLE_RATE_HZ))
    return np.concatenate([silence, x, silence]).astype(np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--wanted", type=int, default=24)
    parser.add_argument("--tries", type=int, default=4000)
    arguments = parser.parse_args()
    from repetition import first_decodings, load

    sources = sorted(path for path in arguments.sources.rglob("*") if path.suffix in SUFFIXES)
    engine = load(arguments.model or real_model(), "ctranslate2")
    random = np.random.default_rng(0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    n_found = 0
    for attempt in range(arguments.tries):
        name = list(DAMAGES)[int(random.integers(0, len(DAMAGES)))]
        path = arguments.out / f"{name}_{attempt:05d}.flac"
        write_flac(path, [damaged(random, sources, DAMAGES[name])])
        loops = [
            decoded
            for _, decoded in first_decodings(engine, path)
            if len(decoded.tokens) >= TOKEN_LIMIT
        ]
        if not loops:
            path.unlink()
            continue
        n_found += 1
        print(path.name, loops[0].text[:80], flush=True)
        if n_found == arguments.wanted:
            break
    print(f"{n_found} recordings in {arguments.out}")
    return 0 if n_found else 1


if __name__ == "__main__":
    raise SystemExit(main())
