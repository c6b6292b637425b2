"""Words timed in another thread and windows encoded as they come, for engines that allow it: the
same result.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE_S
from scripted_engine import INFO, ScriptedBatch, ScriptedEngine, says_hello
from whisper_nano import speech_truths

from transcribe_mcp.domain.transcript import Word
from transcribe_mcp.engines import Decoded, DecodingOptions, EngineInfo
from transcribe_mcp.errors import EngineFailedError
from transcribe_mcp.media.decode import read
from transcribe_mcp.pipeline import feeder
from transcribe_mcp.pipeline.checkpoint import Checkpoint
from transcribe_mcp.pipeline.offline import Options, transcribe
from transcribe_mcp.runtime import device
from transcribe_mcp.runtime.queue import BatchRequest, WindowQueue
from transcribe_mcp.speech.regions import Window

ASIDE = replace(INFO, concurrent_align=True)
EARLY = replace(ASIDE, encode_chunk=2)
ALL_ASIDE = replace(EARLY, concurrent_encode=True)
ONE_BY_ONE = Options(language="en", batch_size=1)


class Kept:
    """Checkpoints in memory, like a job's."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def load(self) -> list[str]:
        return list(self.texts)

    def save(self, text: str) -> None:
        self.texts.append(text)

    @property
    def starts(self) -> list[float]:
        found = [Checkpoint.loads(text) for text in self.texts]
        return [window.start for one in found if one is not None for window in one.windows]


