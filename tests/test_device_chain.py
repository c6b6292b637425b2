"""What runs beside the model on a GPU, against its slow twins. PyTorch computes on the CPU here as
it does there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from media import write_audio
from numpy.typing import NDArray
from scripted_engine import ScriptedBatch, ScriptedEngine
from test_vad import babble, serial_run
from whisper_nano import NON_SPEECH, speech_truths, whisper_nano

from transcribe_mcp.domain.transcript import Transcript
from transcribe_mcp.engines import (
    Decoded,
    DecodingOptions,
    EngineRequest,
    GpuModel,
    Recognizer,
    load_recognizer,
)
from transcribe_mcp.errors import EngineFailedError, OutOfMemoryError, WindowDataError
from transcribe_mcp.media.decode import read
from transcribe_mcp.pipeline import feeder
from transcribe_mcp.pipeline.offline import Options, transcribe
from transcribe_mcp.runtime.executor import Executor
from transcribe_mcp.speech.detector import FRAME_SAMPLES, SpeechDetector
from transcribe_mcp.speech.features import log_mel
from transcribe_mcp.speech.regions import Region, Window

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # its threads wait for each other where others have the cores

if TYPE_CHECKING:
    from transcribe_mcp.speech.silero_gpu import GpuSpeechDetector, SileroGpu

Samples = NDArray[np.float32]
RATE_HZ = 16_000
CLOSE = 1e-4  # what two ways to compute the same may differ by
THRESHOLD = 0.5


@cache
def ears() -> SileroGpu:
    from transcribe_mcp.speech.silero_gpu import SileroGpu

    return SileroGpu(torch.device("cpu"))


@cache
def talk() -> Samples:
    return np.concatenate([read(truth.path) for truth in speech_truths().values()])


@cache
def long_sounds() -> list[tuple[Samples, Samples]]:
    """Talk and babble, each with what the serial run says of it."""
    return [(samples, serial_run(samples)) for samples in (talk(), babble(100))]


def heard(samples: Samples, block: int) -> Samples:
    listener = ears().listen()
    parts = [listener.push(samples[at : at + block]) for at in range(0, len(samples), block)]
    return np.concatenate([*parts, listener.push(samples[:0], last=True)])


# -- log-mel ---------------------------------------------------------------------------------------


def windows(samples: Samples) -> list[Window]:
    rng = np.random.default_rng(0)
    lengths = [1, 159, 200, 201, 400, 16_000, 123_457, 480_000]
    cut = [Window(0.0, samples[:n], ()) for n in lengths]
    noise = Window(0.0, rng.standard_normal(480_000).astype(np.float32), ())
    return [
        *cut,
        noise,
        Window(0.0, np.zeros(480_000, np.float32), ()),
        Window(0.0, np.zeros(0, np.float32), ()),
    ]


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_spectrograms_of_a_batch_are_those_of_the_reference(n_mels: int) -> None:
    from transcribe_mcp.speech.features_torch import DeviceSamples, log_mel_windows

    batch = windows(talk())
    placed = [
        replace(window, device_samples=DeviceSamples(torch.from_numpy(window.samples)))
        for window in batch
    ]

    for given in (batch, placed):
        found = log_mel_windows(given, n_mels, torch.device("cpu")).numpy()
        for row, window in zip(found, batch, strict=True):
            np.testing.assert_allclose(row, log_mel(window.samples, n_mels), atol=CLOSE)


def test_a_window_of_more_than_thirty_seconds_is_refused_with_its_length() -> None:
    from transcribe_mcp.speech.features_torch import log_mel_windows

    with pytest.raises(ValueError, match="480001"):
        log_mel_windows([Window(0.0, np.zeros(480_001, np.float32), ())], 80, torch.device("cpu"))


# -- voice detection in lanes ----------------------------------------------------------------------


@pytest.mark.parametrize("block_s", [70, 600])
def test_lanes_make_the_decisions_of_the_serial_run_on_nearly_every_frame(block_s: int) -> None:
    for samples, serial in long_sounds():
        found = heard(samples, block_s * RATE_HZ)
        assert found.shape == serial.shape
        assert ((found > THRESHOLD) == (serial > THRESHOLD)).mean() >= 0.995


def test_a_short_recording_is_heard_as_in_the_serial_run() -> None:
    samples = talk()[: 47 * RATE_HZ]
    np.testing.assert_allclose(heard(samples, len(samples)), serial_run(samples), atol=CLOSE)


def test_lanes_that_hear_all_that_is_before_them_are_those_of_the_serial_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transcribe_mcp.speech import silero_gpu

    size, before = 125, 3
    monkeypatch.setattr(silero_gpu, "LANE_FRAMES", size)
    monkeypatch.setattr(silero_gpu, "LANES_BEFORE", before)
    samples = talk()[: 60 * RATE_HZ]

    difference = np.abs(heard(samples, len(samples)) - serial_run(samples))

    assert difference[: size * (1 + before)].max() < CLOSE
    assert difference[size * (1 + before) :].max() > CLOSE, "later lanes have heard less than all"


@pytest.mark.parametrize("block", [1, 511, 513, 4097])
def test_blocks_of_any_length_give_every_frame_once(block: int) -> None:
    samples = talk()[: min(block * 60, 90_001)]

    found = heard(samples, block)

    assert len(found) == -(-len(samples) // FRAME_SAMPLES)
    np.testing.assert_allclose(found, SpeechDetector(1).push(samples, last=True), atol=0.01)


def test_what_is_no_speech_is_not_taken_for_speech() -> None:
    sounds = sorted(NON_SPEECH.glob("*.flac"))
    assert sounds
    for path in sounds:
        assert (heard(read(path), 30 * RATE_HZ) > THRESHOLD).mean() < 0.02, path.name


def test_nothing_heard_gives_no_probability() -> None:
    assert len(ears().listen().push(np.zeros(0, np.float32), last=True)) == 0


# -- the flow with an engine that listens ----------------------------------------------------------


class ListeningEngine(ScriptedEngine):
    """Listens with PyTorch, and sees that windows come with their samples where they belong."""

    mismatched = 0
    unplaced = 0

    def voice_detector(self) -> GpuSpeechDetector:
        return ears().listen()

    def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
        for window in windows:
            if window.device_samples is None:
                self.unplaced += 1
            elif not np.array_equal(window.device_samples.samples.numpy(), window.samples):
                self.mismatched += 1
        return super().encode(windows)


@cache
def whole_talk() -> Transcript:
    """The talk by an engine that does not listen."""
    return transcribe(talk(), ScriptedEngine())


def long_talk() -> Samples:
    """Ten minutes and more: several blocks, with a silence in which nothing is to be kept."""
    silence = np.zeros(200 * RATE_HZ, np.float32)
    return np.concatenate([talk(), silence, talk()])


def test_windows_come_with_the_very_samples_on_the_device_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transcribe_mcp.speech.silero_gpu import GpuSpeechDetector

    for block_s in (600.0, 37.0):
        monkeypatch.setattr(GpuSpeechDetector, "block_s", block_s)
        monkeypatch.setattr(feeder, "DECODED_BLOCK_S", block_s)
        engine = ListeningEngine()
        transcript = transcribe(long_talk(), engine)
        assert transcript.words
        assert (engine.mismatched, engine.unplaced) == (0, 0)


def test_an_engine_that_listens_hears_the_windows_that_the_cpu_cuts() -> None:
    samples = long_talk()

    # With two threads the CPU hears in one lane; with many it decides otherwise as well.
    aside, own = (
        transcribe(samples, ListeningEngine()),
        transcribe(samples, ScriptedEngine(), Options(threads=2)),
    )

    ours, theirs = ([(s.start, s.end) for s in transcript.segments] for transcript in (aside, own))
    assert len(set(ours) ^ set(theirs)) <= 0.1 * len(theirs), (
        "only a few frames in a thousand may be decided otherwise"
    )


def test_a_file_is_heard_as_its_samples_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transcribe_mcp.speech.silero_gpu import GpuSpeechDetector

    monkeypatch.setattr(GpuSpeechDetector, "block_s", 120.0)
    monkeypatch.setattr(feeder, "DECODED_BLOCK_S", 120.0)
    file = write_audio(tmp_path / "talk.flac", "flac", long_talk())
    engine = ListeningEngine()

    from_file = transcribe(file, engine)

    assert from_file.segments == transcribe(read(file), ListeningEngine()).segments
    assert (engine.mismatched, engine.unplaced) == (0, 0)


def test_a_file_that_ends_early_is_heard_as_far_as_it_goes(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "talk.flac", "flac", long_talk())
    file.write_bytes(file.read_bytes()[:-400_000])

    transcript = transcribe(file, ListeningEngine())

    assert transcript.words
    assert "source_damaged" in [notice.code for notice in transcript.warnings]


def test_audio_behind_the_windows_is_forgotten() -> None:
    listener = ears().listen()
    minute = np.zeros(60 * RATE_HZ, np.float32)
    for number in range(1, 30):
        listener.push(minute)
        listener.place([], keep_from=60.0 * number - 30)

    assert len(listener._audio) < 3 * len(minute)


class FailingListener:
    """A device that fails at its third block."""

    block_s = 30.0

    def __init__(self, error: EngineFailedError) -> None:
        self.inner = ears().listen()
        self.error = error
        self.pushes = 0

    def push(self, samples: Samples, *, last: bool = False) -> Samples:
        self.pushes += 1
        if self.pushes >= 3:
            raise self.error
        return self.inner.push(samples, last=last)

    def place(self, windows: Sequence[Window], keep_from: float) -> Sequence[Window]:
        return self.inner.place(windows, keep_from)


class FailingEngine(ScriptedEngine):
    """Its device fails while it listens, or before."""

    def __init__(self, error: EngineFailedError, *, before: bool = False) -> None:
        ScriptedEngine.__init__(self)
        self.error, self.before = error, before
        self.asked = 0

    def voice_detector(self) -> FailingListener:
        self.asked += 1
        if self.before:
            raise self.error
        return FailingListener(self.error)


GONE, FULL = (
    EngineFailedError("CUDA error: unspecified launch failure"),
    OutOfMemoryError("CUDA out of memory"),
)


@pytest.mark.parametrize("before", [True, False], ids=["before", "at a block"])
@pytest.mark.parametrize(
    ("error", "code", "cover"),
    [
        (GONE, "gpu_failed", lambda engine: Executor.of(GpuModel(engine, ScriptedEngine))),
        (FULL, "voice_detection_on_cpu", lambda engine: Executor.of(engine)),
        (
            FULL,
            "voice_detection_on_cpu",
            lambda engine: Executor.of(GpuModel(engine, ScriptedEngine)),
        ),
    ],
    ids=["gone", "full", "full, with a CPU behind"],
)
def test_where_the_device_fails_to_listen_the_cpu_goes_on_at_the_same_place_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
    error: EngineFailedError,
    code: str,
    cover: Callable[[Recognizer], Executor],
    before: bool,
) -> None:
    monkeypatch.setattr(feeder, "DECODED_BLOCK_S", FailingListener.block_s)
    samples, failing = talk(), FailingEngine(error, before=before)
    engine = cover(failing)

    transcript, again = transcribe(samples, engine), transcribe(samples, engine)

    whole = whole_talk()
    assert abs(len(transcript.segments) - len(whole.segments)) <= 2
    assert transcript.segments[-1].end == pytest.approx(whole.segments[-1].end, abs=0.1)
    assert again.segments == whole.segments
    assert [notice.code for notice in again.warnings if notice.code in (code, "gpu_failed")] == [
        code
    ]
    assert failing.asked == 1


class CrowdedListener(FailingListener):
    """Has the device's memory until it is closed."""

    def __init__(self) -> None:
        FailingListener.__init__(self, FULL)
        self.pushes, self.is_closed = -1_000_000, False

    def close(self) -> None:
        self.is_closed = True
        self.inner.close()


