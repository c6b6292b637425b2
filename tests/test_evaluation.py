"""The judge is judged by cases whose figures are known without it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcribe_mcp.align.edit_distance import BLOCK_ROWS, align
from transcribe_mcp.domain.transcript import Segment, Transcript, Word
from transcribe_mcp.errors import SourceError, SourceNotFoundError, TranscribeError, UsageError
from transcribe_mcp.quality.evaluation import (
    Score,
    Truth,
    TruthSegment,
    TruthWord,
    load_truth,
    score,
    total,
)
from transcribe_mcp.quality.evaluation_table import table
from transcribe_mcp.quality.wer import normalise

SHARED_AUDIO = Path(__file__).parents[2] / "shared" / "eval" / "tts"
WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


def transcript(*segments: Segment, language: str = "en", duration: float = 30.0) -> Transcript:
    return Transcript(
        segments,
        duration,
        language,
        None,
        engine="fake",
        model="none",
        device="cpu",
        compute_type="float32",
    )


def timed(*words: tuple[str, float], length: float = 0.2) -> Segment:
    rows = tuple(Word(start, start + length, " " + text) for text, start in words)
    return Segment(rows[0].start, rows[-1].end, "".join(word.text for word in rows), rows)


def said(text: str, *words: tuple[str, float], end: float | None = 30.0) -> Truth:
    rows = tuple(TruthWord(word, start) for word, start in words)
    return Truth(Path("a.flac"), (TruthSegment(text, 0.0, end, "en", words=rows),), "en", 30.0)


def judge(truth: str, found: str) -> Score:
    return score(said(truth), transcript(Segment(0, 30, found))).score


def distance(reference: list[str], hypothesis: list[str]) -> int:
    """Levenshtein's recurrence, cell by cell."""
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, 1):
        above, row = row, [i]
        for j, other in enumerate(hypothesis, 1):
            row.append(min(above[j - 1] + (word != other), above[j] + 1, row[-1] + 1))
    return row[-1]


def cost(
    pairs: list[tuple[int | None, int | None]], reference: list[str], hypothesis: list[str]
) -> int:
    return sum(i is None or j is None or reference[i] != hypothesis[j] for i, j in pairs)


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        ("Hello, World!", "en", "hello world"),
        ("A well-cut suit — 20% off.", "en", "a well cut suit 20 off"),
        (
            "They won't; we'll, it's THE drama's end",
            "en",
            "they will not we will it is the dramas end",
        ),
        ("Um, I can’t hear the colour, uh", "en", "i can not hear the color"),
        ("um die Ecke", "de", "um die ecke"),
        ("Größere Täler, daß", "de", "größere täler daß"),
        ("¿Qué? ¡mételo, pié!", "es", "qué mételo pié"),
        ("l'eau", "fr", "leau"),
        ("ﬁve １２", "en", "five 12"),
        ("e\u0301t\u00e9", "fr", "été"),
        ("हिन्दी में", "hi", "हिन्दी में"),
        ("你好,世界", "zh", "你 好 世 界"),
        ("2 two", "en", "2 two"),
        ("... ♪ —", "en", ""),
    ],
)
def test_words_are_compared_without_case_punctuation_or_spelling_habits(
    text: str, language: str, words: str
) -> None:
    assert normalise(text, language) == words.split()


@given(st.text(max_size=40), st.sampled_from(["en", "de", "zh", None]))
def test_normalised_words_hold_no_space_and_are_never_empty(
    text: str, language: str | None
) -> None:
    for word in normalise(text, language):
        assert word
        assert not any(c.isspace() for c in word)


@given(WORDS, WORDS)
def test_an_alignment_costs_as_little_as_the_cell_by_cell_recurrence_says(
    ref: list[str], hyp: list[str]
) -> None:
    pairs = align(ref, hyp)
    assert [i for i, _ in pairs if i is not None] == list(range(len(ref)))
    assert [j for _, j in pairs if j is not None] == list(range(len(hyp)))
    assert cost(pairs, ref, hyp) == distance(ref, hyp)


