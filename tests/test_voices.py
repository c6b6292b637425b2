"""Known voices: which speaker gets which name, and the file that keeps their prints."""

from __future__ import annotations

import json
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from transcribe_mcp import Options
from transcribe_mcp.domain.speaker_labels import checked_voice_name
from transcribe_mcp.errors import (
    UnknownNameError,
    UsageError,
    VoiceSampleError,
    VoiceStoreError,
)
from transcribe_mcp.service import voices as service
from transcribe_mcp.settings import settings
from transcribe_mcp.speakers.bandwidth import BandMeter
from transcribe_mcp.speakers.clustering import unit
from transcribe_mcp.speakers.evidence import N_EMBEDDING
from transcribe_mcp.speakers.voice_store import FILE_NAME, MAX_PRINTS, VoiceStore
from transcribe_mcp.speakers.voices import (
    MARGIN,
    MIN_SPEECH_S,
    SAME_VOICE,
    Kind,
    KnownVoice,
    VoicePrint,
    name_speakers,
)

Array = NDArray[np.float32]


def voice_print(vector: Array, kind: Kind = Kind.WIDEBAND, seconds: float = 20.0) -> VoicePrint:
    return VoicePrint(kind, unit(vector.astype(np.float32)), seconds)


def random_print(seed: int, kind: Kind = Kind.WIDEBAND) -> VoicePrint:
    return voice_print(np.random.default_rng(seed).standard_normal(N_EMBEDDING), kind)


# --- which speaker is who -------------------------------------------------------------------------

kinds = st.sampled_from(list(Kind))
vectors = st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4).filter(any).map(np.array)
prints = st.builds(voice_print, vectors, kinds, st.sampled_from([3.0, 9.9, 10.0, 60.0]))
people = st.lists(st.lists(prints, max_size=3), max_size=5).map(
    lambda each: [KnownVoice(f"V{i}", tuple(own)) for i, own in enumerate(each)]
)


@given(st.lists(prints, max_size=6), people)
def test_a_name_is_given_once_and_only_to_a_voice_that_is_like_it_and_like_no_other(
    heard: list[VoicePrint], known: list[KnownVoice]
) -> None:
    naming = name_speakers(heard, known)

    assert len(set(naming.names.values())) == len(naming.names)
    assert not set(naming.names) & set(naming.perhaps)
    for number, name in naming.names.items():
        voice = heard[number]
        likeness = {one.name: one.likeness(voice) for one in known}
        own = likeness.pop(name)
        assert own is not None and own >= SAME_VOICE[voice.kind]
        assert voice.seconds >= MIN_SPEECH_S
        assert all(other is None or own - other >= MARGIN for other in likeness.values())
    shuffled = name_speakers(heard, known[::-1])
    assert shuffled.names == naming.names
    for number, voice in enumerate(heard):
        alone = name_speakers([voice], known).names
        if number in naming.names:
            assert alone == {0: naming.names[number]}
        elif alone:  # a more similar speaker has the name
            assert alone[0] in naming.names.values()
            assert naming.perhaps[number] == alone[0]


def test_a_name_that_fits_two_speakers_goes_to_the_more_similar_one() -> None:
    anna = random_print(1)
    near = voice_print(anna.vector + 0.3 * random_print(2).vector)
    far = voice_print(anna.vector + 0.6 * random_print(3).vector)
    similar = voice_print(anna.vector + 1.1 * random_print(4).vector)
    known = [KnownVoice("Anna", (anna,)), KnownVoice("Ben", (random_print(5),))]

    found = name_speakers([far, random_print(6), near, similar], known)

    assert found.names == {2: "Anna"}
    assert found.perhaps == {0: "Anna"}
    assert name_speakers([similar], known).perhaps == {0: "Anna"}
    brief = replace(anna, seconds=MIN_SPEECH_S - 0.1)
    assert name_speakers([brief], known) == name_speakers([], known)


def test_voices_are_never_compared_across_kinds_or_models() -> None:
    heard = random_print(1)
    other_kind = replace(heard, kind=Kind.TELEPHONE)
    other_model = replace(heard, weights="0" * 64)

    found = name_speakers([heard], [KnownVoice("Anna", (other_kind, other_model))])

    assert not found.names and not found.perhaps
    assert found.uncompared == (Kind.WIDEBAND,)
    both = KnownVoice("Anna", (other_kind, other_model, heard))
    assert name_speakers([heard], [both]).names == {0: "Anna"}


@given(st.lists(st.integers(0, 70_000), max_size=4))
def test_the_band_of_a_recording_does_not_depend_on_its_blocks(cuts: list[int]) -> None:
    noise = np.random.default_rng(0).standard_normal(70_000).astype(np.float32)
    spectrum = np.fft.rfft(noise)
    spectrum[round(3400 / 8000 * len(spectrum)) :] = 0
    starts = np.array([0.0, 1.0, 4.3], np.float32)
    for samples, is_wide in ((noise, True), (np.fft.irfft(spectrum, 70_000), False)):
        meter = BandMeter()
        for part in np.split(samples.astype(np.float32), sorted(cuts)):
            meter.push(part)
        assert meter.is_wide(starts[:2], starts[:2] + 1.5).tolist() == [is_wide] * 2
        assert not meter.is_wide(starts[2:] + 5, starts[2:] + 6).any()