class CrowdedEngine(ScriptedEngine):
    """Has no memory for a window while its listener has it."""

    def __init__(self) -> None:
        ScriptedEngine.__init__(self)
        self.listeners: list[CrowdedListener] = []
        self.on_device: list[
            bool
        ] = []  # whether the samples of each window decoded were still there

    def voice_detector(self) -> CrowdedListener:
        self.listeners.append(CrowdedListener())
        return self.listeners[-1]

    def decode_once(
        self, encoded: ScriptedBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        if not all(listener.is_closed for listener in self.listeners):
            raise FULL
        self.on_device += [
            window.device_samples is not None and window.device_samples.samples is not None
            for window in encoded.windows
        ]
        return ScriptedEngine.decode_once(self, encoded, languages, options)


def test_a_listener_gives_its_memory_to_windows_that_find_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeder, "DECODED_BLOCK_S", FailingListener.block_s)
    engine = CrowdedEngine()

    transcript = transcribe(long_talk(), Executor.of(engine), Options(batch_size=4))

    whole = transcribe(long_talk(), ScriptedEngine())
    assert abs(len(transcript.segments) - len(whole.segments)) <= 2
    assert transcript.segments[-1].end == pytest.approx(whole.segments[-1].end, abs=0.1)
    assert "voice_detection_on_cpu" in [notice.code for notice in transcript.warnings]
    assert engine.on_device
    assert not any(engine.on_device)


