"""Probabilities become regions, regions become windows: whole, in order, in bounded memory, however
they are pushed.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from transcribe_mcp.speech.regions import (
    FRAME_S,
    FRAME_SAMPLES,
    SAMPLE_RATE_HZ,
    WINDOW_S,
    Loudness,
    Region,
    RegionFinder,
    RegionRules,
    Window,
    WindowCutter,
    WindowRules,
)

RULES = WindowRules()
PAUSE_S = RegionRules().min_silence_s
LONGEST_REGION_S = WINDOW_S - RULES.lead_s - RULES.tail_s
NOISE_S = 1e-6  # of adding floats
SPEECH, BETWEEN, SILENCE = 0.9, 0.4, 0.02

Probabilities = NDArray[np.float32]

runs = st.lists(
    st.tuples(st.sampled_from([SPEECH, 0.5, BETWEEN, 0.3, SILENCE]), st.integers(1, 1500)),
    min_size=1,
    max_size=12,
)
erratic = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=200)
cuts = st.lists(st.integers(9, 3000), min_size=1, max_size=6)


@dataclass(frozen=True, slots=True)
class Cut:
    """What became of a recording."""

    regions: tuple[Region, ...]
    windows: tuple[Window, ...]
    audio: NDArray[np.float32]


@st.composite
def recordings(draw: st.DrawFn) -> Probabilities:
    parts = [np.full(n, value, dtype=np.float32) for value, n in draw(runs)]
    return np.concatenate([*parts, np.array(draw(erratic), dtype=np.float32)])


def cut(
    probabilities: Probabilities, blocks_frames: tuple[int, ...] = (), missing_samples: int = 0
) -> Cut:
    """Push a recording through both steps as the pipeline does. Its sample k has the value k."""
    n_samples = len(probabilities) * FRAME_SAMPLES - missing_samples
    audio = np.arange(n_samples, dtype=np.float32)
    finder, cutter = RegionFinder(), WindowCutter()
    regions: list[Region] = []
    windows: list[Window] = []
    for start, stop in pairwise(edges_of(len(probabilities), blocks_frames)):
        found = finder.push(probabilities[start:stop])
        regions += found
        samples = audio[start * FRAME_SAMPLES : stop * FRAME_SAMPLES]
        windows += cutter.push(samples, found, finder.final_until_s)
    found = finder.push(np.empty(0, np.float32), last=True)
    windows += cutter.push(np.empty(0, np.float32), found, finder.final_until_s, last=True)
    return Cut((*regions, *found), tuple(windows), audio)


def edges_of(n_frames: int, blocks_frames: tuple[int, ...]) -> Iterator[int]:
    """0, then block after block of the given lengths in turn, up to the end."""
    edge = i = 0
    while edge < n_frames:
        yield edge
        edge += blocks_frames[i % len(blocks_frames)] if blocks_frames else n_frames
        i += 1
    yield n_frames


def spoken(*runs_s: tuple[float, float]) -> Probabilities:
    """(probability, seconds) after one another."""
    return np.concatenate(
        [np.full(round(s / FRAME_S), value, dtype=np.float32) for value, s in runs_s]
    )


def stretches(regions: tuple[Region, ...]) -> list[Region]:
    """Regions with those put together that follow each other without a pause."""
    merged: list[Region] = []
    for region in regions:
        if merged and region.start - merged[-1].end < NOISE_S:
            merged[-1] = Region(merged[-1].start, region.end)
        else:
            merged.append(region)
    return merged


# -- any recording ---------------------------------------------------------------------------------


@settings(max_examples=40)
@given(recordings(), cuts, st.integers(0, FRAME_SAMPLES - 1))
def test_the_cut_does_not_depend_on_the_blocks_in_which_a_recording_comes(
    probabilities: Probabilities, blocks_frames: list[int], missing_samples: int
) -> None:
    at_once = cut(probabilities, missing_samples=missing_samples)
    in_blocks = cut(probabilities, tuple(blocks_frames), missing_samples)

    assert in_blocks.regions == at_once.regions
    assert [(w.start, len(w.samples), w.regions) for w in in_blocks.windows] == [
        (w.start, len(w.samples), w.regions) for w in at_once.windows
    ]


@settings(max_examples=40)
@given(recordings(), cuts)
def test_regions_are_in_order_apart_and_never_longer_than_a_window(
    probabilities: Probabilities, blocks_frames: list[int]
) -> None:
    regions = cut(probabilities, tuple(blocks_frames)).regions

    assert all(
        region.start < region.end <= len(probabilities) * FRAME_S + NOISE_S for region in regions
    )
    assert all(region.end - region.start <= LONGEST_REGION_S + NOISE_S for region in regions)
    assert all(before.end <= after.start for before, after in pairwise(regions))


@settings(max_examples=40)
@given(recordings(), cuts)
def test_frames_of_certain_speech_lie_in_a_region_unless_they_are_a_click(
    probabilities: Probabilities, blocks_frames: list[int]
) -> None:
    regions = cut(probabilities, tuple(blocks_frames)).regions
    inside = np.zeros(len(probabilities), dtype=bool)
    for region in regions:
        inside[round(region.start / FRAME_S) : round(region.end / FRAME_S)] = True

    is_speech = probabilities >= RegionRules().threshold
    shortest_frames = round(RegionRules().min_speech_s / FRAME_S)
    for start, stop in runs_of(is_speech & ~inside):
        assert stop - start < shortest_frames


def runs_of(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    changes = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [
        (int(start), int(stop)) for start, stop in zip(changes[::2], changes[1::2], strict=True)
    ]


@settings(max_examples=40)
@given(recordings(), cuts, st.integers(0, FRAME_SAMPLES - 1))
def test_windows_are_stretches_of_the_recording_of_at_most_30_s_that_do_not_overlap(
    probabilities: Probabilities, blocks_frames: list[int], missing_samples: int
) -> None:
    result = cut(probabilities, tuple(blocks_frames), missing_samples)

    for window in result.windows:
        first = round(window.start * SAMPLE_RATE_HZ)
        assert 0 < len(window.samples) <= WINDOW_S * SAMPLE_RATE_HZ
        assert np.array_equal(window.samples, result.audio[first : first + len(window.samples)])
    assert all(before.end <= after.start + NOISE_S for before, after in pairwise(result.windows))


@settings(max_examples=40)
@given(recordings(), cuts, st.integers(0, FRAME_SAMPLES - 1))
def test_every_region_lies_whole_in_one_window(
    probabilities: Probabilities, blocks_frames: list[int], missing_samples: int
) -> None:
    result = cut(probabilities, tuple(blocks_frames), missing_samples)
    recording_s = len(result.audio) / SAMPLE_RATE_HZ

    assert tuple(region for window in result.windows for region in window.regions) == result.regions
    for window in result.windows:
        for region in window.regions:
            assert window.start <= region.start + NOISE_S
            assert min(region.end, recording_s) <= window.end + NOISE_S


@settings(max_examples=40)
@given(recordings())
def test_speech_without_a_pause_that_fits_a_window_is_never_cut(
    probabilities: Probabilities,
) -> None:
    result = cut(probabilities)

    for stretch in stretches(result.regions):
        if stretch.end - stretch.start <= LONGEST_REGION_S - FRAME_S:
            touched = [w for w in result.windows if w.start < stretch.end and w.end > stretch.start]
            assert len(touched) == 1


@settings(max_examples=40)
@given(recordings())
def test_a_long_silence_always_starts_a_new_window(probabilities: Probabilities) -> None:
    for window in cut(probabilities).windows:
        assert all(b.start - a.end < RULES.long_silence_s for a, b in pairwise(window.regions))


@settings(max_examples=40)
@given(recordings())
def test_windows_are_not_ended_early_without_a_reason(probabilities: Probabilities) -> None:
    windows = cut(probabilities).windows

    for window, following in pairwise(windows):
        speech_s = window.regions[-1].end - window.regions[0].start
        with_next_s = following.regions[0].end - window.regions[0].start
        pause_s = following.regions[0].start - window.regions[-1].end
        assert (
            speech_s >= RULES.min_s
            or pause_s >= RULES.long_silence_s
            or with_next_s > LONGEST_REGION_S
        )


# -- particular recordings -------------------------------------------------------------------------


def test_a_window_that_overflows_is_cut_in_the_longest_pause_of_its_second_half() -> None:
    probabilities = spoken(
        (SPEECH, 18),
        (SILENCE, 1.0),
        (SPEECH, 5),
        (SILENCE, 0.2),
        (SPEECH, 4),
        (SILENCE, 0.2),
        (SPEECH, 9),
    )

    first, second = cut(probabilities).windows

    assert first.end == pytest.approx(18.5, abs=0.1)
    assert second.start == pytest.approx(18.5, abs=0.1)


def test_speech_that_goes_on_for_longer_than_a_window_is_cut_where_it_is_least_probable() -> None:
    hesitation_s = PAUSE_S - FRAME_S  # too short for the end of a region
    probabilities = spoken((SPEECH, 21), (BETWEEN, hesitation_s), (SPEECH, 20))

    first, second = cut(probabilities).regions

    assert 21 - FRAME_S <= first.end == second.start <= 21 + hesitation_s + FRAME_S


def test_a_short_pause_does_not_end_a_region_and_a_longer_one_does() -> None:
    def n_regions(pause_s: float) -> int:
        return len(cut(spoken((SPEECH, 2), (SILENCE, pause_s), (SPEECH, 2))).regions)

    assert n_regions(PAUSE_S - FRAME_S) == 1
    assert n_regions(PAUSE_S + FRAME_S) == 2


def test_windows_reach_into_the_silence_around_speech_but_not_over_the_ends_of_the_recording() -> (
    None
):
    [inside] = cut(spoken((SILENCE, 5), (SPEECH, 3), (SILENCE, 5))).windows
    [filling] = cut(spoken((SPEECH, 3.2))).windows

    assert inside.start == pytest.approx(5 - RULES.lead_s, abs=FRAME_S)
    assert inside.end == pytest.approx(8 + RULES.tail_s, abs=FRAME_S)
    assert (filling.start, filling.end) == (0.0, pytest.approx(3.2))


@pytest.mark.parametrize("probability", [0.0, 0.49])
def test_a_recording_without_speech_has_no_windows(probability: float) -> None:
    assert cut(np.full(2000, probability, dtype=np.float32), (100,)).windows == ()


def test_the_last_window_of_a_quiet_recording_comes_before_the_recording_ends() -> None:
    finder, cutter = RegionFinder(), WindowCutter()
    found = []
    for _ in range(12):
        regions = finder.push(spoken((SPEECH if not found else SILENCE, 10)))
        found += list(cutter.push(np.zeros(160_000, np.float32), regions, finder.final_until_s))

    assert found


@pytest.mark.parametrize(
    ("name", "probability"),
    [("speech that never ends", SPEECH), ("silence that never ends", SILENCE)],
)
def test_no_more_is_held_than_two_blocks_and_two_windows(name: str, probability: float) -> None:
    block_s = 20.0
    held_s = 2 * block_s + 2 * RULES.max_s + RULES.long_silence_s + RULES.lead_s
    finder, cutter = RegionFinder(), WindowCutter()
    frames = np.full(round(block_s / FRAME_S), probability, dtype=np.float32)
    block_samples = len(frames) * FRAME_SAMPLES
    most_bytes = 0
    tracemalloc.start()
    try:
        before_bytes, _ = tracemalloc.get_traced_memory()
        for _ in range(30):
            regions = finder.push(frames)
            for _ in cutter.push(
                np.zeros(block_samples, np.float32), regions, finder.final_until_s
            ):
                pass
            held_bytes = tracemalloc.get_traced_memory()[0] - before_bytes
            most_bytes = max(most_bytes, held_bytes)
    finally:
        tracemalloc.stop()

    assert most_bytes < held_s * SAMPLE_RATE_HZ * 4 + 2**17, name


# -- everything taken for speech -------------------------------------------------------------------


def loud(samples: NDArray[np.float32], *blocks_samples: int) -> Probabilities:
    loudness = Loudness()
    parts = []
    for start, stop in pairwise(edges_of(len(samples), blocks_samples)):
        parts.append(loudness.push(samples[start:stop]))
    return np.concatenate([*parts, loudness.push(np.empty(0, np.float32), last=True)])


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1e-4, 0.1, 1.0]), st.integers(1, 40_000)),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.integers(1, 50_000), min_size=1, max_size=4),
)
def test_loudness_gives_one_value_a_frame_none_below_the_threshold_in_any_blocks(
    parts: list[tuple[float, int]], blocks_samples: list[int]
) -> None:
    random = np.random.default_rng(1)
    samples = np.concatenate(
        [(level * random.uniform(-1, 1, n)).astype(np.float32) for level, n in parts]
    )

    values = loud(samples, *blocks_samples)

    assert len(values) == -(-len(samples) // FRAME_SAMPLES)
    assert values.min() >= RegionRules().threshold
    assert values.max() <= 1
    np.testing.assert_allclose(values, loud(samples), atol=1e-6)


@pytest.mark.parametrize("duration_s", [0.1, 1.0, 29.0, 31.0, 95.3])
def test_without_voice_detection_nothing_is_left_out(duration_s: float) -> None:
    samples = (
        np.random.default_rng(2)
        .normal(0, 0.1, round(duration_s * SAMPLE_RATE_HZ))
        .astype(np.float32)
    )

    windows = cut(loud(samples), missing_samples=-len(samples) % FRAME_SAMPLES).windows

    assert windows[0].start == 0
    assert all(before.end == pytest.approx(after.start) for before, after in pairwise(windows))
    assert windows[-1].end == pytest.approx(duration_s)


def test_without_voice_detection_a_window_is_cut_where_it_is_quietest() -> None:
    samples = np.random.default_rng(3).normal(0, 0.1, 50 * SAMPLE_RATE_HZ).astype(np.float32)
    samples[22 * SAMPLE_RATE_HZ : round(22.4 * SAMPLE_RATE_HZ)] = 0

    first, second = cut(loud(samples)).windows

    assert 22 <= first.end <= 22.4
    assert first.end == pytest.approx(second.start)


def test_two_short_stretches_far_apart_are_two_windows_and_close_together_one() -> None:
    def n_windows(pause_s: float) -> int:
        return len(cut(spoken((SPEECH, 3), (SILENCE, pause_s), (SPEECH, 3))).windows)

    assert n_windows(RULES.long_silence_s - 0.1) == 1
    assert n_windows(RULES.long_silence_s + 0.1) == 2


def test_short_dips_do_not_add_up_to_a_pause() -> None:
    dips = [(SPEECH, 0.5), (SILENCE, FRAME_S)] * 20

    assert len(cut(spoken(*dips, (SPEECH, 0.5))).regions) == 1
