"""The ``session`` object of ``/v1/realtime``: what it may hold, and how updates change it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from transcribe_mcp.frontends.http.realtime_session import DEFAULT, merged, setup_of
from transcribe_mcp.frontends.http.refusals import Refused


@pytest.mark.parametrize(
    "update",
    [
        "text",
        {"type": "realtime"},
        {"include": ["item.input_audio_transcription.logprobs"]},
        {"audio": None},
        {"audio": {"input": "text"}},
        {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}},
        {"audio": {"input": {"turn_detection": {"threshold": 2}}}},
        {"audio": {"input": {"turn_detection": {"silence_duration_ms": 0}}}},
        {"audio": {"input": {"format": {"type": "audio/opus"}}}},
        {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 44100}}}},
        {"audio": {"input": {"transcription": {"keywords": "text"}}}},
        {"store": "yes"},
    ],
)
def test_a_session_that_cannot_be_is_refused_by_name(update: Any) -> None:
    with pytest.raises(Refused) as refused:
        merged(DEFAULT, update)
    error = json.loads(bytes(refused.value.response.body))["error"]
    assert error["param"].startswith("session") and error["message"]


def test_updates_keep_what_they_leave_out() -> None:
    once = merged(DEFAULT, {"audio": {"input": {"transcription": {"language": "de"}}}})
    twice = merged(once, {"audio": {"input": {"turn_detection": None, "noise_reduction": {}}}})
    found = twice["audio"]["input"]
    assert found["transcription"] == {"model": "default", "language": "de"}
    assert found["turn_detection"] is None and found["noise_reduction"] is None
    assert merged(DEFAULT, {}) == DEFAULT


def test_null_is_the_default_and_a_value_of_another_kind_is_refused_in_words() -> None:
    nothing = {"model": None, "language": None, "prompt": None, "keywords": None}
    session = merged(DEFAULT, {"audio": {"input": {"transcription": nothing}}})
    assert setup_of(session) == setup_of(DEFAULT)
    with pytest.raises(Refused, match=r"format is not supported: send an object$"):
        merged(DEFAULT, {"audio": {"input": {"format": "pcm16"}}})
