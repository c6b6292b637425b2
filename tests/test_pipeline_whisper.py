"""The whole flow with real engines: its parts fit together; see ``test_exact`` for how well it
hears.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from media import write_audio
from whisper_nano import SPEECH, join_speech, kept_conversions, speech_truths, whisper_nano

from transcribe_mcp.align.edit_distance import align
from transcribe_mcp.domain.options import Options
from transcribe_mcp.domain.transcript import Transcript
from transcribe_mcp.engines import EngineRequest, Recognizer, load_recognizer
from transcribe_mcp.media.decode import SAMPLE_RATE_HZ, read
from transcribe_mcp.pipeline.offline import transcribe
from transcribe_mcp.quality.evaluation import Truth
from transcribe_mcp.quality.wer import normalise
from transcribe_mcp.speech.detector import SpeechDetector
from transcribe_mcp.speech.regions import FRAME_S, Region, RegionFinder

WELCOME = Path(__file__).parents[1] / "samples" / "welcome.flac"
NEAR_SPEECH_S = 0.1
AT_ZERO = (0.0,)  # no sampling: the text is the model's alone
ENGLISH = ("en_0", "en_1", "en_2", "en_3", "en_4")  # 45 s: two windows
SPANISH = ("es_0", "es_1", "es_2")  # 27 s: one


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[int], Recognizer]]:
    """The engine with so many threads."""
    engines: dict[int, Recognizer] = {}

    def load(threads: int) -> Recognizer:
        if threads not in engines:
            request = EngineRequest(
                "ctranslate2", str(whisper_nano()), "cpu", "int8", threads=threads, offline=True
            )
            engines[threads] = load_recognizer(request)
        return engines[threads]

    with kept_conversions():
        yield load
    for engine in engines.values():
        engine.close()


@pytest.fixture(scope="module")
def engine(load: Callable[[int], Recognizer]) -> Recognizer:
    return load(2)


@pytest.fixture(scope="module")
def first(engine: Recognizer) -> Transcript:
    return transcribe(SPEECH / "en_0.flac", engine)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return speech_truths()["en_0"]


def speech_in(path: Path) -> list[Region]:
    return RegionFinder().push(SpeechDetector(2).push(read(path), last=True), last=True)


def error_share(transcript: Transcript, truth: Truth) -> float:
    reference = normalise(" ".join(segment.text for segment in truth.segments), "en")
    found = normalise(transcript.text, "en")
    wrong = sum(
        i is None or j is None or reference[i] != found[j] for i, j in align(reference, found)
    )
    return wrong / len(reference)


def test_the_words_that_were_said_are_found(first: Transcript, truth: Truth) -> None:
    assert first.language == "en"
    assert first.language_probability is not None and first.language_probability > 0.9
    assert error_share(first, truth) <= 0.05


def test_words_are_in_order_inside_speech_and_make_up_the_text(first: Transcript) -> None:
    regions = speech_in(SPEECH / "en_0.flac")

    assert "".join(word.text for word in first.words).strip() == first.text
    assert all(before.end <= after.start + 1e-6 for before, after in pairwise(first.words))
    for word in first.words:
        assert 0 < word.end - word.start <= 2.0 + 1e-6
        assert any(
            r.start - NEAR_SPEECH_S <= word.start and word.end <= r.end + NEAR_SPEECH_S
            for r in regions
        )
        assert word.probability is not None and 0 <= word.probability <= 1


def test_segments_are_sentences_and_lie_where_they_were_said(
    first: Transcript, truth: Truth
) -> None:
    assert len(first.segments) == len(truth.segments)
    for found, said in zip(first.segments, truth.segments, strict=True):
        assert found.text.strip()[0].isupper()
        assert found.text.strip()[-1] in ".!?"
        assert found.start == pytest.approx(said.start, abs=0.3)


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return join_speech(tmp_path_factory.mktemp("joined") / "english.wav", ENGLISH).path


@pytest.fixture(scope="module")
def plain(engine: Recognizer, english: Path) -> Transcript:
    return transcribe(english, engine, Options(temperatures=AT_ZERO))


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 2), (8, 1)])
def test_batches_and_threads_do_not_change_the_text(
    load: Callable[[int], Recognizer],
    english: Path,
    plain: Transcript,
    batch_size: int,
    threads: int,
) -> None:
    options = Options(temperatures=AT_ZERO, batch_size=batch_size, threads=threads)

    assert transcribe(english, load(threads), options).text == plain.text


@pytest.mark.parametrize(
    "asked", [{"vocabulary": ("Zaragoza", "kitchen")}, {"prompt": "IN CAPITALS. ALL OF IT."}]
)
def test_vocabulary_and_prompt_change_how_it_is_heard_and_batches_do_not(
    engine: Recognizer, english: Path, plain: Transcript, asked: dict[str, object]
) -> None:
    one_by_one, together = (
        transcribe(english, engine, Options(temperatures=AT_ZERO, batch_size=size, **asked))
        for size in (1, 8)
    )

    assert logprobs(together) != pytest.approx(logprobs(plain), abs=1e-4)
    assert logprobs(together) == pytest.approx(logprobs(one_by_one), abs=1e-4)
    assert together.text == one_by_one.text


def logprobs(transcript: Transcript) -> list[float | None]:
    return [segment.avg_logprob for segment in transcript.segments]


def test_a_recording_that_begins_in_another_language_is_taken_for_what_most_of_it_is(
    engine: Recognizer, tmp_path: Path
) -> None:
    path = join_speech(tmp_path / "mixed.wav", SPANISH + ENGLISH).path

    transcript = transcribe(path, engine, Options(temperatures=AT_ZERO))

    assert transcript.language == "en"
    assert [
        notice.code for notice in transcript.warnings if notice.code.startswith("language")
    ] == ["languages_mixed"]
    assert " es" in transcript.warnings[0].message


@pytest.mark.parametrize("vad", [True, False])
def test_a_tenth_of_a_second_of_speech_is_no_trouble(
    engine: Recognizer, tmp_path: Path, vad: bool
) -> None:
    moment = read(SPEECH / "en_0.flac")[SAMPLE_RATE_HZ : SAMPLE_RATE_HZ + SAMPLE_RATE_HZ // 10]

    transcript = transcribe(
        write_audio(tmp_path / "moment.wav", "pcm_s16le", moment), engine, Options(vad=vad)
    )

    assert transcript.duration == pytest.approx(0.1, abs=FRAME_S)
    assert Transcript.loads(transcript.dumps()).text == transcript.text


def test_the_clock_of_the_fake_engine_is_the_recording_s_own(english: Path) -> None:
    transcript = transcribe(
        english, load_recognizer(EngineRequest(engine="fake")), Options(vad=False)
    )

    assert (
        len(transcript.words) > transcript.duration * 2 * 0.9
    )  # a word each half second, less those at the cuts
    for word in transcript.words:
        assert word.start == pytest.approx(
            int(word.text.strip().strip(".").removeprefix("word")) / 2, abs=0.06
        )
