"""What was heard in a batch of windows: sentences are made of it, and a checkpoint keeps it.

The JSON form is for checkpoints only: it is exact (every float comes back as it was) and read by the version that
wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .engines import Decoded
from .fallback import Judged
from .languages import Vote
from .sentences import cut_sentences
from .transcript import Notice, Segment, Word


@dataclass(frozen=True, slots=True)
class Heard:
    """One window's words on the original clock, and how well they were heard."""

    start: float
    words: tuple[Word, ...]
    judged: Judged

    def said_by(self, speaker: str) -> Heard:
        return replace(self, words=tuple(replace(word, speaker=speaker) for word in self.words))


@dataclass(frozen=True, slots=True)
class HeardBatch:
    """What became of one batch.

    Attributes:
        starts: where each of its windows begins, whether or not something was heard there.
        windows: those that hold speech.
        vote: the language as decided by the end of this batch.
    """

    starts: tuple[float, ...]
    windows: tuple[Heard, ...]
    vote: Vote

    def dumps(self) -> str:
        rows = [_to_row(window) for window in self.windows]
        vote = [self.vote.language, self.vote.probability, [[n.code, n.message] for n in self.vote.notices]]
        data = {"starts": self.starts, "windows": rows, "vote": vote}
        return json.dumps(data, ensure_ascii=False, default=float)  # what NumPy counts with is no float

    @classmethod
    def loads(cls, text: str) -> HeardBatch:
        data = json.loads(text)
        language, probability, notices = data["vote"]
        return cls(
            starts=tuple(data["starts"]),
            windows=tuple(_from_row(row) for row in data["windows"]),
            vote=Vote(language, probability, tuple(Notice(*notice) for notice in notices)),
        )


class KeptBatches(Protocol):
    """Keeps finished batches, so that a recording that was broken off goes on where it was.

    Both are called from the pipeline's own thread, for batches 0, 1, 2 … in order.
    """

    def get(self, number: int) -> HeardBatch | None:
        """What was kept of a batch when the same work was done before."""

    def keep(self, number: int, batch: HeardBatch) -> None:
        """Take a batch that is finished."""


class Unkept:
    """For a caller who keeps none."""

    def get(self, number: int) -> HeardBatch | None:
        return None

    def keep(self, number: int, batch: HeardBatch) -> None:
        return None


def to_segments(heard: Sequence[Heard], *, keep_words: bool) -> Iterator[Segment]:
    """Windows in order -> sentences over their borders, each speaker's by themselves.

    Each has the quality of the window in which it begins.
    """
    by_speaker: dict[str | None, list[Heard]] = {}
    for window in heard:
        if window.words:
            by_speaker.setdefault(window.words[0].speaker, []).append(window)
    segments = [one for windows in by_speaker.values() for one in _sentences(windows, keep_words=keep_words)]
    yield from sorted(segments, key=lambda segment: segment.start) if len(by_speaker) > 1 else segments


def _sentences(heard: Sequence[Heard], *, keep_words: bool) -> Iterator[Segment]:
    words = [word for window in heard for word in window.words]
    window_of_word = [window for window in heard for _ in window.words]
    first = 0
    for sentence in cut_sentences(words):
        judged = window_of_word[first].judged
        first += len(sentence)
        yield Segment(
            start=sentence[0].start,
            end=sentence[-1].end,
            text="".join(word.text for word in sentence),
            words=tuple(sentence) if keep_words else (),
            language=judged.decoded.language,
            speaker=sentence[0].speaker,
            avg_logprob=judged.decoded.avg_logprob,
            no_speech_prob=judged.decoded.no_speech_prob,
            compression_ratio=judged.compression_ratio,
            temperature=judged.decoded.temperature,
        )


def _to_row(window: Heard) -> dict[str, Any]:
    """Everything but the tokens and the engine's own word times, which nothing needs once words are timed."""
    decoded = window.judged.decoded
    return {
        "start": window.start,
        "words": [[w.start, w.end, w.text, w.probability, w.speaker] for w in window.words],
        "decoded": [
            decoded.text, decoded.language, decoded.temperature, decoded.avg_logprob, decoded.no_speech_prob,
        ],
        "compression_ratio": window.judged.compression_ratio,
        "failure": window.judged.failure,
    }  # fmt: skip


def _from_row(row: dict[str, Any]) -> Heard:
    text, language, temperature, avg_logprob, no_speech_prob = row["decoded"]
    decoded = Decoded(text, language, temperature, avg_logprob=avg_logprob, no_speech_prob=no_speech_prob)
    words = tuple(Word(*word) for word in row["words"])
    return Heard(row["start"], words, Judged(decoded, row["compression_ratio"], row["failure"]))
