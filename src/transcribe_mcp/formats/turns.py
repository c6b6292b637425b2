"""Separate the turns of speakers who talk at the same time on separate channels or tracks."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby, pairwise

from ..domain.transcript import Transcript


def turns_apart(transcript: Transcript) -> list[Transcript]:
    """The transcript, or one per turn if any overlap: each lasts until the next begins, or
    longer.
    """
    if all(before.end <= after.start for before, after in pairwise(transcript.segments)):
        return [transcript]
    turns = [
        tuple(group)
        for _, group in groupby(transcript.segments, key=lambda segment: segment.speaker)
    ]
    starts = [*(turn[0].start for turn in turns[1:]), transcript.duration]
    return [
        replace(
            transcript, segments=turn, duration=min(transcript.duration, max(turn[-1].end, start))
        )
        for turn, start in zip(turns, starts, strict=True)
    ]