@pytest.mark.parametrize(
    "n", [BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS, 2 * BLOCK_ROWS + 7]
)
def test_an_alignment_over_several_blocks_costs_as_little_as_over_one(n: int) -> None:
    source = random.Random(n)
    ref = [source.choice("abcdefgh") for _ in range(n)]
    hyp = [word if source.random() > 0.2 else "x" for word in ref if source.random() > 0.1]
    pairs = align(ref, hyp)
    assert [i for i, _ in pairs if i is not None] == list(range(n))
    assert [j for _, j in pairs if j is not None] == list(range(len(hyp)))
    assert cost(pairs, ref, hyp) == distance(ref, hyp)


# -- word errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("truth", "found", "hits", "substitutions", "deletions", "insertions"),
    [
        ("the cat sat on the mat", "The cat sat on the mat.", 6, 0, 0, 0),
        ("the cat sat on the mat", "the cat sit on mat", 4, 1, 1, 0),
        ("the cat sat", "", 0, 0, 3, 0),
        ("the cat sat", "dogs", 0, 1, 2, 0),
        ("cat", "the the the cat", 1, 0, 0, 3),
        ("a b c d", "b c d e", 3, 0, 1, 1),
    ],
)
def test_word_errors_are_counted_by_kind(
    truth: str, found: str, hits: int, substitutions: int, deletions: int, insertions: int
) -> None:
    judged = judge(truth, found)
    counted = (judged.hits, judged.substitutions, judged.deletions, judged.insertions)
    assert counted == (hits, substitutions, deletions, insertions)
    errors = substitutions + deletions + insertions
    assert judged.word_error_rate == pytest.approx(errors / len(truth.split()))
    assert judged.missing_words == pytest.approx(deletions / len(truth.split()))


def test_the_total_pools_words_so_a_long_file_weighs_more() -> None:
    long = score(said("a b c d e f g h i j"), transcript(Segment(0, 30, "a b c d e f g h i j")))
    short = score(said("one two"), transcript(Segment(0, 30, "")))
    together = total([long, short])
    assert together.files == 2
    assert together.word_error_rate == pytest.approx(2 / 12)
    assert total([]).word_error_rate is None


# -- times -----------------------------------------------------------------------------------------


def test_word_starts_are_judged_over_matched_words_only() -> None:
    truth = said("one two three four", ("one", 1.0), ("two", 2.0), ("three", 3.0), ("four", 4.0))
    judged = score(
        truth, transcript(timed(("one", 1.02), ("tow", 2.5), ("three", 2.93), ("four", 4.3)))
    ).score
    assert judged.start_errors == pytest.approx((0.02, -0.07, 0.3))
    assert judged.to_json()["word_starts"] == {
        "words": 3,
        "median_s": 0.07,
        "median_signed_s": 0.02,
        "within_50_ms": 0.3333,
        "within_100_ms": 0.6667,
    }
    assert judged.to_json()["word_ends"] is None


def test_word_ends_are_judged_where_the_truth_knows_them() -> None:
    words = (TruthWord("one", 1.0, 1.5), TruthWord("two", 2.0))
    truth = Truth(Path("a.flac"), (TruthSegment("One two.", 1.0, 2.4, words=words),), "en", 30.0)
    judged = score(truth, transcript(timed(("one", 1.0), ("two", 2.0)))).score
    assert judged.end_errors == pytest.approx((-0.3,))


def test_truth_that_lacks_some_words_gives_no_time_to_the_wrong_word() -> None:
    truth = said(
        "the serum from the curd", ("the", 1.0), ("serum", 2.0), ("from", 3.0), ("curd", 5.0)
    )
    judged = score(
        truth, transcript(timed(("the", 1), ("serum", 2), ("from", 3), ("the", 4), ("curd", 5)))
    ).score
    assert judged.hits == 5
    assert judged.start_errors == (0, 0, 0, 0)


def test_a_truth_word_that_could_stand_in_two_places_stands_in_neither() -> None:
    truth = said("go and go", ("go", 1.0))
    judged = score(truth, transcript(timed(("go", 1), ("and", 2), ("go", 3)))).score
    assert judged.hits == 3
    assert judged.start_errors == ()


def test_damaged_truth_words_are_left_out_and_shortened_ones_keep_their_start() -> None:
    truth = said(
        "tusks from which the drama's",
        ("tusks", 1),
        ("from", 2),
        ("rom ", 2.1),
        ("the", 4),
        ("drama", 5),
    )
    found = transcript(timed(("tusks", 1), ("from", 2), ("which", 3), ("the", 4), ("drama's", 5)))
    assert score(truth, found).score.start_errors == (0, 0, 0, 0)


