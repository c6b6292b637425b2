"""Speakers at the level of the diarizer: the same for any blocks, calm with odd sounds, and within
the bounds that the user sets.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scripted_engine import ScriptedEngine

from transcribe_mcp.domain.options import Options
from transcribe_mcp.domain.transcript import Transcript
from transcribe_mcp.errors import EngineUnavailableError
from transcribe_mcp.pipeline.offline import transcribe
from transcribe_mcp.pipeline.speaker_names import with_speakers
from transcribe_mcp.speakers import networks
from transcribe_mcp.speakers.clustering import MAX_SPEAKERS, SpeakerBounds, unit, voices_of
from transcribe_mcp.speakers.devices import networks_on
from transcribe_mcp.speakers.diarizer import Diarizer
from transcribe_mcp.speakers.evidence import Evidence
from transcribe_mcp.speakers.features import log_mel
from transcribe_mcp.speakers.networks import CpuNetworks
from transcribe_mcp.speakers.protocol import Rows
from transcribe_mcp.speakers.segmentation import FRAME_S, frame_at
from transcribe_mcp.speakers.speech import speech_of
from transcribe_mcp.speakers.turns import diarize
from transcribe_mcp.speech.detector import SpeechDetector

SAMPLES = Path(__file__).parents[1] / "samples"
RATE_HZ = 16_000
ANY = SpeakerBounds()
Array = NDArray[np.float32]


def recording(name: str) -> Array:
    import av

    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
    with av.open(str(SAMPLES / name)) as container:
        parts = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([part.to_ndarray()[0] for part in [*parts, *resampler.resample(None)]])


@pytest.fixture(scope="module")
def dialogue() -> Array:
    """15 s of two voices."""
    return recording("dialogue.flac")


@pytest.fixture(scope="module")
def cpu() -> Iterator[CpuNetworks]:
    found = CpuNetworks(2)
    yield found
    found.close()


def evidence_of(cpu: CpuNetworks, samples: Array, cuts: Sequence[int] = ()) -> Evidence:
    """The evidence of samples that come in blocks."""
    detector = SpeechDetector(1)
    diarizer = Diarizer(cpu)
    edges = [0, *sorted(cuts), len(samples)]
    for first, end in itertools.pairwise(edges):
        last = end == len(samples) and first == edges[-2]
        block = samples[first:end]
        diarizer.push(block, detector.push(block, last=last), last=last)
    return diarizer.evidence()


def equal(one: Evidence, other: Evidence) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(Evidence)]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def evidence_with(vectors: Array, window_s: float = 1.5) -> Evidence:
    """Speech throughout, one window after another."""
    n = len(vectors)
    starts = np.arange(n, dtype=np.float32) * np.float32(window_s)
    speech = np.ones(int(n * window_s / FRAME_S), np.bool_)
    ends = starts + np.float32(window_s)
    wide = np.ones(len(starts), np.bool_)
    return Evidence(speech, np.zeros_like(speech), starts, ends, vectors.astype(np.float16), wide)


def voices(n: int, each: int, spread: float = 0.3, seed: int = 0) -> Array:
    """Windows of ``n`` voices in turn, (n * each, 192)."""
    random = np.random.default_rng(seed)
    centres = unit(random.standard_normal((n, 192)).astype(np.float32))
    rows = np.repeat(centres, each, axis=0)
    noise = random.standard_normal(rows.shape).astype(np.float32) / np.sqrt(192)
    return unit(rows + spread * noise.astype(np.float32))


# -- blocks and threads ----------------------------------------------------------------------------


def test_two_voices_are_two_speakers(cpu: CpuNetworks, dialogue: Array) -> None:
    evidence = evidence_of(cpu, dialogue)
    found = diarize(evidence, SpeakerBounds(2, 2))
    assert len(found.voices) == 2
    assert {turn.speaker for turn in found.exclusive} == {0, 1}
    starts = [turn.start for turn in found.turns]
    assert starts == sorted(starts)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found.exclusive))


def test_neither_blocks_nor_threads_change_the_evidence(dialogue: Array) -> None:
    every = np.concatenate([dialogue, dialogue[::-1] * 0.5, dialogue])
    random = np.random.default_rng(3)
    cuts = [
        [],
        list(range(0, len(every), 7 * RATE_HZ + 13)),
        random.integers(0, len(every), 60).tolist(),
        [1, 2, 3, len(every) - 1, len(every)],
    ]
    found = []
    for number, edges in enumerate(cuts):
        one = CpuNetworks(1 + number % 2)
        found.append(evidence_of(one, every, edges))
        one.close()
    assert len(found[0].embeddings) > 10
    assert all(equal(found[0], other) for other in found[1:])


def test_batches_do_not_change_the_evidence(cpu: CpuNetworks, dialogue: Array) -> None:
    other = CpuNetworks(1)
    other.segmentation_batch = 3  # type: ignore[misc]
    other.embedding_batch = 1  # type: ignore[misc]
    found = evidence_of(other, dialogue)
    other.close()
    expected = evidence_of(cpu, dialogue)
    assert np.array_equal(found.speech, expected.speech)
    cosines = (
        unit(found.embeddings.astype(np.float32)) * unit(expected.embeddings.astype(np.float32))
    ).sum(axis=1)
    assert cosines.min() > 0.9999


# -- odd sounds ------------------------------------------------------------------------------------


def time_s(seconds: float) -> NDArray[np.float64]:
    return np.arange(int(seconds * RATE_HZ)) / RATE_HZ


def music() -> Array:
    """Chords, which change each second."""
    t = time_s(12)
    root_hz = 220.0 * 2 ** (np.array([0, 5, 7, 0, 3, 8, 10, 5, 0, 7, 5, 0])[t.astype(int)] / 12)
    phase = 2 * np.pi * np.cumsum(root_hz) / RATE_HZ
    tones = sum(np.sin(ratio * phase) for ratio in (1, 1.26, 1.5, 2))
    return (0.1 * tones * np.exp(-2 * (t % 1))).astype(np.float32)


SOUNDS = {
    "nothing": np.empty(0, np.float32),
    "one sample": np.zeros(1, np.float32),
    "digital silence": np.zeros(12 * RATE_HZ, np.float32),
    "a constant": np.full(12 * RATE_HZ, 0.7, np.float32),
    "hiss": np.random.default_rng(1).normal(0, 0.002, 12 * RATE_HZ).astype(np.float32),
    "music": music(),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", list(SOUNDS))
def test_without_speech_there_are_no_speakers(cpu: CpuNetworks, name: str) -> None:
    evidence = evidence_of(cpu, SOUNDS[name])
    for bounds in (ANY, SpeakerBounds(2, 2)):
        found = diarize(evidence, bounds)
        assert (found.turns, found.exclusive, len(found.voices)) == ((), (), 0)


@pytest.mark.filterwarnings("error")
def test_a_short_word_has_one_speaker(cpu: CpuNetworks, dialogue: Array) -> None:
    silence = np.zeros(RATE_HZ, np.float32)
    word = dialogue[RATE_HZ : RATE_HZ + 16_000]
    found = diarize(evidence_of(cpu, np.concatenate([silence, word, silence])), ANY)
    assert len(found.voices) == 1
    assert {turn.speaker for turn in found.turns} == {0}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", ["constant added", "clipped", "holes", "one side dead", "quiet"])
def test_odd_levels_give_finite_evidence(cpu: CpuNetworks, dialogue: Array, damage: str) -> None:
    holes = np.where(np.arange(len(dialogue)) // 4000 % 3 == 0, 0, dialogue)
    samples = {
        "constant added": dialogue + 0.5,
        "clipped": np.clip(dialogue * 50, -1, 1),
        "holes": holes,
        "one side dead": np.maximum(dialogue, 0),
        "quiet": dialogue * 1e-3,
    }[damage].astype(np.float32)
    evidence = evidence_of(cpu, samples)
    assert np.isfinite(evidence.embeddings.astype(np.float32)).all()
    found = diarize(evidence, ANY)
    assert len(found.voices) >= 1
    assert np.isfinite(found.voices).all()


# -- the number of speakers ------------------------------------------------------------------------


@pytest.mark.parametrize("n_windows", [2, 3, 5, 9, 10, 40])
def test_two_speakers_are_found_if_the_user_says_so(n_windows: int) -> None:
    same = np.repeat(voices(1, 1), n_windows, axis=0)
    different = voices(n_windows, 1)
    for vectors in (same, different):
        found = diarize(evidence_with(vectors), SpeakerBounds(2, 2))
        assert len(found.voices) == 2


@pytest.mark.parametrize("n", [1, 2, 3])
def test_voices_are_counted_in_a_short_recording_too(n: int) -> None:
    found = diarize(evidence_with(voices(n, 9 // n)), ANY)
    assert len(found.voices) == n


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_separate_voices_are_counted(n: int) -> None:
    found = diarize(evidence_with(voices(n, 40)), ANY)
    assert len(found.voices) == n
    assert {turn.speaker for turn in found.exclusive} == set(range(n))


def test_a_sentence_that_is_repeated_is_no_other_speaker() -> None:
    """The mean of its few windows is less like the voice than the mean of all others is."""
    random = np.random.default_rng(0)
    known = np.linalg.qr(random.normal(size=(192, 2)))[0].T

    def windows(voice: Array, n: int, cosine: float) -> Array:
        noise = random.normal(size=(n, 192))
        noise -= (noise @ known.T) @ known
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        return np.asarray(cosine * voice + np.sqrt(1 - cosine**2) * noise, np.float32)

    repeated = windows(known[1], 1, 0.868).repeat(7, axis=0)
    both = [windows(voice, 80, 0.9) for voice in known]
    vectors = np.concatenate([*both, repeated])
    found = voices_of(vectors, np.full(len(vectors), 1.5, np.float32), ANY)
    assert len(found) == 2


def test_of_fifty_voices_at_most_the_maximum_is_found() -> None:
    evidence = evidence_with(voices(50, 12))
    assert 1 <= len(diarize(evidence, ANY).voices) <= MAX_SPEAKERS
    assert len(diarize(evidence, SpeakerBounds(1, 3)).voices) <= 3
    assert len(diarize(evidence, SpeakerBounds(7, 7)).voices) == 7


@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 4), st.integers(0, 99))
def test_the_number_of_speakers_is_within_the_bounds(
    n_windows: int, least: int, more: int, seed: int
) -> None:
    vectors = voices(n_windows, 1, spread=1.0, seed=seed)
    bounds = SpeakerBounds(least, least + more)
    found = voices_of(vectors, np.full(n_windows, 1.5, np.float32), bounds)
    assert min(least, n_windows) <= len(found) <= bounds.most
    assert np.isfinite(found).all()


def test_more_speakers_than_voices_are_a_notice() -> None:
    evidence = evidence_with(voices(1, 1))
    found = with_speakers([], evidence, Options(diarize=True, speakers=3))
    assert [notice.code for notice in found.notices] == ["speaker_count_not_met"]
    assert found.notices[0].message.endswith("the recording has only one voice")


def test_clustering_is_the_same_each_time() -> None:
    vectors = voices(6, 300, spread=0.8)
    seconds = np.full(len(vectors), 1.5, np.float32)
    first = voices_of(vectors, seconds, ANY)
    assert np.array_equal(first, voices_of(vectors, seconds, ANY))


# -- speech and turns ------------------------------------------------------------------------------


def test_a_syllable_too_short_for_a_window_belongs_to_the_nearest_speaker() -> None:
    evidence = evidence_with(voices(2, 10))
    gone = (evidence.starts >= 6.0) & (evidence.starts < 9.0)
    speech = evidence.speech.copy()
    speech[frame_at(6.0) : frame_at(9.0)] = False
    speech[frame_at(6.5) : frame_at(6.7)] = True
    kept = {name: getattr(evidence, name)[~gone] for name in ("starts", "ends", "embeddings")}
    kept["wide"] = evidence.wide[~gone]
    found = diarize(replace(evidence, speech=speech, **kept), SpeakerBounds(2, 2))
    first = found.exclusive[0].speaker
    assert [turn.speaker for turn in found.exclusive if 6.4 < turn.start < 6.8] == [first]


def test_a_sound_far_from_all_speakers_is_no_turn() -> None:
    evidence = evidence_with(voices(2, 10))
    n_silent = int(30 / FRAME_S)
    blips = np.zeros(n_silent, np.bool_)
    blips[int(5 / FRAME_S) :: int(0.7 / FRAME_S)] = True
    speech = np.concatenate([evidence.speech, blips])
    evidence = replace(evidence, speech=speech, overlap=np.zeros_like(speech))
    assert diarize(evidence, SpeakerBounds(2, 2)).exclusive[-1].end < 31


def test_a_pause_of_a_quarter_of_a_second_does_not_end_a_turn() -> None:
    evidence = evidence_with(voices(1, 10))
    speech = evidence.speech.copy()
    speech[frame_at(6.0) : frame_at(6.0) + 16] = False
    found = diarize(replace(evidence, speech=speech), SpeakerBounds(1, 1))
    assert [len(found.turns), len(found.exclusive)] == [1, 2]


def test_a_change_of_speakers_without_a_pause_is_no_overlap() -> None:
    evidence = evidence_with(voices(2, 10))
    change = diarize(evidence, SpeakerBounds(2, 2)).exclusive[0].end

    def n_seconds_of_two(overlap_s: float) -> float:
        overlap = np.zeros_like(evidence.speech)
        overlap[frame_at(change - overlap_s / 2) : frame_at(change + overlap_s / 2)] = True
        found = diarize(replace(evidence, overlap=overlap), SpeakerBounds(2, 2))
        spoken = sum(turn.end - turn.start for turn in found.turns)
        return spoken - sum(turn.end - turn.start for turn in found.exclusive)

    assert n_seconds_of_two(0.2) == pytest.approx(n_seconds_of_two(0.0), abs=1e-6)
    assert n_seconds_of_two(0.6) - n_seconds_of_two(0.0) > 0.5


def test_faint_speech_counts_on_a_line_where_the_detector_is_never_sure() -> None:
    speech = np.full(100, 0.95, np.float32)
    detected = np.full(100, 0.6, np.float32)
    speech[40:45] = 0.45
    detected[40:45] = 0.3
    assert speech_of(speech, detected).all()
    detected[detected > 0.5] = 1.0  # the detector is sure of the rest
    assert not speech_of(speech, detected)[40:45].any()


# -- features --------------------------------------------------------------------------------------

# kaldi-native-fbank 1.23.0, without dither: frames 0, 50 and 97, every 13th of 80 bands.
KALDI = [
    [-4.9878, -8.1462, -7.1655, -6.9592, 2.2432, -6.1669, -5.7251],
    [-6.4965, -8.5226, -5.0309, -6.9156, 2.2401, -6.13, -5.7348],
    [-6.4641, -8.4575, -7.128, -4.4074, 2.2528, -6.1682, -5.7263],
]


def test_features_are_those_of_kaldi() -> None:
    t = time_s(1)
    tones = 0.3 * np.sin(2 * np.pi * (200 * t + 900 * t * t)) + 0.1 * np.sin(2 * np.pi * 3100 * t)
    samples = (tones + 0.01 * np.sign(np.sin(2 * np.pi * 50 * t))).astype(np.float32)
    features = log_mel(samples)
    assert features.shape == (98, 80)
    found = features[[0, 50, 97]][:, [0, 13, 26, 39, 52, 65, 79]]
    assert found == pytest.approx(np.array(KALDI), abs=5e-4)


# -- damaged files ---------------------------------------------------------------------------------


def transcript_of(samples: Array) -> Transcript:
    return transcribe(samples, ScriptedEngine(), Options(language="en", diarize=True))


@pytest.mark.parametrize("damage", ["missing", "changed", "cut"])
def test_damaged_weights_cost_the_speakers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialogue: Array, damage: str
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(networks.WEIGHTS, folder)
    path = folder / "campplus.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content[:1000] if damage == "cut" else content)
    if damage == "missing":
        path.unlink()
    monkeypatch.setattr(networks, "WEIGHTS", folder)

    with pytest.raises(EngineUnavailableError, match=r"campplus\.safetensors") as refused:
        CpuNetworks(1)
    found = transcript_of(dialogue)

    assert "pip install --force-reinstall transcribe-mcp" in refused.value.hint
    assert "Hello there." in found.text
    assert found.turns == ()
    assert [w.code for w in found.warnings if "speakers" in w.code] == ["no_speakers"]


def test_networks_that_fail_cost_the_speakers_alone(
    monkeypatch: pytest.MonkeyPatch, dialogue: Array
) -> None:
    def fail(self: CpuNetworks, features: Array, firsts: Rows, lengths: Rows) -> Array:
        raise MemoryError("no memory")

    monkeypatch.setattr(CpuNetworks, "embed", fail)
    found = transcript_of(dialogue)
    assert "Hello there." in found.text
    assert [w.code for w in found.warnings if "speakers" in w.code] == ["no_speakers"]


def test_without_a_gpu_that_torch_can_use_the_networks_run_on_the_cpu(dialogue: Array) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("torch can use a GPU here")
    found = networks_on("cuda:0", 1)
    assert isinstance(found, CpuNetworks)
    assert len(found.segment(dialogue[: 15 * RATE_HZ]))
    found.close()


# -- evidence --------------------------------------------------------------------------------------


def test_evidence_is_read_as_it_was_written(cpu: CpuNetworks, dialogue: Array) -> None:
    evidence = evidence_of(cpu, dialogue)
    read = Evidence.loads(evidence.dumps())
    assert equal(read, evidence)
    empty = evidence_of(cpu, dialogue[:0])
    assert equal(Evidence.loads(empty.dumps()), empty)


STORED = evidence_with(voices(2, 5)).dumps()


@given(st.integers(0, len(STORED) - 1), st.integers(1, 255))
def test_changed_evidence_is_refused_or_whole(place: int, change: int) -> None:
    data = bytearray(STORED)
    data[place] ^= change
    try:
        found = Evidence.loads(bytes(data))
    except ValueError:
        return
    assert equal(found, Evidence.loads(STORED))


@given(st.one_of(st.binary(max_size=60), st.integers(0, len(STORED) - 1).map(STORED.__getitem__)))
def test_other_bytes_are_refused(data: bytes | int) -> None:
    with pytest.raises(ValueError, match="evidence"):
        Evidence.loads(data if isinstance(data, bytes) else STORED[:data])


def test_evidence_that_does_not_fit_together_is_refused() -> None:
    whole = Evidence.loads(STORED)
    for damaged in (
        replace(whole, starts=whole.starts[:-1]),
        replace(whole, embeddings=whole.embeddings[:-1]),
        replace(whole, embeddings=whole.embeddings[:, :-1]),
        replace(whole, embeddings=whole.embeddings.astype(np.float32)),
    ):
        with pytest.raises(ValueError, match="evidence"):
            Evidence.loads(damaged.dumps())
