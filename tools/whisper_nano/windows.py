"""Lays spoken sentences out in windows of at most 30 s, and says which tokens a window should give,
and where.

A plan holds places and gains only. Training renders it on the GPU, test audio on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from speech import SAMPLE_RATE_HZ, Record
from text import LANGUAGES, TIMESTAMP_STEP_S
from tokenizers import Tokenizer

WINDOW_S = 30.0
FRAME_S = 0.02  # one encoder position
STYLES = {  # share of training windows
    "packed": 0.34,  # sentences with short and middling pauses
    "dense": 0.14,  # no pauses, as after cutting silence out
    "early": 0.18,  # speech in the first third or less, then nothing
    "sparse": 0.10,  # pauses of seconds
    "late": 0.06,  # long silence first
    "cut": 0.18,  # begins or ends within a sentence
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one utterance in a window; all times in seconds, cut from the utterance's own
    start.
    """

    record: Record
    cut: float
    duration: float
    at: float
    gain: float
    base: int = 0  # first sample of the record's shard in the pool

    @property
    def is_cut_at_end(self) -> bool:
        return self.cut + self.duration < self.record.n_samples / SAMPLE_RATE_HZ - 1e-3

    def words(self) -> list[tuple[str, float, float, bool]]:
        """The words that are heard whole, in window time."""
        shift = self.at - self.cut
        stop = self.cut + self.duration + 1e-3
        heard = [w for w in self.record.words if w[1] >= self.cut - 1e-3 and w[2] <= stop]
        return [(text, start + shift, end + shift, timed) for text, start, end, timed in heard]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a window is filled: first sound, latest end, pauses as (shares, ranges), and what may be
    cut.
    """

    begin: float
    end: float
    pauses: tuple[tuple[float, float], ...]
    cut_start: bool = False
    cut_end: bool = False


def draw_layout(style: str, seconds: float, rng: np.random.Generator) -> Layout:
    short = (0.05, 0.4)
    middling = (0.3, 1.5)
    none = (0.0, 0.06)
    long = (1.0, 6.0)
    scale = seconds / WINDOW_S
    if style == "dense":
        return Layout(rng.uniform(0, 0.1), rng.uniform(0.3, 1) * seconds, (none, none, short))
    if style == "early":
        return Layout(rng.uniform(0, 1.0), rng.uniform(0.05, 0.36) * seconds, (short, middling))
    if style == "sparse":
        return Layout(rng.uniform(0, 5) * scale, seconds, (long, middling))
    if style == "late":
        return Layout(rng.uniform(2, 24) * scale, seconds, (short, middling))
    if style == "cut":
        start, end = [(True, False), (False, True), (True, True)][rng.integers(3)]
        return Layout(
            0.0 if start else rng.uniform(0, 1), seconds, (short, middling, none), start, end
        )
    return Layout(
        rng.uniform(0, 1.5) * max(scale, 0.2), rng.uniform(0.2, 1) * seconds, (short, middling)
    )


def lay_out(
    layout: Layout, draw: Callable[[], tuple[Record, int]], seconds: float, rng: np.random.Generator
) -> list[Piece]:
    """Fills a window from draw(), which gives a record and its shard's base."""
    pieces: list[Piece] = []
    level = 10 ** rng.uniform(-1.0, 0.0)
    time = layout.begin
    misses = 0
    while time < layout.end and misses < 3:
        record, base = draw()
        length = record.n_samples / SAMPLE_RATE_HZ
        cut = 0.0
        if layout.cut_start and not pieces and length > 1:
            cut = rng.uniform(0.1, length - 0.5)
        room = seconds - 0.05 - time if not layout.cut_end else seconds - time
        duration = length - cut
        if duration > room:
            if not layout.cut_end:
                misses += 1
                continue
            duration = room
        pieces.append(Piece(record, cut, duration, time, level * rng.uniform(0.5, 1.0), base))
        low, high = layout.pauses[rng.integers(len(layout.pauses))]
        time += duration + rng.uniform(low, high)
    return pieces


