"""Words are cut into sentences by punctuation and pauses and, without punctuation, by length."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transcribe_mcp.domain.sentences import (
    MAX_PAUSE_S,
    PAUSE_S,
    PUNCTUATED_LIMIT,
    UNPUNCTUATED_LIMIT,
    UNPUNCTUATED_PAUSE_S,
    cut_sentences,
)
from transcribe_mcp.domain.transcript import Word


def spoken(text: str, *, word_s: float = 0.3) -> list[Word]:
    """Words of ``text``, back to back. ``/0.5/`` is a pause in seconds; ``|`` parts words written
    without a space.
    """
    words: list[Word] = []
    now = 0.0
    for token in text.split():
        if token.startswith("/"):
            now += float(token.strip("/"))
            continue
        for i, part in enumerate(token.split("|")):
            words.append(Word(round(now, 3), round(now + word_s, 3), part if i else " " + part))
            now += word_s
    return words


def sentences(text: str, *, word_s: float = 0.3) -> list[str]:
    return [
        "".join(word.text for word in group).strip()
        for group in cut_sentences(spoken(text, word_s=word_s))
    ]


@pytest.mark.parametrize(
    "text",
    [
        "It rains. We stay.",
        "Does it rain? We stay.",
        "It rains! We stay.",
        "It rains… We stay.",
        "He said: «It rains.» We stay.",
        '"It rains." We stay.',
        "(It rains.) We stay.",
        "It is so. ¿Por qué?",
        "Это так. Мы остаёмся.",
        "यह सच है। हम रुकते हैं।",
        "هل تمطر؟ نبقى هنا.",
        "all small letters. here too.",
        "That was in 1999. It rained.",
        "I said no. Then I left.",
    ],
)
def test_final_punctuation_ends_a_sentence(text: str) -> None:
    assert len(sentences(text)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "Mr. Smith and Dr. Jones agree.",
        "The U.S. Army came at 3 p.m. Monday.",
        "J. R. R. Tolkien wrote it.",
        "Some tools, e.g. Hammers, help.",
        "See fig. 3 in vol. 2 of it.",
        "It costs 3.|14 dollars.",
        "Go to example.|com now.",
        "Am 3. Mai regnet es.",
        '"Does it rain?" he asked.',
        "Well... it rains.",
        "Yahoo! is a name. ",
    ],
)
def test_a_full_stop_inside_a_sentence_does_not_end_it(text: str) -> None:
    assert sentences(text) == [text.strip().replace("|", "")]


def test_japanese_ends_sentences_without_spaces() -> None:
    assert sentences("雨|です|。|家|に|います|。") == ["雨です。", "家にいます。"]


def test_an_abbreviation_before_a_pause_may_end_a_sentence() -> None:
    assert sentences("He lives in the U.S. /0.5/ She does not.") == [
        "He lives in the U.S.",
        "She does not.",
    ]


def test_a_closing_mark_on_its_own_stays_with_its_sentence() -> None:
    assert sentences("« Il pleut. » Nous restons.") == ["« Il pleut. »", "Nous restons."]
    assert sentences('It rains. " We stay.') == ["It rains.", '" We stay.']


def test_a_very_long_pause_ends_a_sentence_whatever_is_written() -> None:
    assert sentences(f"I thought, /{MAX_PAUSE_S}/ and went.") == ["I thought,", "and went."]


def test_a_pause_in_a_sentence_that_goes_on_to_its_full_stop_does_not_end_it() -> None:
    said = (
        f"And so, my fellow Americans, /{PAUSE_S}/ ask not /{PAUSE_S}/ what your country "
        "can do for you."
    )

    assert sentences(said) == [said.replace(f"/{PAUSE_S}/ ", "")]


def test_a_pause_ends_a_sentence_before_a_capital_letter_and_where_no_full_stop_follows() -> None:
    assert sentences(f"Good morning /{PAUSE_S}/ Is anybody there?") == [
        "Good morning",
        "Is anybody there?",
    ]
    assert sentences(f"Well, /{PAUSE_S}/ so it goes and goes") == ["Well,", "so it goes and goes"]
    assert len(sentences("I thought, /0.7/ and went.")) == 1


def test_another_speaker_starts_another_sentence() -> None:
    words = [
        Word(0, 1, " yes", speaker="A"),
        Word(1, 2, " yes", speaker="B"),
        Word(2, 3, " no", speaker="B"),
    ]
    assert cut_sentences(words) == [words[:1], words[1:]]


def test_speech_without_punctuation_is_cut_at_its_pauses() -> None:
    text = (
        f"and so my fellow americans ask not /{UNPUNCTUATED_PAUSE_S}/ what your country "
        "can do for you ask /0.2/ what"
    )
    assert sentences(text) == [
        "and so my fellow americans ask not",
        "what your country can do for you ask what",
    ]


def test_a_short_stretch_without_punctuation_stays_whole() -> None:
    assert sentences("ask not /0.5/ what your country") == ["ask not what your country"]


def test_endless_speech_without_punctuation_is_cut_at_its_longest_pauses() -> None:
    text = " ".join(["word"] * 30 + ["/0.3/"] + ["word"] * 30)
    cut = cut_sentences(spoken(text))
    assert [len(group) for group in cut] == [30, 30]


def test_an_endless_sentence_is_cut_at_a_clause() -> None:
    text = " ".join(["word"] * 60 + ["word,"] + ["word"] * 60 + ["word."])
    assert [len(group) for group in cut_sentences(spoken(text))] == [61, 61]


def test_no_words_make_no_sentences() -> None:
    assert cut_sentences([]) == []


_TEXTS = st.sampled_from(
    [
        " a",
        " Word",
        " word,",
        " end.",
        " End!",
        " Mr.",
        " 3.",
        "14",
        " U.S.",
        "。",
        "雨",
        " »",
        ' "',
        ".",
        " wordword",
    ]
)


@st.composite
def _words(draw: st.DrawFn) -> list[Word]:
    now, words = 0.0, []
    for text in draw(st.lists(_TEXTS, max_size=150)):
        now += draw(st.sampled_from([0, 0, 0.1, 0.45, 1.2]))
        end = now + draw(st.sampled_from([0, 0.2, 0.4, 2.0]))
        words.append(Word(now, end, text))
        now = end
    return words


@settings(max_examples=200)
@given(_words())
def test_every_word_is_in_exactly_one_sentence_and_no_sentence_is_too_long(
    words: list[Word],
) -> None:
    cut = cut_sentences(words)
    assert [word for group in cut for word in group] == words
    for group in cut:
        punctuated = any(mark in word.text for word in group for mark in ".,!。»")
        limit_s, limit_chars = PUNCTUATED_LIMIT if punctuated else UNPUNCTUATED_LIMIT
        assert len(group) == 1 or group[-1].end - group[0].start <= limit_s
        assert len(group) == 1 or sum(len(word.text) for word in group) <= limit_chars
        for before, after in pairwise(group):
            assert after.start - before.end < MAX_PAUSE_S or after.text in (
                ".",
                "。",
                "14",
                " »",
            )  # stay with the word


def test_a_day_of_speech_is_cut_with_work_that_grows_with_the_words() -> None:
    """Without one pause or mark, each cut must leave both sides a share: else the work grows with
    the square.
    """
    words = [Word(i / 4, i / 4 + 0.25, " word") for i in range(100_000)]
    cut = cut_sentences(words)
    assert max(len(group) for group in cut) <= 60
    assert min(len(group) for group in cut) >= 5


def test_two_words_of_which_each_alone_is_too_long_are_parted() -> None:
    words = [Word(0.0, 1.0, " " + "a" * 150), Word(1.0, 2.0, " " + "b" * 150)]
    assert cut_sentences(words) == [[words[0]], [words[1]]]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=6), st.booleans())
@settings(max_examples=50)
def test_words_of_any_length_are_cut_and_none_is_lost(lengths: list[int], comma: bool) -> None:
    words = [Word(float(i), i + 1.0, " " + "a" * n + "," * comma) for i, n in enumerate(lengths)]
    assert [word for sentence in cut_sentences(words) for word in sentence] == words
