"""Repeated words that were really said, fast speech, and checkpoints of other windows: on Whisper
tiny.en.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from real_whisper import real_whisper

from transcribe_mcp.domain.options import Options
from transcribe_mcp.domain.transcript import Transcript
from transcribe_mcp.engines import EngineRequest, Recognizer, load_recognizer
from transcribe_mcp.media.decode import read
from transcribe_mcp.pipeline.checkpoint import Restored, doubts
from transcribe_mcp.pipeline.offline import transcribe

REPETITION = Path(__file__).parent / "data" / "repetition"
ENGLISH = Options(language="en", beam_size=1)


@pytest.fixture(scope="module")
def engine() -> Iterator[Recognizer]:
    engine = load_recognizer(
        EngineRequest("ctranslate2", str(real_whisper()), "cpu", threads=2, offline=True)
    )
    yield engine
    engine.close()


def codes(transcript: Transcript) -> set[str]:
    return {notice.code for notice in transcript.warnings}


@pytest.mark.parametrize(
    ("name", "phrase", "times", "rest"),
    [
        ("chorus_7", "we will wait for you", 7, "and then we go home."),
        ("stop", "stop", 10, "put that thing down right now."),
        ("yes_call", "yes", 8, "i can see it very well from over here."),
    ],
)
def test_words_that_were_said_again_and_again_are_kept_and_named(
    engine: Recognizer, name: str, phrase: str, times: int, rest: str
) -> None:
    first, second = (transcribe(REPETITION / f"{name}.flac", engine, ENGLISH) for _ in range(2))

    text = first.text.lower()
    assert text.count(phrase) >= times
    assert text.endswith(rest)
    assert codes(first) == {"repeated_words"}
    assert first.text == second.text


def test_fast_speech_is_whole_although_the_first_decoding_loops(engine: Recognizer) -> None:
    transcript = transcribe(REPETITION / "fast.flac", engine, ENGLISH)

    assert transcript.text.startswith(
        "This is a very fast speaker who reads out the terms and conditions"
    )
    assert transcript.text.endswith(
        "that nobody can follow what is being said about interest rates and fees."
    )
    assert codes(transcript) == set()


def test_a_loop_that_cannot_be_decoded_again_is_left_out_and_named(engine: Recognizer) -> None:
    once = replace(ENGLISH, temperatures=(0.0,))

    transcript = transcribe(REPETITION / "fast.flac", engine, once)

    assert transcript.text.startswith(
        "This is a very fast speaker who reads out the terms and conditions at the end"
    )
    assert transcript.text.count("end of") == 1
    assert codes(transcript) == {"doubtful_repetition"}


# -- checkpoints -----------------------------------------------------------------------------------


class Kept:
    """Checkpoints as the jobs keep them: as text, and never changed."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def load(self) -> list[str]:
        return list(self.texts)

    def save(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def talk() -> np.ndarray:
    """Three sentences with long pauses: three windows, and fewer without voice detection."""
    ends = {"stop": 5.3, "yes_call": 5.2, "chorus_7": 9.3}
    parts = [
        read(REPETITION / f"{name}.flac")[round(at_s * 16_000) :] for name, at_s in ends.items()
    ]
    silence = np.zeros(5 * 16_000, np.float32)
    return np.concatenate([samples for part in parts for samples in (part, silence)])


@pytest.fixture(scope="module")
def whole(engine: Recognizer, talk: np.ndarray) -> Transcript:
    return transcribe(talk, engine, replace(ENGLISH, batch_size=1))


def test_a_recording_goes_on_from_checkpoints_of_its_own_windows(
    engine: Recognizer, talk: np.ndarray, whole: Transcript
) -> None:
    kept = Kept()
    assert (
        transcribe(talk, engine, replace(ENGLISH, batch_size=1), checkpoints=kept).text
        == whole.text
    )
    n_batches = len(kept.texts)
    del kept.texts[1:]

    again = transcribe(talk, engine, replace(ENGLISH, batch_size=1), checkpoints=kept)

    assert again.text == whole.text
    assert "checkpoints_differ" not in codes(again)
    assert len(kept.texts) == n_batches == 3


def test_checkpoints_of_other_windows_are_not_used_and_no_speech_is_lost(
    engine: Recognizer, talk: np.ndarray, whole: Transcript
) -> None:
    kept = Kept()
    transcribe(talk, engine, replace(ENGLISH, batch_size=1, vad=False), checkpoints=kept)
    n_old = len(kept.texts)

    again = transcribe(talk, engine, replace(ENGLISH, batch_size=1), checkpoints=kept)

    assert again.text == whole.text
    assert "checkpoints_differ" in codes(again)
    assert all(before.end <= after.start + 1e-6 for before, after in pairwise(again.words))
    resumed = transcribe(talk, engine, replace(ENGLISH, batch_size=1), checkpoints=kept)
    assert resumed.text == whole.text
    assert "checkpoints_differ" in codes(resumed)
    assert len(kept.texts) == n_old + len(Restored(kept.texts).windows)


def test_settled_text_only_grows_in_whatever_order_windows_finish(
    engine: Recognizer, talk: np.ndarray
) -> None:
    kept = Kept()
    whole = transcribe(talk, engine, replace(ENGLISH, batch_size=1), checkpoints=kept)
    assert len(kept.texts) > 2
    for order in list(permutations(kept.texts))[:100]:
        texts = [text_of(order[:n]) for n in range(len(order) + 1)]
        assert texts[0] == "" and texts[-1] == whole.text
        assert all(after.startswith(before) for before, after in pairwise(texts))
    earlier = [re.sub(r', \d+\]\], "vote"', ']], "vote"', text) for text in kept.texts]
    assert earlier != kept.texts and text_of(earlier) == ""  # without numbers, nothing is sure


def text_of(steps: Sequence[str]) -> str:
    parts = Restored(steps).settled
    return "".join(word.text for part in parts for word in part.words).strip()


EARLIEST = '{"starts": [0.0], "windows": [], "vote": ["en", null, []]}'  # of version 0.1.0
BY_NUMBER = (
    '{"codec": 2, "number": 0, "starts": [0.0], "durations_s": [5.0], "windows": [], '
    '"vote": ["en", null, []]}'
)
LATER = '{"codec": 99, "number": 0, "new": 1}'


@pytest.mark.parametrize("text", [EARLIEST, BY_NUMBER, LATER])
def test_checkpoints_of_another_version_are_decoded_anew(
    engine: Recognizer, talk: np.ndarray, whole: Transcript, text: str
) -> None:
    kept = Kept()
    kept.texts = [text]

    again = transcribe(talk, engine, replace(ENGLISH, batch_size=1), checkpoints=kept)

    assert again.text == whole.text
    assert "checkpoints_differ" in codes(again)


def test_doubts_after_a_day_are_named_by_their_time() -> None:
    late = (
        '{"start": 90000.0, "words": [], "compression_ratio": 1.0, "failure": "low_probability", '
    )
    late += '"decoded": [" no no", "en", 0.0, -1.5, 0.1]}'
    window = f"[[90000.0, 16000, [{late}]]]"
    text = f'{{"codec": 3, "voice": 0, "windows": {window}, "vote": ["en", null, []]}}'

    [notice] = doubts(Restored([text]).heard)

    assert "25:00:00" in notice.message
