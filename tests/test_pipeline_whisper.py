"""The whole flow with a real Whisper on audio whose words are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from media import write_audio
from numpy.typing import NDArray

from transcribe_mcp.audio import SAMPLE_RATE_HZ, read
from transcribe_mcp.comparison import align, normalise
from transcribe_mcp.engines import Engine, EngineRequest, load_engine
from transcribe_mcp.evaluation import Truth, load_truth
from transcribe_mcp.pipeline import Options, transcribe
from transcribe_mcp.regions import FRAME_S, Region, RegionFinder
from transcribe_mcp.settings import settings
from transcribe_mcp.transcript import Transcript
from transcribe_mcp.vad import SpeechDetector

SHARED = Path(__file__).parents[2] / "shared"
NANO, SPOKEN = SHARED / "whisper-nano", SHARED / "eval" / "tts"
NEAR_SPEECH_S = 0.1
AT_ZERO = (0.0,)  # no sampling: the text is the model's alone

pytestmark = pytest.mark.skipif(not NANO.is_dir(), reason=f"{NANO} is not on this machine")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Engine]]:
    """The engine with so many threads; converted models go to a directory of this run."""
    engines: dict[int, Engine] = {}

    def load(threads: int) -> Engine:
        if threads not in engines:
            request = EngineRequest("ctranslate2", str(NANO), "cpu", threads=threads, offline=True)
            engines[threads] = load_engine(request)
        return engines[threads]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSCRIBE_MCP_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        settings.cache_clear()
        yield load
    for engine in engines.values():
        engine.close()
    settings.cache_clear()


@pytest.fixture(scope="module")
def engine(load: Callable[[int], Engine]) -> Engine:
    return load(2)


@pytest.fixture(scope="module")
def join(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Evaluation windows one after another in one file, each without the silence at its end."""
    directory = tmp_path_factory.mktemp("joined")
    ends = {truth.path.name: truth.segments[-1].end or 30.0 for truth in load_truth(SPOKEN)}

    def join(*numbers: int) -> Path:
        parts: list[NDArray[np.float32]] = []
        for number in numbers:
            name = f"{number:02d}.flac"
            parts.append(read(SPOKEN / name)[: round((ends[name] + 0.8) * SAMPLE_RATE_HZ)])
        return write_audio(directory / ("-".join(map(str, numbers)) + ".wav"), "pcm_s16le", np.concatenate(parts))

    return join


@pytest.fixture(scope="module")
def first(engine: Engine) -> Transcript:
    return transcribe(SPOKEN / "00.flac", engine)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return load_truth(SPOKEN)[0]


def speech_in(path: Path) -> list[Region]:
    return RegionFinder().push(SpeechDetector(2).push(read(path), last=True), last=True)


def error_share(transcript: Transcript, truth: Truth) -> float:
    reference = normalise(" ".join(segment.text for segment in truth.segments), "en")
    found = normalise(transcript.text, "en")
    wrong = sum(i is None or j is None or reference[i] != found[j] for i, j in align(reference, found))
    return wrong / len(reference)


def test_the_words_that_were_said_are_found(first: Transcript, truth: Truth) -> None:
    assert first.language == "en"
    assert first.language_probability is not None and first.language_probability > 0.9
    assert error_share(first, truth) <= 0.25  # the model's own share on this set is 0.15


def test_words_are_in_order_inside_speech_and_make_up_the_text(first: Transcript) -> None:
    regions = speech_in(SPOKEN / "00.flac")

    assert "".join(word.text for word in first.words).strip() == first.text
    assert all(before.end <= after.start + 1e-6 for before, after in pairwise(first.words))
    for word in first.words:
        assert 0 < word.end - word.start <= 2.0 + 1e-6
        assert any(r.start - NEAR_SPEECH_S <= word.start and word.end <= r.end + NEAR_SPEECH_S for r in regions)
        assert word.probability is not None and 0 <= word.probability <= 1


