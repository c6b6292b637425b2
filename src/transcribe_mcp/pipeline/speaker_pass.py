"""The speakers of a recording, found in a thread beside recognition, on the same samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..domain.options import Options
from ..domain.transcript import Notice, Turn
from ..media.decode import Samples
from ..speakers.clustering import MAX_SPEAKERS, SpeakerBounds
from ..speakers.diarizer import Diarizer
from ..speakers.evidence import Evidence
from ..speakers.networks import CpuNetworks
from ..speakers.turns import SpeakerTurn, diarize
from ..speakers.words import speakers_of
from .checkpoint import PartResult

BLOCKS_AHEAD = 2  # that may wait for the thread


class SpeakerPass:
    """One pass of a diarizer over a recording."""

    def __init__(self, threads: int) -> None:
        self._networks = CpuNetworks(threads)
        self._diarizer = Diarizer(self._networks)
        self._thread = ThreadPoolExecutor(1, "speakers")
        self._blocks: deque[Future[None]] = deque()

    def push(self, samples: Samples, detected: NDArray[np.float32], *, last: bool) -> None:
        """Take the next samples and the probabilities of speech of the voice detector."""
        self._blocks.append(self._thread.submit(self._take, samples, detected, last=last))
        wait(list(self._blocks)[:-BLOCKS_AHEAD])

    def _take(self, samples: Samples, detected: NDArray[np.float32], *, last: bool) -> None:
        if not any(block.done() and block.exception() for block in self._blocks):
            self._diarizer.push(samples, detected, last=last)

    def evidence(self) -> Evidence:
        """Wait for the last block.

        Raises:
            Exception: what the diarizer failed with.
        """
        for block in self._blocks:
            block.result()
        return self._diarizer.evidence()

    def close(self) -> None:
        """Also where the recording is broken off."""
        self._thread.shutdown(cancel_futures=True)
        self._networks.close()


@dataclass(frozen=True, slots=True)
class Speakers:
    """Who says what in a recording.

    Attributes:
        heard: the parts of the recording in order, each word with its speaker.
        turns: when each speaker is heard.
        notices: what the user should know about them.
    """

    heard: list[PartResult]
    turns: tuple[Turn, ...] = ()
    notices: tuple[Notice, ...] = ()


def with_speakers(heard: Sequence[PartResult], evidence: Evidence, options: Options) -> Speakers:
    """Give each word its speaker. ``heard`` is in order."""
    found = diarize(evidence, bounds_of(options))
    words = [word for part in heard for word in part.words]
    numbers = speakers_of(words, found.exclusive) if found.exclusive else []
    in_order = dict.fromkeys([*numbers, *(turn.speaker for turn in found.turns)])
    names = {number: f"Speaker {i}" for i, number in enumerate(in_order, start=1)}
    named = iter([replace(w, speaker=names[n]) for w, n in zip(words, numbers, strict=False)])
    parts = [replace(part, words=tuple(next(named, w) for w in part.words)) for part in heard]
    turns = tuple(
        Turn(turn.start, turn.end, names[turn.speaker], overlap)
        for turn, overlap in zip(found.turns, _overlapped(found.turns), strict=True)
    )
    return Speakers(parts, turns, tuple(_notices(len(names), options)))


def bounds_of(options: Options) -> SpeakerBounds:
    if options.speakers is not None:
        return SpeakerBounds(options.speakers, options.speakers)
    least = options.min_speakers or 1
    return SpeakerBounds(least, max(least, options.max_speakers or MAX_SPEAKERS))


def _overlapped(turns: Sequence[SpeakerTurn]) -> list[bool]:
    """Whether each turn shares time with another. ``turns`` are in the order of their starts."""
    overlapped = [False] * len(turns)
    latest = 0  # of the turns before, the one that ends last
    for i, turn in enumerate(turns[1:], start=1):
        if turn.start < turns[latest].end:
            overlapped[latest] = overlapped[i] = True
        if turn.end > turns[latest].end:
            latest = i
    return overlapped


def _notices(n_found: int, options: Options) -> list[Notice]:
    least = options.speakers or options.min_speakers or 0
    if n_found >= least or not n_found:
        return []
    message = f"{least} speakers were requested, but the recording has only {n_found} voices"
    return [Notice("speaker_count_not_met", message)]
