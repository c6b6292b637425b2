"""Subtitles follow rules that can be set; where rules clash, the rule yields and the text never
does.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import replace
from itertools import pairwise, zip_longest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transcribe_mcp.domain.transcript import Segment, Transcript, Word
from transcribe_mcp.errors import UsageError
from transcribe_mcp.formats import SubtitleRules
from transcribe_mcp.formats.subtitles import PAUSE_S, Cue, cut_cues

RULES = SubtitleRules()


def transcript_of(*segments: Segment, duration: float | None = None) -> Transcript:
    end = max([segment.end for segment in segments], default=0.0)
    return Transcript(
        segments, end if duration is None else duration, "en", 1, "fake", "fake", "cpu", "float32"
    )


def said(
    text: str, start: float = 0.0, *, word_s: float = 0.3, speaker: str | None = None
) -> Segment:
    """Words of ``text``, back to back."""
    words = [
        Word(start + i * word_s, start + (i + 1) * word_s, f" {token}", None, speaker)
        for i, token in enumerate(text.split())
    ]
    return Segment(words[0].start, words[-1].end, f" {text}", tuple(words))


def lines(transcript: Transcript, rules: SubtitleRules = RULES) -> list[list[str]]:
    return [cue.text_lines for cue in cut_cues(transcript, rules)]


def width(line: str) -> int:
    """Independent count, never too high: wide characters two columns, marks that sit on others
    none.
    """
    return sum(
        2
        if unicodedata.east_asian_width(char) in "WF"
        else int(unicodedata.category(char)[0] not in "MC")
        for char in line
    )


def seconds(cue: Cue) -> float:
    return (cue.end_ms - cue.start_ms) / 1000


def test_cues_end_with_sentences_when_they_can() -> None:
    transcript = transcript_of(
        said("It rained all day long in the valley."),
        said("Nobody went out to look at the river.", 3),
    )
    assert lines(transcript) == [
        ["It rained all day long in the valley."],
        ["Nobody went out to look at the river."],
    ]


def test_a_long_sentence_is_cut_at_its_clause() -> None:
    transcript = transcript_of(
        said(
            "When the rain had stopped at last in the evening, everybody in the village went "
            "out to the river."
        )
    )
    assert lines(transcript) == [
        ["When the rain had stopped", "at last in the evening,"],
        ["everybody in the village", "went out to the river."],
    ]


def test_a_sentence_too_short_to_read_shares_a_cue_with_its_neighbour() -> None:
    assert lines(transcript_of(said("Yes."), said("We think so.", 0.3))) == [["Yes. We think so."]]


def test_a_title_is_not_parted_from_its_name() -> None:
    text = (
        "Every evening of that long and rainy summer Dr. Jones walked down to the river "
        "with his old dog."
    )
    assert not any(line.endswith("Dr.") for cue in lines(transcript_of(said(text))) for line in cue)


def test_a_cue_never_spans_a_long_pause() -> None:
    words = (Word(0, 0.5, " Wait"), Word(0.5 + PAUSE_S, 2, " here."))
    assert lines(transcript_of(Segment(0, 2, " Wait here.", words))) == [["Wait"], ["here."]]


def test_a_cue_holds_one_speaker() -> None:
    words = (Word(0, 0.5, " Yes.", None, "Anna"), Word(0.5, 1, " No.", None, "Bert"))
    cues = cut_cues(transcript_of(Segment(0, 1, " Yes. No.", words)), RULES)
    assert [(cue.speaker, cue.text_lines) for cue in cues] == [
        ("Anna", ["Yes."]),
        ("Bert", ["No."]),
    ]


def test_fast_speech_stays_up_into_the_silence_after_it() -> None:
    transcript = transcript_of(
        said("Nobody could have read this in time, really.", word_s=0.05), duration=10
    )
    (cue,) = cut_cues(transcript, RULES)
    assert cue.end_ms == 1000 * sum(map(len, cue.text_lines)) / RULES.max_chars_per_second == 2150


def test_a_fast_cue_borrows_time_from_the_cue_before_it() -> None:
    slow = said("It rained all day long in the valley.", 1)
    fast = said("Nobody went out to look at the wide river.", slow.end, word_s=0.22)
    last = said("They all stayed at home beside the fire.", fast.end)
    cues = cut_cues(transcript_of(slow, fast, last), RULES)
    assert [cue.text_lines for cue in cues] == [[s.text.strip()] for s in (slow, fast, last)]
    assert cues[0].start_ms == 1000
    assert slow.end - 0.25 <= cues[1].start_ms / 1000 < slow.end
    assert all(len(cue.text_lines[0]) / seconds(cue) <= RULES.max_chars_per_second for cue in cues)


def test_cues_of_turns_that_follow_each_other_stay_apart_where_others_overlap() -> None:
    slow = said("It rained all day long in the valley.", 1)
    fast = said("Nobody went out to look.", slow.end, word_s=0.1)
    beside = said("Really?", fast.end - 0.1)
    turns = (replace(slow, speaker="A"), replace(fast, speaker="B"), replace(beside, speaker="A"))
    cues = cut_cues(transcript_of(*turns, duration=20), RULES)
    assert [cue.start_ms for cue in cues] == [round(1000 * turn.start) for turn in turns]
    assert cues[0].end_ms <= cues[1].start_ms


@pytest.mark.parametrize(("word", "ends"), [("home.", True), ("approx.", False)])
def test_a_full_stop_before_lower_case_is_a_good_end_unless_it_abbreviates(
    word: str, ends: bool
) -> None:
    text = (
        f"In the last days of that long summer we walked {word} "
        "but nobody at all was there to meet us at the door."
    )
    assert (lines(transcript_of(said(text)))[0][-1].split()[-1] == word) is ends


def test_a_word_wider_than_a_line_is_split_and_no_other() -> None:
    word = "Donaudampfschifffahrtsgesellschaftskapitänsmütze"
    assert lines(transcript_of(said(f"Die {word} hier."))) == [
        ["Die"],
        [word[:42], f"{word[42:]} hier."],
    ]


def test_japanese_words_fill_lines_by_their_width_and_no_line_starts_with_a_closing_mark() -> None:
    tokens = [
        "今日",
        "は",
        "朝",
        "から",
        "東京",
        "で",
        "雨",
        "が",
        "降って",
        "いる",
        "ので",
        "、",
        "傘",
        "を",
        "持って",
        "行き",
        "ます",
        "。",
    ]
    words = tuple(Word(i * 0.4, i * 0.4 + 0.4, token) for i, token in enumerate(tokens))
    cut = lines(transcript_of(Segment(0, words[-1].end, "".join(tokens), words)))
    flat = [line for cue in cut for line in cue]
    assert "".join(flat) == "".join(tokens)
    assert all(width(line) <= 42 and line[0] not in "、。" for line in flat)
    assert cut[0][-1].endswith("、")


def test_a_segment_without_words_shares_its_time_among_its_characters() -> None:
    text = "一二三四五六七八九十一二三四五六七八九十。" * 3
    cues = cut_cues(transcript_of(Segment(2, 14.6, text)), RULES)
    assert "".join("".join(cue.text_lines) for cue in cues) == text
    per_char_ms = 12_600 / len(text)
    position = 0
    for cue in cues:
        assert cue.start_ms == pytest.approx(2000 + per_char_ms * position, abs=1)
        position += sum(map(len, cue.text_lines))
    assert all(piece.start_ms is None for cue in cues for line in cue.lines for piece in line)


def test_words_that_share_one_instant_are_all_shown() -> None:
    words = tuple(Word(1, 1, f" word{i:03d}") for i in range(40))
    cues = cut_cues(
        transcript_of(Segment(1, 1, "".join(w.text for w in words), words), duration=1), RULES
    )
    assert " ".join(" ".join(cue.text_lines) for cue in cues).split() == [
        word.text.strip() for word in words
    ]
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(cues))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_line_chars": 1}, "max_line_chars is 1"),
        ({"max_lines": 0}, "max_lines is 0"),
        ({"max_cue_s": math.nan}, "max_cue_s is nan"),
        ({"max_chars_per_second": 0}, "max_chars_per_second is 0"),
        ({"min_gap_s": -0.1}, "min_gap_s is -0.1"),
        ({"min_cue_s": 8}, "min_cue_s 8 is more than max_cue_s 7"),
        ({"max_cue_s": 1, "min_gap_s": 1}, "min_gap_s 1 is not less than max_cue_s 1"),
    ],
)
def test_rules_that_clash_are_refused_with_a_way_out(rules: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        SubtitleRules(**rules)  # type: ignore[arg-type]
    assert str(caught.value) == message
    assert caught.value.hint


_TOKENS = st.sampled_from(
    [
        " a",
        " the",
        " word,",
        " End.",
        " Really?",
        " internationally",
        " Mr.",
        "'s",
        " x" * 5,
        "雨",
        "。",
        "「東京」",
        " né\u0301",
    ]
) | st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=50)


@st.composite
def _transcripts(draw: st.DrawFn) -> Transcript:
    now, segments = 0.0, []
    for _ in range(draw(st.integers(0, 3))):
        words = []
        for text in draw(st.lists(_TOKENS, max_size=25)):
            now += draw(st.sampled_from([0, 0, 0, 0.02, 0.4, 3]))
            end = now + draw(st.sampled_from([0, 0.05, 0.2, 0.3, 0.9, 9]))
            words.append(
                Word(now, end, text, None, draw(st.sampled_from([None, None, None, "Anna"])))
            )
            now = end
        text = "".join(word.text for word in words)
        start = words[0].start if words else now
        segments.append(Segment(start, now, text, tuple(words) if draw(st.booleans()) else ()))
    return transcript_of(*segments, duration=now + draw(st.sampled_from([0, 0.5, 10])))


_RULES = st.sampled_from(
    [
        RULES,
        SubtitleRules(20, 1, 3.0, 0.5, 15, 0),
        SubtitleRules(2, 3, 1.0, 1.0, 5, 0.5),
        SubtitleRules(60, 3, 10, 2, 9, 1),
    ]
)


def _letters(text: str) -> str:
    return "".join(
        char for char in text if not char.isspace() and unicodedata.category(char) != "Cc"
    )


@settings(max_examples=250)
@given(_transcripts(), _RULES)
def test_any_transcript_becomes_cues_that_keep_the_rules(
    transcript: Transcript, rules: SubtitleRules
) -> None:
    cues = cut_cues(transcript, rules)
    shown = "".join("".join(cue.text_lines) for cue in cues)
    assert _letters(shown) == _letters("".join(segment.text for segment in transcript.segments))
    for cue, after in zip_longest(cues, cues[1:]):
        assert 1 <= len(cue.text_lines) <= rules.max_lines
        assert all(line and line == line.strip() for line in cue.text_lines)
        assert all(width(line) <= rules.max_line_chars for line in cue.text_lines)
        assert cue.start_ms < cue.end_ms <= cue.start_ms + 1000 * rules.max_cue_s
        if after:
            free_ms = after.start_ms - cue.start_ms
            gap_ms = 1000 * rules.min_gap_s
            latest_ms = cue.start_ms + (free_ms - gap_ms if free_ms > gap_ms else free_ms)
        else:
            latest_ms = max(round(1000 * transcript.duration), cue.start_ms + 1)
        assert cue.end_ms <= latest_ms
        chars = sum(map(width, cue.text_lines))
        stays_as_long_as_it_can = cue.end_ms in (
            round(latest_ms),
            cue.start_ms + int(1000 * rules.max_cue_s),
        )
        assert stays_as_long_as_it_can or seconds(cue) >= max(
            rules.min_cue_s, chars / rules.max_chars_per_second
        )


@settings(max_examples=60)
@given(_transcripts())
def test_the_same_transcript_makes_the_same_cues_and_words_stay_whole(
    transcript: Transcript,
) -> None:
    cues = cut_cues(transcript, RULES)
    assert cues == cut_cues(transcript, RULES)
    flat = [piece for cue in cues for line in cue.lines for piece in line]
    starts_ms = [piece.start_ms for piece in flat if piece.start_ms is not None]
    assert starts_ms == sorted(starts_ms)
    timed = [segment.words for segment in transcript.segments if segment.words]
    texts = [word.text.split() for words in timed for word in words]
    whole = {_letters(text[0]) for text in texts if len(text) == 1 and width(text[0]) <= 42}
    assert whole - {""} <= {_letters(piece.text) for piece in flat}
