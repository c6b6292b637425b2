"""What the parts of ``gpu.py`` need: models with random weights, an hour of talk and silence, the
peer's layout.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from common import OWN_AUDIO, SAMPLE_RATE_HZ, Samples, read_samples
from gpu_parts import Figures, Setup
from random_whisper import shape_of, write_random_whisper

SPEECH_SHARE = 0.6
TALK_S = (20.0, 240.0)  # of talk between silences
MP3_RATE_HZ = 44_100


def prepare_models(setup: Setup) -> Figures:
    for name in setup.models:
        if not (setup.model(name) / "tokenizer.json").exists():
            write_random_whisper(setup.model(name), shape_of(name))
    return {}


def prepare_sizes(setup: Setup) -> Figures:
    for name in setup.sizes:
        if name not in setup.models and not (setup.model(name) / "tokenizer.json").exists():
            write_random_whisper(setup.model(name), shape_of(name))
    return {}


def prepare_audio(setup: Setup) -> Figures:
    """Talk and silence by turns until 60 % of the frames are speech, decoded and as an MP3."""
    from transcribe_mcp.speech.detector import SpeechDetector

    talks = [read_samples(path) for path in sorted(OWN_AUDIO.glob("*_?.flac"))]
    speech_frames = sum(
        int((SpeechDetector().push(talk, last=True) >= 0.5).sum()) for talk in talks
    )
    density = speech_frames * 512 / sum(map(len, talks))
    samples = hour_of(talks, setup.minutes * 60, density)
    np.save(setup.folder / "hour.npy", samples)
    clip = next(talk for talk in talks if len(talk) >= 9 * SAMPLE_RATE_HZ)
    np.save(setup.folder / "clip.npy", np.resize(clip, 10 * SAMPLE_RATE_HZ))
    found = SpeechDetector().push(samples, last=True)
    return {"speech_share": float((found >= 0.5).mean()), "seconds": len(samples) / SAMPLE_RATE_HZ}


def hour_of(talks: Sequence[Samples], duration_s: float, density: float) -> Samples:
    random = np.random.default_rng(0)
    known = cycle(talks)
    parts: list[Samples] = []
    n_wanted = round(duration_s * SAMPLE_RATE_HZ)
    n_made = 0
    while n_made < n_wanted:
        talk = [next(known)]
        talk_s = random.uniform(*TALK_S)
        while sum(map(len, talk)) < talk_s * SAMPLE_RATE_HZ:
            talk.append(next(known))
        n_talk = sum(map(len, talk))
        n_silence = round(n_talk * (density / SPEECH_SHARE - 1))
        silence = random.standard_normal(max(0, n_silence)).astype(np.float32) * np.float32(3e-4)
        parts += [*talk, silence]
        n_made += n_talk + len(silence)
    return np.concatenate(parts)[:n_wanted]


def write_mp3(target: Any, samples: Samples, **options: str) -> None:
    """44.1 kHz, stereo, of samples (n,) at 16 kHz.

    Args:
        target: a path, or a file that is open for writing.
        options: of FFmpeg's muxer.
    """
    import av

    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=MP3_RATE_HZ)
    with av.open(target, "w", format="mp3", options=options) as container:
        stream = container.add_stream(
            "libmp3lame",
            rate=MP3_RATE_HZ,
            options={"compression_level": "9"},  # fast
            layout="stereo",
            format="fltp",
        )
        for first in range(0, len(samples), SAMPLE_RATE_HZ):
            block = np.ascontiguousarray(samples[None, first : first + SAMPLE_RATE_HZ])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate = SAMPLE_RATE_HZ
            frame.pts = first
            for each in resampler.resample(frame):
                container.mux(stream.encode(each))
        for each in resampler.resample(None):
            container.mux(stream.encode(each))
        container.mux(stream.encode(None))


def prepare_mp3(setup: Setup) -> Figures:
    """44.1 kHz, stereo, from the decoded hour."""
    if (setup.folder / "hour.mp3").exists():  # of a run before, in a folder that is kept
        return {}
    while not (setup.folder / "clip.npy").exists():
        time.sleep(0.1)
    path = setup.folder / "hour.part"
    write_mp3(str(path), setup.hour())
    path.rename(setup.folder / "hour.mp3")
    return {}


def prepare_ctranslate2(setup: Setup) -> Figures:
    from common import ctranslate2_layout

    found = {}
    for name in setup.models:
        while not (setup.model(name) / "tokenizer.json").exists():
            time.sleep(0.1)
        found[name] = str(ctranslate2_layout(setup.model(name), "float16"))
    (setup.folder / "ctranslate2.json").write_text(json.dumps(found), encoding="utf-8")
    return {}
