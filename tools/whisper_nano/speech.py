"""Speaks sentences with libespeak-ng and keeps what was said when: words, phonemes, voice.

The library is called through ctypes because its events carry the truth that a rendered sound file
has lost. On a machine without the Debian package, unpack libespeak-ng1, espeak-ng-data and
libsonic0 anywhere and name the two places in the environment: ESPEAK_LIBRARY (the .so file) and
ESPEAK_DATA (the folder that holds espeak-ng-data).
"""

from __future__ import annotations

import ctypes
import os
import zlib
from dataclasses import dataclass, field

import numpy as np
from scipy.signal import resample_poly

SAMPLE_RATE_HZ = 16_000
ESPEAK_RATE_HZ = 22_050
# 22050 Hz * 320 / 441 = 16000 Hz
UP = 320
DOWN = 441
AUDIBLE = 1e-3  # of full scale; quieter edges of an utterance are cut off
N_PHONEME_CLASSES = 256  # phoneme names hashed; class 0 is a pause

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_PHONEME_EVENTS = 1
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
_EVENT_END = 0
_EVENT_WORD = 1
_EVENT_PHONEME = 7
_RATE = 1
_PITCH = 3
_RANGE = 4

ACCENTS = {
    "en": ("en-us", "en", "en-gb-scotland", "en-gb-x-rp"),
    "de": ("de",),
    "es": ("es", "es-419"),
}
VARIANTS = ("", *(f"+m{i}" for i in range(1, 8)), *(f"+f{i}" for i in range(1, 5)))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker: espeak-ng's voice name with variant, words per minute, pitch and pitch range (0
    to 99).
    """

    name: str
    rate_wpm: int
    pitch: int
    pitch_range: int


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word as written, in seconds from the utterance's first sample; timed is false where
    espeak-ng gave no event.
    """

    text: str
    start: float
    end: float
    timed: bool


@dataclass(frozen=True, slots=True)
class Utterance:
    """One spoken sentence: samples (n,) int16 at 16 kHz, and its truth."""

    text: str
    language: str
    voice: Voice
    samples: np.ndarray = field(repr=False)
    words: tuple[SpokenWord, ...]
    phonemes: tuple[tuple[float, int], ...]  # start in seconds, class

    @property
    def duration(self) -> float:
        return len(self.samples) / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class Record:
    """An utterance in a shard: its place in samples and its truth; words are (text, start, end,
    timed).
    """

    offset: int
    n_samples: int
    language: str
    text: str
    voice: str
    words: tuple[tuple[str, float, float, bool], ...]
    phoneme_starts: np.ndarray  # (n,) float32 seconds
    phoneme_classes: np.ndarray  # (n,) uint8


def record_of(utterance: Utterance, offset: int) -> Record:
    return Record(
        offset,
        len(utterance.samples),
        utterance.language,
        utterance.text,
        utterance.voice.name,
        tuple((w.text, w.start, w.end, w.timed) for w in utterance.words),
        np.array([t for t, _ in utterance.phonemes], np.float32),
        np.array([c for _, c in utterance.phonemes], np.uint8),
    )


def draw_voice(language: str, rng: np.random.Generator) -> Voice:
    name = str(rng.choice(ACCENTS[language])) + str(rng.choice(VARIANTS))
    return Voice(
        name, int(rng.integers(125, 196)), int(rng.integers(25, 76)), int(rng.integers(25, 66))
    )


