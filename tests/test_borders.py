"""Borders between words move towards the quietest moment near them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from transcribe_mcp.align.borders import at_quiet_moments
from transcribe_mcp.domain.transcript import Word
from transcribe_mcp.speech.regions import SAMPLE_RATE_HZ


def tone_with_dip(at: float, length_s: float = 2.0) -> NDArray[np.float32]:
    """A tone that is 40 dB quieter for 30 ms around a moment."""
    t = np.arange(round(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tone = 0.1 * np.sin(2 * np.pi * 300 * t) * np.where(abs(t - at) < 0.015, 0.01, 1.0)
    return tone.astype(np.float32)


@pytest.mark.parametrize("dip", [0.95, 1.05])
def test_a_border_between_words_moves_half_way_to_the_quietest_moment(dip: float) -> None:
    words = [Word(10.5, 11.0, " one"), Word(11.0, 11.6, " two")]

    first, second = at_quiet_moments(words, tone_with_dip(dip), offset=10.0)

    assert second.start == pytest.approx(10.0 + (1.0 + dip) / 2, abs=0.01)
    assert first.end == second.start
    assert (first.start, second.end) == (10.5, 11.6)


@pytest.mark.parametrize("dip", [0.8, 1.2, -1.0])
def test_a_border_with_no_quiet_moment_near_it_stays(dip: float) -> None:
    words = (Word(0.5, 1.0, " one"), Word(1.0, 1.6, " two"))

    assert at_quiet_moments(words, tone_with_dip(dip), offset=0.0) == words


def test_a_word_after_a_pause_starts_where_it_started() -> None:
    words = (Word(0.5, 0.9, " one"), Word(1.0, 1.6, " two"))

    assert at_quiet_moments(words, tone_with_dip(1.05), offset=0.0) == words


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(2, 40)), max_size=12),
    st.integers(0, 3000),
    st.integers(0, 2**32 - 1),
)
def test_borders_at_quiet_moments_keep_the_order_of_words(
    steps: list[tuple[int, int]], n_samples: int, seed: int
) -> None:
    words, now = [], 0.0
    for pause, length in steps:
        words.append(Word(now + pause / 200, now + (pause + length) / 200, " w"))
        now = words[-1].end
    samples = np.random.default_rng(seed).standard_normal(n_samples).astype(np.float32)
    samples *= np.repeat(np.random.default_rng(seed).random(n_samples // 80 + 1), 80)[
        :n_samples
    ].astype(np.float32)

    moved = at_quiet_moments(words, samples, offset=0.0)

    assert [word.text for word in moved] == [word.text for word in words]
    assert all(word.start < word.end for word in moved)
    assert all(before.end <= after.start for before, after in pairwise(moved))