# --- names of voices ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", "  ", "Speaker 3", "speaker_12", "SPEAKER 1", "all", "None", "a,b", "a\nb", "x" * 65],
)
def test_a_name_that_would_confuse_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked_voice_name(name)
    assert caught.value.hint


def test_the_option_takes_all_or_none_or_names() -> None:
    assert Options().voices == Options(voices=" None ").voices == "none"
    assert not Options(voices="none").diarize
    assert Options(voices="ALL").voices == "all"
    assert Options(voices="Ben, anna,Anna").voices == "Anna,Ben"
    assert Options(voices="Ben").diarize
    with pytest.raises(UsageError, match="combines all with names"):
        Options(voices="all,Anna")


# --- the file -------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> VoiceStore:
    return VoiceStore(tmp_path / "data")


def names_in(store: VoiceStore) -> list[str]:
    return [voice.name for voice in store.voices()]


def test_prints_are_kept_in_a_private_file_and_the_oldest_makes_room(store: VoiceStore) -> None:
    for number in range(MAX_PRINTS + 1):
        _, is_replacing = store.add("Anna" if number else "ANNA", random_print(number))
        assert is_replacing == (number == MAX_PRINTS)
    store.add("Anna", random_print(50, Kind.TELEPHONE))
    store.add("Zoë", random_print(51))

    assert names_in(store) == ["ANNA", "Zoë"]
    kept = store.voice("anna").prints
    assert [one.kind for one in kept] == [Kind.WIDEBAND] * MAX_PRINTS + [Kind.TELEPHONE]
    assert np.allclose(kept[0].vector, random_print(1).vector, atol=1e-5)
    assert all(one.added and one.is_current for one in kept)
    assert len({one.id for one in kept}) == len(kept)
    if os.name == "posix":
        assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    store.remove("zOE\u0308")
    assert names_in(store) == ["ANNA"]
    with pytest.raises(UnknownNameError, match="no known voice 'Zoë'"):
        store.remove("Zoë")


def test_a_clip_of_somebody_else_who_is_known_is_refused(store: VoiceStore) -> None:
    store.add("Anna", random_print(1))

    with pytest.raises(VoiceSampleError, match="sounds like Anna") as caught:
        store.add("Ben", random_print(1))

    assert "Anna" in caught.value.hint
    store.add("Ben", replace(random_print(1), kind=Kind.TELEPHONE))


def test_prints_of_another_model_are_old(
    store: VoiceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSCRIBE_MCP_DATA_DIR", str(store.path.parent))
    settings.cache_clear()
    store.add("Anna", replace(random_print(1), weights="0" * 64))
    store.add("Anna", random_print(2))

    (row,) = service.list_voices()
    settings.cache_clear()

    assert (row.wideband, row.telephone, row.old) == (1, 0, 1)


DAMAGED: list[Any] = [
    b"",
    b"\x00\xff",
    b"[" * 100_000,
    [],
    {"version": 1},
    {"version": 99, "voices": []},
    {"version": 1, "voices": [{"name": "Speaker 1", "prints": []}]},
    {"version": 1, "voices": [{"name": "Anna", "prints": []}, {"name": "anna", "prints": []}]},
    {"version": 1, "voices": [{"name": "Anna", "prints": [{"kind": "wideband"}]}]},
]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: str(content)[:40])
def test_a_damaged_file_is_an_error_and_stays_as_it_is(store: VoiceStore, content: Any) -> None:
    written = content if isinstance(content, bytes) else json.dumps(content).encode()
    store.path.parent.mkdir()
    store.path.write_bytes(written)

    for work in (
        store.voices,
        lambda: store.add("Anna", random_print(1)),
        lambda: store.remove("Anna"),
    ):
        with pytest.raises(VoiceStoreError) as caught:
            work()
        assert caught.value.hint

    assert store.path.read_bytes() == written


@pytest.mark.parametrize("vector", [[1.0] * 191, [float("nan")] * 192, ["x"] * 192, [[1.0]] * 192])
def test_a_print_that_is_none_is_damage(store: VoiceStore, vector: list[Any]) -> None:
    store.add("Anna", random_print(1))
    data = json.loads(store.path.read_text())
    data["voices"][0]["prints"][0]["vector"] = vector
    store.path.write_text(json.dumps(data))

    with pytest.raises(VoiceStoreError, match="damaged"):
        store.voices()


def test_voices_that_are_added_at_once_are_all_kept(store: VoiceStore) -> None:
    adding = [
        threading.Thread(target=store.add, args=(f"Voice {chr(65 + i)}", random_print(i)))
        for i in range(12)
    ]
    for each in adding:
        each.start()
    for each in adding:
        each.join()

    assert len(names_in(store)) == 12
    assert {path.name for path in store.path.parent.iterdir()} <= {FILE_NAME, "voices.lock"}
