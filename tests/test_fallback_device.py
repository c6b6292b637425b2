"""What a GPU fails at is done again on the CPU, and the result says so; the GPU is played by an
engine of the test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from media import write_audio
from patience import PATIENCE_S
from scripted_engine import INFO, ScriptedBatch, ScriptedEngine

from transcribe_mcp.compat.gpu_probe import FILE_NAME, gpu_trial, has_passed, ran_out_of_memory
from transcribe_mcp.compat.smoke_test import Child
from transcribe_mcp.domain.options import Options
from transcribe_mcp.engines import Decoded, DecodingOptions, GpuModel, Recognizer
from transcribe_mcp.errors import EngineFailedError, ModelUnavailableError, OutOfMemoryError
from transcribe_mcp.media.decode import Samples
from transcribe_mcp.pipeline import feeder
from transcribe_mcp.pipeline.offline import transcribe
from transcribe_mcp.runtime.executor import Executor
from transcribe_mcp.runtime.failover import DetectorPool
from transcribe_mcp.speech.regions import Window

EVERYTHING = Options(vad=False, batch_size=1)  # noise is taken for speech
ON_GPU = replace(INFO, device="cuda")


def with_cpu_behind(
    load: Callable[[], Recognizer], load_on_cpu: Callable[[], Recognizer]
) -> Executor:
    return Executor.of(GpuModel.load(load, load_on_cpu))


@dataclass(slots=True)
class FailingEncoder(ScriptedEngine):
    def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
        raise EngineFailedError("CUDA failed with error out of memory")


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    noise = np.random.default_rng(4).normal(0, 0.1, 60 * 16_000).astype(np.float32)
    return write_audio(tmp_path_factory.mktemp("audio") / "minute.wav", "pcm_s16le", noise)


def not_loaded() -> Recognizer:
    raise EngineFailedError("CUDA failed with error no kernel image is available")


@pytest.mark.parametrize(
    ("load_on_gpu", "cause"),
    [
        (not_loaded, "no kernel image"),
        (lambda: FailingEncoder(info=ON_GPU), "a smaller model or batch"),
        (lambda: ScriptedEngine(info=ON_GPU, fails_at_call=1), "the script ends here"),
        (lambda: ScriptedEngine(info=ON_GPU, fails_at_call=2), "the script ends here"),
    ],
    ids=["load", "first encode", "first decode", "later"],
)
def test_a_gpu_that_fails_at_any_time_costs_no_words_and_is_named(
    minute: Path, load_on_gpu: Callable[[], Recognizer], cause: str
) -> None:
    result = transcribe(minute, with_cpu_behind(load_on_gpu, ScriptedEngine), EVERYTHING)

    assert result.segments == transcribe(minute, ScriptedEngine(), EVERYTHING).segments
    assert result.device == "cpu"
    (warning,) = [notice for notice in result.warnings if notice.code == "gpu_failed"]
    assert cause in warning.message


@dataclass(slots=True)
class DyingEncoder(ScriptedEngine):
    """Encodes once."""

    encoded: int = 0

    def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
        self.encoded += 1
        if self.encoded > 1:
            raise EngineFailedError("the device is gone")
        return ScriptedBatch(tuple(windows))

    def decode_once(
        self, encoded: ScriptedBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        raise EngineFailedError("the device is gone")


@pytest.mark.parametrize("aside", [False, True], ids=["in turn", "aside"])
def test_a_gpu_that_fails_between_the_parts_of_a_batch_costs_no_words(
    minute: Path, aside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder, "BLOCK_S", 20.0)  # a part each
    info = replace(ON_GPU, encode_chunk=8, concurrent_encode=aside, concurrent_align=True)
    loaded: list[ScriptedEngine] = []

    def cpu() -> Recognizer:
        loaded.append(ScriptedEngine())
        return loaded[-1]

    options = replace(EVERYTHING, batch_size=8)
    result = transcribe(minute, with_cpu_behind(lambda: DyingEncoder(info=info), cpu), options)

    assert result.segments == transcribe(minute, ScriptedEngine(), options).segments
    assert result.device == "cpu"
    assert len(loaded) == 1


def test_threads_that_the_gpu_fails_at_the_same_time_share_one_engine_on_the_cpu(
    minute: Path,
) -> None:
    both = Barrier(2)
    loaded: list[ScriptedEngine] = []

    def together(stage: str, done: float, total: float | None) -> None:
        if stage == "windows" and done == 0:
            both.wait(PATIENCE_S)

    def cpu() -> Recognizer:
        loaded.append(ScriptedEngine())
        return loaded[-1]

    engine = with_cpu_behind(lambda: FailingEncoder(info=ON_GPU), cpu)
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(transcribe, minute, engine, EVERYTHING, together) for _ in range(2)]

    expected = transcribe(minute, ScriptedEngine(), EVERYTHING)
    assert [result.result().segments for result in results] == [expected.segments] * 2
    assert len(loaded) == 1
    assert [notice.code for notice in engine.info.warnings] == ["gpu_failed"]


def test_a_gpu_that_works_is_used_to_the_end_without_a_word(minute: Path) -> None:
    def no_cpu() -> Recognizer:
        raise AssertionError("the CPU was loaded")

    result = transcribe(
        minute, with_cpu_behind(lambda: ScriptedEngine(info=ON_GPU), no_cpu), EVERYTHING
    )

    assert result.device == "cuda"
    assert "gpu_failed" not in [notice.code for notice in result.warnings]


def test_when_the_cpu_fails_too_the_recording_fails(minute: Path) -> None:
    engine = with_cpu_behind(not_loaded, lambda: ScriptedEngine(fails_at_call=1))

    with pytest.raises(EngineFailedError, match="script ends"):
        transcribe(minute, engine, EVERYTHING)


def test_a_missing_model_is_no_failure_of_the_gpu() -> None:
    def missing() -> Recognizer:
        raise ModelUnavailableError("there is no model")

    with pytest.raises(ModelUnavailableError):
        with_cpu_behind(missing, ScriptedEngine)


def ends(end: str, tail: str, tried: list[str]) -> Callable[[], Child]:
    def operation() -> Child:
        tried.append(end)
        return Child(end, tail, {}, 0.1)

    return operation


@pytest.mark.parametrize(
    ("end", "tail", "words"),
    [
        ("ok", "", ""),
        ("signal 6", "cannot load libcudnn_ops.so.9", "signal 6 (cannot load libcudnn_ops.so.9)"),
    ],
)
def test_the_outcome_of_a_trial_is_remembered_for_its_driver_and_libraries(
    tmp_path: Path, end: str, tail: str, words: str
) -> None:
    tried: list[str] = []
    problems = [gpu_trial(tmp_path, key, ends(end, tail, tried)) for key in ("580", "580", "590")]

    assert len(tried) == 2
    assert all(problem.endswith(words) for problem in problems)


@pytest.mark.parametrize(
    "said", ["CUDA failed with error out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED"]
)
def test_a_gpu_without_free_memory_is_tried_again_at_the_next_start(
    tmp_path: Path, said: str
) -> None:
    tried: list[str] = []
    problem = gpu_trial(tmp_path, "580", ends("exit 1", said, tried))

    assert "smaller model" in problem
    assert gpu_trial(tmp_path, "580", ends("ok", "", tried)) == ""


def test_a_failure_while_another_is_dealt_with_is_not_for_want_of_memory_because_that_was() -> None:
    def load_on_cpu() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError) as caught:
        try:
            raise OutOfMemoryError("torch ran out of memory")
        except OutOfMemoryError:
            load_on_cpu()

    assert isinstance(caught.value.__context__, OutOfMemoryError)
    assert not ran_out_of_memory(caught.value)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff{", b'{"580": 3}'])
def test_a_damaged_memory_of_trials_costs_another_trial_only(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    tried: list[str] = []

    assert [gpu_trial(tmp_path, "580", ends("ok", "", tried)) for _ in range(2)] == ["", ""]
    assert tried == ["ok"]


class MeetingDetector:
    """Works only while another detector works, too."""

    block_s = 1.0

    def __init__(self, meeting: Barrier) -> None:
        self._meeting = meeting

    def push(self, samples: Samples, *, last: bool = False) -> Samples:
        self._meeting.wait(PATIENCE_S)
        return samples[:0]

    def place(self, windows: Sequence[Window], keep_from: float) -> Sequence[Window]:
        return windows

    def close(self) -> None:
        self._meeting.abort()


@dataclass(slots=True)
class EngineWithDetectors(ScriptedEngine):
    meeting: Barrier = field(default_factory=lambda: Barrier(2))

    def voice_detector(self) -> MeetingDetector:
        return MeetingDetector(self.meeting)


def test_detectors_of_two_recordings_work_at_the_same_time_until_memory_is_scarce() -> None:
    engine = EngineWithDetectors(info=ON_GPU)
    pool = DetectorPool(lambda error: None)
    first, second = (pool.open(engine) for _ in "ab")
    block = np.zeros(16_000, np.float32)
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(one.push, block) for one in (first, second)]
        assert [len(future.result(PATIENCE_S)) for future in futures] == [0, 0]
        with pool.paused():
            late = threads.submit(first.push, block)
            assert pool.release() and not late.done()
        assert len(late.result(PATIENCE_S)) > 0  # by the CPU


def test_an_engine_has_passed_once_its_version_has_used_a_gpu_here(tmp_path: Path) -> None:
    assert not has_passed(tmp_path, "2.11.0")
    gpu_trial(tmp_path, "torch 580; H200 (9.0); 2.11.0; ", ends("exit 1", "no", []))
    assert not has_passed(tmp_path, "2.11.0")
    gpu_trial(tmp_path, "torch 590; H200 (9.0); 2.11.0; ", ends("ok", "", []))
    assert has_passed(tmp_path, "2.11.0") and not has_passed(tmp_path, "2.12.0")