@dataclass(frozen=True, slots=True)
class Target:
    """What the decoder should say: ids, how many of them are a prompt, and the part of the audio
    each one is heard in.

    spans are encoder frames (first, one past the last) for each id, (-1, -1) where none is meant.
    """

    ids: list[int]
    n_prompt: int
    spans: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Ids:
    """The token ids the targets need."""

    end: int
    start: int
    translate: int
    transcribe: int
    previous: int
    no_speech: int
    no_timestamps: int
    first_timestamp: int
    languages: dict[str, int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Ids:
        names = (
            "endoftext",
            "startoftranscript",
            "translate",
            "transcribe",
            "startofprev",
            "nospeech",
            "notimestamps",
            "0.00",
        )
        ids = [tokenizer.token_to_id(f"<|{name}|>") for name in names]
        return cls(
            *ids, {language: tokenizer.token_to_id(f"<|{language}|>") for language in LANGUAGES}
        )


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked of a window: timestamp tokens, upper case (the toy translation), and the text
    before it.
    """

    timestamps: bool
    upper_case: bool = False
    previous: str = ""


MAX_PREVIOUS_TOKENS = 110


class TargetWriter:
    """Turns plans into targets."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.ids = Ids.of(tokenizer)

    def no_speech(self, language: str, task: Task) -> Target:
        """Asked for words where there are none, the model ends at once (after 0.00 if it has to
        give a timestamp).
        """
        ids = self.ids
        mode = [ids.first_timestamp] if task.timestamps else [ids.no_timestamps]
        sequence = [ids.start, ids.languages[language], ids.transcribe, *mode, ids.end]
        return Target(sequence, 0, [(-1, -1)] * len(sequence))

    def speech(self, language: str, pieces: list[Piece], task: Task) -> Target:
        ids = self.ids
        prompt = (
            self._tokenizer.encode(" " + task.previous).ids[-MAX_PREVIOUS_TOKENS:]
            if task.previous
            else []
        )
        head = [ids.previous, *prompt] if prompt else []
        mode = ids.translate if task.upper_case else ids.transcribe
        sequence = [*head, ids.start, ids.languages[language], mode]
        if not task.timestamps:
            sequence.append(ids.no_timestamps)
        spans: list[tuple[int, int]] = [(-1, -1)] * len(sequence)
        for i, piece in enumerate(pieces):
            words = piece.words()
            if not words:
                continue
            stop = pieces[i + 1].at if i + 1 < len(pieces) else piece.at + piece.duration + 0.3
            tokens, places = self._tokens(words, task.upper_case, stop)
            if task.timestamps:
                first = words[0][1]
                last = words[-1][2]
                self._mark(sequence, spans, piece.at if piece.cut == 0 else first)
                sequence = sequence + tokens
                spans = spans + places
                if not piece.is_cut_at_end:
                    self._mark(sequence, spans, max(last, piece.at + piece.duration))
            else:
                sequence = sequence + tokens
                spans = spans + places
        silence = int((pieces[-1].at + pieces[-1].duration) / FRAME_S) + 15 if pieces else 0
        spans.append(
            (silence, int(WINDOW_S / FRAME_S)) if silence < WINDOW_S / FRAME_S - 5 else (-1, -1)
        )
        return Target([*sequence, ids.end], len(head), spans)

    def _mark(self, sequence: list[int], spans: list[tuple[int, int]], seconds: float) -> None:
        step = min(max(round(seconds / TIMESTAMP_STEP_S), 0), round(WINDOW_S / TIMESTAMP_STEP_S))
        sequence.append(self.ids.first_timestamp + step)
        spans.append((max(step - 2, 0), step + 2))

    def _tokens(
        self, words: list[tuple[str, float, float, bool]], upper: bool, stop: float
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of the words and where each is heard; a word's closing punctuation owns the pause up
        to the next word.
        """
        text = "".join(" " + word[0] for word in words)
        encoding = self._tokenizer.encode(
            text.upper() if upper and len(text.upper()) == len(text) else text
        )
        edges = np.empty(len(text) + 1)
        position = 0
        for i, (word, start, end, _) in enumerate(words):
            following = words[i + 1][1] if i + 1 < len(words) else stop
            letters = len(word.rstrip(",;:.!?")) or len(word)
            edges[position] = start  # the space belongs to the word that follows
            edges[position + 1 : position + 2 + letters] = np.linspace(start, end, letters + 1)
            edges[position + 2 + letters : position + 2 + len(word)] = following
            position += 1 + len(word)
        edges[position] = stop
        places = []
        for a, b in encoding.offsets:
            first = max(round(edges[a] / FRAME_S), 0)
            places.append((first, max(first + 1, round(edges[b] / FRAME_S))))
        return encoding.ids, places


def phoneme_frames(pieces: list[Piece], n_frames: int) -> np.ndarray:
    """Phoneme class at the middle of every encoder frame: (n_frames,) uint8, 0 where nobody
    speaks.
    """
    classes = np.zeros(n_frames, np.uint8)
    for piece in pieces:
        starts = piece.record.phoneme_starts - piece.cut + piece.at
        first = round(piece.at / FRAME_S)
        last = min(n_frames, round((piece.at + piece.duration) / FRAME_S))
        middles = (np.arange(first, last) + 0.5) * FRAME_S
        which = np.searchsorted(starts, middles, side="right") - 1
        classes[first:last] = np.where(
            which >= 0, piece.record.phoneme_classes[np.maximum(which, 0)], 0
        )
    return classes
