"""Doubtful windows are decoded again, only those, and the best attempt is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_engine import INFO, ScriptedEngine, said

from transcribe_mcp.domain.options import TEMPERATURES
from transcribe_mcp.engines import Decoded, DecodingOptions
from transcribe_mcp.pipeline.quality_rules import QualityRules, compression_ratio, judge, repeats
from transcribe_mcp.pipeline.temperature_fallback import Attempt, Decoder, TemperatureSchedule
from transcribe_mcp.speech.regions import SAMPLE_RATE_HZ, Region, Window

SOUND = " The rain in Spain stays mainly in the plain."
LOOP = " thank you" * 40
RULES = QualityRules()


def window_at(start: float, speech_s: float = 8.0, window_s: float = 10.0) -> Window:
    regions = (Region(start, start + speech_s),) if speech_s else ()
    return Window(start, np.zeros(round(window_s * SAMPLE_RATE_HZ), np.float32), regions)


def script(*windows: Sequence[Decoded]) -> ScriptedEngine:
    """The attempts at each window in turn; window k starts at 10 k s."""
    heard = [0] * len(windows)

    def hear(window: Window, language: str, options: DecodingOptions) -> Decoded:
        k = round(window.start / 10)
        heard[k] += 1
        return replace(windows[k][heard[k] - 1], language=language, temperature=options.temperature)

    return ScriptedEngine(hear=hear)


def climb(
    engine: ScriptedEngine, n: int, temperatures: tuple[float, ...] = TEMPERATURES
) -> list[Attempt]:
    windows = [window_at(10.0 * k) for k in range(n)]
    languages = (["en", "de"] * n)[:n]
    decoder = Decoder(
        engine, DecodingOptions(beam_size=3), TemperatureSchedule(temperatures), engine.encode
    )
    encoded = engine.encode(windows)
    first = decoder.time_words(
        encoded, windows, decoder.decode(encoded, languages), decoder.options
    )
    return decoder.improved(encoded, windows, languages, first)


def text_of(attempt: Attempt) -> str:
    return "".join(word.text for part in attempt.parts for word in part.words)


# -- the ladder ------------------------------------------------------------------------------------


def test_sound_windows_are_decoded_once_as_one_batch() -> None:
    engine = script([said(SOUND)], [said(SOUND)], [said(SOUND)])

    attempts = climb(engine, 3)

    assert [attempt.failure for attempt in attempts] == [None, None, None]
    assert [call.starts for call in engine.calls] == [(0.0, 10.0, 20.0)]


def test_only_the_windows_that_fail_are_decoded_again_each_in_its_language() -> None:
    engine = script(
        [said(SOUND)],
        [said(LOOP), said(SOUND)],
        [said(SOUND)],
        [said(LOOP), said(LOOP), said(SOUND)],
    )

    attempts = climb(engine, 4)

    assert [call.starts for call in engine.calls] == [
        (0.0, 10.0, 20.0, 30.0),
        (10.0, 30.0),
        (30.0,),
    ]
    assert [call.languages for call in engine.calls] == [
        ("en", "de", "en", "de"),
        ("de", "de"),
        ("de",),
    ]
    assert [call.options.temperature for call in engine.calls] == [0.0, 0.2, 0.4]
    assert [text_of(attempt) for attempt in attempts] == [SOUND] * 4
    assert [attempt.parts[0].judged.decoded.temperature for attempt in attempts] == [
        0.0,
        0.2,
        0.0,
        0.4,
    ]


def test_every_other_option_stays_the_same_up_the_ladder() -> None:
    engine = script([said(LOOP)] * 3)

    climb(engine, 1, (0.0, 0.5, 1.0))

    assert {call.options.at(0.0) for call in engine.calls} == {DecodingOptions(beam_size=3)}


def test_a_window_that_never_succeeds_keeps_its_most_probable_attempt_and_the_rule_it_breaks() -> (
    None
):
    guesses = [said(f" guess {i}", logprob=logprob) for i, logprob in enumerate((-2.0, -1.2, -1.5))]

    [attempt] = climb(script(guesses), 1, (0.0, 0.5, 1.0))

    assert text_of(attempt) == " guess 1"
    assert attempt.failure == "low_probability"


def test_a_loop_is_worse_than_an_unsure_text_that_has_words_for_more_of_the_speech() -> None:
    [attempt] = climb(script([said(LOOP, logprob=-0.05), said(SOUND, logprob=-1.2)]), 1, (0.0, 1.0))

    assert text_of(attempt) == SOUND
    assert attempt.failure == "low_probability"


@pytest.mark.parametrize("guess", [said(SOUND, logprob=-7.1), said(" guess", logprob=-1.01)])
def test_a_sure_text_that_is_suspicious_is_not_given_up_for_an_unsure_one(guess: Decoded) -> None:
    chant = " we will wait for you" * 6
    [attempt] = climb(script([said(chant, logprob=-0.6), guess]), 1, (0.0, 1.0))

    assert text_of(attempt) == chant
    assert attempt.failure == "repetition"


def test_a_loop_that_nothing_better_is_found_for_is_cut_to_its_first_turn() -> None:
    [attempt] = climb(script([said(" Well," + LOOP, logprob=-0.05)] * 2), 1, (0.0, 1.0))

    assert text_of(attempt) == " Well, thank you"
    assert attempt.failure == "repetition"


def test_a_sound_attempt_is_not_given_up_for_one_before_it() -> None:
    [attempt] = climb(script([said(" guess", logprob=-1.01), said(SOUND, logprob=-0.99)]), 1)

    assert text_of(attempt) == SOUND
    assert attempt.failure is None


@pytest.mark.parametrize(
    "silence", [said(""), said("  "), said(" you", logprob=-1.5, no_speech=0.9)]
)
def test_silence_is_not_decoded_again(silence: Decoded) -> None:
    engine = script([silence], [said(SOUND)])

    attempts = climb(engine, 2)

    assert [attempt.failure for attempt in attempts] == ["silence", None]
    assert len(engine.calls) == 1


def test_an_engine_without_figures_is_judged_by_its_text_alone() -> None:
    engine = script(
        [said(SOUND, logprob=None, no_speech=None)],
        [said(LOOP, logprob=None, no_speech=None), said(SOUND, logprob=None, no_speech=None)],
    )

    attempts = climb(engine, 2)

    assert [attempt.failure for attempt in attempts] == [None, None]
    assert [call.starts for call in engine.calls] == [(0.0, 10.0), (10.0,)]


def test_one_temperature_is_one_attempt() -> None:
    engine = script([said(LOOP)], [said(SOUND)])

    attempts = climb(engine, 2, (0.0,))

    assert [attempt.failure for attempt in attempts] == ["repetition", None]
    assert len(engine.calls) == 1


@settings(max_examples=100)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6))
def test_each_window_is_decoded_until_it_is_sound_and_no_longer(sound: list[list[bool]]) -> None:
    engine = script(
        *([said(f"{SOUND} {k}" if ok else LOOP) for k, ok in enumerate(row)] for row in sound)
    )

    attempts = climb(engine, len(sound), (0.0, 0.2, 0.4, 0.6))

    for k, row in enumerate(sound):
        n_attempts = sum(10.0 * k in call.starts for call in engine.calls)
        assert n_attempts == (row.index(True) + 1 if any(row) else 4)
        assert (attempts[k].failure is None) == any(row)
    assert all(call.starts for call in engine.calls)


# -- speech without words --------------------------------------------------------------------------

SKIPS = replace(INFO, skips_speech=True, can_sample=False)
HOUSE, NOBODY = " I went to the house today.", " Nobody was there at that time of day."
LATE = Region(6.0, 9.5)  # speech after a pause, of a window that begins at 0


def fill(
    hear: Callable[[Window], Decoded], regions: Sequence[Region]
) -> tuple[list[Window], Attempt]:
    """The windows that the engine was given, and what became of one window of 12 s."""
    given: list[Window] = []

    def listen(window: Window, language: str, options: DecodingOptions) -> Decoded:
        given.append(window)
        return hear(window)

    engine = ScriptedEngine(listen, info=SKIPS)
    window = Window(0.0, np.zeros(12 * SAMPLE_RATE_HZ, np.float32), tuple(regions))
    decoder = Decoder(engine, DecodingOptions(), TemperatureSchedule(), engine.encode)
    encoded = engine.encode([window])
    first = decoder.time_words(encoded, [window], decoder.decode(encoded, ["en"]), decoder.options)
    [attempt] = decoder.improved(encoded, [window], ["en"], first)
    return given, attempt


def test_speech_without_words_is_decoded_by_itself_and_its_words_come_in_order() -> None:
    def hear(window: Window) -> Decoded:
        return (
            said(" I went to the house today.")
            if window.start == 0.0
            else said(" Nobody was there at that time of day.")
        )

    given, attempt = fill(hear, [Region(0.0, 2.0), LATE])

    assert text_of(attempt) == HOUSE + NOBODY
    assert attempt.failure is None
    assert [round(window.start, 2) for window in given] == [0.0, 5.7]
    assert given[1].duration == pytest.approx(LATE.end - LATE.start + 0.6)


def test_words_that_a_neighbour_says_already_are_not_doubled() -> None:
    def hear(window: Window) -> Decoded:
        return said(HOUSE if window.start == 0.0 else f" house today.{NOBODY}")

    _, attempt = fill(hear, [Region(0.0, 2.0), LATE])

    assert text_of(attempt) == HOUSE + NOBODY


def test_a_window_with_much_speech_and_no_words_is_decoded_again() -> None:
    def hear(window: Window) -> Decoded:
        return said("" if window.start == 0.0 else NOBODY)

    _, attempt = fill(hear, [LATE])

    assert text_of(attempt) == NOBODY


@pytest.mark.parametrize(
    "guess", [said(" you", no_speech=0.9), said(" you", logprob=-1.4), said("")]
)
def test_what_may_be_no_speech_gets_no_words_that_the_model_is_not_sure_of_and_is_named(
    guess: Decoded,
) -> None:
    _, attempt = fill(
        lambda window: said("") if window.start == 0.0 and len(window.samples) > 180_000 else guess,
        [LATE],
    )

    assert text_of(attempt) == ""
    assert attempt.failure == "speech_without_words"


# -- the rules -------------------------------------------------------------------------------------


def failure_of(decoded: Decoded, speech_s: float = 8.0) -> str | None:
    return judge(decoded, window_at(0.0, speech_s), RULES).failure


@pytest.mark.parametrize(
    ("decoded", "failure"),
    [
        (said(SOUND), None),
        (said(SOUND, logprob=-0.99), None),
        (said(SOUND, logprob=-1.01), "low_probability"),
        (
            said(SOUND, logprob=-0.5, no_speech=0.99),
            None,
        ),  # the text is probable: the model does not know silence
        (said(SOUND, logprob=-1.01, no_speech=0.61), "silence"),
        (said(SOUND, logprob=-1.01, no_speech=0.59), "low_probability"),
        (said(SOUND, logprob=None), None),
        (said(SOUND, no_speech=None, logprob=-3.0), "low_probability"),
        (said(LOOP), "repetition"),
        (said(" no" * 6), None),  # sure, and the speech can hold it
        (said(" no" * 6, logprob=-0.6), "repetition"),
        (said(" no" * 5, logprob=-0.6), None),
        (said(" ハ" * 3 + "ハ" * 200), "repetition"),  # no spaces: only its packing tells
        (said(""), "silence"),
    ],
)
def test_the_rule_that_a_text_breaks_is_named(decoded: Decoded, failure: str | None) -> None:
    assert failure_of(decoded) == failure


def test_more_text_than_can_be_said_in_the_speech_of_a_window_is_words_in_silence() -> None:
    assert failure_of(said(SOUND), speech_s=2.0) is None
    assert failure_of(said(SOUND), speech_s=1.0) is None  # fast, but the model is sure
    assert failure_of(said(SOUND, logprob=-0.6), speech_s=1.0) == "words_in_silence"
    assert failure_of(said(SOUND), speech_s=0.0) == "words_in_silence"
    assert failure_of(said(" Yes."), speech_s=0.1) is None


def test_the_rules_can_be_set() -> None:
    strict = QualityRules(max_repeats=1)

    assert judge(said(" no no", logprob=-0.6), window_at(0.0), strict).failure == "repetition"
    assert judge(said(" no no", logprob=-0.6), window_at(0.0), RULES).failure is None


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("", 0),
        ("one", 1),
        ("one two three", 1),
        ("no no", 2),
        ("No no NO", 3),
        ("a b a b a b", 3),
        ("a b c a b", 1),
        ("so and so and so on", 2),
        ("x one two three x one two three x one two three", 3),
        ("say one two three four five six seven eight one two three four five six seven eight", 2),
        (
            (
                "one two three four five six seven eight nine one two three four five six seven "
                "eight nine"
            ),
            1,
        ),
    ],
)
def test_repeats_counts_the_longest_run_of_one_phrase(text: str, times: int) -> None:
    assert repeats(text) == times


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True), st.integers(1, 20)
)
def test_repeats_finds_any_phrase_as_often_as_it_was_put(phrase: list[str], times: int) -> None:
    assert repeats(" ".join(["before", *phrase * times, "after"])) == times


def test_the_compression_ratio_tells_loops_from_prose() -> None:
    prose = (
        "It was the best of times, it was the worst of times, it was the age of wisdom, "
        "it was the age of foolishness."
    )

    assert compression_ratio("") == 0.0
    assert compression_ratio(prose) < RULES.max_compression_ratio < compression_ratio(LOOP)
    assert compression_ratio("Größe " * 100) > compression_ratio("Größe " * 10)
    assert math.isfinite(compression_ratio("\U0001f389"))
