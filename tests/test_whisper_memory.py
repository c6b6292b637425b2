"""The PyTorch engine where memory is scarce, and where threads of a program share it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from whisper_nano import speech_truths, whisper_nano, window_of

torch = pytest.importorskip("torch")


from transcribe_mcp.engines import Decoded, DecodingOptions, EngineRequest, load_recognizer  # noqa: E402
from transcribe_mcp.engines.whisper.decode_slots import Slots  # noqa: E402
from transcribe_mcp.engines.whisper.engine import _idle_steps  # noqa: E402
from transcribe_mcp.pipeline.language_vote import LanguageDecider  # noqa: E402
from transcribe_mcp.pipeline.recognize import Recipe, RecognizeStage  # noqa: E402
from transcribe_mcp.pipeline.temperature_fallback import TemperatureSchedule  # noqa: E402
from transcribe_mcp.runtime.executor import Executor  # noqa: E402

GREEDY = DecodingOptions()
NAMES = sorted(speech_truths())[::6]
LANGUAGES = [name[:2] for name in NAMES]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    engine = load_recognizer(
        EngineRequest("whisper", str(whisper_nano()), "cpu", "float32", threads=2, offline=True)
    )
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def encoded(engine: Any) -> Any:
    return engine.encode([window_of(name, 40.0 * i) for i, name in enumerate(NAMES)])


@pytest.fixture(scope="module")
def decoded(engine: Any, encoded: Any) -> list[Decoded]:
    decoded: list[Decoded] = engine.decode(encoded, LANGUAGES, GREEDY)
    return decoded


@pytest.mark.parametrize(
    "said",
    [
        ["CUDA out of memory. Tried to allocate 2.00 GiB"],
        ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"],
        [
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "CUDA error: operation failed due to a previous error during capture",
        ],
    ],
)
def test_a_batch_for_which_a_library_finds_no_memory_is_halved(
    engine: Any, encoded: Any, decoded: list[Decoded], said: list[str]
) -> None:
    """The last of the errors is what comes of breaking off what failed."""
    known = engine._running
    failures = iter([said])

    def encode_next_time(mel: Any) -> Any:
        for errors in failures:
            fail(*errors)
        return known.encode(mel)

    engine._machinery = replace(known, encode=encode_next_time)
    minding, heard = Executor.of(engine), encoded.windows[:2]
    with closing(minding.open()) as recording:
        recording.load()
        recording.begin(2, math.inf)
        decider = LanguageDecider(LANGUAGES[0], engine.info, multilingual=False)
        recording.submit(
            RecognizeStage(Recipe(GREEDY, TemperatureSchedule((0.0,))), decider), heard
        )
        recording.end()
        results = [one for part in recording.results() for one in part]
    engine._machinery = known

    texts = [attempt.parts[0].judged.decoded for _, attempt in results]
    assert [one.tokens for one in texts] == [one.tokens for one in decoded[:2]]
    assert "batch_halved" in [notice.code for notice in minding.info.warnings]


def fail(words: str, *others: str) -> None:
    try:
        raise RuntimeError(words)
    finally:
        if others:
            fail(*others)


def test_windows_whose_words_are_timed_first_are_proved_by_one_thread_for_all_that_time_them(
    engine: Any, encoded: Any, decoded: list[Decoded]
) -> None:
    proving: list[int] = []

    class Finite:
        def tolist(self) -> list[bool]:
            proving.append(threading.get_ident())
            return [True] * len(NAMES)

    fresh = engine.encode(encoded.windows)
    fresh.unproved[:] = [(fresh.windows, Finite())]

    words = engine.align(fresh, decoded, GREEDY)

    assert proving == [threading.get_ident()]
    assert [[word.text for word in one] for one in words] == [
        [word.text for word in one] for one in engine.align(encoded, decoded, GREEDY)
    ]


def test_threads_of_a_program_take_turns_with_the_memory_of_one(
    engine: Any, encoded: Any, decoded: list[Decoded]
) -> None:
    known, pool = engine._running, engine._pool
    made: list[Slots] = []

    def make_steps(slots: Slots) -> Any:
        made.append(slots)
        return known.make_steps(slots)

    def decode_in_thread(i: int) -> list[Decoded]:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(
                engine.decode, encoded.select([i]), LANGUAGES[i : i + 1], GREEDY
            ).result()

    engine._pool, engine._idle = (
        None,
        _idle_steps(1),
    )  # as on a GPU: the caller's thread does the work
    engine._machinery = replace(known, make_steps=make_steps, workers=1)
    with ThreadPoolExecutor(4) as threads:
        texts = [one for [one] in threads.map(decode_in_thread, range(4))]
    engine._machinery, engine._pool, engine._idle = known, pool, _idle_steps(known.workers)

    assert [one.tokens for one in texts] == [one.tokens for one in decoded[:4]]
    assert len(made) == 1
