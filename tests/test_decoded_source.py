"""Samples that lie decoded in memory are transcribed as the file they came from."""

from __future__ import annotations

import numpy as np
import pytest
from scripted_engine import ScriptedEngine
from whisper_nano import SPEECH

from transcribe_mcp.errors import NoAudioError, UsageError
from transcribe_mcp.media.decode import read
from transcribe_mcp.pipeline.offline import transcribe

RECORDING = SPEECH / "en_0.flac"


def test_samples_give_the_words_of_their_file() -> None:
    from_file = transcribe(RECORDING, ScriptedEngine())
    from_memory = transcribe(read(RECORDING), ScriptedEngine())

    assert from_memory.segments == from_file.segments
    assert from_memory.duration == from_file.duration
    assert from_memory.source is None


def test_samples_in_double_precision_are_taken_too() -> None:
    assert transcribe(read(RECORDING).astype(np.float64), ScriptedEngine()).segments


def test_samples_that_are_not_numbers_become_silence_with_a_warning_and_stay_as_they_were() -> None:
    samples = read(RECORDING)
    samples[1000:1100] = np.nan

    transcript = transcribe(samples, ScriptedEngine())

    assert "invalid_samples" in [notice.code for notice in transcript.warnings]
    assert np.isnan(samples[1000:1100]).all()


@pytest.mark.parametrize("samples", [np.zeros((2, 100), np.float32), np.zeros(100, np.int16)])
def test_samples_of_another_kind_are_refused_with_what_they_are(samples: np.ndarray) -> None:
    with pytest.raises(UsageError, match=f"{samples.dtype}") as caught:
        transcribe(samples, ScriptedEngine())
    assert "16,000" in caught.value.hint


def test_no_samples_are_no_recording() -> None:
    with pytest.raises(NoAudioError):
        transcribe(np.zeros(0, np.float32), ScriptedEngine())
