"""Batches in parts: several engines at once, and engines that run out of memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from weakref import WeakSet

import numpy as np
import pytest
from patience import PATIENCE_S
from scripted_engine import INFO, ScriptedBatch, ScriptedEngine, said
from whisper_nano import kept_conversions, speech_truths, whisper_nano

from transcribe_mcp.domain.transcript import Word
from transcribe_mcp.engines import Decoded, DecodingOptions, EngineRequest, load_engine
from transcribe_mcp.engines.auto import devices_of
from transcribe_mcp.engines.fallback_device import load_with_cpu_behind
from transcribe_mcp.engines.replicas import Replicas
from transcribe_mcp.errors import (
    EngineFailedError,
    EngineUnavailableError,
    OutOfMemoryError,
    UsageError,
)
from transcribe_mcp.media.decode import read
from transcribe_mcp.pipeline.offline import Options, transcribe
from transcribe_mcp.speech.regions import Region, Window

GREEDY = DecodingOptions()
RATE_HZ = 16_000


def windows(n: int) -> list[Window]:
    return [
        Window(30.0 * i, np.zeros(30 * RATE_HZ, np.float32), (Region(30.0 * i, 30.0 * i + 29.0),))
        for i in range(n)
    ]


def by_number(window: Window, language: str, options: DecodingOptions) -> Decoded:
    return said(f" window {round(window.start / 30)}")


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

    def decode(
        self, encoded: ScriptedBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        if len(encoded) > self.decoding_room:
            raise OutOfMemoryError(f"no memory to decode {len(encoded)} windows")
        return ScriptedEngine.decode(self, encoded, languages, options)


@pytest.mark.parametrize(("room", "decoding_room"), [(4, 4), (1, 1), (100, 3), (3, 1), (100, 100)])
def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_loses_no_window(
    room: int, decoding_room: int
) -> None:
    engine = Replicas([SmallEngine(by_number, room=room, decoding_room=decoding_room)])

    encoded = engine.encode(windows(13))
    decoded = engine.decode(encoded, ["en"] * 13, GREEDY)
    words = engine.align(encoded, decoded, GREEDY)

    assert [text.text for text in decoded] == [f" window {i}" for i in range(13)]
    assert [window[0].start for window in words] == [30.0 * i for i in range(13)]
    assert len(encoded) == len(engine.detect_language(encoded)) == 13


def test_windows_selected_from_a_halved_batch_are_those_that_were_asked_for_in_that_order() -> None:
    engine = Replicas([SmallEngine(by_number, room=4)])
    encoded = engine.encode(windows(13))

    decoded = engine.decode(encoded.select([12, 0, 7, 6]), ["en"] * 4, GREEDY)

    assert [text.text for text in decoded] == [f" window {i}" for i in (12, 0, 7, 6)]


def test_after_memory_ran_out_batches_are_smaller_and_the_result_says_so() -> None:
    small = SmallEngine(by_number, room=3)
    engine = Replicas([small])
    talk = np.concatenate([read(truth.path) for truth in speech_truths().values()])

    transcript = transcribe(talk, engine, Options(language="en", batch_size=8))

    whole = transcribe(talk, ScriptedEngine(by_number), Options(language="en"))
    assert transcript.text == whole.text
    assert "batch_halved" in [notice.code for notice in transcript.warnings]
    assert [n for n in small.held if n > 3] == [8, 4], "it is not asked again for what does not fit"


def test_a_window_that_does_not_fit_alone_is_an_error_that_says_so() -> None:
    engine = Replicas([SmallEngine(room=0)])
    with pytest.raises(OutOfMemoryError, match="1 windows"):
        engine.decode(engine.encode(windows(4)), ["en"] * 4, GREEDY)


def test_where_not_even_one_window_fits_the_cpu_behind_does_all_of_it() -> None:
    engine = load_with_cpu_behind(
        lambda: Replicas([SmallEngine(room=0)]), lambda: ScriptedEngine(by_number)
    )

    decoded = engine.decode(engine.encode(windows(3)), ["en"] * 3, GREEDY)

    assert [text.text for text in decoded] == [" window 0", " window 1", " window 2"]
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

    def joined(self, others: Sequence[HeldBatch]) -> HeldBatch:
        parts = (self, *others)
        return HeldBatch(
            sum((part.windows for part in parts), ()), sum((part.held for part in parts), ())
        )


class FullEngine(ScriptedEngine):
    """Its memory holds so many windows, in whatever batches they are; to work on some takes half as
    much again.
    """

    def __init__(self, room: int) -> None:
        ScriptedEngine.__init__(
            self, by_number, info=replace(INFO, early_windows=4, aligns_aside=True, batch_size=16)
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

    def decode(
        self, encoded: HeldBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        self.take(-(-len(encoded) // 2))
        return ScriptedEngine.decode(self, encoded, languages, options)

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

    transcript = transcribe(talk, Replicas([full]), Options(language="en"))

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
    full = FullEngine(room=2)
    engine = Replicas([full])

    def hear_when_another_was_refused(
        window: Window, language: str, options: DecodingOptions
    ) -> Decoded:
        if window.start == 0:
            assert full.refused.acquire(timeout=PATIENCE_S)
        return by_number(window, language, options)

    full.hear = hear_when_another_was_refused
    first, second = (engine.encode([window]) for window in windows(2))
    with ThreadPoolExecutor(2) as threads:
        texts = [threads.submit(engine.decode, batch, ["en"], GREEDY) for batch in (first, second)]
        assert [text.result(PATIENCE_S)[0].text for text in texts] == [" window 0", " window 1"]


def test_several_engines_share_a_batch_and_each_minds_its_own_memory() -> None:
    engines = [SmallEngine(by_number, room=room) for room in (100, 2, 100)]
    engine = Replicas(engines)

    encoded = engine.encode(windows(11))
    decoded = engine.decode(encoded, ["en"] * 11, GREEDY)

    assert [text.text for text in decoded] == [f" window {i}" for i in range(11)]
    shares = [sum(len(call.starts) for call in one.calls) for one in engines]
    assert sorted(shares) == [3, 4, 4]
    assert engine.info.batch_size <= sum(one.info.batch_size for one in engines)


def test_batches_encoded_in_parts_and_joined_are_decoded_as_one_by_every_engine() -> None:
    engines = [SmallEngine(by_number), SmallEngine(by_number, room=1)]
    engine = Replicas(engines)
    parts = [engine.encode(windows(9)[first : first + 3]) for first in (0, 3, 6)]

    whole = parts[0].joined(parts[1:])
    decoded = engine.decode(whole.select([8, *range(8)]), ["en"] * 9, GREEDY)
    words = engine.align(whole, engine.decode(whole, ["en"] * 9, GREEDY), GREEDY)

    assert [text.text for text in decoded] == [f" window {i}" for i in (8, *range(8))]
    assert [window[0].start for window in words] == [30.0 * i for i in range(9)]
    assert len(engines[0].calls[0].starts) == 3, "one call for its share of all parts"


class ThreadMinding(ScriptedEngine):
    """Notes the thread of each call, for each of which libraries keep something."""

    def __init__(self) -> None:
        ScriptedEngine.__init__(self, by_number)
        self.callers: list[int] = []

    def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
        self.callers.append(threading.get_ident())
        return ScriptedEngine.encode(self, windows)

    def decode(
        self, encoded: ScriptedBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        self.callers.append(threading.get_ident())
        return ScriptedEngine.decode(self, encoded, languages, options)


def test_an_engine_is_called_by_the_same_thread_whenever_the_same_thread_calls_all_of_them() -> (
    None
):
    engines = [ThreadMinding() for _ in range(3)]
    engine = Replicas(engines)

    def call(times: int) -> None:
        for _ in range(times):
            engine.decode(engine.encode(windows(6)), ["en"] * 6, GREEDY)

    call(4)
    with ThreadPoolExecutor(1) as another:
        another.submit(call, 3).result()

    assert [len(set(one.callers[:8])) for one in engines] == [1, 1, 1]
    assert [len(set(one.callers[8:])) for one in engines] == [1, 1, 1]
    assert len({thread for one in engines for thread in one.callers}) == 6


def test_what_one_engine_fails_with_comes_when_the_others_are_through() -> None:
    failed, through = threading.Event(), threading.Event()

    class Failing(ScriptedEngine):
        def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
            failed.set()
            raise EngineFailedError("the device is gone", hint="look for it")

    class Slower(ScriptedEngine):
        def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
            assert failed.wait(PATIENCE_S)
            assert sum(range(3_000_000)) > 0  # work of some 50 ms
            through.set()
            return ScriptedEngine.encode(self, windows)

    with pytest.raises(EngineFailedError, match="the device is gone"):
        Replicas([Failing(), Slower(by_number)]).encode(windows(6))

    assert through.is_set()


def test_a_window_that_finds_no_room_is_encoded_again_when_it_is_needed() -> None:
    small = SmallEngine(by_number, room=0)
    engine = Replicas([small])
    encoded = engine.encode(windows(2))
    small.room = 1  # the batch before is through

    decoded = engine.decode(encoded, ["en"] * 2, GREEDY)

    assert [text.text for text in decoded] == [" window 0", " window 1"]


def test_a_recording_spread_over_two_real_engines_is_what_one_alone_makes_of_it() -> None:
    talk = np.concatenate(
        [read(speech_truths()[name].path) for name in ("en_0", "en_1", "en_2", "en_3", "en_4")]
    )
    with kept_conversions():
        request = EngineRequest(
            "ctranslate2", str(whisper_nano()), "cpu", "int8", threads=1, offline=True
        )
        one, other = load_engine(request), load_engine(request)
        both = Replicas([one, other])
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
    with pytest.raises(EngineUnavailableError, match="cuda:all") as caught:
        load_engine(EngineRequest(engine="fake", device="cuda:all"))
    assert "--device cpu" in caught.value.hint