def test_segments_are_sentences_and_lie_where_they_were_said(first: Transcript, truth: Truth) -> None:
    assert len(first.segments) == len(truth.segments)
    for found, said in zip(first.segments, truth.segments, strict=True):
        assert found.text.strip()[0].isupper()
        assert found.text.strip()[-1] in ".!?"
        assert found.start == pytest.approx(said.start, abs=0.3)


@pytest.fixture(scope="module")
def english(join: Callable[..., Path]) -> Path:
    """Three windows."""
    return join(13, 23, 4, 5)


@pytest.fixture(scope="module")
def plain(engine: Engine, english: Path) -> Transcript:
    return transcribe(english, engine, Options(temperatures=AT_ZERO))


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 2), (8, 1)])
def test_batches_and_threads_do_not_change_the_text(
    load: Callable[[int], Engine], english: Path, plain: Transcript, batch_size: int, threads: int
) -> None:
    options = Options(temperatures=AT_ZERO, batch_size=batch_size, threads=threads)

    assert transcribe(english, load(threads), options).text == plain.text


@pytest.mark.parametrize("asked", [{"vocabulary": ("Venezuela", "Westerns")}, {"prompt": "IN CAPITALS. ALL OF IT."}])
def test_vocabulary_and_prompt_change_what_is_heard_and_batches_do_not(
    engine: Engine, english: Path, plain: Transcript, asked: dict[str, object]
) -> None:
    one_by_one, together = (
        transcribe(english, engine, Options(temperatures=AT_ZERO, batch_size=size, **asked)) for size in (1, 8)
    )

    assert together.text != plain.text
    assert together.text == one_by_one.text


def test_a_recording_that_begins_in_another_language_is_taken_for_what_most_of_it_is(
    engine: Engine, join: Callable[..., Path]
) -> None:
    transcript = transcribe(join(15, 13, 23, 4, 5, 6), engine, Options(temperatures=AT_ZERO))

    assert transcript.language == "en"
    assert [notice.code for notice in transcript.warnings if notice.code.startswith("language")] == ["languages_mixed"]
    assert " es" in transcript.warnings[0].message


def test_multilingual_writes_each_part_in_its_own_language(engine: Engine, join: Callable[..., Path]) -> None:
    options = Options(temperatures=AT_ZERO, multilingual=True)
    path = join(11, 18)

    transcript = transcribe(path, engine, options)

    assert transcript.segments[0].language == "es"
    assert transcript.segments[-1].language == "en"
    assert all(notice.code != "languages_mixed" for notice in transcript.warnings)


def tone(seconds: float) -> NDArray[np.float32]:
    t = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def white_noise(seconds: float) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(0, 0.1, round(seconds * SAMPLE_RATE_HZ)).astype(np.float32)


def clicks(seconds: float) -> NDArray[np.float32]:
    samples = np.zeros(round(seconds * SAMPLE_RATE_HZ), np.float32)
    samples[:: SAMPLE_RATE_HZ // 3] = 0.9
    return samples


@pytest.mark.parametrize("sound", [tone, white_noise, clicks])
def test_what_is_no_speech_gives_no_words(
    engine: Engine, tmp_path: Path, sound: Callable[[float], NDArray[np.float32]]
) -> None:
    transcript = transcribe(write_audio(tmp_path / "sound.wav", "pcm_s16le", sound(40)), engine)

    assert transcript.words == ()
    assert "no_speech" in [notice.code for notice in transcript.warnings]


@pytest.mark.parametrize("vad", [True, False])
def test_a_tenth_of_a_second_of_speech_is_no_trouble(engine: Engine, tmp_path: Path, vad: bool) -> None:
    moment = read(SPOKEN / "00.flac")[SAMPLE_RATE_HZ : SAMPLE_RATE_HZ + SAMPLE_RATE_HZ // 10]

    transcript = transcribe(write_audio(tmp_path / "moment.wav", "pcm_s16le", moment), engine, Options(vad=vad))

    assert transcript.duration == pytest.approx(0.1, abs=FRAME_S)
    assert Transcript.loads(transcript.dumps()).text == transcript.text
