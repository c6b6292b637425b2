"""Known voices: which speakers of composed conversations get the right name, and which a wrong one.

Each voice is added with one clip, whose sentences do not occur in the conversations. All voices are
known, also those that are not heard. Then each speaker is compared again without the own voice, as
a stranger: any name is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import SAMPLE_RATE_HZ, Samples
from speaker_sets import SETS, Effect, composed, phone, write
from speaker_voices import Clip, MissingVoiceError, Voices

from transcribe_mcp import Options
from transcribe_mcp.domain.transcript import Turn
from transcribe_mcp.pipeline.enrolment import evidence_of_clip, print_of_clip
from transcribe_mcp.quality.speaker_score import read_turns
from transcribe_mcp.speakers.clustering import SpeakerBounds
from transcribe_mcp.speakers.turns import Diarization, diarize
from transcribe_mcp.speakers.voices import KnownVoice, VoicePrint, name_speakers, prints_of

KNOWN = (
    *("allison_en", "june_fr", "carlo_it", "ru", "flite_rms", "flite_awb", "flite_slt"),
    *("piper_joe", "menardi_it", "esco", "armelle_fr"),
)
CLIP_S = 14.0
PAUSE_S = 0.25
# Set, and the channels over which voices were added.
CASES = (
    *((name, ("wideband",)) for name in ("a_three", "a_three_room", "g_noise10", "c_eight")),
    ("f_phone", ("wideband",)),
    ("f_phone", ("wideband", "telephone")),
    ("c_seven_phone", ("wideband", "telephone")),
)
EFFECTS: dict[str, Effect | None] = {"wideband": None, "telephone": phone}


@dataclass(slots=True)
class Names:
    """How many speakers got which name."""

    right: int = 0
    wrong: int = 0
    unnamed: int = 0
    maybe_right: int = 0  # of those without a name
    maybe_wrong: int = 0
    strangers: int = 0
    strangers_named: int = 0


class HeldBack:
    """The clips of voices, without those that they were added with."""

    def __init__(self, voices: Voices) -> None:
        self._voices = voices

    def __getitem__(self, name: str) -> list[Clip]:
        clips = self._voices[name]
        return clips[n_first(clips) :]


def n_first(clips: Sequence[Clip]) -> int:
    """How many clips a voice is added with."""
    seconds = np.cumsum([len(clip.samples) / SAMPLE_RATE_HZ for clip in clips])
    return int(np.searchsorted(seconds, CLIP_S)) + 1


def voice_clip(clips: Sequence[Clip]) -> Samples:
    pause = np.zeros(int(PAUSE_S * SAMPLE_RATE_HZ), np.float32)
    return np.concatenate([part for clip in clips for part in (clip.samples, pause)])


def known_voices(voices: Voices, folder: Path) -> list[KnownVoice]:
    """A print of each kind for each voice that can be built."""
    found = []
    for name in KNOWN:
        try:
            clips = voices[name]
        except MissingVoiceError as error:
            print(f"{name} is left out: {error}")
            continue
        prints = []
        for kind, effect in EFFECTS.items():
            path = folder / f"{name}-{kind}.wav"
            samples = voice_clip(clips[: n_first(clips)])
            write(path, effect(samples, 0) if effect else samples, [])
            prints.append(print_of_clip(path, Options()))
        found.append(KnownVoice(name, tuple(prints)))
    return found


def true_name(number: int, found: Diarization, reference: Sequence[Turn]) -> str:
    """The voice that is heard for most of a speaker's time."""
    seconds: Counter[str] = Counter()
    for turn in found.exclusive:
        if turn.speaker == number:
            for one in reference:
                shared_s = min(one.end, turn.end) - max(one.start, turn.start)
                seconds[one.speaker] += max(0.0, shared_s)  # type: ignore[assignment]
    return seconds.most_common(1)[0][0]


def judge(truth: Sequence[str], heard: Sequence[VoicePrint], known: Sequence[KnownVoice]) -> Names:
    naming = name_speakers(heard, known)
    names = Names()
    for number, name in enumerate(truth):
        given = naming.names.get(number)
        names.right += given == name
        names.wrong += given not in (None, name)
        names.unnamed += given is None
        maybe = naming.perhaps.get(number)
        names.maybe_right += maybe == name
        names.maybe_wrong += maybe not in (None, name)
        others = [voice for voice in known if voice.name != name]
        names.strangers += 1
        names.strangers_named += bool(name_speakers(heard[number : number + 1], others).names)
    return names


def measured_names(voices: Voices, work: Path, seed: int = 0) -> dict[str, Any]:
    """The figures of all cases; prints a table."""
    known = known_voices(voices, work / "known")
    print(
        f"{'set':<16}{'added over':<24}{'right':>7}{'wrong':>7}{'unnamed':>9}"
        f"{'strangers named':>17}"
    )
    figures: dict[str, Any] = {}
    heard_in: dict[str, tuple[list[str], list[VoicePrint]]] = {}
    for name, kinds in CASES:
        if name not in heard_in:
            path = work / "named" / str(seed) / f"{name}.wav"
            if not path.exists():
                write(path, *composed(SETS[name], HeldBack(voices), seed))
            heard_in[name] = heard_speakers(path)
        added = [
            KnownVoice(voice.name, tuple(one for one in voice.prints if one.kind in kinds))
            for voice in known
        ]
        names = judge(*heard_in[name], added)
        print(
            f"{name:<16}{'+'.join(kinds):<24}{names.right:>7}{names.wrong:>7}{names.unnamed:>9}"
            f"{names.strangers_named:>14}/{names.strangers}",
            flush=True,
        )
        figures[f"{name} {'+'.join(kinds)}"] = {
            each: getattr(names, each) for each in Names.__slots__
        }
    return figures


def heard_speakers(path: Path) -> tuple[list[str], list[VoicePrint]]:
    """The true name and the print of each speaker that is found."""
    evidence = evidence_of_clip(path, Options())
    found = diarize(evidence, SpeakerBounds())
    reference = read_turns(path.with_suffix(".rttm"))
    truth = [true_name(number, found, reference) for number in range(len(found.voices))]
    return truth, prints_of(found, evidence)