class Synthesizer:
    """libespeak-ng, opened once in a process (its state is global)."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ.get("ESPEAK_LIBRARY", "libespeak-ng.so.1"))
        data = os.environ.get("ESPEAK_DATA")
        rate = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, data.encode() if data else None, _PHONEME_EVENTS
        )
        if rate != ESPEAK_RATE_HZ:
            raise RuntimeError(
                f"libespeak-ng did not start: sample rate {rate}, expected {ESPEAK_RATE_HZ}"
            )
        self._blocks: list[np.ndarray] = []
        self._words: list[tuple[int, float]] = []  # character offset, seconds
        self._phonemes: list[tuple[float, str]] = []
        self._callback = _CALLBACK(self._receive)  # kept: ctypes does not
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave, n_samples: int, events) -> int:
        if wave and n_samples > 0:
            self._blocks.append(np.ctypeslib.as_array(wave, (n_samples,)).copy())
        i = 0
        while events[i].type != _EVENT_END:
            event = events[i]
            if event.type == _EVENT_WORD:
                self._words.append((event.text_position - 1, event.sample / ESPEAK_RATE_HZ))
            elif event.type == _EVENT_PHONEME:
                self._phonemes.append(
                    (event.sample / ESPEAK_RATE_HZ, event.name.decode("utf-8", "replace"))
                )
            i += 1
        return 0

    def say(self, text: str, language: str, voice: Voice) -> Utterance | None:
        """Speaks one sentence; None where nothing audible comes out."""
        self._blocks = []
        self._words = []
        self._phonemes = []
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f"libespeak-ng has no voice {voice.name!r}")
        for parameter, value in (
            (_RATE, voice.rate_wpm),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        raw = text.encode()
        self._library.espeak_Synth(
            raw, len(raw) + 1, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        self._library.espeak_Synchronize()
        if not self._blocks:
            return None
        wave = resample_poly(
            np.concatenate(self._blocks).astype(np.float32) / 32768, UP, DOWN
        ).astype(np.float32)
        audible = np.flatnonzero(np.abs(wave) > AUDIBLE)
        if len(audible) == 0:
            return None
        first = int(audible[0])
        last = int(audible[-1]) + 1
        samples = (np.clip(wave[first:last], -1, 1) * 32767).astype(np.int16)
        offset = first / SAMPLE_RATE_HZ
        duration = (last - first) / SAMPLE_RATE_HZ
        phonemes = tuple((max(0.0, t - offset), phoneme_class(name)) for t, name in self._phonemes)
        words = _place_words(text, [(i, t - offset) for i, t in self._words], phonemes, duration)
        return Utterance(text, language, voice, samples, words, phonemes)


def phoneme_class(name: str) -> int:
    """Class of a phoneme name: 0 for a pause, else 1 to 255 by hash (collisions are harmless for a
    helper loss).
    """
    if not name or name.startswith("_"):
        return 0
    return 1 + zlib.crc32(name.encode()) % (N_PHONEME_CLASSES - 1)


def _place_words(
    text: str,
    events: list[tuple[int, float]],
    phonemes: tuple[tuple[float, int], ...],
    duration: float,
) -> tuple[SpokenWord, ...]:
    """Gives every whitespace-separated word its time.

    espeak-ng speaks some pairs ("on the") as one word with one event; the second word's time is
    then read off the letters and marked as not timed.
    """
    spans = []
    position = 0
    for word in text.split():
        position = text.index(word, position)
        spans.append((word, position, position + len(word)))
        position += len(word)
    starts: list[float | None] = []
    for _, a, b in spans:
        inside = [t for i, t in events if a <= i < b]
        starts.append(min(max(inside[0], 0.0), duration) if inside else None)
    if starts and starts[0] is None:
        starts[0] = 0.0
    pauses = [t for t, c in phonemes if c == 0]
    words = []
    i = 0
    while i < len(spans):
        j = i + 1
        while j < len(spans) and starts[j] is None:
            j += 1
        start = float(starts[i] or 0.0)
        limit = float(starts[j] or duration) if j < len(spans) else duration
        end = min([t for t in pauses if start + 0.02 < t < limit], default=limit)
        letters = np.cumsum([0] + [len(w) for w, _, _ in spans[i:j]])
        edges = start + (max(end, start) - start) * letters / letters[-1]
        for k in range(i, j):
            words.append(
                SpokenWord(
                    spans[k][0], float(edges[k - i]), float(edges[k - i + 1]), starts[k] is not None
                )
            )
        i = j
    return tuple(words)
