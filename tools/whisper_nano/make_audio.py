"""Writes audio with truth: the repository's test files, or fresh windows for the judge.

Each folder gets a truth.json: a list of {file, language, duration, segments: [{start, end, text,
speaker, words: [{word, start, end}]}]}; times in seconds. Words that espeak-ng does not time are in
the text only. Every file has its own seed.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from noise import SOUNDS, sound
from own_sentences import CONVERSATION, SENTENCES
from speech import SAMPLE_RATE_HZ, Record, Synthesizer, Utterance, Voice, draw_voice, record_of
from windows import WINDOW_S, Layout, Piece, draw_layout, lay_out

CODECS = {".flac": "flac", ".opus": "libopus"}
OPUS_BITS_PER_S = 48_000
SPEAKERS = {
    "anna": Voice("en-us+f2", 150, 55, 50),
    "ben": Voice("en+m3", 160, 40, 45),
    "carol": Voice("en-gb-scotland+f4", 145, 65, 45),
}


def write_audio(path: Path, wave: np.ndarray) -> None:
    """wave: (n,) float32 in -1 to 1."""
    pcm = (np.clip(wave, -1, 1) * 32767).astype(np.int16)[None]
    with av.open(
        str(path), "w", options={"fflags": "+bitexact"}
    ) as container:  # else Ogg draws a random serial
        stream = container.add_stream(CODECS[path.suffix], rate=SAMPLE_RATE_HZ, layout="mono")
        if path.suffix == ".opus":
            stream.bit_rate = OPUS_BITS_PER_S
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


class Speech:
    """Speaks sentences on demand and keeps their samples for rendering."""

    def __init__(self) -> None:
        self._synthesizer = Synthesizer()
        self._samples: dict[int, np.ndarray] = {}

    def record(self, text: str, language: str, voice: Voice) -> Record:
        utterance: Utterance | None = self._synthesizer.say(text, language, voice)
        if utterance is None:
            raise ValueError(f"espeak-ng says nothing to {text!r}")
        record = record_of(utterance, 0)
        self._samples[id(record)] = utterance.samples
        return record

    def render(self, pieces: list[Piece], seconds: float, noise: np.ndarray) -> np.ndarray:
        wave = noise.astype(np.float32)[: int(seconds * SAMPLE_RATE_HZ)].copy()
        for piece in pieces:
            first = int(piece.at * SAMPLE_RATE_HZ)
            start = int(piece.cut * SAMPLE_RATE_HZ)
            n = min(int(piece.duration * SAMPLE_RATE_HZ), len(wave) - first)
            wave[first : first + n] += self._samples[id(piece.record)][
                start : start + n
            ] * np.float32(piece.gain / 32768)
        return wave


def truth_row(
    file: str, language: str | None, seconds: float, pieces: list[Piece]
) -> dict[str, object]:
    segments = []
    for piece in pieces:
        words = piece.words()
        if not words:
            continue
        timed = [
            {"word": text.strip(",;:.!?¿¡"), "start": round(max(a, 0.0), 3), "end": round(b, 3)}
            for text, a, b, known in words
            if known
        ]
        whole = piece.cut == 0 and not piece.is_cut_at_end
        segments.append({
            "start": round(piece.at, 3),
            "end": round(piece.at + piece.duration, 3),
            "text": piece.record.text if whole else " ".join(word[0] for word in words),
            "speaker": piece.record.voice,
            "words": timed,
        })  # fmt: skip
    return {"file": file, "language": language, "duration": round(seconds, 3), "segments": segments}


def write_truth(folder: Path, rows: list[dict[str, object]]) -> None:
    (folder / "truth.json").write_text(
        json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def hiss(seconds: float, level: float, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(int(seconds * SAMPLE_RATE_HZ)) * level


def shuffled(sentences: list[str], rng: np.random.Generator) -> Iterator[str]:
    while True:
        yield from (sentences[i] for i in rng.permutation(len(sentences)))


def drawer(
    speech: Speech, language: str, sentences: Iterator[str], rng: np.random.Generator
) -> Callable[[], tuple[Record, int]]:
    return lambda: (speech.record(next(sentences), language, draw_voice(language, rng)), 0)


def short_files(speech: Speech, out: Path) -> list[dict[str, object]]:
    """24 files of 6 to 12 s: clean, with noise behind, quiet, cut, with long silence before,
    between and after.
    """
    silent_after = Layout(0.3, 3.0, ((0.2, 0.4),))
    cases: list[tuple[str, str, float, Layout, float]] = [
        (f"{language}_{i}", language, 9.0, Layout(0.2 + 0.1 * i, 7.0, ((0.1, 0.5),)), 1e-4)
        for language in ("en", "de", "es") for i in range(5)
    ]  # fmt: skip
    cases += [
        ("en_noise", "en", 9.0, Layout(0.3, 7.0, ((0.2, 0.5),)), 4e-3),
        ("de_noise", "de", 9.0, Layout(0.3, 7.0, ((0.2, 0.5),)), 4e-3),
        ("es_noise", "es", 9.0, Layout(0.3, 7.0, ((0.2, 0.5),)), 4e-3),
        ("en_late", "en", 12.0, Layout(6.0, 11.0, ((0.2, 0.5),)), 1e-4),
        ("en_pauses", "en", 12.0, Layout(0.5, 11.0, ((2.0, 3.0),)), 1e-4),
        ("en_cut_start", "en", 8.0, Layout(0.0, 6.0, ((0.2, 0.5),), cut_start=True), 1e-4),
        ("en_cut_end", "en", 6.2, Layout(0.2, 6.2, ((0.1, 0.3),), cut_end=True), 1e-4),
        ("en_silent_after", "en", 12.0, silent_after, 0.0),
        ("de_silent_after", "de", 12.0, silent_after, 1e-4),
    ]
    rows = []
    streams = {
        language: shuffled(SENTENCES[language], np.random.default_rng([3, i]))
        for i, language in enumerate(SENTENCES)
    }
    for number, (name, language, seconds, layout, noise) in enumerate(cases):
        rng = np.random.default_rng([21, number])
        pieces = lay_out(layout, drawer(speech, language, streams[language], rng), seconds, rng)
        write_audio(out / f"{name}.flac", speech.render(pieces, seconds, hiss(seconds, noise, rng)))
        rows.append(truth_row(f"{name}.flac", language, seconds, pieces))
    return rows


def conversation(speech: Speech, path: Path) -> dict[str, object]:
    """Two minutes of three voices taking turns, each always the same voice."""
    rng = np.random.default_rng(22)
    names = {voice.name: name for name, voice in SPEAKERS.items()}
    pieces = []
    time = 0.8
    turn = 0
    while True:
        name, text = CONVERSATION[turn % len(CONVERSATION)]
        record = speech.record(text, "en", SPEAKERS[name])
        length = record.n_samples / SAMPLE_RATE_HZ
        if time + length > 119:
            break
        pieces.append(Piece(record, 0.0, length, time, 0.6))
        time += length + rng.uniform(0.15, 0.9)
        turn += 1
    write_audio(path, speech.render(pieces, 120.0, hiss(120.0, 2e-4, rng)))
    row = truth_row(path.name, "en", 120.0, pieces)
    for segment in row["segments"]:  # type: ignore[attr-defined]
        segment["speaker"] = names[segment["speaker"]]
    return row


def non_speech(
    out: Path, seconds: float, suffix: str, seed: int, files: int
) -> list[dict[str, object]]:
    """Each kind of noise in turn, at levels from faint to loud; silence in FLAC, where it stays
    exact.
    """
    rows = []
    for i in range(files):
        rng = np.random.default_rng([seed, i])
        kind = SOUNDS[i % len(SOUNDS)]
        wave = sound(kind, seconds, rng) * 10 ** rng.uniform(-1.5, 0.5)
        name = f"{i:02d}_{kind}{'.flac' if kind == 'silence' else suffix}"
        write_audio(out / name, wave)
        rows.append(truth_row(name, None, seconds, []))
    return rows


def make_repository(out: Path) -> None:
    speech = Speech()
    for folder in ("speech", "conversation", "non-speech"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_truth(out / "speech", short_files(speech, out / "speech"))
    write_truth(
        out / "conversation", [conversation(speech, out / "conversation" / "three_voices.opus")]
    )
    write_truth(out / "non-speech", non_speech(out / "non-speech", 12.0, ".opus", 23, 11))


def make_fresh(out: Path, corpus: Path, windows: int, seed: int) -> None:
    """For judge.py: whole windows, windows with speech in the first third only, and ten minutes of
    no speech.
    """
    with gzip.open(corpus, "rt", encoding="utf-8") as file:
        sentences = {language: sources["test"] for language, sources in json.load(file).items()}
    speech = Speech()
    for folder, style, count in (("windows", "packed", windows), ("early", "early", 50)):
        (out / folder).mkdir(parents=True, exist_ok=True)
        rows = []
        streams = {
            x: shuffled(sentences[x], np.random.default_rng([seed, i]))
            for i, x in enumerate(sentences)
        }
        for i in range(count):
            rng = np.random.default_rng([seed, count, i])
            language = ("en", "de", "es")[i % 3]
            pieces: list[Piece] = []
            while not pieces:
                layout = draw_layout(style, WINDOW_S, rng)
                pieces = lay_out(
                    layout, drawer(speech, language, streams[language], rng), WINDOW_S, rng
                )
            pieces = [
                piece for piece in pieces if style != "early" or piece.at + piece.duration <= 10.5
            ] or pieces[:1]
            wave = speech.render(pieces, WINDOW_S, hiss(WINDOW_S, 10 ** rng.uniform(-5, -3), rng))
            write_audio(out / folder / f"{i:03d}.flac", wave)
            rows.append(truth_row(f"{i:03d}.flac", language, WINDOW_S, pieces))
        write_truth(out / folder, rows)
    (out / "non-speech").mkdir(parents=True, exist_ok=True)
    write_truth(out / "non-speech", non_speech(out / "non-speech", WINDOW_S, ".flac", seed, 22))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    repository = commands.add_parser(
        "repository", help="the test files of the repository, from sentences of ours"
    )
    repository.add_argument("out", type=Path)
    fresh = commands.add_parser("fresh", help="windows of held-out sentences for the judge")
    fresh.add_argument("out", type=Path)
    fresh.add_argument("sentences", type=Path, help="sentences.json.gz from text.py")
    fresh.add_argument("--windows", type=int, default=108)
    fresh.add_argument("--seed", type=int, default=101)
    arguments = parser.parse_args()
    if arguments.command == "repository":
        make_repository(arguments.out)
    else:
        make_fresh(arguments.out, arguments.sentences, arguments.windows, arguments.seed)


if __name__ == "__main__":
    main()
