"""Conversations with known speakers, composed from clips of voices. A seed gives the same ones."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from common import SAMPLE_RATE_HZ, Samples
from speaker_voices import Clip, Voices, resampled

Spans = list[tuple[float, float, str]]
Effect = Callable[[Samples, int], Samples]  # of a seed that is added to its own

PAUSE_S = 0.25  # shorter pauses of a speaker do not end a turn of the reference


@dataclass(frozen=True, slots=True)
class Recipe:
    """A conversation.

    Attributes:
        overlap: share of the speech during which two speak.
        backchannels: probability of a short answer after a turn.
        weights: how often each voice speaks; equally by default.
        effects: applied to the mix in order.
        speaker: the one behind all voices, if they are of one person.
    """

    voices: Sequence[str]
    seed: int
    seconds: float = 300
    overlap: float = 0.0
    backchannels: float = 0.15
    weights: Sequence[float] | None = None
    effects: Sequence[Effect] = ()
    speaker: str | None = None


# -- effects ---------------------------------------------------------------------------------------


def room(own_seed: int, decay_s: float = 0.35) -> Effect:
    """Reverberation."""

    def apply(samples: Samples, seed: int) -> Samples:
        random = np.random.default_rng(own_seed + seed)
        n = int(decay_s * SAMPLE_RATE_HZ)
        response = random.standard_normal(n) * np.exp(-6.9 * np.arange(n) / n) * 0.06
        response[0] = 1.0
        n_fft = 1 << (len(samples) + n - 1).bit_length()
        spectrum = np.fft.rfft(samples, n_fft) * np.fft.rfft(response, n_fft)
        return np.fft.irfft(spectrum, n_fft)[: len(samples)].astype(np.float32)

    return apply


def noise(snr_db: float, own_seed: int) -> Effect:
    """Pink noise."""

    def apply(samples: Samples, seed: int) -> Samples:
        random = np.random.default_rng(own_seed + seed)
        spectrum = np.fft.rfft(random.standard_normal(len(samples)))
        added = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1.0), len(samples))
        power = (samples[np.abs(samples) > 0.005] ** 2).mean()
        added *= np.sqrt(power / 10 ** (snr_db / 10) / (added**2).mean())
        return (samples + added).astype(np.float32)

    return apply


def phone(samples: Samples, seed: int) -> Samples:
    """A telephone: 300 to 3400 Hz, 8 kHz, mu-law with 8 bits."""
    low, high = np.tan(np.pi * np.array([300.0, 3400.0]) / SAMPLE_RATE_HZ)
    padded = np.pad(samples, SAMPLE_RATE_HZ)
    spectrum = np.fft.rfft(padded)
    frequency = np.tan(np.linspace(0, np.pi / 2, len(spectrum), endpoint=False))
    frequency[0] = 1e-9
    # A Butterworth filter of order 6, forwards and backwards.
    gain = 1 / (1 + ((frequency**2 - low * high) / (frequency * (high - low))) ** 12)
    filtered = np.fft.irfft(spectrum * gain, len(padded))[SAMPLE_RATE_HZ:-SAMPLE_RATE_HZ]
    narrow = resampled(filtered.astype(np.float32), 1, 2)
    loudest = np.abs(narrow).max()
    narrow = narrow / loudest
    code = np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256)
    code = np.round(code * 127) / 127
    decoded = np.sign(code) * (np.power(256, np.abs(code)) - 1) / 255 * loudest
    return resampled(decoded.astype(np.float32), 2, 1)


THREE = ("allison_en", "june_fr", "carlo_it")
SETS = {
    "a_three": Recipe(THREE, 1),
    "a_three_room": Recipe(THREE, 1, effects=[room(5), noise(30, 6)]),
    "b_overlap": Recipe(THREE, 2, overlap=0.1, backchannels=0.25, effects=[noise(35, 9)]),
    "c_eight": Recipe(
        (
            *("carlo_it", "ru", "flite_rms", "flite_awb"),
            *("flite_slt", "allison_en", "june_fr", "piper_joe"),
        ),
        3,
        seconds=1200,
        effects=[noise(30, 10)],
    ),
    "c_seven_phone": Recipe(
        (*THREE, "ru", "menardi_it", "esco", "armelle_fr"),
        4,
        seconds=1200,
        effects=[phone, noise(28, 11)],
    ),
    "d_one": Recipe(("allison_en",), 5, effects=[noise(30, 12)]),
    "d_one_two_languages": Recipe(
        ("allison_en", "allison_es"), 6, effects=[noise(30, 13)], speaker="allison"
    ),
    "e_two_women": Recipe(("june_fr", "allison_en"), 7, effects=[phone, noise(30, 14)]),
    "e_two_women2": Recipe(("menardi_it", "armelle_fr"), 8, effects=[phone, noise(30, 15)]),
    "e_espeak": Recipe(
        ("espeak_en-us_m1", "espeak_en-us_m3"), 9, seconds=240, effects=[noise(30, 16)]
    ),
    "f_phone": Recipe(THREE, 1, effects=[phone, noise(30, 8)]),
    "g_noise10": Recipe(THREE, 1, effects=[room(5), noise(10, 7)]),
    "h_dominant": Recipe(
        (*THREE, "ru"),
        17,
        backchannels=0.5,
        weights=(0.7, 0.1, 0.1, 0.1),
        effects=[room(18), noise(30, 19)],
    ),
}
WORDS = Recipe(("allison_en", "flite_rms", "flite_slt"), 20, effects=[noise(30, 21)])


# -- composition -----------------------------------------------------------------------------------


class _Pool:
    """The clips of a voice, in turn."""

    def __init__(self, clips: Sequence[Clip], random: np.random.Generator) -> None:
        shuffled = [clips[i] for i in random.permutation(len(clips))]
        seconds = [len(clip.samples) / SAMPLE_RATE_HZ for clip in shuffled]
        pairs = list(zip(shuffled, seconds, strict=True))
        self._long = [clip for clip, length in pairs if 1.0 <= length <= 8.0]
        self._short = [clip for clip, length in pairs if 0.35 <= length < 1.0] or self._long
        self._n_long = 0
        self._n_short = 0

    def take_long(self) -> Clip:
        self._n_long += 1
        return self._long[(self._n_long - 1) % len(self._long)]

    def take_short(self) -> Clip:
        self._n_short += 1
        return self._short[(self._n_short - 1) % len(self._short)]

    def take_turn(self, random: np.random.Generator) -> Clip:
        """Several long clips with pauses between them."""
        least_s = random.uniform(2.0, 9.0)
        parts: list[Samples] = []
        spans: list[tuple[float, float]] = []
        time_s = 0.0
        while time_s < least_s:
            clip = self.take_long()
            spans += [(start + time_s, end + time_s) for start, end in clip.spans]
            pause = np.zeros(int(random.uniform(0.08, 0.35) * SAMPLE_RATE_HZ), np.float32)
            parts += [clip.samples, pause]
            time_s += len(clip.samples) / SAMPLE_RATE_HZ
            time_s += len(pause) / SAMPLE_RATE_HZ
        return Clip(np.concatenate(parts[:-1]), tuple(spans))


@dataclass(slots=True)
class _Conversation:
    recipe: Recipe
    random: np.random.Generator
    pools: list[_Pool]
    gains: list[float]
    mix: Samples
    spans: Spans = field(default_factory=list)
    time_s: float = 0.5  # at which the next turn may start
    end_s: float = 0.0  # of the latest turn
    last: int | None = None
    said_s: float = 0.0
    overlapped_s: float = 0.0

    def compose(self) -> None:
        n = len(self.pools)
        while self.time_s < self.recipe.seconds:
            speaker = int(self.random.choice(n, p=self.recipe.weights))
            if n > 1 and speaker == self.last:
                continue
            self._take_turn(speaker)
            if n > 1 and self.random.random() < self.recipe.backchannels:
                self._answer(speaker)

    def _take_turn(self, speaker: int) -> None:
        turn = self.pools[speaker].take_turn(self.random)
        length_s = len(turn.samples) / SAMPLE_RATE_HZ
        start_s = self.time_s
        overlap = self.recipe.overlap
        if overlap and self.last is not None and self.overlapped_s < overlap * self.said_s:
            shared_s = min(self.random.uniform(0.6, 2.5), length_s * 0.6)
            start_s = max(0.5, self.end_s - shared_s)
            self.overlapped_s += self.end_s - start_s
        self._add(speaker, turn, turn.samples, start_s)
        self.end_s = start_s + length_s
        self.said_s += length_s
        self.last = speaker
        self.time_s = self.end_s + self.random.uniform(0.1, 0.9)

    def _answer(self, speaker: int) -> None:
        others = [k for k in range(len(self.pools)) if k != speaker]
        other = int(self.random.choice(others))
        clip = self.pools[other].take_short()
        length_s = len(clip.samples) / SAMPLE_RATE_HZ
        start_s = self.time_s
        if self.recipe.overlap:
            start_s = self.end_s - self.random.uniform(0.5, 1.5)
            self.overlapped_s += length_s
        self._add(other, clip, clip.samples * 0.8, start_s)
        if not self.recipe.overlap:
            self.time_s = start_s + length_s + self.random.uniform(0.2, 0.6)

    def _add(self, speaker: int, clip: Clip, samples: Samples, start_s: float) -> None:
        first = int(start_s * SAMPLE_RATE_HZ)
        self.mix[first : first + len(samples)] += samples * self.gains[speaker]
        name = self.recipe.speaker or self.recipe.voices[speaker]
        self.spans += [(start_s + start, start_s + end, name) for start, end in clip.spans]


def composed(recipe: Recipe, voices: Voices, seed: int) -> tuple[Samples, Spans]:
    """Samples (n,) and who speaks when."""
    random = np.random.default_rng(recipe.seed + seed)
    pools = [_Pool(voices[name], random) for name in recipe.voices]
    gains = [float(10 ** (random.uniform(-4, 4) / 20)) for _ in pools]
    mix = np.zeros(int((recipe.seconds + 15) * SAMPLE_RATE_HZ), np.float32)
    conversation = _Conversation(recipe, random, pools, gains, mix)
    conversation.compose()
    end_s = max(end for _, end, _ in conversation.spans) + 0.5
    samples = mix[: int(end_s * SAMPLE_RATE_HZ)]
    for effect in recipe.effects:
        samples = effect(samples, seed)
    return samples, joined(conversation.spans)


def joined(spans: Iterable[tuple[float, float, str]]) -> Spans:
    """Spans of a speaker joined over pauses of at most ``PAUSE_S``, in order."""
    latest: dict[str, tuple[float, float]] = {}
    found: Spans = []
    for start, end, name in sorted(spans):
        before = latest.get(name)
        if before is not None and start - before[1] <= PAUSE_S:
            latest[name] = (before[0], max(before[1], end))
            continue
        if before is not None:
            found.append((*before, name))
        latest[name] = (start, end)
    return sorted([*found, *((*span, name) for name, span in latest.items())])


def write(path: Path, samples: Samples, spans: Spans) -> None:
    """Write ``path`` as WAV with 16 bits, and its reference as RTTM beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pcm = (samples / max(1.0, np.abs(samples).max() / 0.98) * 32767).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes(pcm.tobytes())
    lines = [
        f"SPEAKER {path.stem} 1 {start:.3f} {end - start:.3f} <NA> <NA> {name} <NA> <NA>\n"
        for start, end, name in spans
    ]
    path.with_suffix(".rttm").write_text("".join(lines), encoding="utf-8")
