"""The transcript keeps its invariants, and its JSON form loses nothing but fractions of a
millisecond.
"""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from transcribe_mcp.domain.transcript import CLOCK_TOLERANCE_S, Notice, Segment, Transcript, Word

SCHEMA = json.loads(
    files("transcribe_mcp").joinpath("domain/schema.json").read_text(encoding="utf-8")
)
MADE_BY: dict[str, Any] = {
    "engine": "fake",
    "model": "fake",
    "device": "cpu",
    "compute_type": "float32",
}

times_s = st.floats(0, 3, allow_nan=False, allow_subnormal=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
shares = st.none() | st.floats(0, 1)
figures = st.none() | st.floats(-9, 9)
names = st.none() | st.sampled_from(["Anna", "Bert"])


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    now, segments = 0.0, []

    def moved_on() -> float:
        nonlocal now
        now += draw(times_s)
        return now

    for _ in range(draw(st.integers(0, 4))):
        start = moved_on()
        words = []
        for _ in range(draw(st.integers(0, 6))):
            overlap_s = draw(st.sampled_from([0, 0, CLOCK_TOLERANCE_S / 2])) if words else 0
            word_start = max(moved_on() - overlap_s, words[-1].start if words else start)
            words.append(Word(word_start, moved_on(), draw(texts), draw(shares), draw(names)))
        quality = [draw(figures), draw(shares), draw(shares), draw(shares)]
        segments.append(
            Segment(
                start, moved_on(), draw(texts), tuple(words), draw(names), draw(names), *quality
            )
        )
    timings = draw(st.dictionaries(st.sampled_from(["total", "decode"]), times_s))
    warnings = tuple(Notice("code", text) for text in draw(st.lists(texts, max_size=2)))
    return Transcript(
        tuple(segments),
        moved_on(),
        "en",
        draw(shares),
        **MADE_BY,
        warnings=warnings,
        timings=timings,
        source="a.wav",
    )


def spans(transcript: Transcript) -> list[float]:
    return [
        time
        for span in (*transcript.segments, *transcript.words)
        for time in (span.start, span.end)
    ]


@settings(max_examples=150)
@given(transcripts())
def test_a_transcript_survives_json_to_the_millisecond(transcript: Transcript) -> None:
    again = Transcript.loads(transcript.dumps())
    assert again.dumps() == transcript.dumps()
    assert [word.text for word in again.words] == [word.text for word in transcript.words]
    assert spans(again) == pytest.approx(spans(transcript), abs=CLOCK_TOLERANCE_S + 1e-3)


@settings(max_examples=100)
@given(transcripts())
def test_every_transcript_fits_the_published_schema(transcript: Transcript) -> None:
    Draft202012Validator(SCHEMA).validate(json.loads(transcript.dumps()))


def test_the_schema_is_valid_and_names_its_version() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"].endswith(f":{SCHEMA['properties']['schema_version']['const']}")


def test_words_that_just_miss_each_other_still_read_back() -> None:
    """1.0015 and 1.0005 round to times two milliseconds apart."""
    words = (Word(0.5, 1.00151, " one"), Word(1.00049, 1.2, " two"))
    transcript = Transcript((Segment(0.5, 1.2, " one two", words),), 1.1987, "en", None, **MADE_BY)
    rows = transcript.to_json()["segments"][0]
    assert [(row["start"], row["end"]) for row in rows["words"]] == [(0.5, 1.002), (1.002, 1.199)]
    assert Transcript.loads(transcript.dumps()).dumps() == transcript.dumps()


def test_a_figure_that_is_no_number_was_not_measured() -> None:
    segment = Segment(0, 1, " hi", avg_logprob=-math.inf, compression_ratio=math.nan)
    row = Transcript((segment,), 1, "en", None, **MADE_BY).to_json()["segments"][0]
    assert row["avg_logprob"] is None
    assert row["compression_ratio"] is None


@pytest.mark.parametrize(
    "words",
    [
        [Word(0, 1, "a"), Word(0.9, 2, "b")],
        [Word(0, 1, "a"), Word(0.999, 0.999, "b"), Word(0.998, 0.998, "c")],
        [Word(0, 1, "a"), Word(1, 3, "b")],
        [Word(0.1, 1, "a"), Word(1, 1, "b"), Word(0.2, 2, "c")],
    ],
    ids=["overlap", "creeping backwards", "after the segment", "out of order"],
)
def test_words_that_contradict_each_other_make_no_segment(words: list[Word]) -> None:
    with pytest.raises(ValueError, match=r"overlap|contain its words"):
        Segment(0, 2, "".join(word.text for word in words), tuple(words))


@pytest.mark.parametrize("times", [(1, 0), (-1, 0), (math.nan, 1), (0, math.nan)])
def test_a_word_runs_forwards_from_a_known_time(times: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="runs from"):
        Word(*times, "a")


@pytest.mark.parametrize("duration", [-1, math.nan, math.inf, 1.9])
def test_a_transcript_ends_inside_its_recording(duration: float) -> None:
    with pytest.raises(ValueError, match=r"duration|after the recording"):
        Transcript((Segment(0, 2, "a"),), duration, None, None, **MADE_BY)


GOOD = Transcript((Segment(0, 1, " hi", (Word(0, 1, " hi"),)),), 1, "en", 0.9, **MADE_BY).to_json()


def _renamed(row: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if name == old else name: value for name, value in row.items()}


@pytest.mark.parametrize(
    "data",
    [
        [],
        {},
        GOOD | {"schema_version": 2},
        GOOD | {"segments": 5},
        GOOD | {"segments": ["text"]},
        GOOD | {"segments": [None]},
        GOOD | {"segments": [_renamed(GOOD["segments"][0], "start", "begin")]},
        GOOD | {"segments": [GOOD["segments"][0] | {"end": "1"}]},
        GOOD | {"warnings": None},
        GOOD | {"duration": None},
        _renamed(GOOD, "engine", "motor"),
    ],
    ids=lambda data: str(data)[:40],
)
def test_damaged_json_is_refused_by_reader_and_schema(data: Any) -> None:
    with pytest.raises(ValueError, match="transcript"):
        Transcript.from_json(data)
    assert not Draft202012Validator(SCHEMA).is_valid(data)


@pytest.mark.parametrize("part", ["transcript", "segment", "word"])
def test_a_misspelt_field_does_not_fit_the_schema(part: str) -> None:
    data = json.loads(json.dumps(GOOD))
    row = {
        "transcript": data,
        "segment": data["segments"][0],
        "word": data["segments"][0]["words"][0],
    }[part]
    assert Draft202012Validator(SCHEMA).is_valid(data)
    row["langauge"] = "en"
    assert not Draft202012Validator(SCHEMA).is_valid(data)


def test_tools_that_read_whispers_json_find_what_they_look_for() -> None:
    """openai-whisper's ``WriteJSON``: text, segments with id, start, end, text and words,
    language.
    """
    data = GOOD
    assert {"text", "segments", "language"} <= data.keys()
    segment = data["segments"][0]
    assert {
        "id",
        "start",
        "end",
        "text",
        "temperature",
        "avg_logprob",
        "no_speech_prob",
        "words",
    } <= segment.keys()
    assert {"word", "start", "end", "probability"} <= segment["words"][0].keys()
