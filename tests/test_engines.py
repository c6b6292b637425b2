"""One contract for every row of ENGINES, and what is particular to the engines that need no Whisper
model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from whisper_nano import SPEECH, kept_conversions, whisper_nano

from transcribe_mcp.domain.transcript import Word
from transcribe_mcp.engines import (
    ENGINES,
    Decoded,
    DecodingOptions,
    EngineRequest,
    Recognizer,
    load_recognizer,
)
from transcribe_mcp.errors import (
    EngineFailedError,
    EngineUnavailableError,
    TranscribeError,
    UnknownNameError,
)
from transcribe_mcp.speech.regions import Known, Region, Window

ROOT = Path(__file__).parents[1]
SAMPLE_RATE_HZ = 16_000
MODELS = {
    "ctranslate2": whisper_nano,
    "whisper": whisper_nano,
}  # engines that carry no model of their own, and where there is one
WELCOME = ROOT / "samples" / "welcome.flac"
WELCOME_PAUSES_S = (0.0, 5.53, 7.66, 9.995)  # where its sentences begin and end
NANO_VOICES = SPEECH / "en_0.flac"  # the small model understands these voices, not people
NANO_PAUSES_S = (0.1, 3.2, 6.5, 9.0)
CLOCK_START_S = 100.0  # the windows are cut from the middle of a longer recording


@pytest.fixture(scope="module")
def cache() -> Iterator[None]:
    with kept_conversions():
        yield


@pytest.fixture(scope="module", params=ENGINES)
def request_of(request: pytest.FixtureRequest, cache: None) -> EngineRequest:
    name = request.param
    if name == "whisper":
        pytest.importorskip("torch")
    model = str(MODELS[name]()) if name in MODELS else "auto"
    return EngineRequest(engine=name, model=model, device="cpu", threads=2, offline=True)


@pytest.fixture(scope="module")
def engine(request_of: EngineRequest) -> Iterator[Recognizer]:
    engine = load_recognizer(request_of)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def windows(request_of: EngineRequest) -> list[Window]:
    """Three sentences that this engine's model understands, a window each."""
    path, pauses = (
        (NANO_VOICES, NANO_PAUSES_S) if request_of.engine in MODELS else (WELCOME, WELCOME_PAUSES_S)
    )
    samples = read_recording(path)
    return [window_of(samples, start, end) for start, end in pairwise(pauses)]


@pytest.fixture(scope="module")
def decoded(engine: Recognizer, windows: list[Window]) -> list[Decoded]:
    return engine.decode(engine.encode(windows), languages_of(engine, windows), DecodingOptions())


def read_recording(path: Path) -> NDArray[np.float32]:
    """(n,) samples of a mono FLAC of 16 kHz and 16 bits."""
    with av.open(path) as container:
        pcm = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return (pcm / np.float32(2**15)).astype(np.float32)


def window_of(samples: NDArray[np.float32], start: float, end: float) -> Window:
    piece = samples[int(start * SAMPLE_RATE_HZ) : int(end * SAMPLE_RATE_HZ)]
    duration = len(piece) / SAMPLE_RATE_HZ
    clock = CLOCK_START_S + start
    return Window(clock, piece, (Region(clock, clock + duration),))


def languages_of(engine: Recognizer, windows: list[Window]) -> list[str]:
    return [engine.info.languages[0] for _ in windows]


def test_an_engine_says_under_its_own_name_what_was_loaded(
    engine: Recognizer, request_of: EngineRequest
) -> None:
    info = engine.info

    assert info.engine == request_of.engine
    assert info.model
    assert info.device == "cpu"
    assert info.compute_type not in ("", "auto")
    assert info.languages
    assert "transcribe" in info.tasks
    assert info.batch_size >= 1


def test_detection_ranks_the_engine_s_languages_for_each_window(
    engine: Recognizer, windows: list[Window]
) -> None:
    detected = engine.detect_language(engine.encode(windows))

    assert len(detected) == len(windows)
    for ranking in detected:
        probabilities = list(ranking.values())
        assert set(ranking) <= set(engine.info.languages)
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1 + 1e-3


def test_each_window_is_decoded_in_its_place(
    engine: Recognizer, windows: list[Window], decoded: list[Decoded]
) -> None:
    assert len(engine.encode(windows)) == len(decoded) == len(windows)
    assert [item.language for item in decoded] == languages_of(engine, windows)
    assert len({item.text for item in decoded}) == len(windows)  # three different sentences


