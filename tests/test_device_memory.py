"""Batches in parts: several engines at once, and engines that run out of memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from weakref import WeakSet

import numpy as np
import pytest
from patience import PATIENCE_S
from scripted_engine import INFO, ScriptedBatch, ScriptedEngine, said
from whisper_nano import kept_conversions, speech_truths, whisper_nano

from transcribe_mcp.compat.gpu_probe import gpu_facts
from transcribe_mcp.compat.machine import gpus_of
from transcribe_mcp.domain.transcript import Word
from transcribe_mcp.engines import (
    Decoded,
    DecodingOptions,
    EngineRequest,
    GpuModel,
    load_recognizer,
)
from transcribe_mcp.engines.auto import devices_of
from transcribe_mcp.errors import (
    EngineFailedError,
    EngineUnavailableError,
    OutOfMemoryError,
    UsageError,
)
from transcribe_mcp.media.decode import read
from transcribe_mcp.pipeline.language_vote import LanguageDecider
from transcribe_mcp.pipeline.offline import Options, transcribe
from transcribe_mcp.pipeline.recognize import Recipe, RecognizeStage
from transcribe_mcp.pipeline.temperature_fallback import Attempt, TemperatureSchedule
from transcribe_mcp.runtime.executor import Executor
from transcribe_mcp.runtime.loading import load_engine
from transcribe_mcp.speech.regions import Region, Window

RATE_HZ = 16_000
RECIPE = Recipe(DecodingOptions(), TemperatureSchedule())


def windows(n: int) -> list[Window]:
    return [
        Window(30.0 * i, np.zeros(30 * RATE_HZ, np.float32), (Region(30.0 * i, 30.0 * i + 29.0),))
        for i in range(n)
    ]


def by_number(window: Window, language: str, options: DecodingOptions) -> Decoded:
    return said(f" window {round(window.start / 30)}")


def run(executor: Executor, given: Sequence[Window], batch_size: int = 0) -> list[Attempt]:
    """What an executor makes of windows that are there all at once, in their order."""
    with closing(executor.open()) as recording:
        recording.load()
        recording.begin(batch_size, math.inf)
        stage = RecognizeStage(RECIPE, LanguageDecider("auto", INFO, multilingual=False))
        recording.submit(stage, given)
        recording.end()
        found = {
            task.window.start: attempt for part in recording.results() for task, attempt in part
        }
    return [found[window.start] for window in given]


def texts(attempts: Sequence[Attempt]) -> list[str]:
    return ["".join(word.text for word in attempt.words) for attempt in attempts]


@dataclass(slots=True)
class SmallEngine(ScriptedEngine):
    """It has memory for so many windows, encoded or at work; what is encoded is held until nobody
    refers to it.
    """

    room: int = 4
    decoding_room: int = 4
    held: list[int] = field(default_factory=list)

    def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
        self.held.append(len(windows))
        if len(windows) > self.room:
            raise OutOfMemoryError(f"no memory for {len(windows)} windows")
        return ScriptedEngine.encode(self, windows)

    def decode_once(
        self, encoded: ScriptedBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        if len(encoded) > self.decoding_room:
            raise OutOfMemoryError(f"no memory to decode {len(encoded)} windows")
        return ScriptedEngine.decode_once(self, encoded, languages, options)


@pytest.mark.parametrize(("room", "decoding_room"), [(4, 4), (1, 1), (100, 3), (3, 1), (100, 100)])
def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_loses_no_window(
    room: int, decoding_room: int
) -> None:
    engine = Executor.of(SmallEngine(by_number, room=room, decoding_room=decoding_room))

    attempts = run(engine, windows(13), batch_size=13)

    assert texts(attempts) == [f" window {i}" for i in range(13)]
    assert [attempt.words[0].start for attempt in attempts] == [30.0 * i for i in range(13)]


def test_windows_of_a_halved_batch_that_are_decoded_again_are_those_in_doubt() -> None:
    doubtful = {12, 0, 7, 6}

    def guesses_at_first(window: Window, language: str, options: DecodingOptions) -> Decoded:
        is_doubtful = round(window.start / 30) in doubtful and not options.temperature
        return said(" guess", logprob=-1.5) if is_doubtful else by_number(window, language, options)

    small = SmallEngine(guesses_at_first, room=4)

    attempts = run(Executor.of(small), windows(13), batch_size=13)

    assert texts(attempts) == [f" window {i}" for i in range(13)]
    again = {start for call in small.calls if call.options.temperature for start in call.starts}
    assert again == {30.0 * i for i in doubtful}


def test_after_memory_ran_out_batches_are_smaller_and_the_result_says_so() -> None:
    small = SmallEngine(by_number, room=3)
    engine = Executor.of(small)
    talk = np.concatenate([read(truth.path) for truth in speech_truths().values()])

    transcript = transcribe(talk, engine, Options(language="en", batch_size=8))

    whole = transcribe(talk, ScriptedEngine(by_number), Options(language="en"))
    assert transcript.text == whole.text
    assert "batch_halved" in [notice.code for notice in transcript.warnings]
    assert [n for n in small.held if n > 3] == [8, 4], "it is not asked again for what does not fit"


def test_a_window_that_does_not_fit_alone_is_an_error_that_says_so() -> None:
    with pytest.raises(OutOfMemoryError, match="1 windows"):
        run(Executor.of(SmallEngine(room=0)), windows(4))


def test_where_not_even_one_window_fits_the_cpu_behind_does_all_of_it() -> None:
    gpu = GpuModel.load(lambda: SmallEngine(room=0), lambda: ScriptedEngine(by_number))
    engine = Executor.of(gpu)

    assert texts(run(engine, windows(3))) == [" window 0", " window 1", " window 2"]
    assert "gpu_failed" in [notice.code for notice in engine.info.warnings]


class Held:
    """One window in the memory of an engine, until nobody refers to it."""


@dataclass(frozen=True, slots=True)
class HeldBatch:
    windows: tuple[Window, ...]
    held: tuple[Held, ...]

    def __len__(self) -> int:
        return len(self.windows)

    def select(self, indices: Sequence[int]) -> HeldBatch:
        return HeldBatch(
            tuple(self.windows[i] for i in indices), tuple(self.held[i] for i in indices)
        )


class FullEngine(ScriptedEngine):
    """Its memory holds so many windows, in whatever batches they are; to work on some takes half as
    much again.
    """

    def __init__(self, room: int) -> None:
        ScriptedEngine.__init__(
            self,
            by_number,
            info=replace(INFO, encode_chunk=4, concurrent_align=True, batch_size=16),
        )
        self.room = room
        self.held: WeakSet[Held] = WeakSet()
        self.refused = threading.Semaphore(0)
        self.n_refused = 0

    def encode(self, windows: Sequence[Window]) -> HeldBatch:
        self.take(len(windows))
        batch = HeldBatch(tuple(windows), tuple(Held() for _ in windows))
        self.held.update(batch.held)
        return batch

    def join(self, batches: Sequence[HeldBatch]) -> HeldBatch:
        held = tuple(one for batch in batches for one in batch.held)
        return HeldBatch(tuple(window for batch in batches for window in batch.windows), held)

    def decode_once(
        self, encoded: HeldBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        self.take(-(-len(encoded) // 2))
        return ScriptedEngine.decode_once(self, encoded, languages, options)

    def align(
        self, encoded: HeldBatch, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        self.take(-(-len(encoded) // 2))
        return ScriptedEngine.align(self, encoded, decoded, options)

    def take(self, n: int) -> None:
        if len(self.held) + n > self.room:
            self.n_refused += 1
            self.refused.release()
            raise OutOfMemoryError(f"no memory for {n} windows beside {len(self.held)}")


@pytest.mark.parametrize("room", [48, 24, 9, 3, 2])
def test_a_recording_whose_windows_fill_the_memory_goes_on_with_as_many_as_fit(room: int) -> None:
    talk = np.concatenate([read(truth.path) for truth in speech_truths().values()] * 8)
    full = FullEngine(room)

    transcript = transcribe(talk, Executor.of(full), Options(language="en"))

    whole = transcribe(talk, ScriptedEngine(by_number), Options(language="en"))
    assert transcript.words == whole.words
    assert (
        ("batch_halved" in [notice.code for notice in transcript.warnings])
        == (full.n_refused > 0)
        == (room < 48)
    )
    sizes = [len(call.starts) for call in full.calls]
    assert sum(sizes) == len({start for call in full.calls for start in call.starts}), (
        "no window is decoded twice"
    )
    assert max(sizes[len(sizes) // 2 :]) * 1.5 <= room, (
        "a batch and the work on it fit, once it is known what does"
    )


def test_a_window_for_which_there_is_no_room_beside_others_at_work_waits_for_them() -> None:
    class Waiting(FullEngine):
        def align(
            self, encoded: HeldBatch, decoded: Sequence[Decoded], options: DecodingOptions
        ) -> list[list[Word]]:
            if encoded.windows[0].start == 0:
                assert self.refused.acquire(timeout=PATIENCE_S)
            return ScriptedEngine.align(self, encoded, decoded, options)

    full = Waiting(room=2)

    attempts = run(Executor.of(full), windows(2), batch_size=1)

    assert texts(attempts) == [" window 0", " window 1"]
    assert full.n_refused


class Together(SmallEngine):
    """The first windows are encoded only when all engines are at work."""

    def meet(self, barrier: threading.Barrier) -> Together:
        self.barrier = barrier
        return self

    barrier: threading.Barrier = threading.Barrier(1)

    def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
        if not self.held:
            self.barrier.wait(PATIENCE_S)
        return SmallEngine.encode(self, windows)


def test_several_engines_share_a_recording_and_each_minds_its_own_memory() -> None:
    together = threading.Barrier(3)
    info = replace(INFO, batch_size=100)
    engines = [Together(by_number, info=info, room=room).meet(together) for room in (100, 2, 100)]
    with closing(Executor.of(*engines)) as engine:
        assert texts(run(engine, windows(11))) == [f" window {i}" for i in range(11)]
        info = engine.info

    shares = [sum(len(call.starts) for call in one.calls) for one in engines]
    assert sum(shares) == 11
    assert min(shares) >= 1
    assert max(shares) <= 11 - 2 * 2
    assert info.batch_size <= sum(one.info.batch_size for one in engines)


def test_windows_encoded_in_parts_are_decoded_as_one_batch_by_every_engine() -> None:
    together = threading.Barrier(2)
    info = replace(INFO, encode_chunk=3, batch_size=100)
    engines = [
        Together(by_number, info=info, room=100, decoding_room=100).meet(together) for _ in range(2)
    ]

    with closing(Executor.of(*engines)) as engine:
        attempts = run(engine, windows(9))

    assert texts(attempts) == [f" window {i}" for i in range(9)]
    assert [attempt.words[0].start for attempt in attempts] == [30.0 * i for i in range(9)]
    sizes = [len(call.starts) for one in engines for call in one.calls]
    assert max(sizes) == 5, "one call for its share of all parts"
    assert len(sizes) <= 3


class ThreadMinding(ScriptedEngine):
    """Notes the thread of each call, for each of which libraries keep something."""

    def __init__(self) -> None:
        ScriptedEngine.__init__(self, by_number)
        self.callers: list[int] = []

    def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
        self.callers.append(threading.get_ident())
        return ScriptedEngine.encode(self, windows)

    def decode_once(
        self, encoded: ScriptedBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        self.callers.append(threading.get_ident())
        return ScriptedEngine.decode_once(self, encoded, languages, options)


def test_an_engine_is_called_by_the_same_thread_whenever_the_same_thread_calls_all_of_them() -> (
    None
):
    engines = [ThreadMinding() for _ in range(3)]
    engine = Executor.of(*engines)

    def call(times: int) -> list[int]:
        for _ in range(times):
            run(engine, windows(6), batch_size=1)
        return [len(one.callers) for one in engines]

    n_first = call(4)
    with ThreadPoolExecutor(1) as another:
        another.submit(call, 3).result()
    engine.close()

    first = [set(one.callers[:n]) for one, n in zip(engines, n_first, strict=True)]
    then = [set(one.callers[n:]) for one, n in zip(engines, n_first, strict=True)]
    assert all(len(threads) <= 1 for threads in (*first, *then))
    assert first[1:] == then[1:] or not all((*first, *then)), "the others have threads of their own"
    threads = [thread for one in first for thread in one]
    assert len(threads) == len(set(threads))


def test_what_one_engine_fails_with_is_the_error_of_the_recording() -> None:
    failed, through = threading.Event(), threading.Event()

    class Failing(ScriptedEngine):
        def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
            failed.set()
            raise EngineFailedError("the device is gone", hint="look for it")

    class Slower(ScriptedEngine):
        def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
            assert failed.wait(PATIENCE_S)
            through.set()
            return ScriptedEngine.encode(self, windows)

    engine = Executor.of(Failing(), Slower(by_number))
    with pytest.raises(EngineFailedError, match="the device is gone"):
        run(engine, windows(6))
    engine.close()


def test_a_window_that_finds_no_room_is_encoded_again_when_there_is() -> None:
    class Crowded(ScriptedEngine):
        refused: list[float] = []  # noqa: RUF012 - of this test alone

        def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
            if windows[0].start and not self.refused:
                self.refused.append(windows[0].start)
                raise OutOfMemoryError("the batch before is still there")
            return ScriptedEngine.encode(self, windows)

    engine = Crowded(by_number, info=replace(INFO, encode_chunk=1, concurrent_align=True))

    attempts = run(Executor.of(engine), windows(2), batch_size=2)

    assert texts(attempts) == [" window 0", " window 1"]
    assert engine.refused == [30.0]


def test_a_recording_spread_over_two_real_engines_is_what_one_alone_makes_of_it() -> None:
    talk = np.concatenate(
        [read(speech_truths()[name].path) for name in ("en_0", "en_1", "en_2", "en_3", "en_4")]
    )
    with kept_conversions():
        request = EngineRequest(
            "ctranslate2", str(whisper_nano()), "cpu", "int8", threads=1, offline=True
        )
        one, other = load_recognizer(request), load_recognizer(request)
        both = Executor.of(one, other)
        options = Options(language="en", temperatures=(0.0,))
        alone, spread = transcribe(talk, one, options), transcribe(talk, both, options)
        both.close()

    assert spread.text == alone.text
    assert spread.words == alone.words


def test_devices_are_named_one_by_one_or_all_together() -> None:
    assert devices_of("cuda:0,2") == ("cuda:0", "cuda:2")
    assert [devices_of(one) for one in ("auto", "cpu", "cuda", "cuda:1")] == [
        ("auto",),
        ("cpu",),
        ("cuda",),
        ("cuda:1",),
    ]


def test_a_gpu_named_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        load_engine(EngineRequest(engine="fake", device="cuda:1,1"))


def test_all_gpus_of_a_machine_without_one_are_refused_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if gpus_of(gpu_facts()):
        pytest.skip("the driver shows a GPU all the same")
    with pytest.raises(EngineUnavailableError, match="cuda:all") as caught:
        load_engine(EngineRequest(engine="fake", device="cuda:all"))
    assert "--device cpu" in caught.value.hint