class Threaded(ScriptedEngine):
    """Notes in which thread words are timed; fails at the window that begins after
    ``fails_after``.
    """

    fails_after = float("inf")
    timed_in: set[str] = set()  # noqa: RUF012 - of this test module alone

    def align(
        self, encoded: ScriptedBatch, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        self.timed_in.add(threading.current_thread().name)
        if encoded.windows[0].start > self.fails_after:
            raise EngineFailedError("the device is gone")
        return ScriptedEngine.align(self, encoded, decoded, options)


@pytest.fixture(scope="module")
def talk() -> np.ndarray:
    return np.concatenate([read(truth.path) for truth in speech_truths().values()])


@pytest.mark.parametrize(
    "info", [ASIDE, EARLY, ALL_ASIDE], ids=["words", "encoding early", "and aside"]
)
def test_the_result_is_the_same_and_batches_are_kept_in_order(
    talk: np.ndarray, info: EngineInfo
) -> None:
    kept, engine = Kept(), Threaded(info=info)

    aside = transcribe(talk, engine, ONE_BY_ONE, checkpoints=kept)

    assert aside.segments == transcribe(talk, ScriptedEngine(), ONE_BY_ONE).segments
    assert len(kept.texts) == len(engine.calls) > 4
    assert kept.starts == sorted(kept.starts)
    assert threading.current_thread().name not in engine.timed_in


@pytest.mark.parametrize(
    "info", [ASIDE, EARLY, ALL_ASIDE], ids=["words", "encoding early", "and aside"]
)
def test_kept_batches_are_not_decoded_again(talk: np.ndarray, info: EngineInfo) -> None:
    kept = Kept()
    whole = transcribe(talk, Threaded(info=info), ONE_BY_ONE, checkpoints=kept)
    n_checkpoints = len(kept.texts) // 2
    del kept.texts[n_checkpoints:]
    again = Threaded(info=info)

    assert transcribe(talk, again, ONE_BY_ONE, checkpoints=kept).segments == whole.segments
    assert len(again.calls) == len(kept.texts) - n_checkpoints


def test_what_fails_aside_fails_the_recording_and_keeps_what_was_finished(talk: np.ndarray) -> None:
    kept, engine = Kept(), Threaded(info=ASIDE)
    engine.fails_after = 100.0

    with pytest.raises(EngineFailedError, match="the device is gone"):
        transcribe(talk, engine, ONE_BY_ONE, checkpoints=kept)

    assert kept.starts
    assert all(start <= 100.0 for start in kept.starts)


class SideBySide(ScriptedEngine):
    """Decodes its first batch only once the second one is being encoded."""

    encoding = threading.Semaphore(0)

    def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
        self.encoding.release()
        return ScriptedEngine.encode(self, windows)

    def decode_once(
        self, encoded: ScriptedBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        for _ in range(0 if self.calls else 2):
            assert self.encoding.acquire(timeout=PATIENCE_S), "nothing is encoded beside this"
        return ScriptedEngine.decode_once(self, encoded, languages, options)


def test_a_batch_is_encoded_while_the_one_before_is_decoded(talk: np.ndarray) -> None:
    engine = SideBySide(info=ALL_ASIDE)

    assert transcribe(talk[: 16_000 * 90], engine, ONE_BY_ONE).segments
    assert len(engine.calls) > 1


class Counting(ScriptedEngine):
    """Notes how many windows each call of ``encode`` gets, and how many are encoded before each
    call of ``decode``.
    """

    def __init__(self, info: EngineInfo) -> None:
        ScriptedEngine.__init__(self, info=info)
        self.parts: list[int] = []
        self.encoded_before: list[int] = []

    def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
        self.parts.append(len(windows))
        return ScriptedEngine.encode(self, windows)

    def decode_once(
        self, encoded: ScriptedBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        self.encoded_before.append(sum(self.parts))
        return ScriptedEngine.decode_once(self, encoded, languages, options)


@pytest.mark.parametrize("size", [1, 3, 8, 40])
@pytest.mark.parametrize("language", ["en", "auto"])
@pytest.mark.parametrize("info", [EARLY, ALL_ASIDE], ids=["in turn", "aside"])
def test_windows_encoded_early_are_decoded_in_order_in_full_or_nearly_full_batches(
    talk: np.ndarray, info: EngineInfo, language: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder, "BLOCK_S", 60.0)  # so that windows come a few at a time
    options = Options(language=language, batch_size=size)
    plain, early = Counting(INFO), Counting(info)

    expected, found = transcribe(talk, plain, options), transcribe(talk, early, options)

    assert found.segments == expected.segments
    assert found.language == expected.language
    if language == "auto":  # which windows vote depends on how many have come
        assert sum(len(call.starts) for call in early.calls) == sum(early.parts)
    elif info.concurrent_encode:
        assert early.calls == plain.calls
    else:  # a device that would wait takes a batch that is nearly full
        assert starts(early) == starts(plain)
        assert all(
            device.ALMOST_FULL * size <= len(call.starts) <= size for call in early.calls[:-1]
        )
    assert max(early.parts) <= size
    assert sum(early.parts) == sum(plain.parts)
    if size == 40:
        assert len(early.parts) > len(plain.parts) == 1, (
            "the device has work before the batch is full"
        )


def starts(engine: ScriptedEngine) -> list[float]:
    return [start for call in engine.calls for start in call.starts]


def test_a_nearly_full_batch_does_not_wait_for_a_source_that_falters(
    talk: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder, "BLOCK_S", 60.0)  # three of them hold seven windows
    has_decoded = threading.Event()

    def hear(window: Window, language: str, options: DecodingOptions) -> Decoded:
        has_decoded.set()
        return says_hello(window, language, options)

    def falters(stage: str, done_s: float | None, duration_s: float | None) -> None:
        if stage == "speech" and (done_s or 0) > 180.0:
            assert has_decoded.wait(PATIENCE_S), "the batch waited for its last window"

    engine = ScriptedEngine(hear=hear, info=EARLY)
    transcribe(talk, engine, Options(language="en", batch_size=8), progress=falters)

    assert [len(call.starts) for call in engine.calls] == [7, 3]


def test_a_nearly_full_batch_waits_where_it_takes_the_rest_of_the_recording(
    talk: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder, "BLOCK_S", 60.0)
    engine, has_been_asked = Counting(EARLY), threading.Event()

    is_due = WindowQueue.is_due

    def asked(queue: WindowQueue, spec: Any, request: BatchRequest, *, falters: bool) -> bool:
        if request.n_encoded == 7 and falters:
            has_been_asked.set()
        return is_due(queue, spec, request, falters=falters)

    def falters(stage: str, done_s: float | None, duration_s: float | None) -> None:
        if stage == "speech" and (done_s or 0) > 180.0:
            assert has_been_asked.wait(PATIENCE_S), "the device was never without work"

    monkeypatch.setattr(WindowQueue, "is_due", asked)
    transcribe(talk[: 16_000 * 190], engine, Options(language="en", batch_size=9), progress=falters)

    assert [len(call.starts) for call in engine.calls] == [9]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_no_more_than_a_batch_is_encoded_beyond_the_one_that_is_decoded(
    talk: np.ndarray, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder, "BLOCK_S", 60.0)
    engine = Counting(EARLY)

    transcribe(talk, engine, Options(language="en", batch_size=size))

    decoded = 0
    for before, call in zip(engine.encoded_before, engine.calls, strict=True):
        decoded += len(call.starts)
        assert before - decoded < size


class Stuck(ScriptedEngine):
    """Its second batch is encoded until it is closed; decoding the first fails meanwhile."""

    second, closed = threading.Event(), threading.Event()
    n_encoded = 0

    def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
        self.n_encoded += 1
        if self.n_encoded == 2:
            self.second.set()
            assert self.closed.wait(PATIENCE_S)
        return ScriptedEngine.encode(self, windows)

    def decode_once(
        self, encoded: ScriptedBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        assert self.second.wait(PATIENCE_S)
        raise EngineFailedError("the device is gone")

    def close(self) -> None:
        self.closed.set()


def test_what_breaks_off_does_not_wait_for_what_is_being_encoded(talk: np.ndarray) -> None:
    engine = Stuck(info=ALL_ASIDE)

    with pytest.raises(EngineFailedError, match="the device is gone"):
        transcribe(talk, engine, ONE_BY_ONE)

    assert not engine.closed.is_set(), (
        "the error came while the second batch was still being encoded"
    )
    engine.close()
