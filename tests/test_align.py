"""Tokens become words without a loss; words are put where there is speech."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from transcribe_mcp.align.times import (
    EDGE_S,
    ENCODER_FRAME_S,
    MAX_WORD_S,
    MIN_WORD_S,
    SNAP_S,
    TAIL_S,
    clamp_to_speech,
    time_words,
    token_starts,
)
from transcribe_mcp.align.words import UNSPACED_LANGUAGES, TokenSpan, split_words
from transcribe_mcp.domain.transcript import Word
from transcribe_mcp.speech.regions import Region

NANO = Path(__file__).parent / "data" / "whisper-nano" / "tokenizer.json"
NOISE_S = 1e-6  # of adding floats
NEAR_SPEECH_S = 0.1

SENTENCES = [
    (" It rains, and we stay.", "en"),
    (' He said: "Stay here", and left.', "en"),
    (" I can't; you're well-known – rock 'n' roll…", "en"),
    (" In 1999 it was 3.14 of 50% at 7:30, $5 & 6 + 7 = 13 #1.", "en"),
    (" „Größe“, sagte er, ‚ja‘ und «nein».", "de"),
    (" ¿Qué? ¡No! «Sí», dijo el niño.", "es"),
    (" Qu’est-ce que c’est ? Où ?", "fr"),
    (" Это так. Мы остаёмся.", "ru"),
    (" यह सच है। हम रुकते हैं।", "hi"),
    (
        " Fun \U0001f389\U0001f389 and \u2764\ufe0f or \U0001f468\u200d\U0001f469\u200d\U0001f467!",
        "en",
    ),
    ("今日は、いい天気です。「はい」100円", "ja"),
    ("你好，世界！我有3本书。", "zh"),
    ("สวัสดีครับ ผมชื่อ", "th"),
    (" — ( [ ]", "en"),
    ("   ", "en"),
    ("", "en"),
]


@dataclass(frozen=True, slots=True)
class Spelling:
    """A tokenizer as ``split_words`` needs it."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


def spelling_of(tokenizer: Tokenizer) -> Spelling:
    return Spelling(
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        lambda tokens: tokenizer.decode(list(tokens)),
    )


@pytest.fixture(scope="module", params=["trained here", "whisper-nano"])
def spelling(request: pytest.FixtureRequest) -> Spelling:
    if request.param == "trained here":
        return spelling_of(trained_tokenizer())
    return nano_spelling()


@pytest.fixture(scope="module")
def bytewise() -> Spelling:
    """Knows the words of ``SENTENCES`` but no emoji, which take a token a byte."""
    return spelling_of(trained_tokenizer())


def nano_spelling() -> Spelling:
    return spelling_of(Tokenizer.from_file(str(NANO)))


