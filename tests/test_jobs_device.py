"""One engine for many jobs: windows share batches, and every job gets what it would have got
alone.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from patience import PATIENCE_S, until
from whisper_nano import CONVERSATION, SPEECH, kept_conversions, whisper_nano

from transcribe_mcp import EngineRequest, Options, Transcript, load_engine, transcribe
from transcribe_mcp.domain.progress import no_progress
from transcribe_mcp.engines import Recognizer, load_recognizers
from transcribe_mcp.engines.fake import FakeEngine
from transcribe_mcp.errors import CancelledError, EngineFailedError, ModelUnavailableError
from transcribe_mcp.jobs.quarantine import Gate
from transcribe_mcp.pipeline.offline import transcribe_at
from transcribe_mcp.runtime.executor import KNOWN_MODELS, Executor
from transcribe_mcp.runtime.queue import Claim, Recording
from transcribe_mcp.speech.regions import Window

CLIPS = [SPEECH / f"en_{n}.flac" for n in range(5)] + [
    SPEECH / "en_noise.flac",
    SPEECH / "en_pauses.flac",
]
LONG = CONVERSATION / "three_voices.opus"
CHOICE = EngineRequest("ctranslate2", "auto", "cpu", "auto", offline=True)


class HeldEngine(FakeEngine):
    """Waits in its calls until it is let go, and counts its kind."""

    alive: ClassVar[list[HeldEngine]] = []

    def __init__(self, model: str = "fake") -> None:
        super().__init__()
        self.info = replace(self.info, model=model, batch_size=4)
        self.go = threading.Event()
        self.inside = threading.Event()
        self.closed = False
        self.calls: list[list[float]] = []
        self.durations: list[float] = []  # of every window, in the order of encoding
        self.heard: list[weakref.ref[Any]] = []  # the samples of every window
        HeldEngine.alive.append(self)

    def encode(self, windows: Sequence[Window]) -> Any:
        self.calls.append([round(window.start, 3) for window in windows])
        self.durations += [window.duration for window in windows]
        self.heard += [weakref.ref(window.samples) for window in windows]
        self.inside.set()
        assert self.go.wait(PATIENCE_S)
        return super().encode(windows)

    def close(self) -> None:
        self.closed = True
        HeldEngine.alive.remove(self)


def executor(
    load: Callable[[EngineRequest], Recognizer], unload_after_s: float = PATIENCE_S
) -> Executor:
    """As a worker's, with engines of the test."""
    return Executor(
        lambda request, progress: [load(request)], own_thread=True, unload_after_s=unload_after_s
    )


@pytest.fixture
def held() -> Iterator[tuple[Executor, list[HeldEngine]]]:
    """A device whose engines are held, and those that it has loaded."""
    loaded: list[HeldEngine] = []

    def load(request: EngineRequest) -> Recognizer:
        loaded.append(HeldEngine(request.model))
        return loaded[-1]

    device = executor(load)
    yield device, loaded
    for engine in loaded:
        engine.go.set()
    device.close()
    assert not HeldEngine.alive


def job(
    device: Executor, path: Path, choice: EngineRequest = CHOICE, left_s: float = 10.0
) -> Transcript:
    """One job's thread: its own pipeline at the shared executor."""
    with closing(device.open(Claim(choice, left_s))) as recording:
        return transcribe_at(recording, path, Options(language="en"), no_progress, None)


def waiting(device: Executor) -> int:
    """Jobs whose windows wait, or whose model does."""
    with device.queue.changed:
        return sum(
            (one.is_ready(1) and bool(one.tasks)) or one.known_info is None
            for one in device.queue.recordings
        )


