"""Edits of transcripts: words keep their times, sentences and speakers follow, nothing breaks."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transcribe_mcp import Transcript
from transcribe_mcp.align.retiming import retimed, word_texts
from transcribe_mcp.domain.transcript import Segment, Turn, Word
from transcribe_mcp.errors import UnknownNameError, UsageError
from transcribe_mcp.jobs import editing
from transcribe_mcp.jobs.editing import apply
from transcribe_mcp.jobs.revisions import Edited, Outcome, origins_in, pack, unpack

WORDS = st.sampled_from([" a", " b", " cd", " Ef,", "-g", " 10", "%", " 日本", "語", "。", " ."])


@st.composite
def timed_words(draw: st.DrawFn, speaker: str | None = None, low: int = 0) -> tuple[Word, ...]:
    """Words in whole milliseconds, some without length or without a gap."""
    at = low
    found = []
    for text in draw(st.lists(WORDS, max_size=8)):
        at += draw(st.integers(0, 3))
        end = at + draw(st.integers(0, 400))
        found.append(Word(at / 1000, end / 1000, text, draw(st.sampled_from([None, 0.5])), speaker))
        at = end
    return tuple(found)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    segments: list[Segment] = []
    at = 0
    for speaker in draw(st.lists(st.sampled_from(["A", "B", "C"]), min_size=1, max_size=6)):
        words = draw(timed_words(speaker, at))
        end = round(1000 * words[-1].end) if words else at + 50
        text = "".join(word.text for word in words)
        segments.append(Segment(at / 1000, end / 1000, text, words, "en", speaker))
        at = end + draw(st.integers(0, 500))
    turns = tuple(Turn(s.start, s.end, s.speaker or "") for s in segments)
    made = transcript_of(segments, duration=at / 1000, turns=turns)
    return Transcript.loads(made.dumps())


def transcript_of(
    segments: list[Segment], duration: float = 60.0, turns: tuple[Turn, ...] = ()
) -> Transcript:
    return Transcript(tuple(segments), duration, "en", 1.0, "e", "m", "cpu", "int8", turns=turns)


def original(transcript: Transcript) -> Edited:
    return Edited(transcript, tuple(range(len(transcript.segments))))


def edited(transcript: Transcript, *ops: dict[str, Any]) -> Outcome:
    return apply(transcript, original(transcript), ops)


def spoken(*texts: str, speaker: str | None = None, start: float = 0.0) -> Segment:
    """A sentence with a word of 0.4 s every 0.5 s."""
    words = tuple(
        Word(start + 0.5 * i, start + 0.5 * i + 0.4, text, 0.9, speaker)
        for i, text in enumerate(texts)
    )
    return Segment(words[0].start, words[-1].end, "".join(texts), words, "en", speaker)


# --- times ----------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(timed_words(), st.lists(WORDS, min_size=1, max_size=10), st.integers(0, 300))
def test_times_are_in_order_inside_the_sentence_and_at_least_a_millisecond(
    words: tuple[Word, ...], texts: list[str], room: int
) -> None:
    end_ms = round(1000 * words[-1].end) if words else 0
    span = (words[0].start if words else 0.0, (end_ms + room) / 1000)

    found = retimed(words, texts, span, "A")

    assert [word.text for word in found] == texts
    assert all(after.start >= before.end for before, after in pairwise(found))
    assert span[0] <= found[0].start and found[-1].end <= span[1]
    new = [word for word in found if word.speaker == "A"]
    assert all(word.probability is None for word in new)
    if round(1000 * (span[1] - span[0])) >= len(new):
        assert all(round(1000 * (word.end - word.start)) >= 1 for word in new)


@settings(max_examples=40)
@given(timed_words(), st.data())
def test_words_that_stay_keep_time_and_probability(
    words: tuple[Word, ...], data: st.DataObject
) -> None:
    kept = [word for word in words if data.draw(st.booleans())]

    span = (words[0].start, words[-1].end) if words else (0.0, 1.0)
    found = retimed(words, [word.text for word in kept], span, None)

    assert [word.text for word in found] == [word.text for word in kept]
    assert all(word in words for word in found)


@settings(max_examples=40)
@given(timed_words(), st.lists(WORDS, max_size=10), st.booleans())
def test_words_of_a_text_are_the_whole_text(
    words: tuple[Word, ...], texts: list[str], spaced: bool
) -> None:
    text = "".join(texts)
    assert "".join(word_texts(text, words, spaced=spaced)) == text
    same = "".join(word.text for word in words)
    assert word_texts(same, words, spaced=spaced) == [word.text for word in words]


def test_new_words_share_the_time_of_those_they_replace_or_the_gap() -> None:
    words = spoken(" one", " two", " four").words

    replaced = retimed(words, [" one", " a", " bcd", " four"], (0.0, 1.4), None)
    assert [(w.start, w.end) for w in replaced] == [(0, 0.4), (0.5, 0.6), (0.6, 0.9), (1.0, 1.4)]
    inserted = retimed(words, [" one", " two", " three", " four"], (0.0, 1.4), None)
    assert (inserted[2].start, inserted[2].end, inserted[2].probability) == (0.9, 1.0, None)
    assert (inserted[0], inserted[1], inserted[3]) == words


def test_a_word_without_a_gap_takes_a_millisecond_of_its_neighbour() -> None:
    words = (Word(0.0, 0.5, " one", 0.9), Word(0.5, 1.0, " two", 0.9))

    _, new, after = retimed(words, [" one", " and", " two"], (0.0, 1.0), None)

    assert (new.start, new.end) == (0.5, 0.501)
    assert after == Word(0.501, 1.0, " two", 0.9)


def test_text_without_spaces_is_cut_where_lines_may_break() -> None:
    words = tuple(Word(i, i + 1, text, 0.9) for i, text in enumerate(["今日", "は", "雨", "です"]))

    found = word_texts("今日は大雪です", words, spaced=False)

    assert found[:2] + found[-1:] == ["今日", "は", "です"]
    assert "".join(found) == "今日は大雪です" and len(found) > 3


# --- ops ------------------------------------------------------------------------------------------


def _ops(transcript: Transcript) -> st.SearchStrategy[list[dict[str, Any]]]:
    number = st.integers(-1, len(transcript.segments) + 1)
    name = st.sampled_from(["A", "B", "New", " Zoë ", "", "x=y"])
    texts = st.lists(WORDS, max_size=6).map("".join) | st.text(max_size=12)
    return st.lists(
        st.one_of(
            st.fixed_dictionaries({"op": st.just("text"), "segment": number, "text": texts}),
            st.fixed_dictionaries(
                {"op": st.just("split"), "segment": number, "word": st.integers(-1, 4)}
            ),
            st.fixed_dictionaries({"op": st.just("merge"), "segment": number}),
            st.fixed_dictionaries(
                {
                    "op": st.just("speaker"),
                    "segments": st.lists(number, max_size=3),
                    "speaker": name | st.none(),
                }
            ),
            st.fixed_dictionaries({"op": st.just("rename"), "from": name, "to": name}),
        ),
        max_size=5,
    )


@settings(max_examples=100)
@given(transcripts(), st.data())
def test_any_ops_give_a_whole_transcript_that_is_stored_as_it_is(
    transcript: Transcript, data: st.DataObject
) -> None:
    now = original(transcript)
    accepted = []
    for op in data.draw(_ops(transcript)):
        try:
            outcome = apply(transcript, now, [op])
        except UsageError as error:
            assert error.hint and str(error).startswith("op 1: ")
            continue
        _check_client(now.transcript, outcome)
        now = outcome.edited
        accepted.append(op)
        assert unpack(transcript, pack(transcript, now)) == now
    assert Transcript.loads(now.transcript.dumps()) == now.transcript
    assert edited(transcript, *accepted).edited == now


def _check_client(before: Transcript, outcome: Outcome) -> None:
    """What a client makes of the answer is the new transcript; moved rows are those before."""
    after = outcome.edited.transcript
    old = iter(before.to_json()["segments"])
    if len(before.segments) == len(after.segments):
        rows = [
            row | {"speaker": outcome.renamed.get(row["speaker"], row["speaker"])} for row in old
        ]
        for row in after.segment_rows(outcome.changed):
            rows[row["id"]] = row
        shown = [(r["start"], r["end"], r["text"], r["speaker"]) for r in rows]
        assert shown == [(s.start, s.end, s.text, s.speaker) for s in after.segments]


@settings(max_examples=40)
@given(transcripts(), st.data())
def test_a_text_that_is_put_back_is_what_was_heard(
    transcript: Transcript, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(transcript.segments) - 1))
    text = data.draw(st.lists(WORDS, max_size=6).map("".join))
    changed = edited(transcript, {"op": "text", "segment": number, "text": text}).edited
    before = transcript.segments[number]

    back = apply(transcript, changed, [{"op": "text", "segment": number, "text": before.text}])

    if before.words:
        assert back.edited.transcript == transcript


@settings(max_examples=40)
@given(transcripts(), st.data())
def test_a_sentence_that_is_split_and_merged_is_the_same(
    transcript: Transcript, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(transcript.segments) - 1))
    n_words = len(transcript.segments[number].words)
    if n_words > 1:
        word = data.draw(st.integers(1, n_words - 1))
        split = {"op": "split", "segment": number, "word": word}
        outcome = edited(transcript, split, {"op": "merge", "segment": number})
        assert outcome.edited.transcript == transcript


def test_numbers_of_segments_count_after_the_ops_before() -> None:
    transcript = transcript_of([spoken(" One", " two."), spoken(" Three.", start=5.0)])

    outcome = edited(
        transcript,
        {"op": "split", "segment": 0, "word": 1},
        {"op": "text", "segment": 2, "text": "Four."},
        {"op": "merge", "segment": 0},
        {"op": "text", "segment": 1, "text": "  Five \n six.\x00 "},
    )

    assert [s.text for s in outcome.edited.transcript.segments] == [" One two.", " Five six."]
    assert outcome.changed == {0, 1} and not outcome.renamed
    assert edited(transcript, {"op": "text", "segment": 1, "text": "Three."}).changed == set()


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ({"op": "text", "segment": 2, "text": ""}, "there is no segment 2"),
        ({"op": "text", "segment": -1, "text": ""}, "there is no segment -1"),
        ({"op": "text", "segment": True, "text": ""}, "this text op has wrong or missing fields"),
        ({"op": "text", "segment": 0}, "this text op has wrong or missing fields"),
        ({"op": "text", "segment": 0, "text": "x" * 5001}, "has 5001 characters"),
        ({"op": "split", "segment": 0, "word": 0}, "cannot be split before word 0"),
        ({"op": "split", "segment": 0, "word": 2}, "cannot be split before word 2"),
        ({"op": "merge", "segment": 1}, "segment 1 is the last"),
        ({"op": "speaker", "segments": [0, "1"], "speaker": "A"}, "this speaker op has wrong"),
        ({"op": "speaker", "segments": [5], "speaker": "A"}, "there is no segment 5"),
        ({"op": "speaker", "segments": [0], "speaker": "x" * 65}, "has 65 characters"),
        ({"op": "rename", "from": "Nobody", "to": "A"}, "no speaker 'Nobody'"),
        ({"op": "delete", "segment": 0}, "there is no op 'delete'"),
        ({"op": ["text"]}, "there is no op"),
        ("text", "there is no op 'text'"),
    ],
)
def test_an_op_that_does_not_fit_is_refused_with_its_number(op: Any, message: str) -> None:
    transcript = transcript_of([spoken(" One", " two."), spoken(" Three.", start=5.0)])

    with pytest.raises(UsageError, match="op 2: ") as caught:
        edited(transcript, {"op": "text", "segment": 0, "text": "Uno"}, op)

    assert message in str(caught.value) and caught.value.hint


def test_speakers_who_speak_at_the_same_time_stay_apart() -> None:
    both = [spoken(" One", " two.", speaker="A"), spoken(" Three.", speaker="B", start=0.3)]

    for op in (
        {"op": "speaker", "segments": [1], "speaker": "A"},
        {"op": "merge", "segment": 0},
        {"op": "rename", "from": "B", "to": "A"},
    ):
        with pytest.raises(UsageError) as caught:
            edited(transcript_of(both), op)
        assert "at the same time" in caught.value.hint


def test_turns_follow_the_speakers_of_sentences() -> None:
    segments = [
        spoken(" One.", speaker="A"),
        spoken(" Two.", speaker="A", start=5.0),
        spoken(" Three.", speaker="B", start=9.0),
    ]
    turns = (Turn(0, 5.5, "A"), Turn(8.9, 9.5, "B"))
    transcript = transcript_of(segments, turns=turns)

    given_one = edited(transcript, {"op": "speaker", "segments": [1], "speaker": " Zoë "})
    speakers = given_one.edited.transcript.speakers
    assert [(each.id, each.first) for each in speakers] == [("A", 0), ("Zoë", 5.0), ("B", 8.9)]
    assert {word.speaker for word in given_one.edited.transcript.segments[1].words} == {"Zoë"}

    nobody = edited(transcript, {"op": "speaker", "segments": [2], "speaker": None})
    assert [each.id for each in nobody.edited.transcript.speakers] == ["A"]
    joined = edited(transcript, {"op": "rename", "from": "B", "to": "A"})
    assert [each.id for each in joined.edited.transcript.speakers] == ["A"]
    assert joined.renamed == {"B": "A"} and not joined.changed
    with pytest.raises(UnknownNameError):
        apply(transcript, joined.edited, [{"op": "rename", "from": "B", "to": "C"}])


def test_many_ops_pass_over_a_long_transcript_once(monkeypatch: pytest.MonkeyPatch) -> None:
    segments = [spoken(" One", " two.", speaker="AB"[i % 2], start=5.0 * i) for i in range(500)]
    turns = tuple(Turn(each.start, each.end, each.speaker or "") for each in segments)
    transcript = transcript_of(segments, duration=2600.0, turns=turns)
    passed: list[Segment] = []
    relabelled = editing.relabelled_segment
    monkeypatch.setattr(
        editing, "relabelled_segment", lambda *given: passed.append(given[0]) or relabelled(*given)
    )
    ops: list[dict[str, Any]] = []
    for i in range(200):
        ops.append({"op": "rename", "from": "A" if i % 2 == 0 else "C", "to": "CA"[i % 2]})
        ops.append({"op": "speaker", "segments": [i], "speaker": "B"})

    outcome = edited(transcript, *ops)

    assert len(passed) <= len(segments) + len(ops)
    assert {s.speaker for s in outcome.edited.transcript.segments[:200]} == {"B"}
    assert len(outcome.edited.transcript.turns) == 500


def test_the_longest_texts_keep_the_words_at_both_ends_of_the_change() -> None:
    texts = [f" w{number}" for number in range(1000)]
    words = spoken(*texts).words

    found = retimed(words, [*texts[:600], " new", *texts[601:]], (0.0, 500.0), None)

    assert found[:600] + found[601:] == words[:600] + words[601:]
    assert found[600] == Word(words[600].start, words[600].end, " new")


def test_a_small_edit_of_a_long_transcript_is_a_small_row() -> None:
    segments = [spoken(" One", " two.", speaker="A", start=5.0 * i) for i in range(500)]
    transcript = transcript_of(segments, duration=2600.0)
    outcome = edited(
        transcript,
        {"op": "text", "segment": 250, "text": "Uno due."},
        {"op": "rename", "from": "A", "to": "Ann"},
    )

    packed = pack(transcript, outcome.edited)

    assert len(packed) < 1000 and unpack(transcript, packed) == outcome.edited
    again = origins_in(outcome.edited.transcript, outcome.edited.transcript)
    assert again.origins == tuple(range(500))
    assert json.loads(outcome.edited.transcript.dumps())["segments"][250]["text"] == " Uno due."
