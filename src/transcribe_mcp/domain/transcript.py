"""Words, segments, turns and the transcript, with their invariants and JSON form.

Times are float seconds on the clock of the original recording. ``None`` means not measured. The
constructors check the invariants (ordered, not overlapping, inside the recording), so no stage
needs to.

The JSON form is a superset of openai-whisper's (``text``, ``language``,
``segments[].start/end/text`` and ``words[].word/start/end/probability``), for compatibility with
existing tools. ``schema.json`` in this folder describes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 1
CLOCK_TOLERANCE_S = 1.5e-3  # one millisecond, the precision in JSON, and rounding errors


@dataclass(frozen=True, slots=True)
class Word:
    """One word. As in Whisper, ``text`` includes a leading space if the language uses spaces."""

    start: float
    end: float
    text: str
    probability: float | None = None
    speaker: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:  # inline: an hour has 10,000 words, built three times
            raise ValueError(f"word {self.text!r} runs from {self.start} to {self.end}")


@dataclass(frozen=True, slots=True)
class Segment:
    """A sentence or a part of one. The quality values are those of its window."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    language: str | None = None
    speaker: str | None = None
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    compression_ratio: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        _require(
            0 <= self.start <= self.end,
            f"segment {self.text!r} runs from {self.start} to {self.end}",
        )
        _require_in_order(self.words, "words")
        if self.words:
            inside = (
                self.start <= self.words[0].start + CLOCK_TOLERANCE_S
                and self.words[-1].end <= self.end + CLOCK_TOLERANCE_S
            )
            _require(inside, f"segment {self.text!r} does not contain its words")

    @property
    def is_timed(self) -> bool:
        """Whether all its words have times; true for a sentence without words."""
        return bool(self.words) or not self.text.strip()


@dataclass(frozen=True, slots=True)
class Turn:
    """An interval in which a speaker is heard. Those of several speakers may overlap.

    ``overlap`` says whether another speaker is heard too for a part of it.
    """

    start: float
    end: float
    speaker: str
    overlap: bool = False

    def __post_init__(self) -> None:
        _require(
            0 <= self.start <= self.end,
            f"turn of {self.speaker} runs from {self.start} to {self.end}",
        )


@dataclass(frozen=True, slots=True)
class Speaker:
    """Somebody who is heard in the recording.

    Attributes:
        id: the name in words, segments and turns: ``Speaker 1``, or the name that was given.
        seconds: for how long the speaker is heard.
        share: fraction of the seconds of all speakers.
        first: start of the first turn.
    """

    id: str
    seconds: float
    share: float
    first: float


@dataclass(frozen=True, slots=True)
class Notice:
    """A degraded result or a hint for the user: a stable ``code`` and a sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text of a recording, and how it was obtained.

    ``timings`` are wall-clock seconds by stage, and ``total``; stages overlap, so the sum can
    differ from it. ``realtime_factor`` is seconds of audio per second of work.
    """

    segments: tuple[Segment, ...]
    duration: float
    language: str | None
    language_probability: float | None
    engine: str
    model: str
    device: str
    compute_type: str
    task: str = "transcribe"
    source: str | None = None
    turns: tuple[Turn, ...] = ()
    warnings: tuple[Notice, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(0 <= self.duration < math.inf, f"duration is {self.duration}")
        _require_in_order(self.segments, "segments")
        if self.segments:
            end = max(segment.end for segment in self.segments)
            _require(
                end <= self.duration + CLOCK_TOLERANCE_S,
                f"text ends at {end}, after the recording's {self.duration}",
            )

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def speakers(self) -> tuple[Speaker, ...]:
        """The speakers of the turns, or else of the segments, in the order of their first ones."""
        seconds: dict[str, float] = {}
        firsts: dict[str, float] = {}
        for turn in self.turns or self.segments:
            if turn.speaker:
                seconds[turn.speaker] = seconds.get(turn.speaker, 0.0) + turn.end - turn.start
                firsts.setdefault(turn.speaker, turn.start)
        total = sum(seconds.values()) or 1.0
        return tuple(Speaker(name, own, own / total, firsts[name]) for name, own in seconds.items())

    @property
    def realtime_factor(self) -> float | None:
        total = self.timings.get("total")
        return self.duration / total if total else None

    def to_json(self) -> dict[str, Any]:
        """The JSON form described by ``schema.json``.

        Times are rounded to milliseconds. Rounded spans stay in order, do not overlap and stay
        inside their parent, so ``from_json`` accepts them. Quality values that are NaN or infinite
        become ``None``.
        """
        return self._facts() | {"segments": list(self.segment_rows())}

    def _facts(self) -> dict[str, Any]:
        duration = round(float(self.duration), 3)
        timings = {stage: round(float(seconds), 3) for stage, seconds in self.timings.items()}
        return {
            "schema_version": SCHEMA_VERSION,
            "text": self.text,
            "language": self.language,
            "language_probability": _rounded(self.language_probability, 4),
            "task": self.task,
            "source": self.source,
            "duration": duration,
            "engine": self.engine,
            "model": self.model,
            "device": self.device,
            "compute_type": self.compute_type,
            "realtime_factor": _rounded(duration / timings["total"], 2)
            if timings.get("total")
            else None,
            "warnings": [
                {"code": notice.code, "message": notice.message} for notice in self.warnings
            ],
            "timings": timings,
            "versions": dict(self.versions),
        } | self._speaker_facts()

    def _speaker_facts(self) -> dict[str, Any]:
        """Empty unless the recording was diarized."""
        if not self.turns:
            return {}
        return {"speakers": self.speaker_rows(), "turns": self.turn_rows()}

    def speaker_rows(self) -> list[dict[str, Any]]:
        """The speakers of the JSON form."""
        return [
            {
                "id": speaker.id,
                "seconds": _rounded(speaker.seconds),
                "share": _rounded(speaker.share, 4),
                "first": _rounded(speaker.first),
            }
            for speaker in self.speakers
        ]

    def turn_rows(self) -> list[dict[str, Any]]:
        """The turns of the JSON form."""
        spans = _rounded_spans(self.turns, 0.0, round(float(self.duration), 3))
        return [
            {"start": start, "end": end, "speaker": turn.speaker, "overlap": turn.overlap}
            for turn, (start, end) in zip(self.turns, spans, strict=True)
        ]

    def segment_rows(self, numbers: Container[int] | None = None) -> Iterator[dict[str, Any]]:
        """The segments of the JSON form, or those with these numbers."""
        spans = _rounded_spans(self.segments, 0.0, round(float(self.duration), 3))
        for number, (segment, span) in enumerate(zip(self.segments, spans, strict=True)):
            if numbers is None or number in numbers:
                yield _segment_to_json(number, segment, span)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Transcript:
        """Read the JSON form.

        Raises:
            ValueError: another schema version, a missing field, or inconsistent times.
        """
        _require(isinstance(data, Mapping), f"a transcript is an object, not {type(data).__name__}")
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"transcript has schema version {version!r}, this program reads {SCHEMA_VERSION}"
            )
        try:
            return cls(
                segments=tuple(map(segment_from_json, data["segments"])),
                turns=tuple(
                    Turn(row["start"], row["end"], row["speaker"], row["overlap"])
                    for row in data.get("turns", ())
                ),
                warnings=tuple(Notice(row["code"], row["message"]) for row in data["warnings"]),
                **{name: data[name] for name in _PLAIN_FIELDS},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"transcript has a missing or invalid field: {error}") from error

    def dumps(self) -> str:
        """The JSON form as text with one segment per line, which saves memory and suits
        ``diff``.
        """
        facts = json.dumps(
            self._facts(), ensure_ascii=False, allow_nan=False, indent=2
        ).removesuffix("\n}")
        encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
        rows = ",\n".join("    " + encoder.encode(row) for row in self.segment_rows())
        segments = f"[\n{rows}\n  ]" if rows else "[]"
        return f'{facts},\n  "segments": {segments}\n}}\n'

    @classmethod
    def loads(cls, text: str) -> Transcript:
        """Read the text form.

        Raises:
            ValueError: not JSON, or as for ``from_json``.
        """
        return cls.from_json(json.loads(text))