def test_parts_of_a_word_without_a_space_between_count_as_the_word() -> None:
    truth = said("a well-cut suit isn't", ("a", 1.0), ("well", 2.0), ("suit", 3.0), ("isn", 4.0))
    pieces = [
        (" a", 1.0),
        (" well", 2.0),
        ("-", 2.2),
        ("cut", 2.4),
        (" suit.", 3.0),
        (" isn", 4.0),
        ("'t", 4.2),
    ]
    words = tuple(Word(start, start + 0.2, text) for text, start in pieces)
    found = transcript(Segment(1.0, 4.4, "".join(word.text for word in words), words))
    judged = score(truth, found).score
    assert judged.word_error_rate == 0
    assert judged.untimed_words == 0
    assert judged.start_errors == (0, 0, 0)


def test_words_without_times_are_counted() -> None:
    words = (Word(1.0, 1.2, " one"), Word(3.0, 3.2, " three"))
    judged = score(
        said("one two three"), transcript(Segment(1.0, 3.2, " one two three", words))
    ).score
    assert (judged.words, judged.untimed_words) == (3, 1)
    assert judge("one two three", "one two three").untimed_words == 3


# -- language, silence, missing speech -------------------------------------------------------------


def test_language_accuracy_counts_only_files_with_speech_and_a_known_language() -> None:
    right = score(said("one"), transcript(Segment(0, 1, "one")))
    wrong = score(said("one"), transcript(Segment(0, 1, "one"), language="de"))
    unknown = score(Truth(Path("b.flac"), (TruthSegment("one"),)), transcript(Segment(0, 1, "one")))
    silent = score(Truth(Path("c.flac"), (), "en", 10.0), transcript())
    judged = total([right, wrong, unknown, silent])
    assert (judged.languages, judged.languages_right) == (2, 1)
    assert judged.language_accuracy == 0.5
    assert unknown.score.language_accuracy is None


def test_words_found_where_none_were_said_are_invented_and_no_word_errors() -> None:
    judged = score(
        Truth(Path("noise.flac"), (), None, 12.0), transcript(timed(("thank", 1), ("you", 2)))
    ).score
    assert judged.invented_words == 2
    assert judged.non_speech_s == 12.0
    assert judged.word_error_rate is None


def test_words_far_from_all_speech_are_told_from_words_timed_badly() -> None:
    truth = said("one two", ("one", 1.0), ("two", 2.0), end=3.0)
    judged = score(truth, transcript(timed(("one", 1), ("two", 3.3), ("and", 9), ("so", 10)))).score
    assert judged.outside_speech_words == 2
    assert judged.insertions == 2


def test_speech_during_which_no_word_was_found_is_missed() -> None:
    segments = (TruthSegment("one", 0.0, 1.0), TruthSegment("two", 5.0, 7.5))
    judged = score(
        Truth(Path("a.flac"), segments, "en", 30.0), transcript(timed(("one", 0.1)))
    ).score
    assert judged.speech_s == 3.5
    assert judged.missed_speech_s == 2.5


def test_each_segment_is_compared_in_its_own_language() -> None:
    segments = (
        TruthSegment("We'll go.", language="en"),
        TruthSegment("um die Ecke", language="de"),
    )
    found = transcript(
        Segment(0, 1, "we will go", language="en"), Segment(1, 2, " Um die Ecke", language="de")
    )
    assert score(Truth(Path("a.flac"), segments), found).score.word_error_rate == 0


# -- truth files -----------------------------------------------------------------------------------


def test_text_beside_recordings_is_truth_without_times(tmp_path: Path) -> None:
    (tmp_path / "talk [1].mp3").touch()
    (tmp_path / "talk [1].txt").write_text("\ufeffGood morning.\n", encoding="utf-8")
    (tmp_path / "talk [1].srt").touch()
    (tmp_path / "noise.wav").touch()
    (tmp_path / "noise.txt").touch()
    (tmp_path / "unknown.wav").touch()
    noise, talk = load_truth(tmp_path)
    assert (noise.path.name, noise.segments) == ("noise.wav", ())
    assert (talk.path.name, talk.segments[0].text.strip()) == ("talk [1].mp3", "Good morning.")
    judged = score(talk, transcript(timed(("good", 1), ("morning", 2)))).score
    assert judged.word_error_rate == 0
    assert judged.start_errors == ()


