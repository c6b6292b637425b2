"""Who says what: from the evidence of the speakers, and words or a finished transcript."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..domain.options import Options
from ..domain.speaker_labels import sentences_of, with_overlap
from ..domain.transcript import Notice, Segment, Transcript, Turn
from ..speakers.clustering import MAX_SPEAKERS, SpeakerBounds
from ..speakers.evidence import Evidence
from ..speakers.turns import Diarization, SpeakerTurn, diarize
from ..speakers.voices import Kind, KnownVoice, Naming, name_expected, name_speakers, prints_of
from ..speakers.words import speakers_of
from .checkpoint import PartResult

NOT_MET = "speaker_count_not_met"
UNCERTAIN = "voice_uncertain"
NOT_COMPARED = "voices_not_compared"
ABOUT_SPEAKERS = frozenset({NOT_MET, UNCERTAIN, NOT_COMPARED})
CHANNELS = {Kind.TELEPHONE: "over the telephone", Kind.WIDEBAND: "in wideband sound"}


@dataclass(frozen=True, slots=True)
class Speakers:
    """Who says what in a recording.

    Attributes:
        heard: the parts of the recording in order, each word with its speaker.
        turns: when each speaker talks.
        notices: what the user should know about them.
    """

    heard: list[PartResult]
    turns: tuple[Turn, ...] = ()
    notices: tuple[Notice, ...] = ()


def with_speakers(
    heard: Sequence[PartResult],
    evidence: Evidence,
    options: Options,
    known: Sequence[KnownVoice] = (),
    expected: Sequence[KnownVoice] = (),
) -> Speakers:
    """Give each word its speaker, and voices their names. ``heard`` is in order.

    Args:
        known: voices that may occur.
        expected: voices that occur according to the caller.
    """
    found = diarize(evidence, bounds_of(options))
    words = [word for part in heard for word in part.words]
    numbers = speakers_of(words, found.exclusive) if found.exclusive else []
    prints = prints_of(found, evidence) if known or expected else []
    naming = name_speakers(prints, known) if known else Naming()
    names = {**_names(numbers, found), **naming.names, **name_expected(prints, expected)}
    named = iter([replace(w, speaker=names[n]) for w, n in zip(words, numbers, strict=False)])
    parts = [replace(part, words=tuple(next(named, w) for w in part.words)) for part in heard]
    notices = (*_notices(len(names), options), *_about_voices(naming, names))
    return Speakers(parts, _turns(found, names), notices)


def reassigned(
    transcript: Transcript,
    evidence: Evidence,
    options: Options,
    known: Sequence[KnownVoice] = (),
) -> Transcript:
    """Detect the speakers of a finished transcript again, within the bounds of the options.

    Sentences are split again if words have times. Others stay, and get the speaker who talks for
    most of them.
    """
    found = diarize(evidence, bounds_of(options))
    words = transcript.words
    has_words = all(segment.is_timed for segment in transcript.segments)
    numbers: list[int] = []
    if found.exclusive:
        numbers = (
            speakers_of(words, found.exclusive)
            if has_words
            else _most_heard(transcript.segments, found.exclusive)
        )
    naming = name_speakers(prints_of(found, evidence), known) if known else Naming()
    names = {**_names(numbers, found), **naming.names}
    segments = transcript.segments
    if numbers and has_words:
        named = [replace(w, speaker=names[n]) for w, n in zip(words, numbers, strict=True)]
        segments = tuple(sentences_of(segments, named))
    elif numbers:
        segments = tuple(
            replace(one, speaker=names[n]) for one, n in zip(segments, numbers, strict=True)
        )
    warnings = (notice for notice in transcript.warnings if notice.code not in ABOUT_SPEAKERS)
    return replace(
        transcript,
        segments=segments,
        turns=_turns(found, names),
        warnings=(*warnings, *_notices(len(names), options), *_about_voices(naming, names)),
    )


def bounds_of(options: Options) -> SpeakerBounds:
    if options.speakers is not None:
        return SpeakerBounds(options.speakers, options.speakers)
    least = options.min_speakers or 1
    return SpeakerBounds(least, max(least, options.max_speakers or MAX_SPEAKERS))


def _names(numbers: Iterable[int], found: Diarization) -> dict[int, str]:
    """Number -> name, in the order of the first words."""
    in_order = dict.fromkeys([*numbers, *(turn.speaker for turn in found.turns)])
    return {number: f"Speaker {i}" for i, number in enumerate(in_order, start=1)}


def _turns(found: Diarization, names: dict[int, str]) -> tuple[Turn, ...]:
    return with_overlap(Turn(one.start, one.end, names[one.speaker]) for one in found.turns)


def _most_heard(segments: Sequence[Segment], turns: Sequence[SpeakerTurn]) -> list[int]:
    """The number of the speaker of each segment; without one, that of the nearest turn."""
    starts = np.array([turn.start for turn in turns])
    ends = np.array([turn.end for turn in turns])
    speakers = np.array([turn.speaker for turn in turns])
    numbers = []
    for segment in segments:
        shared_s = np.minimum(ends, segment.end) - np.maximum(starts, segment.start)
        heard_s = np.bincount(speakers, np.maximum(shared_s, 0.0))
        is_heard = heard_s.max() > 0
        numbers.append(int(heard_s.argmax() if is_heard else speakers[shared_s.argmax()]))
    return numbers


def _notices(n_found: int, options: Options) -> list[Notice]:
    least = options.speakers or options.min_speakers or 0
    if n_found >= least or not n_found:
        return []
    voices = "one voice" if n_found == 1 else f"{n_found} voices"
    message = f"{least} speakers were requested, but the recording has only {voices}"
    return [Notice(NOT_MET, message)]


def _about_voices(naming: Naming, names: Mapping[int, str]) -> Iterator[Notice]:
    for number, name in sorted(naming.perhaps.items()):
        label = names[number]
        is_taken = name in naming.names.values()
        change = f'--merge "{name}" "{label}"' if is_taken else f'--rename "{label}={name}"'
        too = " too" if is_taken else ""
        message = f"{label} may be {name}{too}; if so: transcribe-mcp jobs speakers JOB {change}"
        yield Notice(UNCERTAIN, message)
    for kind in naming.uncompared:
        message = f"speakers {CHANNELS[kind]} have no names: no known voice has a clip of that kind"
        yield Notice(NOT_COMPARED, message)
