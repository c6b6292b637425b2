"""Known voices: prints of persons' voices, and the matching with speakers of a recording.

A print is the mean embedding of at least 10 s of clean speech. It is compared only with speakers
on the same kind of channel, and only if the same network made both. Between telephone and
wideband, a voice resembles others as much as itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from .clustering import unit
from .evidence import Evidence
from .networks import SHA256
from .segmentation import FRAME_S, frame_at
from .turns import Diarization

MODEL = "campplus"
WEIGHTS = SHA256[f"{MODEL}.safetensors"]
MIN_SPEECH_S = 10.0  # of one person alone; with less, voices cannot be distinguished
MARGIN = 0.10  # minimum margin over the cosine of the next name
CLEAN = 0.9  # minimum share of a window with one speaker only
WIDE_SHARE = 0.1  # share of windows with sound above the telephone band


class Kind(StrEnum):
    """The kind of channel of a voice."""

    WIDEBAND = "wideband"
    TELEPHONE = "telephone"


# Cosines from which a speaker is, or may be, a known voice. Over a telephone, voices are more
# alike.
SAME_VOICE = {Kind.WIDEBAND: 0.75, Kind.TELEPHONE: 0.80}
SIMILAR_VOICE = {Kind.WIDEBAND: 0.60, Kind.TELEPHONE: 0.75}
# The same for persons who are expected, of whom clips may be short.
EXPECTED_VOICE = {Kind.WIDEBAND: 0.70, Kind.TELEPHONE: 0.80}
MIN_EXPECTED_S = 2.0


@dataclass(frozen=True, slots=True)
class VoicePrint:
    """A voice print.

    Attributes:
        vector: mean embedding, (192,), of length 1.
        seconds: amount of clean speech.
        added: day on which it was stored, as in 2026-01-31.
        id: random, to distinguish prints.
        model, weights: the network that made it, and the SHA-256 of its weights.
    """

    kind: Kind
    vector: NDArray[np.float32] = field(repr=False)
    seconds: float
    added: str = ""
    id: str = ""
    model: str = MODEL
    weights: str = WEIGHTS

    @property
    def is_current(self) -> bool:
        """Whether the network of this version made it. Others are never compared."""
        return (self.model, self.weights) == (MODEL, WEIGHTS)


@dataclass(frozen=True, slots=True)
class KnownVoice:
    """A person, with prints of the voice, oldest first."""

    name: str
    prints: tuple[VoicePrint, ...] = ()

    def likeness(self, heard: VoicePrint) -> float | None:
        """Cosine with the most similar print of the same kind; ``None`` without one."""
        cosines = [
            float(one.vector @ heard.vector)
            for one in self.prints
            if one.is_current and one.kind == heard.kind
        ]
        return max(cosines, default=None)


@dataclass(frozen=True, slots=True)
class Naming:
    """Which speakers are known voices.

    Attributes:
        names: number of a speaker -> name. No name occurs twice.
        perhaps: the same where it is uncertain; or where another speaker has the name already.
        uncompared: kinds of channel for which no known voice has a print.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    perhaps: Mapping[int, str] = field(default_factory=dict)
    uncompared: tuple[Kind, ...] = ()


def prints_of(found: Diarization, evidence: Evidence) -> list[VoicePrint]:
    """A print of each speaker of a recording, from the windows in which nobody else speaks."""
    speaker = np.full(len(evidence.speech), -1, np.int16)
    for turn in found.exclusive:
        speaker[_frames(turn.start) : _frames(turn.end)] = turn.speaker
    speaker[evidence.overlap] = -1
    firsts = np.array([frame_at(start) for start in evidence.starts.tolist()], np.intp)
    firsts = np.minimum(firsts, len(speaker) - 1)
    ends = np.array([frame_at(end) for end in evidence.ends.tolist()], np.intp)
    ends = np.clip(ends, firsts + 1, len(speaker))
    return [
        _print_of(speaker == number, np.stack([firsts, ends]), evidence)
        for number in range(len(found.voices))
    ]


def _frames(time_s: float) -> int:
    """The first frame at or after a time."""
    return frame_at(time_s + FRAME_S / 2)


def _print_of(
    is_alone: NDArray[np.bool_], edges: NDArray[np.intp], evidence: Evidence
) -> VoicePrint:
    heard = np.append(0, is_alone.cumsum())
    n_frames = edges[1] - edges[0]
    is_clean = heard[edges[1]] - heard[edges[0]] >= CLEAN * n_frames
    vectors = unit(evidence.embeddings[is_clean].astype(np.float32))
    mean = (vectors * n_frames[is_clean, None]).sum(axis=0)
    wide = evidence.wide[is_clean]
    is_wide = bool(len(wide)) and float(wide.mean()) >= WIDE_SHARE
    kind = Kind.WIDEBAND if is_wide else Kind.TELEPHONE
    seconds = min(int(heard[-1]), int(n_frames[is_clean].sum())) * FRAME_S
    return VoicePrint(kind, unit(mean.astype(np.float32)), seconds)


def name_speakers(heard: Sequence[VoicePrint], known: Sequence[KnownVoice]) -> Naming:
    """Which speakers are known voices.

    If one name fits two speakers, the more similar one gets it.

    Args:
        heard: prints of the speakers, in the order of their numbers.
    """
    sure: list[tuple[float, int, str]] = []
    similar: dict[int, str] = {}
    for number, voice in enumerate(heard):
        likeness = {one.name: one.likeness(voice) for one in known}
        ranked = sorted(((c, name) for name, c in likeness.items() if c is not None), reverse=True)
        is_enough = voice.seconds >= MIN_SPEECH_S
        if not ranked or not is_enough or ranked[0][0] < SIMILAR_VOICE[voice.kind]:
            continue
        best, name = ranked[0]
        is_clear = all(best - other >= MARGIN for other, _ in ranked[1:])
        if best >= SAME_VOICE[voice.kind] and is_clear:
            sure.append((-best, number, name))
        else:
            similar[number] = name
    names: dict[int, str] = {}
    again: dict[int, str] = {}
    for _, number, name in sorted(sure):
        is_taken = name in names.values()
        (again if is_taken else names)[number] = name
    perhaps = {number: name for number, name in similar.items() if name not in names.values()}
    prints = [each for one in known for each in one.prints if each.is_current]
    kinds = {voice.kind for voice in heard if voice.seconds >= MIN_SPEECH_S}
    return Naming(names, perhaps | again, tuple(sorted(kinds - {one.kind for one in prints})))


def name_expected(heard: Sequence[VoicePrint], expected: Sequence[KnownVoice]) -> dict[int, str]:
    """Number of a speaker -> name of the expected person; the most similar pairs first."""
    pairs = sorted(
        (-likeness, number, person.name)
        for number, voice in enumerate(heard)
        for person in expected
        if voice.seconds >= MIN_EXPECTED_S
        and (likeness := person.likeness(voice) or 0.0) >= EXPECTED_VOICE[voice.kind]
    )
    names: dict[int, str] = {}
    for _, number, name in pairs:
        if number not in names and name not in names.values():
            names[number] = name
    return names
