"""Merge and rename the speakers of a transcript. Words and their times stay."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from ..errors import UnknownNameError, UsageError
from .options import ALL, NONE
from .sentences import cut_sentences
from .text_breaks import JOINERS
from .transcript import CLOCK_TOLERANCE_S, Notice, Segment, Transcript, Turn, Word

MAX_NAME_CHARS = 64
PAUSE_S = 0.25  # between two turns of one speaker, which a merge joins
_LABEL = re.compile(r"speaker[\s_-]*\d+")


def renamed(transcript: Transcript, names: Mapping[str, str]) -> Transcript:
    """Rename speakers, all at once: two may swap their names.

    Raises:
        UnknownNameError: the transcript has no such speaker.
        UsageError: a name is taken, empty, too long, or has control characters.
    """
    _require_known(transcript, names)
    labels = {old: checked_name(new) for old, new in names.items()}
    taken = set()
    for speaker in transcript.speakers:
        name = labels.get(speaker.id, speaker.id)
        if name in taken:
            hint = "merge the two if they are one person, or choose another name"
            raise UsageError(f"two speakers would be named {name!r}", hint=hint)
        taken.add(name)
    return relabelled(transcript, labels)


def merged(transcript: Transcript, groups: Sequence[Sequence[str]]) -> Transcript:
    """Make each group of speakers one, with the name of its first; cut the sentences again.

    Raises:
        UnknownNameError: the transcript has no such speaker.
        UsageError: a group of one, a speaker in two groups, or two that have a channel each and
            speak at the same time.
    """
    labels: dict[str, str] = {}
    for group in groups:
        _require_known(transcript, group)
        if len(set(group)) < 2:
            hint = "name two or more speakers who are one person"
            raise UsageError(f"nobody to merge with {', '.join(group) or 'nobody'}", hint=hint)
        for name in dict.fromkeys(group):
            if name in labels:
                raise UsageError(f"{name!r} is in two groups to merge", hint="join the groups")
            labels[name] = group[0]
    try:
        result = relabelled(transcript, labels)
    except ValueError as error:
        hint = "rename them instead; their channels or tracks overlap"
        names = " and ".join(labels)
        raise UsageError(f"{names} speak at the same time: {error}", hint=hint) from error
    if not _is_one_line(result):
        return result
    return replace(result, segments=tuple(sentences_of(result.segments, result.words)))


def sentences_of(segments: Sequence[Segment], words: Sequence[Word]) -> Iterator[Segment]:
    """Cut sentences again. Each gets the quality values of the segment in which it begins.

    Args:
        segments: with words, in order.
        words: the same words, perhaps of other speakers.
    """
    segment_of_word = [segment for segment in segments for _ in segment.words]
    first = 0
    for sentence in cut_sentences(words):
        origin = segment_of_word[first]
        first += len(sentence)
        yield replace(
            origin,
            start=sentence[0].start,
            end=sentence[-1].end,
            text="".join(word.text for word in sentence),
            words=tuple(sentence),
            speaker=sentence[0].speaker,
        )


def with_overlap(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """The turns in order, with ``overlap`` set if another turn overlaps."""
    ordered = sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker))
    overlapped = [False] * len(ordered)
    latest = 0  # of the turns before, the one that ends last
    for i, turn in enumerate(ordered[1:], start=1):
        if turn.start < ordered[latest].end:
            overlapped[latest] = overlapped[i] = True
        if turn.end > ordered[latest].end:
            latest = i
    return tuple(
        Turn(turn.start, turn.end, turn.speaker, overlap)
        for turn, overlap in zip(ordered, overlapped, strict=True)
    )


def _require_known(transcript: Transcript, names: Iterable[str]) -> None:
    known = [speaker.id for speaker in transcript.speakers]
    for name in names:
        if name not in known:
            if not known:
                message = "the transcript has no speakers"
                hint = "transcribe the recording again with --queue --diarize --force"
                raise UnknownNameError(message, hint=hint)
            message = f"the transcript has no speaker {name[:MAX_NAME_CHARS]!r}"
            raise UnknownNameError.unknown(message, name, known, "speakers")


def checked_name(name: str) -> str:
    """The name of a speaker, without white space around it.

    Raises:
        UsageError: it is empty, too long, or has characters that names cannot have.
    """
    checked = unicodedata.normalize("NFC", name.strip())
    if not checked.strip(JOINERS):
        raise UsageError("the name of a speaker is empty", hint="give a name, such as Anna")
    if len(checked) > MAX_NAME_CHARS:
        message = f"the name {checked[:MAX_NAME_CHARS]!r}… has {len(checked)} characters"
        raise UsageError(message, hint=f"give at most {MAX_NAME_CHARS}")
    if "=" in checked or not all(char.isprintable() or char in JOINERS for char in checked):
        hint = "give a name of one line, without control characters and ="
        raise UsageError(f"the name {checked!r} has characters that names cannot have", hint=hint)
    return checked


def checked_voice_name(name: str) -> str:
    """The name of a known voice.

    Raises:
        UsageError: it is empty, too long, the label of a speaker, or has characters that names
            cannot have.
    """
    checked = checked_name(name)
    if "," in checked or checked.casefold() in (ALL, NONE):
        hint = f"leave out commas; {ALL} and {NONE} are words of --voices"
        raise UsageError(f"a known voice cannot have the name {checked!r}", hint=hint)
    if _LABEL.fullmatch(checked.casefold()):
        hint = "give the name of the person, such as Anna"
        raise UsageError(f"{checked!r} is a label of unknown speakers", hint=hint)
    return checked


def relabelled(transcript: Transcript, labels: Mapping[str, str]) -> Transcript:
    """Rename speakers; those who get the same name are one. Sentences stay as they are cut."""
    segments = tuple(relabelled_segment(segment, labels) for segment in transcript.segments)
    return replace(transcript, segments=segments, turns=relabelled_turns(transcript.turns, labels))


def relabelled_segment(segment: Segment, labels: Mapping[str, str]) -> Segment:
    """The same object if none of these speakers is in it."""
    speakers = {word.speaker for word in segment.words}
    if labels.keys().isdisjoint({segment.speaker, *speakers}):
        return segment
    names = {speaker: labels.get(speaker or "", speaker) for speaker in speakers}
    words = tuple(
        Word(word.start, word.end, word.text, word.probability, names[word.speaker])
        for word in segment.words
    )
    return replace(segment, speaker=labels.get(segment.speaker or "", segment.speaker), words=words)


def relabelled_turns(turns: Iterable[Turn], labels: Mapping[str, str]) -> tuple[Turn, ...]:
    """The turns with other labels; those of one speaker that nearly touch are joined."""
    renamed = [Turn(turn.start, turn.end, labels.get(turn.speaker, turn.speaker)) for turn in turns]
    return with_overlap(joined_turns(renamed))


def composed(names: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, str]:
    """Two renamings combined."""
    return {**labels, **{old: labels.get(new, new) for old, new in names.items()}}


def without_doubts(warnings: Iterable[Notice], labels: Iterable[str]) -> tuple[Notice, ...]:
    """Drop warnings that these speakers may be known voices, because the user has decided."""
    doubts = tuple(f"{label} may be " for label in labels)
    return tuple(
        notice
        for notice in warnings
        if notice.code != "voice_uncertain" or not notice.message.startswith(doubts)
    )


def joined_turns(turns: Sequence[Turn]) -> Iterator[Turn]:
    """Join turns of one speaker that overlap or nearly touch."""
    last: dict[str, Turn] = {}
    for turn in sorted(turns, key=lambda turn: turn.start):
        before = last.get(turn.speaker)
        if before is not None and turn.start - before.end <= PAUSE_S:
            turn = replace(before, end=max(before.end, turn.end))
        elif before is not None:
            yield before
        last[turn.speaker] = turn
    yield from last.values()


def _is_one_line(transcript: Transcript) -> bool:
    """Whether its sentences have words and do not overlap, as in a recording of one voice."""
    return all(segment.is_timed for segment in transcript.segments) and all(
        after.start >= before.end - CLOCK_TOLERANCE_S
        for before, after in pairwise(transcript.segments)
    )
