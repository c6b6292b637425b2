"""Words timed in another thread, for engines that allow it: the same result, in the same order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scripted_engine import INFO, ScriptedBatch, ScriptedEngine
from whisper_nano import speech_truths

from transcribe_mcp.audio import read
from transcribe_mcp.engines import Decoded, DecodingOptions
from transcribe_mcp.errors import EngineFailedError
from transcribe_mcp.heard import HeardBatch
from transcribe_mcp.pipeline import Options, transcribe
from transcribe_mcp.transcript import Word

ASIDE = replace(INFO, aligns_aside=True)
ONE_BY_ONE = Options(language="en", batch_size=1)


class Kept:
    """Finished batches in memory, like a job's checkpoints."""

    def __init__(self) -> None:
        self.batches: dict[int, HeardBatch] = {}

    def get(self, number: int) -> HeardBatch | None:
        return self.batches.get(number)

    def keep(self, number: int, batch: HeardBatch) -> None:
        assert number == len(self.batches), "batches are kept in order"
        self.batches[number] = batch


class Threaded(ScriptedEngine):
    """Notes in which thread words are timed; fails at the window that begins after ``fails_after``."""

    fails_after = float("inf")
    timed_in: set[str] = set()  # noqa: RUF012 - of this test module alone

    def align(self, encoded: ScriptedBatch, decoded: Sequence[Decoded], options: DecodingOptions) -> list[list[Word]]:
        self.timed_in.add(threading.current_thread().name)
        if encoded.windows[0].start > self.fails_after:
            raise EngineFailedError("the device is gone")
        return ScriptedEngine.align(self, encoded, decoded, options)


@pytest.fixture(scope="module")
def talk() -> np.ndarray:
    return np.concatenate([read(truth.path) for truth in speech_truths().values()])


def test_the_result_is_the_same_and_batches_are_kept_in_order(talk: np.ndarray) -> None:
    kept, engine = Kept(), Threaded(info=ASIDE)

    aside = transcribe(talk, engine, ONE_BY_ONE, kept_batches=kept)

    assert aside.segments == transcribe(talk, ScriptedEngine(), ONE_BY_ONE).segments
    assert len(kept.batches) == len(engine.calls) > 4
    assert threading.current_thread().name not in engine.timed_in


def test_kept_batches_are_not_decoded_again(talk: np.ndarray) -> None:
    kept = Kept()
    whole = transcribe(talk, Threaded(info=ASIDE), ONE_BY_ONE, kept_batches=kept)
    n_kept = len(kept.batches) // 2
    kept.batches = {number: batch for number, batch in kept.batches.items() if number < n_kept}
    again = Threaded(info=ASIDE)

    assert transcribe(talk, again, ONE_BY_ONE, kept_batches=kept).segments == whole.segments
    assert len(again.calls) == len(kept.batches) - n_kept


def test_what_fails_aside_fails_the_recording_and_keeps_what_was_finished(talk: np.ndarray) -> None:
    kept, engine = Kept(), Threaded(info=ASIDE)
    engine.fails_after = 100.0

    with pytest.raises(EngineFailedError, match="the device is gone"):
        transcribe(talk, engine, ONE_BY_ONE, kept_batches=kept)

    assert kept.batches
    assert all(start <= 100.0 for batch in kept.batches.values() for start in batch.starts)
