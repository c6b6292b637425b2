"""Results of windows, for sentences and checkpoints.

The JSON form is for checkpoints only. It is exact: every float is restored unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol

from ..domain.sentences import cut_sentences
from ..domain.transcript import Notice, Segment, Word
from ..engines import Decoded
from ..speech.regions import SAMPLE_RATE_HZ
from .language_vote import Vote
from .quality_rules import ScoredResult, is_repetitive

# One or two repeated digits in any grouping: their number is hard to recognize.
REPEATED_DIGITS = re.compile(r"([1-9]\d?)(?:[-, ]*\1){4,}")
CODEC = 3  # version of the JSON form; earlier ones stored batches by number
OVERLAP_S = 0.01  # windows that share more audio are alternatives


@dataclass(frozen=True, slots=True)
class PartResult:
    """The words of one window on the original clock, and their quality."""

    start: float
    words: tuple[Word, ...]
    judged: ScoredResult

    def said_by(self, speaker: str) -> PartResult:
        return replace(self, words=tuple(replace(word, speaker=speaker) for word in self.words))


Key = tuple[int, float, int]


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The result of one window: no parts in silence, several if the window was cut.

    Attributes:
        voice: the pass over the recording; see ``voices``.
        n_samples: length of the window. With voice and start it identifies the window in any run.
        number: index among the windows of its voice; -1 in earlier checkpoints.
    """

    voice: int
    start: float
    n_samples: int
    parts: tuple[PartResult, ...]
    number: int = -1

    @property
    def key(self) -> Key:
        return self.voice, self.start, self.n_samples

    @property
    def duration_s(self) -> float:
        return self.n_samples / SAMPLE_RATE_HZ

    @property
    def end(self) -> float:
        return self.start + self.duration_s


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Results of some windows of one voice, and the language decided so far."""

    voice: int
    windows: tuple[WindowResult, ...]
    vote: Vote

    def dumps(self) -> str:
        vote = self.vote
        data = {
            "codec": CODEC,
            "stage": "recognize",
            "voice": self.voice,
            "windows": [
                [one.start, one.n_samples, [_to_row(part) for part in one.parts], one.number]
                for one in self.windows
            ],
            "vote": [vote.language, vote.probability, [[n.code, n.message] for n in vote.notices]],
        }
        # JSON does not accept NumPy's numbers.
        return json.dumps(data, ensure_ascii=False, default=float)

    @classmethod
    def loads(cls, text: str) -> Checkpoint | None:
        """``None`` for a checkpoint of another version."""
        data = json.loads(text)
        if data.get("codec") != CODEC:
            return None
        language, probability, notices = data["vote"]
        voice = data["voice"]
        windows = (
            WindowResult(voice, start, n_samples, tuple(_from_row(row) for row in rows), *number)
            for start, n_samples, rows, *number in data["windows"]
        )
        vote = Vote(language, probability, tuple(Notice(*notice) for notice in notices))
        return cls(voice, tuple(windows), vote)


class Restored:
    """The checkpoints of earlier runs. A later window replaces the earlier ones that it
    overlaps.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.windows: dict[Key, WindowResult] = {}
        self.votes: dict[int, Vote] = {}
        self.n_discarded = 0
        for text in texts:
            self._add(Checkpoint.loads(text))

    def _add(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            self.n_discarded += 1
            return
        self.votes[checkpoint.voice] = checkpoint.vote
        for new in checkpoint.windows:
            for old in self._overlapped(new):
                del self.windows[old.key]
                self.n_discarded += old.key != new.key
            self.windows[new.key] = new

    def _overlapped(self, new: WindowResult) -> list[WindowResult]:
        return [
            old
            for old in self.windows.values()
            if old.voice == new.voice
            and min(old.end, new.end) - max(old.start, new.start) > OVERLAP_S
        ]

    @property
    def last_vote(self) -> Vote:
        return list(self.votes.values())[-1] if self.votes else Vote(None, None)

    @property
    def heard(self) -> list[PartResult]:
        """In order."""
        return _in_order(self.windows.values())

    @property
    def settled(self) -> list[PartResult]:
        """In order, up to the first missing window, so that later calls only add to it.

        With several voices, empty until the end.
        """
        by_number = {window.number: window for window in self.windows.values()}
        if set(self.votes) - {0}:
            return []
        n_settled = next(number for number in count() if number not in by_number)
        return _in_order(by_number[number] for number in range(n_settled))


def _in_order(windows: Iterable[WindowResult]) -> list[PartResult]:
    parts = (part for window in windows for part in window.parts)
    return sorted(parts, key=lambda part: part.start)


class CheckpointStore(Protocol):
    """Keeps results, so that a recording continues where it was interrupted.

    Both methods are called from the thread that called ``transcribe``.
    """

    def load(self) -> Sequence[str]:
        """All that was saved, in order. Called once, before the first ``save``."""

    def save(self, text: str) -> None:
        """Save the results of some windows."""

    def keep_speakers(self, evidence: bytes) -> None:
        """Save the evidence of the speakers, to detect them again without the audio."""


def to_segments(heard: Sequence[PartResult], *, keep_words: bool) -> Iterator[Segment]:
    """Windows in order -> sentences across window boundaries, separately for each channel."""
    by_speaker: dict[str | None, list[PartResult]] = {}
    for window in heard:
        if window.words:
            by_speaker.setdefault(window.words[0].speaker, []).append(window)
    segments = [
        one for windows in by_speaker.values() for one in sentences(windows, keep_words=keep_words)
    ]
    yield from (
        sorted(segments, key=lambda segment: segment.start) if len(by_speaker) > 1 else segments
    )


def sentences(heard: Sequence[PartResult], *, keep_words: bool) -> Iterator[Segment]:
    """Windows in order -> sentences across window boundaries.

    Each gets the quality values of the window in which it begins.
    """
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


def _to_row(window: PartResult) -> dict[str, Any]:
    """A window for JSON, without its tokens and the engine's own word timestamps."""
    decoded = window.judged.decoded
    return {
        "start": window.start,
        "words": [[w.start, w.end, w.text, w.probability, w.speaker] for w in window.words],
        "decoded": [
            decoded.text, decoded.language, decoded.temperature, decoded.avg_logprob,
            decoded.no_speech_prob,
        ],
        "compression_ratio": window.judged.compression_ratio,
        "failure": window.judged.failure,
        "fits": window.judged.fits,
    }  # fmt: skip


def _from_row(row: dict[str, Any]) -> PartResult:
    text, language, temperature, avg_logprob, no_speech_prob = row["decoded"]
    decoded = Decoded(
        text, language, temperature, avg_logprob=avg_logprob, no_speech_prob=no_speech_prob
    )
    words = tuple(Word(*word) for word in row["words"])
    judged = ScoredResult(decoded, row["compression_ratio"], row["failure"], row.get("fits", True))
    return PartResult(row["start"], words, judged)


def doubts(heard: Sequence[PartResult]) -> Iterator[Notice]:
    """Notices about windows that still break a rule, and about repetitions that were kept."""
    for window in heard:
        judged = window.judged
        start = _clock(window.start)
        if judged.failure is None:
            text = judged.decoded.text.strip()
            if is_repetitive(text) or REPEATED_DIGITS.search(text):
                message = (
                    f"from {start} on the same words or digits are repeated; they fit the speech "
                    "and were kept"
                )
                yield Notice("repeated_words", message)
        elif not judged.fits and judged.failure == "repetition":
            message = (
                f"from {start} on the model repeated itself more often than fits the speech; "
                "repeats were removed"
            )
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
