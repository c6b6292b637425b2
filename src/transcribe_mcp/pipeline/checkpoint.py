"""What was heard in a batch of windows: sentences are made of it, and a checkpoint keeps it.

The JSON form is for checkpoints only. It is exact: every float comes back as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..domain.sentences import cut_sentences
from ..domain.transcript import Notice, Segment, Word
from ..engines import Decoded
from ..speech.regions import Window
from .language_vote import Vote
from .quality_rules import Judged, is_repetitive

# A digit or two said again and again, however they are grouped: how often is hard to hear.
REPEATED_DIGITS = re.compile(r"([1-9]\d?)(?:[-, ]*\1){4,}")
CODEC = (
    2  # version of the JSON form; 1 had neither the lengths of windows nor the number of the batch
)


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
        number: its place among the batches of the recording.
        starts, durations_s: of each of its windows, whether or not something was heard there.
        windows: those that hold speech.
        vote: the language as decided by the end of this batch.
        is_anew: an earlier run had decoded other windows under this number.
    """

    number: int
    starts: tuple[float, ...]
    durations_s: tuple[float, ...]
    windows: tuple[Heard, ...]
    vote: Vote
    is_anew: bool = False

    @classmethod
    def of(
        cls, number: int, windows: Sequence[Window], heard: Iterable[Heard], vote: Vote
    ) -> HeardBatch:
        starts, durations_s = (
            (window.start for window in windows),
            (window.duration for window in windows),
        )
        return cls(number, tuple(starts), tuple(durations_s), tuple(heard), vote)

    def is_of(self, windows: Sequence[Window]) -> bool:
        """Whether it was made from exactly these windows."""
        spans = list(zip(self.starts, self.durations_s, strict=False))
        return spans == [(window.start, window.duration) for window in windows]

    def dumps(self) -> str:
        rows = [_to_row(window) for window in self.windows]
        vote = [
            self.vote.language,
            self.vote.probability,
            [[n.code, n.message] for n in self.vote.notices],
        ]
        data = {
            "codec": CODEC,
            "number": self.number,
            "starts": self.starts,
            "durations_s": self.durations_s,
            "windows": rows,
            "vote": vote,
        }
        return json.dumps(
            data, ensure_ascii=False, default=float
        )  # what NumPy counts with is no float

    @classmethod
    def loads(cls, text: str, number: int = 0) -> HeardBatch:
        """``number``: of a checkpoint that does not say its own. One of another version is of no window."""
        data = json.loads(text)
        if data.get("codec", 1) > CODEC:
            return cls(data.get("number", number), (), (), (), Vote(None, None))
        language, probability, notices = data["vote"]
        return cls(
            number=data.get("number", number),
            starts=tuple(data["starts"]),
            durations_s=tuple(data.get("durations_s", ())),
            windows=tuple(_from_row(row) for row in data["windows"]),
            vote=Vote(language, probability, tuple(Notice(*notice) for notice in notices)),
        )


def restored(checkpoints: Sequence[str]) -> list[HeardBatch]:
    """The batches that checkpoints hold, by their numbers.

    A batch that was decoded anew, because its windows had changed, replaces the earlier one and all that followed it.
    """
    batches: list[HeardBatch] = []
    for text in checkpoints:
        batch = HeardBatch.loads(text, len(batches))
        is_anew = batch.number < len(batches)
        batches[batch.number :] = [replace(batch, is_anew=is_anew)]
    return batches


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
    segments = [
        one for windows in by_speaker.values() for one in _sentences(windows, keep_words=keep_words)
    ]
    yield from (
        sorted(segments, key=lambda segment: segment.start) if len(by_speaker) > 1 else segments
    )


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
        "fits": window.judged.fits,
    }  # fmt: skip


def _from_row(row: dict[str, Any]) -> Heard:
    text, language, temperature, avg_logprob, no_speech_prob = row["decoded"]
    decoded = Decoded(
        text, language, temperature, avg_logprob=avg_logprob, no_speech_prob=no_speech_prob
    )
    words = tuple(Word(*word) for word in row["words"])
    judged = Judged(decoded, row["compression_ratio"], row["failure"], row.get("fits", True))
    return Heard(row["start"], words, judged)


def doubts(heard: Sequence[Heard]) -> Iterator[Notice]:
    """Windows that still break a rule, and repetitions that were believed: their words are kept, and named."""
    for window in heard:
        judged = window.judged
        start = _clock(window.start)
        if judged.failure is None:
            text = judged.decoded.text.strip()
            if is_repetitive(text) or REPEATED_DIGITS.search(text):
                message = f"from {start} on the same words or digits are repeated; they fit the speech and were kept"
                yield Notice("repeated_words", message)
        elif not judged.fits and judged.failure == "repetition":
            message = f"from {start} on the model repeated itself beyond what the speech can hold: repeats were left out"
            yield Notice("doubtful_repetition", message)
        elif judged.failure == "speech_without_words":
            yield Notice(
                "speech_without_words",
                f"in the window from {start} on there is speech without words",
            )
        else:
            rule = judged.failure.replace("_", " ")
            yield Notice(
                f"doubtful_{judged.failure}", f"the words from {start} on are doubtful: {rule}"
            )


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(int(time_s), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"