def test_listed_truth_wins_over_text_beside_the_recording(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "a.txt").write_text("other words", encoding="utf-8")
    (tmp_path / "truth.json").write_text(
        json.dumps([{"file": "a.wav", "segments": [{"text": "listed"}]}])
    )
    [truth] = load_truth(tmp_path)
    assert truth.segments == (TruthSegment("listed"),)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "holds a dict"),
        ("[1]", "entry 0, is damaged"),
        ('[{"segments": []}]', "lacks 'file'"),
        ('[{"file": 3}]', "3 is not text"),
        ('[{"file": "a.wav", "segments": [{"start": 1}]}]', "lacks 'text'"),
        ('[{"file": "a.wav", "segments": [{"text": "a", "start": "1"}]}]', "'1' is not a number"),
        (
            '[{"file": "a.wav", "segments": [{"text": "a", "words": [{"word": "a"}]}]}]',
            "lacks 'start'",
        ),
        (
            (
                '[{"file": "a.wav", "segments": [{"text": "a", "words": [{"word": "a", "start": '
                "null}]}]}]"
            ),
            "is damaged",
        ),
        ('[{"file": "a.wav", "language": 7}]', "7 is not text"),
        ('[{"file": "a.wav", "duration": NaN}]', "nan is not a number"),
    ],
)
def test_damaged_truth_is_reported_in_words(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "truth.json").write_text(content)
    with pytest.raises(SourceError) as caught:
        load_truth(tmp_path)
    assert complaint in str(caught.value)
    assert "truth.json" in str(caught.value)
    assert caught.value.hint


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["file", "segments", "words", "text", "start", "word"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_the_truth_file_holds_the_answer_is_truth_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    directory = tmp_path_factory.getbasetemp() / "truth"
    directory.mkdir(exist_ok=True)
    (directory / "truth.json").write_text(
        json.dumps([{"file": "a.wav", "segments": content}, content])
    )
    with pytest.raises(TranscribeError):  # the recording itself is not there
        load_truth(directory)


def test_truth_that_is_not_there_is_reported_in_words(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="is not a directory"):
        load_truth(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="has no reference"):
        load_truth(tmp_path)
    (tmp_path / "truth.json").write_text('[{"file": "gone.wav"}]')
    with pytest.raises(SourceNotFoundError, match=r"'gone\.wav'"):
        load_truth(tmp_path)
    (tmp_path / "truth.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SourceError, match="not UTF-8"):
        load_truth(tmp_path)


# -- reports ---------------------------------------------------------------------------------------


def test_scores_are_plain_json_and_a_table_with_a_total() -> None:
    truth = said("one two", ("one", 1.0), ("two", 2.0))
    scores = [score(truth, transcript(timed(("one", 1.01), ("tow", 2.0))))]
    scores.append(score(Truth(Path("noise.flac"), (), None, 10.0), transcript()))
    row = json.loads(json.dumps(scores[0].to_json()))
    assert (row["file"], row["language"], row["word_error_rate"]) == ("a.flac", "en", 0.5)
    lines = table(scores).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == [
        "a.flac",
        "en",
        "en",
        "2",
        "50.0%",
        "0.0%",
        "0",
        "10",
        "100.0%",
        "100.0%",
    ]
    assert lines[2].split() == ["noise.flac", "-", "en", "0", "-", "-", "0", "-", "-", "-"]
    assert lines[3].split() == ["total", "2", "50.0%", "0.0%", "0", "10", "100.0%", "100.0%"]


@pytest.mark.skipif(
    not SHARED_AUDIO.is_dir(), reason="the evaluation audio is not beside this checkout"
)
def test_the_truth_of_the_evaluation_windows_judges_itself_as_faultless() -> None:
    truths = load_truth(SHARED_AUDIO)
    assert len(truths) == 24
    scores = []
    for truth in truths:
        segments = tuple(Segment(s.start or 0, s.end or 0, " " + s.text) for s in truth.segments)
        scores.append(score(truth, transcript(*segments, language=truth.language or "")))
    judged = total(scores)
    assert judged.word_error_rate == 0
    assert judged.language_accuracy == 1
    known = sum(
        word is not None for truth in truths for segment in truth.segments for word in segment.words
    )
    assert known == 1107