def test_selected_windows_are_decoded_as_they_were_in_the_whole_batch(
    engine: Recognizer, windows: list[Window], decoded: list[Decoded]
) -> None:
    order = [2, 1]

    selected = engine.encode(windows).select(order)
    again = engine.decode(selected, [decoded[i].language for i in order], DecodingOptions())

    assert len(selected) == len(order)
    assert [item.text for item in again] == [decoded[i].text for i in order]


def test_every_word_of_the_text_is_timed_in_order_inside_its_window(
    engine: Recognizer, windows: list[Window], decoded: list[Decoded]
) -> None:
    aligned = engine.align(engine.encode(windows), decoded, DecodingOptions())

    assert len(aligned) == len(windows)
    for window, item, words in zip(windows, decoded, aligned, strict=True):
        assert words
        assert "".join(word.text for word in words).split() == item.text.split()
        assert window.start <= words[0].start
        assert words[-1].end <= window.end + 1e-6
        assert all(before.end <= after.start + 1e-6 for before, after in pairwise(words))
        assert all(word.probability is None or 0 <= word.probability <= 1 for word in words)


def test_an_engine_continues_the_known_beginning_of_a_window(
    engine: Recognizer, windows: list[Window]
) -> None:
    first, second = windows[:2]
    samples = np.concatenate([first.samples, second.samples])
    whole = Window(first.start, samples, (*first.regions, *second.regions))
    text, words = decoded_alone(engine, whole)
    known = Known("".join(word.text for word in words if word.end <= second.start), second.start)

    rest, rest_words = decoded_alone(engine, replace(whole, regions=second.regions, known=known))

    assert 0 < len(rest.text) < len(text.text)
    assert known.text + rest.text == text.text
    for word, expected in zip(rest_words, words[-len(rest_words) :], strict=True):
        assert word.text == expected.text
        assert word.start == pytest.approx(expected.start, abs=0.1)
        assert word.end == pytest.approx(expected.end, abs=0.1)


def decoded_alone(engine: Recognizer, window: Window) -> tuple[Decoded, list[Word]]:
    encoded = engine.encode([window])
    (text,) = engine.decode(encoded, languages_of(engine, [window]), DecodingOptions())
    (words,) = engine.align(encoded, [text], DecodingOptions())
    return text, words


@pytest.mark.parametrize(
    "wrong", [{"model": "no-such-model"}, {"device": "abacus"}, {"compute_type": "int3"}]
)
def test_what_an_engine_does_not_have_is_refused_with_the_value_and_a_hint(
    request_of: EngineRequest, wrong: dict[str, str]
) -> None:
    fields = {"engine": request_of.engine, "model": request_of.model, "device": "cpu", **wrong}

    with pytest.raises(TranscribeError, match=next(iter(wrong.values()))) as caught:
        load_recognizer(EngineRequest(offline=True, **fields))

    assert caught.value.hint


@pytest.mark.parametrize("name", ["ctranslate2", "whisper"])
def test_without_a_gpu_the_second_one_is_as_little_to_be_had_as_the_first(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "whisper":
        pytest.importorskip("torch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    asked = EngineRequest(engine=name, model=str(whisper_nano()), threads=2, offline=True, gpu=1)
    engine = load_recognizer(asked)
    device = engine.info.device
    engine.close()

    assert device == "cpu"
    with pytest.raises(EngineUnavailableError, match=r"(?i)cuda") as caught:
        load_recognizer(replace(asked, device="cuda"))
    assert caught.value.hint


def test_an_unknown_engine_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(UnknownNameError, match="'vosk'") as caught:
        load_recognizer(EngineRequest(engine="vosk"))

    assert caught.value.hint == "choose one of: auto, ctranslate2, whisper"


def test_the_fake_engine_says_the_same_however_a_recording_is_cut() -> None:
    engine = load_recognizer(EngineRequest(engine="fake"))
    samples = np.zeros(20 * SAMPLE_RATE_HZ, dtype=np.float32)

    def say(*cuts: float) -> str:
        encoded = engine.encode([window_of(samples, start, end) for start, end in pairwise(cuts)])
        return "".join(
            item.text for item in engine.decode(encoded, ["en"] * len(encoded), DecodingOptions())
        )

    assert say(0, 4) == " word0200 word0201 word0202 word0203 word0204 word0205 word0206 word0207."
    assert say(0, 20) == say(0, 7.5, 12, 20)


def test_the_failing_fake_fails_as_a_broken_engine_does() -> None:
    engine = load_recognizer(EngineRequest(engine="fake", model="fake-failing"))
    windows = [window_of(np.zeros(SAMPLE_RATE_HZ, dtype=np.float32), 0, 1)]

    with pytest.raises(EngineFailedError, match="fake-failing"):
        engine.decode(engine.encode(windows), ["en"], DecodingOptions())
