"""Windows without punctuation are decoded once more after a prompt that has some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from real_whisper import real_whisper
from scripted_engine import INFO, ScriptedEngine, said

from transcribe_mcp import EngineRequest, Options, load_engine, transcribe
from transcribe_mcp.engines import Decoded, DecodingOptions, Recognizer
from transcribe_mcp.pipeline.style_prompts import STYLE_PROMPTS
from transcribe_mcp.pipeline.temperature_fallback import Attempt, Decoder, TemperatureSchedule
from transcribe_mcp.speech.regions import Region, Window

UNBROKEN = Path(__file__).parents[2] / "shared" / "accuracy" / "sets" / "p_nopause.flac"
PLAIN = " we came home late and the lights were out so nobody saw that the door was open"
MARKED = " We came home late, and the lights were out. So nobody saw that the door was open."


def decoded_once_more(
    again: Decoded, *, first: str = PLAIN, language: str = "en", **options: str
) -> tuple[Attempt, list[DecodingOptions]]:
    """A window in which ``first`` is heard, and ``again`` after a prompt; with the options of every
    decoding.
    """

    def hear(window: Window, spoken: str, options: DecodingOptions) -> Decoded:
        return replace(again if options.prompt else said(first), language=spoken)

    engine = ScriptedEngine(hear=hear, info=replace(INFO, punctuates=True))
    window = Window(0.0, np.zeros(160_000, np.float32), (Region(0.0, 8.0),))
    decoder = Decoder(engine, DecodingOptions(**options), TemperatureSchedule(), engine.encode)
    encoded = engine.encode([window])
    found = decoder.time_words(
        encoded, [window], decoder.decode(encoded, [language]), decoder.options
    )
    if any(map(decoder.may_improve, found)):
        found = decoder.improved(encoded, [window], [language], found)
    return found[0], [call.options for call in engine.calls]


def text_of(attempt: Attempt) -> str:
    return "".join(word.text for word in attempt.words)


def test_text_without_punctuation_is_replaced_by_the_same_text_with_some() -> None:
    attempt, calls = decoded_once_more(said(MARKED))

    assert text_of(attempt) == MARKED
    assert [options.prompt for options in calls] == ["", STYLE_PROMPTS["en"]]


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(said(PLAIN), id="no marks either"),
        pytest.param(said(MARKED.replace(" nobody saw that", "")), id="fewer words"),
        pytest.param(said(MARKED + " Or was it?"), id="more words"),
        pytest.param(said(MARKED, logprob=-0.9), id="much less sure"),
        pytest.param(said(MARKED, logprob=-1.5), id="fails a rule"),
    ],
)
def test_another_text_is_not_taken_for_the_sake_of_its_marks(again: Decoded) -> None:
    attempt, calls = decoded_once_more(again)

    assert text_of(attempt) == PLAIN
    assert len(calls) == 2


@pytest.mark.parametrize(("task", "prompt"), [("transcribe", "de"), ("translate", "en")])
def test_the_prompt_is_in_the_language_of_the_text(task: str, prompt: str) -> None:
    _, calls = decoded_once_more(said(MARKED), language="de", task=task)

    assert calls[-1].prompt == STYLE_PROMPTS[prompt]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param({"first": MARKED}, id="it has marks"),
        pytest.param({"first": " all right then see you"}, id="it is short"),
        pytest.param({"prompt": "lower case without marks"}, id="the user chose a style"),
        pytest.param({"language": "th"}, id="the language has no prompt"),
    ],
)
def test_no_time_is_spent_where_no_marks_are_missing(case: dict[str, str]) -> None:
    _, calls = decoded_once_more(said(MARKED), **case)

    assert len(calls) == 1


def test_every_prompt_is_punctuated_itself() -> None:
    assert len(STYLE_PROMPTS) >= 20
    for prompt in STYLE_PROMPTS.values():
        assert sum(prompt.count(mark) for mark in ".。।") >= 2
        assert prompt[-1] in "?？؟;"


# -- a real model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[Recognizer]:
    engine = load_engine(EngineRequest("ctranslate2", str(real_whisper()), "cpu", offline=True))
    yield engine
    engine.close()


@pytest.mark.skipif(not UNBROKEN.exists(), reason="needs ../shared/accuracy")
def test_speech_without_pauses_has_full_stops(engine: Recognizer) -> None:
    transcript = transcribe(UNBROKEN, engine, Options(language="en", beam_size=1))

    n_ends = sum(transcript.text.count(mark) for mark in ".?!")
    assert n_ends >= 25, "the 25 sentences; without the prompt 19 marks"
