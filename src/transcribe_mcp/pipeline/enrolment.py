"""A clip of one person -> a print of the voice."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from ..domain.options import Options
from ..domain.progress import Progress, no_progress
from ..errors import SourceError, UsageError, VoiceSampleError
from ..media.decode import SAMPLE_RATE_HZ
from ..settings import usable_cores
from ..speakers.clustering import Array, SpeakerBounds, most_alike, unit
from ..speakers.evidence import Evidence
from ..speakers.segmentation import FRAME_S
from ..speakers.turns import diarize
from ..speakers.voices import MIN_SPEECH_S, KnownVoice, VoicePrint, prints_of
from ..speech.detector import SpeechDetector
from .speaker_pass import SpeakerPass
from .voices import voices_of

BLOCK_S = 300.0
ONE_PERSON = 0.72  # cosine above which two voices of a clip are one person
MIN_CLIP_S = 2.0  # of the clip of an expected person
MAX_CLIP_S = 10.0
SLACK_S = 0.1  # the padding of codecs
ALONE_HINT = "give a clip in which only this person speaks, or choose a channel with --channel"


def print_of_clip(path: Path, options: Options, progress: Progress = no_progress) -> VoicePrint:
    """The print of the only voice in a recording.

    Args:
        options: which track and channel.

    Raises:
        SourceError: the recording cannot be used.
        VoiceSampleError: it has several speakers, or less than 10 s of clean speech.
        UsageError: the options choose several tracks or channels.
        EngineUnavailableError: a file of the installation is missing or damaged.
    """
    evidence = evidence_of_clip(path, options, progress)
    n_found = _n_voices(diarize(evidence, SpeakerBounds()).voices)
    if not n_found:
        raise VoiceSampleError(f"no speech was found in {path}", hint=ALONE_HINT)
    if n_found > 1:
        raise VoiceSampleError(f"{path} has {n_found} speakers", hint=ALONE_HINT)
    (voice,) = prints_of(diarize(evidence, SpeakerBounds(1, 1)), evidence)
    if voice.seconds < MIN_SPEECH_S:
        raise VoiceSampleError(
            f"{path} has only {voice.seconds:.1f} s of clean speech",
            hint=f"give a clip with at least {MIN_SPEECH_S:g} s of speech; pauses do not count",
        )
    return voice


def expected_voices(options: Options) -> tuple[KnownVoice, ...]:
    """The voices in the clips of the option ``references``.

    Raises:
        VoiceSampleError: a clip cannot be used, or has no speech.
    """
    pairs = (reference.partition("=") for reference in options.references)
    threads = options.threads
    return tuple(
        KnownVoice(name, (_short_print(name, Path(path), threads),)) for name, _, path in pairs
    )


def _short_print(name: str, path: Path, threads: int) -> VoicePrint:
    """The print of a short clip, whose only voice is that of ``name``."""
    hint = f"give {MIN_CLIP_S:g} to {MAX_CLIP_S:g} s in which only this person speaks"
    try:
        evidence = evidence_of_clip(path, Options(threads=threads))
    except SourceError as error:
        reason = str(error).removeprefix(f"{path}: ").replace(str(path), "it")
        raise VoiceSampleError(f"the clip of {name} cannot be used: {reason}", hint=hint) from error
    clip_s = len(evidence.speech) * FRAME_S
    if not MIN_CLIP_S - SLACK_S <= clip_s <= MAX_CLIP_S + SLACK_S:
        raise VoiceSampleError(f"the clip of {name} is {clip_s:.1f} s long", hint=hint)
    prints = prints_of(diarize(evidence, SpeakerBounds(1, 1)), evidence)
    if not prints or not prints[0].seconds:
        raise VoiceSampleError(f"the clip of {name} has no clean speech", hint=hint)
    return prints[0]


def _n_voices(voices: Array) -> int:
    """Number of persons; one person's voice may be found twice in a short clip.

    Args:
        voices: (n, 192), of length 1.
    """
    while len(voices) > 1:
        i, j, cosine = most_alike(voices)
        if cosine < ONE_PERSON:
            break
        others = np.delete(voices, (i, j), axis=0)
        voices = np.concatenate([others, unit(voices[i : i + 1] + voices[j : j + 1])])
    return len(voices)


def evidence_of_clip(path: Path, options: Options, progress: Progress = no_progress) -> Evidence:
    """The evidence of a recording's speakers. Raises as ``print_of_clip``."""
    voices = voices_of(path, options, [])
    if len(voices) > 1:
        message = f"{path} has {len(voices)} channels or tracks to add"
        raise UsageError(message, hint="choose one of them")
    (voice,) = voices
    threads = options.threads or usable_cores()
    detector = SpeechDetector(threads)
    n_samples = 0
    with (
        closing(SpeakerPass("cpu", threads)) as speakers,
        closing(voice.blocks(BLOCK_S, threads, [])) as blocks,
    ):
        for block in blocks:
            speakers.push(block, detector.push(block), last=False)
            n_samples += len(block)
            progress("read", n_samples / SAMPLE_RATE_HZ, voice.claimed_duration_s)
        nothing = np.empty(0, np.float32)
        speakers.push(nothing, detector.push(nothing, last=True), last=True)
        return speakers.evidence()