def trained_tokenizer() -> Tokenizer:
    """Byte-level BPE as Whisper's; words of SENTENCES with their leading space are single tokens,
    emoji are bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    known = [text for text, _ in SENTENCES if "\U0001f389" not in text]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, min_frequency=1, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*known, *(f" {digit}" for digit in range(10))], trainer)
    return tokenizer


def words_of(text: str, language: str, spelling: Spelling) -> list[str]:
    return [span.text for span in split_words(spelling.encode(text), spelling.decode, language)]


# -- tokens to words -------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "language"), SENTENCES)
def test_the_words_put_together_are_the_text_and_hold_every_token(
    text: str, language: str, spelling: Spelling
) -> None:
    assert_nothing_is_lost(spelling.encode(text), language, spelling)


@settings(max_examples=150)
@given(
    text=st.text(
        st.sampled_from(" aé9ß.,?¿'\"„“«»-$%+今はด็สйह।\U0001f389\u2764\ufe0f"), max_size=30
    ),
    language=st.sampled_from(["en", "ja"]),
)
def test_no_text_is_lost_whatever_it_is_made_of(
    text: str, language: str, spelling: Spelling
) -> None:
    assert_nothing_is_lost(spelling.encode(text), language, spelling)


@settings(max_examples=150)
@given(data=st.data(), language=st.sampled_from(["en", "ja"]))
def test_no_token_is_lost_even_of_sequences_that_are_no_text(
    data: st.DataObject, language: str, spelling: Spelling
) -> None:
    tokens = data.draw(st.lists(st.sampled_from(spelling.encode(" a\U0001f389 né今")), max_size=12))

    assert_nothing_is_lost(tokens, language, spelling)


def assert_nothing_is_lost(tokens: list[int], language: str, spelling: Spelling) -> None:
    spans = split_words(tokens, spelling.decode, language)
    text = spelling.decode(tokens)

    assert "".join(span.text for span in spans) == text
    assert [0, *(span.last for span in spans)] == [*(span.first for span in spans), len(tokens)]
    assert all(span.first < span.last for span in spans)
    assert all(span.text.strip() for span in spans) or not text.strip()


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        (" It rains, and we stay.", "en", [" It", " rains,", " and", " we", " stay."]),
        (
            ' He said: "Stay here", and left.',
            "en",
            [" He", " said:", ' "Stay', ' here",', " and", " left."],
        ),
        (" I can't; you're well-known", "en", [" I", " can't;", " you're", " well-known"]),
        (
            " In 1999 it was 3.14 of 50%",
            "en",
            [" In", " 1999", " it", " was", " 3.14", " of", " 50%"],
        ),
        (
            " „Größe“, sagte er, ‚ja‘ und «nein».",
            "de",
            [" „Größe“,", " sagte", " er,", " ‚ja‘", " und", " «nein»."],
        ),
        (
            " ¿Qué? ¡No! «Sí», dijo el niño.",
            "es",
            [" ¿Qué?", " ¡No!", " «Sí»,", " dijo", " el", " niño."],
        ),
        (" Это так. Мы остаёмся.", "ru", [" Это", " так.", " Мы", " остаёмся."]),
    ],
)
def test_words_are_what_a_reader_calls_words_with_their_punctuation(
    text: str, language: str, words: list[str], bytewise: Spelling
) -> None:
    assert words_of(text, language, bytewise) == words


def test_a_character_spread_over_tokens_stays_whole(bytewise: Spelling) -> None:
    tokens = bytewise.encode("\U0001f389\U0001f389")

    assert len(tokens) > 2
    assert [span.text for span in split_words(tokens, bytewise.decode, "ja")] == [
        "\U0001f389",
        "\U0001f389",
    ]
    assert [span.text for span in split_words(tokens, bytewise.decode, "en")] == [
        "\U0001f389\U0001f389"
    ]


@pytest.mark.parametrize("text", ["今日は、いい天気です。", "你好，世界！"])
def test_languages_without_spaces_get_words_too_and_marks_hang_on_them(
    text: str, spelling: Spelling
) -> None:
    words = words_of(text, "ja", spelling)

    assert len(words) > 1
    assert all(any(character.isalnum() for character in word) for word in words)


def test_the_language_alone_decides_whether_spaces_part_words(spelling: Spelling) -> None:
    text = "你好世界"

    assert {"ja", "zh", "th", "yue"} <= UNSPACED_LANGUAGES
    assert words_of(text, "en", spelling) == [text]
    assert len(words_of(text, "zh", spelling)) > 1


def test_a_space_that_is_a_token_of_its_own_begins_a_word() -> None:
    assert words_of(" it's 3.14 & 50%", "en", nano_spelling()) == [" it's", " 3.14", " &", " 50%"]


def test_a_broken_byte_does_not_swallow_the_words_after_it() -> None:
    spelling = nano_spelling()
    broken = spelling.encode("\U0001f389")[:1]

    spans = split_words([*broken, *spelling.encode(" hello world again")], spelling.decode, "en")

    assert [span.text for span in spans[-2:]] == [" world", " again"]
    assert spans[-1].last - spans[-1].first < len(spelling.encode(" hello world again"))


def test_a_combining_mark_stays_on_its_letter() -> None:
    assert words_of(" u\u0308ber", "de", nano_spelling()) == [" u\u0308ber"]


def test_an_opening_bracket_leans_on_the_word_after_it_without_spaces_too() -> None:
    assert words_of("です。「はい」", "ja", nano_spelling())[-2:] == ["「は", "い」"]


def test_no_tokens_are_no_words(spelling: Spelling) -> None:
    assert split_words([], spelling.decode, "en") == []


# -- a path through attention to times -------------------------------------------------------------


def test_a_token_starts_where_the_path_first_reaches_it() -> None:
    path = [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (3, 9)]

    starts = token_starts(path, 4)

    assert starts.tolist() == pytest.approx(
        [0, 3 * ENCODER_FRAME_S, 5 * ENCODER_FRAME_S, 9 * ENCODER_FRAME_S]
    )


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=60),
    st.integers(0, 5),
)
def test_the_starts_of_any_monotonic_path_are_monotonic(
    steps: list[tuple[int, int]], beyond: int
) -> None:
    path = [tuple(row) for row in np.cumsum([(0, 0), *steps], axis=0).tolist()]

    starts = token_starts(path, path[-1][0] + 1 + beyond)

    assert np.isfinite(starts).all()
    assert (np.diff(starts) >= 0).all()
    assert starts.max() <= path[-1][1] * ENCODER_FRAME_S + NOISE_S


def test_words_run_from_their_first_token_to_the_next_word_on_the_original_clock() -> None:
    spans = [TokenSpan(" In", 0, 1), TokenSpan(" 1999", 1, 4)]

    words = time_words(
        spans, np.array([0.2, 0.5, 0.8, 1.0, 1.4]), [0.9, 0.8, 0.6, 0.7], offset=100.0
    )

    assert [(word.text, word.start, word.end) for word in words] == [
        (" In", pytest.approx(100.2), pytest.approx(100.5)),
        (" 1999", pytest.approx(100.5), pytest.approx(101.4)),
    ]
    assert [word.probability for word in words] == [pytest.approx(0.9), pytest.approx(0.7)]


@pytest.mark.parametrize("mark", [".", "?", ",", "。"])
def test_most_of_the_time_that_attention_spends_on_a_mark_belongs_to_the_next_word(
    mark: str,
) -> None:
    spans = [TokenSpan(f" open{mark}", 0, 2), TokenSpan(" Now", 2, 3)]

    first, second = time_words(spans, np.array([0.2, 0.5, 0.7, 1.0]), [0.9] * 3, offset=0.0)

    assert 0.5 < second.start < 0.6
    assert first.end == second.start


def test_a_pause_at_a_mark_is_not_given_to_the_next_word() -> None:
    spans = [TokenSpan(" open.", 0, 2), TokenSpan(" Now", 2, 3)]

    _, second = time_words(spans, np.array([0.2, 0.5, 1.5, 1.8]), [0.9] * 3, offset=0.0)

    assert second.start == 1.5


# -- times into speech -----------------------------------------------------------------------------

TEXTS = [" a", " word", " 7", " \U0001f389", " incomprehensibilities,", "今"]


@st.composite
def speech(draw: st.DrawFn) -> list[Region]:
    regions: list[Region] = []
    now = draw(st.integers(0, 200)) / 100
    for _ in range(draw(st.integers(1, 4))):
        start = now + draw(st.integers(0, 300)) / 100
        now = start + draw(st.integers(10, 500)) / 100
        regions.append(Region(start, now))
    return regions


@st.composite
def aligned_words(draw: st.DrawFn) -> list[Word]:
    words: list[Word] = []
    now = draw(st.integers(0, 300)) / 100
    for _ in range(draw(st.integers(0, 12))):
        start = now + draw(st.integers(0, 300)) / 100
        now = start + draw(st.integers(0, 800)) / 100
        words.append(
            Word(start, now, draw(st.sampled_from(TEXTS)), draw(st.sampled_from([None, 0.5])))
        )
    return words


@settings(max_examples=200)
@given(aligned_words(), speech())
def test_clamped_words_are_the_same_words_in_order_not_overlapping_and_none_long(
    words: list[Word], regions: list[Region]
) -> None:
    clamped = clamp_to_speech(words, regions)

    assert [(word.text, word.probability) for word in clamped] == [
        (word.text, word.probability) for word in words
    ]
    assert all(before.end <= after.start + NOISE_S for before, after in pairwise(clamped))
    assert all(0 < word.end - word.start <= MAX_WORD_S + NOISE_S for word in clamped)


@settings(max_examples=200)
@given(aligned_words(), speech())
def test_clamped_words_start_in_speech_and_do_not_outlast_it_where_they_fit(
    words: list[Word], regions: list[Region]
) -> None:
    clamped = clamp_to_speech(words, regions)

    late_s = (
        NEAR_SPEECH_S + len(words) * MIN_WORD_S
    )  # words that pile up at an end follow one another
    for word in clamped:
        assert any(r.start - NEAR_SPEECH_S <= word.start <= r.end + late_s for r in regions)
    if clamped and clamped[0].start + len(clamped) * MIN_WORD_S <= regions[-1].end:
        assert clamped[-1].end <= regions[-1].end + EDGE_S + NOISE_S


@settings(max_examples=200)
@given(speech(), st.integers(1, 9))
def test_words_that_lie_in_speech_and_are_short_stay_where_they_are(
    regions: list[Region], n: int
) -> None:
    region = regions[-1]
    step = (region.end - TAIL_S - region.start) / n
    words = [
        Word(region.start + i * step, region.start + i * step + min(step, 0.3), " word")
        for i in range(n)
    ]
    if step < MIN_WORD_S:
        return

    clamped = clamp_to_speech(words, regions)

    assert [word.start for word in clamped] == pytest.approx(
        [word.start for word in words], abs=NOISE_S
    )
    assert [word.end for word in clamped] == pytest.approx(
        [word.end for word in words], abs=NOISE_S
    )


def test_a_pause_given_to_a_word_is_taken_away_from_it() -> None:
    regions = [Region(1.0, 2.0), Region(6.0, 7.0)]
    words = [Word(1.2, 4.9, " late"), Word(4.9, 6.5, " early")]

    late, early = clamp_to_speech(words, regions)

    assert (late.start, early.end) == (1.0, 6.5)
    assert late.end <= 2.0 + EDGE_S
    assert early.start == 6.0


@pytest.mark.parametrize(
    ("late_s", "snapped"), [(0.0, True), (SNAP_S - 0.01, True), (SNAP_S + 0.05, False)]
)
def test_the_first_word_after_a_pause_starts_where_the_speech_does(
    late_s: float, snapped: bool
) -> None:
    regions = [Region(1.0, 2.0), Region(6.0, 8.0)]
    words = [Word(1.0, 1.9, " before"), Word(6.0 + late_s, 6.9, " after"), Word(6.9, 7.5, " it")]

    _, after, it = clamp_to_speech(words, regions)

    assert after.start == (6.0 if snapped else words[1].start)
    assert it.start == 6.9


def test_the_lag_of_the_attention_is_taken_off_every_word() -> None:
    words = [Word(1.5, 1.9, " one"), Word(1.9, 2.4, " two")]

    one, two = clamp_to_speech(words, [Region(0.5, 3.0)], lag_s=0.04)

    assert (one.start, one.end) == (pytest.approx(1.46), pytest.approx(1.86))
    assert (two.start, two.end) == (pytest.approx(1.86), pytest.approx(2.36))


def test_a_word_does_not_outlast_the_speech_in_its_region() -> None:
    [word] = clamp_to_speech([Word(1.0, 2.5, " incomprehensible")], [Region(1.0, 2.0)])

    assert word.end == pytest.approx(2.0 - TAIL_S)


def test_many_words_at_the_end_of_speech_do_not_outlast_it() -> None:
    words = [Word(4.0, 4.0, " a")] * 60

    clamped = clamp_to_speech(words, [Region(2.0, 4.5)])

    assert len(clamped) == len(words)
    assert clamped[-1].end <= 4.5 + EDGE_S + NOISE_S


def test_without_regions_words_keep_their_times() -> None:
    words = [Word(0.5, 4.0, " a"), Word(4.0, 4.5, " b")]

    assert clamp_to_speech(words, []) == tuple(words)
    assert clamp_to_speech([], [Region(0, 1)]) == ()
