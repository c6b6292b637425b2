"""Voice detection equals its slow reference: Silero's own graph, run by onnxruntime at once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import av
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from transcribe_mcp.errors import EngineUnavailableError
from transcribe_mcp.speech.detector import FRAME_S, FRAME_SAMPLES, SpeechDetector
from transcribe_mcp.speech.silero import ENCODER, WEIGHTS, read_weights

SHARED_AUDIO = Path(__file__).parents[2] / "shared" / "eval" / "tts"
RATE_HZ = 16_000
THRESHOLD = 0.5
CLOSE = 1e-4
# Resonances of the throat in Hz for a, i, u, e, o: Peterson and Barney 1952, men.
FORMANTS_HZ = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
)

Samples = NDArray[np.float32]


def syllable(rng: np.random.Generator) -> Samples:
    """A glide from vowel to vowel, then a hiss."""
    n_voiced, n_hiss = (
        int(rng.uniform(0.12, 0.28) * RATE_HZ),
        int(rng.uniform(0.02, 0.09) * RATE_HZ),
    )
    progress = np.linspace(0, 1, n_voiced)
    pitch_hz = rng.uniform(95, 150) * (1 - 0.15 * progress)
    start, stop = (np.array(FORMANTS_HZ[i]) for i in rng.integers(0, len(FORMANTS_HZ), 2))
    formants_hz = start + (stop - start) * progress[:, np.newaxis]
    voiced = np.zeros(n_voiced)
    for harmonic in range(1, 25):
        distance = (harmonic * pitch_hz[:, np.newaxis] - formants_hz) / (60, 90, 120)
        gain = ((1, 0.5, 0.25) / (1 + distance**2)).sum(axis=1)
        voiced += (
            gain * np.sin(harmonic * 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ) / np.sqrt(harmonic)
        )
    voiced *= np.sqrt(np.abs(np.sin(np.pi * progress)))
    hiss = np.diff(rng.standard_normal(n_hiss + 1)) * 0.02
    return np.concatenate([0.15 * voiced / np.abs(voiced).max(), hiss]).astype(np.float32)


def babble(duration_s: float, seed: int = 0) -> Samples:
    """Something between speech and nonsense, with pauses: probabilities on both sides of the
    threshold.
    """
    rng = np.random.default_rng(seed)
    syllables = [syllable(rng) for _ in range(50)]
    parts: list[Samples] = []
    while sum(map(len, parts)) < duration_s * RATE_HZ:
        parts += [
            syllables[i] * np.float32(rng.uniform(0.3, 1))
            for i in rng.integers(0, len(syllables), 12)
        ]
        pause = rng.standard_normal(int(rng.uniform(0.3, 3) * RATE_HZ)) * 0.0005
        parts.append(pause.astype(np.float32))
    return np.concatenate(parts)[: round(duration_s * RATE_HZ)]


@pytest.fixture(scope="module")
def speech() -> Samples:
    return babble(150)


@pytest.fixture(scope="module")
def detector() -> SpeechDetector:
    return SpeechDetector(2)


def original_model() -> Path:
    """The graph that the shipped files were built from, as faster-whisper carries it."""
    spec = importlib.util.find_spec("faster_whisper")
    if spec is None or spec.origin is None:
        pytest.skip("faster-whisper is not installed")
    return Path(spec.origin).parent / "assets" / "silero_vad_v6.onnx"


def serial_run(samples: Samples) -> Samples:
    """The original graph in one call; the last frame is filled up with zeros."""
    padded = np.pad(samples, (64, -len(samples) % FRAME_SAMPLES))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 64 + FRAME_SAMPLES)[::FRAME_SAMPLES]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        original_model(), options, providers=["CPUExecutionProvider"]
    )
    zeros = np.zeros((1, 1, 128), np.float32)
    (probabilities,) = session.run(
        ["speech_probs"], {"input": np.ascontiguousarray(frames), "h": zeros, "c": zeros}
    )
    return probabilities


def decisions(probabilities: Samples) -> NDArray[np.bool_]:
    return probabilities > THRESHOLD


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_up_to_five_threads_give_what_the_original_graph_gives_in_one_go(
    speech: Samples, threads: int
) -> None:
    serial = serial_run(speech)
    found = SpeechDetector(threads).push(speech, last=True)
    assert 0.2 < decisions(serial).mean() < 0.8, "the test audio is one-sided"
    assert found.shape == serial.shape
    np.testing.assert_allclose(found, serial, atol=CLOSE)


def test_lanes_make_the_decisions_of_the_serial_run_on_nearly_every_frame(speech: Samples) -> None:
    found = SpeechDetector(6).push(speech, last=True)
    serial = serial_run(speech)
    assert np.abs(found - serial).max() > CLOSE, "there was one lane only"
    assert (decisions(found) == decisions(serial)).mean() >= 0.995


def test_a_block_after_lanes_goes_on_from_the_end_of_the_last_lane(speech: Samples) -> None:
    lanes = SpeechDetector(6)
    cut = len(speech) * 9 // 10
    found = np.concatenate([lanes.push(speech[:cut]), lanes.push(speech[cut:], last=True)])
    assert (decisions(found) == decisions(serial_run(speech))).mean() >= 0.995


@pytest.mark.parametrize("block", [1, 63, 511, 513, 4097, 131_072, 200_000])
def test_blocks_of_any_length_give_the_same_as_one_push(
    detector: SpeechDetector, speech: Samples, block: int
) -> None:
    samples = speech[: min(len(speech), block * 300)]
    parts = [detector.push(samples[at : at + block]) for at in range(0, len(samples), block)]
    found = np.concatenate([*parts, detector.push(samples[:0], last=True)])
    whole = detector.push(samples, last=True)
    assert len(whole) == -(-len(samples) // FRAME_SAMPLES)
    np.testing.assert_allclose(found, whole, atol=CLOSE)


def test_a_push_returns_every_frame_that_is_complete_and_no_other(detector: SpeechDetector) -> None:
    silence = np.zeros(2000, np.float32)
    counts = [len(detector.push(silence[:n])) for n in (511, 1, 0, 1024, 1000)]
    counts.append(len(detector.push(silence[:0], last=True)))
    assert counts == [0, 1, 0, 2, 1, 1]
    assert FRAME_SAMPLES == FRAME_S * RATE_HZ


def test_a_recording_shorter_than_a_frame_gives_one_probability(detector: SpeechDetector) -> None:
    samples = babble(0.02)
    np.testing.assert_allclose(detector.push(samples, last=True), serial_run(samples), atol=CLOSE)


def test_no_samples_at_all_give_no_probability(detector: SpeechDetector) -> None:
    nothing = np.zeros(0, np.float32)
    assert detector.push(nothing).shape == (0,)
    assert detector.push(nothing, last=True).shape == (0,)


def test_nothing_of_one_recording_is_left_for_the_next(
    detector: SpeechDetector, speech: Samples
) -> None:
    fresh = detector.push(speech[:30_000], last=True)
    detector.push(speech[40_000:80_100])
    detector.reset()
    np.testing.assert_allclose(detector.push(speech[:30_000], last=True), fresh, atol=CLOSE)
    np.testing.assert_allclose(detector.push(speech[:30_000], last=True), fresh, atol=CLOSE)


def test_the_block_is_left_as_it_was(detector: SpeechDetector, speech: Samples) -> None:
    block = speech[:20_000].copy()
    block.flags.writeable = False
    detector.push(block, last=True)
    np.testing.assert_array_equal(block, speech[:20_000])


def sounds() -> dict[str, Samples]:
    rng = np.random.default_rng(7)
    n = 20 * RATE_HZ
    seconds = np.arange(n) / RATE_HZ
    spectrum = np.fft.rfft(rng.standard_normal(n)) / np.sqrt(np.maximum(1, np.arange(n // 2 + 1)))
    pink = np.fft.irfft(spectrum, n)
    clicks = np.zeros(n)
    clicks[:: RATE_HZ // 2] = 0.9
    named = {
        "silence": np.zeros(n),
        "white noise": 0.1 * rng.standard_normal(n),
        "pink noise": 0.1 * pink / pink.std(),
        "a tone": 0.3 * np.sin(2 * np.pi * 440 * seconds),
        "clicks": clicks,
        "hum": sum(0.1 / k * np.sin(2 * np.pi * 50 * k * seconds) for k in (1, 2, 3, 5)),
        "a chord": sum(0.1 * np.sin(2 * np.pi * f * seconds) for f in (261.6, 329.6, 392.0)),
    }
    return {name: np.asarray(samples, np.float32) for name, samples in named.items()}


@pytest.mark.parametrize("name", sounds())
def test_what_is_no_speech_is_not_taken_for_speech(detector: SpeechDetector, name: str) -> None:
    probabilities = detector.push(sounds()[name], last=True)
    assert decisions(probabilities).sum() <= 1  # onsets may look like one for a frame
    assert probabilities.mean() < 0.1


@pytest.mark.skipif(
    not SHARED_AUDIO.is_dir(), reason="the evaluation audio is not beside this checkout"
)
def test_voices_of_a_synthesiser_are_found_as_the_serial_run_finds_them(
    detector: SpeechDetector,
) -> None:
    for path in sorted(SHARED_AUDIO.glob("*.flac"))[:4]:
        with av.open(str(path)) as container:
            pcm = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        samples = pcm.astype(np.float32) / np.float32(np.iinfo(pcm.dtype).max + 1)
        found, serial = detector.push(samples, last=True), serial_run(samples)
        assert decisions(serial).mean() > 0.2
        np.testing.assert_allclose(found, serial, atol=CLOSE)


def test_a_damaged_weight_file_is_refused_with_its_path_and_a_way_out(tmp_path: Path) -> None:
    whole = WEIGHTS.read_bytes()
    names = b"lstm_hidden", b"lstm_forgot"
    for number, content in enumerate(
        [b"", b"no model", whole[:1000], whole[:-100_000], whole.replace(*names)]
    ):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(content)
        with pytest.raises(EngineUnavailableError, match=f"{number}.npz") as caught:
            read_weights(path)
        assert "pip install" in caught.value.hint


@pytest.mark.parametrize("content", [None, b"", b"no model", ENCODER.read_bytes()[:-100_000]])
def test_a_missing_or_damaged_model_file_is_refused_with_its_path_and_a_way_out(
    content: bytes | None, tmp_path: Path
) -> None:
    copy = tmp_path / "transcribe_mcp"
    shutil.copytree(ENCODER.parents[1], copy)
    damaged = copy / "speech" / ENCODER.name
    damaged.unlink()
    if content is not None:
        damaged.write_bytes(content)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from transcribe_mcp.errors import EngineUnavailableError\n"
        "from transcribe_mcp.speech.detector import SpeechDetector\n"
        "try: SpeechDetector(1)\n"
        "except EngineUnavailableError as error: print(error, '|', error.hint)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    message, hint = result.stdout.split("|")
    assert str(damaged) in message
    assert "pip install" in hint


def test_voice_detection_stores_no_identifier_and_queues_no_telemetry(tmp_path: Path) -> None:
    """ONNX Runtime would do so in the home directory and the directory for temporary files."""
    code = """
        import numpy as np
        from transcribe_mcp.speech.detector import SpeechDetector
        SpeechDetector(1).push(np.zeros(16_000, np.float32), last=True)
    """
    places = ("HOME", "XDG_CACHE_HOME", "TMPDIR", "TEMP", "TMP", "LOCALAPPDATA", "APPDATA")
    unset = ("ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD", "GITHUB_ACTIONS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment | dict.fromkeys(places, str(tmp_path)),
        check=True,
    )
    assert list(tmp_path.iterdir()) == []


def test_the_detector_never_loads_faster_whisper_and_its_import_no_onnxruntime() -> None:
    program = (
        "import sys, transcribe_mcp.speech.detector as vad; assert 'onnxruntime' not in "
        "sys.modules; "
        "vad.SpeechDetector(1);"
        "assert not {'faster_whisper', 'torch'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity to set"
)
def test_a_process_held_to_one_core_uses_one_thread() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from transcribe_mcp.settings import usable_cores; print(usable_cores())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "1"