_PLAIN_FIELDS = (
    "duration", "language", "language_probability", "engine", "model", "device", "compute_type",
    "task", "source", "timings", "versions",
)  # fmt: skip
_QUALITY_FIELDS = ("avg_logprob", "no_speech_prob", "compression_ratio", "temperature")


def _segment_to_json(index: int, segment: Segment, span: tuple[float, float]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": index,
        "start": span[0],
        "end": span[1],
        "text": segment.text,
        "language": segment.language,
        "speaker": segment.speaker,
    }
    row |= {name: _rounded(getattr(segment, name), 4) for name in _QUALITY_FIELDS}
    row["words"] = [
        {
            "word": word.text,
            "start": start,
            "end": end,
            "probability": _rounded(word.probability, 4),
            "speaker": word.speaker,
        }
        for word, (start, end) in zip(
            segment.words, _rounded_spans(segment.words, *span), strict=True
        )
    ]
    return row


def _rounded_spans(
    spans: Sequence[Word] | Sequence[Segment] | Sequence[Turn], low: float, high: float
) -> list[tuple[float, float]]:
    """Round spans to milliseconds between ``low`` and ``high``; spans of one line do not
    overlap.
    """
    rounded = []
    lows: dict[str | None, float] = {}
    for span in spans:
        line = _line_of(span)
        start = min(max(lows.get(line, low), round(float(span.start), 3)), high)
        lows[line] = min(max(start, round(float(span.end), 3)), high)
        rounded.append((start, lows[line]))
    return rounded


def _line_of(span: Word | Segment | Turn) -> str | None:
    """The key of spans that must not overlap: words of a segment, or segments or turns of one
    speaker.
    """
    return None if isinstance(span, Word) else span.speaker


def segment_from_json(row: Mapping[str, Any]) -> Segment:
    """
    Raises:
        KeyError, TypeError, ValueError: not a segment in JSON form.
    """
    words = tuple(
        Word(w["start"], w["end"], w["word"], w["probability"], w["speaker"]) for w in row["words"]
    )
    quality = {name: row[name] for name in _QUALITY_FIELDS}
    return Segment(
        row["start"], row["end"], row["text"], words, row["language"], row["speaker"], **quality
    )


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_in_order(spans: Sequence[Word] | Sequence[Segment], name: str) -> None:
    latest: dict[str | None, Word | Segment] = {}
    start = 0.0
    for span in spans:
        line = _line_of(span)
        before = latest.get(line)
        if before is not None and not span.start >= before.end - CLOCK_TOLERANCE_S:
            raise ValueError(
                f"{name} overlap: {before.text!r} ends at {before.end},"
                f" {span.text!r} starts at {span.start}"
            )
        _require(
            span.start >= start - CLOCK_TOLERANCE_S, f"{name} are not in the order of their starts"
        )
        start = span.start
        if before is None or span.end >= before.end:
            latest[line] = span