def test_windows_of_several_jobs_share_batches_and_each_job_gets_its_own_words() -> None:
    choice = replace(CHOICE, model=str(whisper_nano()))
    options = Options(temperatures=(0.0,))
    with kept_conversions(), closing(load_engine(choice)) as engine:
        alone = [transcribe(path, engine, options) for path in CLIPS]
    inner = load_recognizers(choice)[0]
    batches: list[int] = []

    class Counting(type(inner)):  # type: ignore[misc]
        def encode(self, windows: Sequence[Window]) -> Any:
            batches.append(len(windows))
            return super().encode(windows)

    inner.__class__ = Counting
    device = executor(lambda request: inner)  # type: ignore[arg-type, return-value]

    def one(path: Path) -> Transcript:
        with closing(device.open(Claim(choice, 10.0))) as recording:
            return transcribe_at(recording, path, options, no_progress, None)

    with kept_conversions(), ThreadPoolExecutor(len(CLIPS)) as pool:
        together = list(pool.map(one, CLIPS))
    device.close()

    assert [t.to_json()["segments"] for t in together] == [t.to_json()["segments"] for t in alone]
    assert [t.language_probability for t in together] == [t.language_probability for t in alone]
    assert max(batches) > 1


def test_jobs_that_wait_while_the_device_is_busy_go_together(
    held: tuple[Executor, list[HeldEngine]],
) -> None:
    device, loaded = held
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(job, device, CLIPS[0])
        until(lambda: loaded and loaded[0].inside.is_set(), "the first is being encoded")
        others = [pool.submit(job, device, path) for path in CLIPS[1:4]]
        until(lambda: waiting(device) == 3, "three wait")
        loaded[0].go.set()
        results = [future.result() for future in (first, *others)]

    assert [len(call) for call in loaded[0].calls] == [1, 3]
    assert all(result.segments for result in results)
    assert len(loaded) == 1


def test_an_executor_that_lives_long_remembers_its_last_models_only() -> None:
    device = executor(lambda request: FakeEngine())
    for n in range(KNOWN_MODELS + 3):
        job(device, CLIPS[0], replace(CHOICE, threads=n))
    device.close()

    assert len(device._known) == KNOWN_MODELS


def test_the_shortest_work_goes_first(held: tuple[Executor, list[HeldEngine]]) -> None:
    device, loaded = held

    def work(path: Path, left_s: float) -> None:
        job(device, path, replace(CHOICE, model="a"), left_s)

    with ThreadPoolExecutor(8) as pool:
        pool.submit(work, CLIPS[0], 1.0)
        until(lambda: loaded and loaded[0].inside.is_set(), "the device is busy")
        long = pool.submit(work, LONG, 1e9)
        until(lambda: waiting(device) == 1, "the long one waits")
        short = pool.submit(work, CLIPS[1], 5.0)
        until(lambda: waiting(device) == 2, "the short one waits too")
        loaded[0].go.set()
        long.result(), short.result()

    after = loaded[0].durations[1:]  # the windows of the long one are longer
    assert len(after) > 1 and after[0] == min(after)


def test_one_model_is_in_memory_at_a_time(held: tuple[Executor, list[HeldEngine]]) -> None:
    device, loaded = held
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(job, device, CLIPS[0], replace(CHOICE, model="a"))
        until(lambda: loaded and loaded[0].inside.is_set(), "a is at work")
        second = pool.submit(job, device, CLIPS[1], replace(CHOICE, model="b"))
        until(lambda: waiting(device) == 1, "b waits")
        loaded[0].go.set()
        first.result()
        until(lambda: len(loaded) == 2, "b is loaded")
        assert loaded[0].closed
        loaded[1].go.set()
        assert second.result().model == "b"