# -- samples that are not numbers ------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    request = EngineRequest(
        "whisper", str(whisper_nano()), "cpu", "float32", threads=1, offline=True
    )
    engine = load_recognizer(request)
    yield engine
    engine.close()


@pytest.mark.parametrize("use", ["decode", "decode with beams", "detect_language", "align"])
def test_a_window_with_samples_that_are_no_numbers_is_named_when_its_batch_is_used(
    engine: Any, use: str
) -> None:
    good, broken = talk()[: 2 * RATE_HZ], talk()[: 2 * RATE_HZ].copy()
    broken[100] = np.nan
    batch = [Window(30.0, good, (Region(30.0, 32.0),)), Window(60.0, broken, (Region(60.0, 62.0),))]
    encoded = engine.encode(batch)

    with pytest.raises(WindowDataError, match=r"60\.00 s") as caught:
        if use == "decode":
            engine.decode(encoded, ["en", "en"], DecodingOptions())
        elif use == "decode with beams":
            engine.decode(encoded, ["en", "en"], DecodingOptions(beam_size=2))
        elif use == "align":
            engine.align(
                encoded, [Decoded(" It is.", "en", 0.0, (467, 318, 13))] * 2, DecodingOptions()
            )
        else:
            engine.detect_language(encoded)

    assert "finite" in caught.value.hint
    assert len(engine.decode(engine.encode(batch[:1]), ["en"], DecodingOptions())) == 1, (
        "other work is unharmed"
    )