def test_a_cancelled_job_goes_at_once_and_the_others_stay(
    held: tuple[Executor, list[HeldEngine]],
) -> None:
    device, loaded = held
    recordings: list[Recording] = []

    def cancellable() -> None:
        with closing(device.open(Claim(CHOICE, 1.0))) as recording:
            recordings.append(recording)
            transcribe_at(recording, CLIPS[0], Options(), no_progress, None)

    with ThreadPoolExecutor(2) as pool:
        cancelled = pool.submit(cancellable)
        until(lambda: loaded and loaded[0].inside.is_set(), "it is at work")
        recordings[0].cancel()
        with pytest.raises(CancelledError):
            cancelled.result(PATIENCE_S)
        assert not loaded[0].go.is_set(), "the engine's call is still going on"
        assert device.busy() == [frozenset(recordings)]
        loaded[0].go.set()
        assert pool.submit(job, device, CLIPS[1]).result().segments


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["done", "cancelled"])
def test_nothing_holds_a_batch_when_its_job_has_gone(
    held: tuple[Executor, list[HeldEngine]], is_cancelled: bool
) -> None:
    """It can be most of a GPU's memory, and Python looks for what holds each other in a circle
    hardly ever.
    """
    device, loaded = held

    def one_job() -> None:
        with suppress(CancelledError):
            job(device, CLIPS[0])

    gc.collect()
    gc.disable()
    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(one_job)
            until(lambda: loaded and loaded[0].inside.is_set(), "it is at work")
            loaded[0].go.set()
            first.result(PATIENCE_S)
            loaded[0].go.clear()
            loaded[0].inside.clear()
            second = pool.submit(
                one_job
            )  # which asks for nothing after its words: the notices are known
            until(loaded[0].inside.is_set, "it is at work, too")
            if is_cancelled:
                [[owner]] = device.busy()
                owner.cancel()
                del owner
                second.result(PATIENCE_S)
            loaded[0].go.set()
        until(lambda: not device.busy(), "the device is at rest")
        until(lambda: all(samples() is None for samples in loaded[0].heard), "the batch is gone")
    finally:
        gc.enable()
    assert len(loaded[0].heard) == 2


def test_an_engine_that_cannot_be_loaded_is_the_jobs_error_and_the_device_goes_on() -> None:
    def load(request: EngineRequest) -> Recognizer:
        if request.model == "missing":
            raise ModelUnavailableError("there is no model 'missing'")
        return FakeEngine()

    device = executor(load)
    with pytest.raises(ModelUnavailableError):
        job(device, CLIPS[0], replace(CHOICE, model="missing"))
    assert job(device, CLIPS[0]).segments
    device.close()


def test_a_failure_in_a_batch_is_the_error_of_those_in_it() -> None:
    device = executor(lambda request: FakeEngine("fake-failing"))
    with pytest.raises(EngineFailedError):
        job(device, CLIPS[0])
    device.close()


def test_an_idle_engine_gives_its_memory_back_and_is_loaded_again_when_needed() -> None:
    loaded: list[HeldEngine] = []

    def load(request: EngineRequest) -> Recognizer:
        loaded.append(HeldEngine())
        loaded[-1].go.set()
        return loaded[-1]

    device = executor(load, unload_after_s=0.05)
    job(device, CLIPS[0])
    until(lambda: loaded[0].closed, "the engine is closed")
    assert device.loaded == ""
    assert job(device, CLIPS[1]).segments
    device.close()
    assert len(loaded) == 2


def test_who_must_be_alone_waits_for_all_and_is_waited_for() -> None:
    gate, inside, out = Gate(), [], threading.Event()

    def stay(name: str, *, alone: bool) -> None:
        stay_inside = gate.enter(alone=alone, check=lambda: None, poll_s=0.01)
        inside.append(name)
        assert out.wait(PATIENCE_S)
        inside.remove(name)
        stay_inside.leave()

    with ThreadPoolExecutor(4) as pool:
        first = gate.enter(alone=False, check=lambda: None)
        pool.submit(stay, "alone", alone=True)
        until(lambda: gate._waiting_alone, "one wants to be alone")
        pool.submit(stay, "other", alone=False)
        assert inside == []
        first.leave()
        until(lambda: inside, "somebody is inside")
        assert inside == ["alone"]
        out.set()
    assert inside == []


def test_who_waits_at_the_gate_can_give_up() -> None:
    gate = Gate()
    gate.enter(alone=False, check=lambda: None)

    def check() -> None:
        raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        gate.enter(alone=True, check=check, poll_s=0.01)
    with suppress(CancelledError):
        assert gate.enter(alone=False, check=check, poll_s=0.01)
    assert gate._waiting_alone == 0
