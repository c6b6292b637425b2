"""The flow with an engine that says what the test tells it to; see ``test_pipeline_whisper`` for
real decoding.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import write_audio
from numpy.typing import NDArray
from patience import PATIENCE_S
from scripted_engine import INFO, ScriptedBatch, ScriptedEngine, said

from transcribe_mcp.domain.options import Options
from transcribe_mcp.domain.transcript import Transcript, Word
from transcribe_mcp.engines import Decoded, DecodingOptions
from transcribe_mcp.errors import (
    CancelledError,
    EngineFailedError,
    TranscribeError,
    UnknownNameError,
    UnsupportedTaskError,
    UsageError,
)
from transcribe_mcp.pipeline.offline import transcribe
from transcribe_mcp.speech.regions import Window

SAMPLE_RATE_HZ = 16_000
WELCOME = Path(__file__).parents[1] / "samples" / "welcome.flac"
LONG_S = 700.0  # three blocks of reading
EVERYTHING = Options(vad=False)  # noise is taken for speech


def noise(seconds: float) -> NDArray[np.float32]:
    return (
        np.random.default_rng(4).normal(0, 0.1, round(seconds * SAMPLE_RATE_HZ)).astype(np.float32)
    )


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_audio(tmp_path_factory.mktemp("audio") / "minute.wav", "pcm_s16le", noise(60))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_audio(tmp_path_factory.mktemp("audio") / "long.wav", "pcm_s16le", noise(LONG_S))


@pytest.fixture
def no_thread_stays() -> Iterator[None]:
    """Fails the test that leaves a thread behind."""
    before = set(threading.enumerate())
    yield
    started = [thread for thread in threading.enumerate() if thread not in before]
    for thread in started:
        thread.join(PATIENCE_S)
    assert [thread.name for thread in started if thread.is_alive()] == []


# -- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_every_window_is_decoded_once_in_full_batches(long: Path, batch_size: int) -> None:
    engine = ScriptedEngine()

    transcript = transcribe(long, engine, replace(EVERYTHING, batch_size=batch_size))

    starts = [start for call in engine.calls for start in call.starts]
    assert len(starts) == len(set(starts)) == len(transcript.words) / 2
    assert all(len(call.starts) == batch_size for call in engine.calls[:-1])
    assert len(engine.calls[-1].starts) <= batch_size


def test_the_batch_size_is_the_engine_s_own_where_none_is_asked_for(long: Path) -> None:
    engine = ScriptedEngine(info=replace(INFO, batch_size=5))

    transcribe(long, engine, EVERYTHING)

    assert {len(call.starts) for call in engine.calls[:-1]} == {5}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_result_is_in_order_whatever_was_decoded_first(long: Path, batch_size: int) -> None:
    def tell_time(window: Window, language: str, options: DecodingOptions) -> Decoded:
        return said(f" At {window.start:.0f} seconds.")

    transcript = transcribe(
        long, ScriptedEngine(hear=tell_time), replace(EVERYTHING, batch_size=batch_size)
    )

    told = [float(segment.text.split()[1]) for segment in transcript.segments]
    assert told == sorted(told)
    assert told[-1] > LONG_S - 60
    assert all(
        segment.start == pytest.approx(time, abs=1)
        for segment, time in zip(transcript.segments, told, strict=True)
    )


def test_options_for_decoding_reach_the_engine(minute: Path) -> None:
    engine = ScriptedEngine(hear=lambda window, language, options: said(" no", logprob=-1.5))
    options = replace(
        EVERYTHING,
        task="translate",
        beam_size=3,
        prompt="Hm.",
        vocabulary=("Kiew",),
        temperatures=(0.0, 0.7),
    )

    transcribe(minute, engine, options)

    asked = DecodingOptions("translate", 3, 0.0, "Hm.", ("Kiew",))
    assert [call.options for call in engine.calls] == [asked, asked.at(0.7)]


# -- languages -------------------------------------------------------------------------------------


def german_before(limit_s: float) -> Callable[[Window], dict[str, float]]:
    def detect(window: Window) -> dict[str, float]:
        first, second = ("de", "en") if window.start < limit_s else ("en", "de")
        return {first: 0.95, second: 0.05}

    return detect


def codes(transcript: Transcript) -> list[str]:
    return [notice.code for notice in transcript.warnings]


def test_windows_from_all_over_the_recording_vote_on_the_language(long: Path) -> None:
    engine = ScriptedEngine(detect=german_before(30))

    transcript = transcribe(long, engine, EVERYTHING)

    assert transcript.language == "en"
    assert transcript.language_probability == pytest.approx(
        0.725, abs=0.1
    )  # one of four windows says de
    assert {language for call in engine.calls for language in call.languages} == {"en"}


def test_a_recording_in_two_languages_is_taken_for_one_and_says_so(minute: Path) -> None:
    transcript = transcribe(minute, ScriptedEngine(detect=german_before(20)), EVERYTHING)

    assert transcript.language == "en"
    assert codes(transcript) == ["languages_mixed"]
    assert "--multilingual" in transcript.warnings[0].message


def test_multilingual_decides_for_each_window(minute: Path) -> None:
    engine = ScriptedEngine(detect=german_before(20))

    transcript = transcribe(minute, engine, replace(EVERYTHING, multilingual=True))

    assert engine.calls[0].languages == ("de", "en", "en")
    assert [segment.language for segment in transcript.segments] == ["de", "en", "en"]
    assert codes(transcript) == []


def test_a_language_that_is_only_a_guess_is_named_so(minute: Path) -> None:
    engine = ScriptedEngine(detect=lambda window: {"de": 0.4, "en": 0.35})

    transcript = transcribe(minute, engine, EVERYTHING)

    assert (transcript.language, codes(transcript)) == ("de", ["language_uncertain"])


@pytest.mark.parametrize("wanted", ["de", "German", " DE "])
def test_a_language_that_was_asked_for_is_not_voted_on(minute: Path, wanted: str) -> None:
    engine = ScriptedEngine()

    transcript = transcribe(minute, engine, replace(EVERYTHING, language=wanted))

    assert transcript.language == "de"
    assert transcript.language_probability is None
    assert engine.calls[0].languages[0] == "de"


# -- refusals --------------------------------------------------------------------------------------

ENGLISH_ONLY = replace(INFO, languages=("en",), tasks=("transcribe",))


@pytest.mark.parametrize(
    ("options", "error", "message", "hint"),
    [
        ({"language": "de"}, UnsupportedTaskError, "German", "multilingual"),
        ({"task": "translate"}, UnsupportedTaskError, "translate", "--model"),
        ({"language": "germn"}, UnknownNameError, "'germn'", "german"),
        ({"language": "xx"}, UnknownNameError, "'xx'", ""),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_anything_is_decoded(
    minute: Path, options: dict[str, Any], error: type[TranscribeError], message: str, hint: str
) -> None:
    engine = ScriptedEngine(info=ENGLISH_ONLY)

    with pytest.raises(error, match=message) as caught:
        transcribe(minute, engine, Options(**options))

    assert hint in caught.value.hint
    assert caught.value.hint
    assert engine.calls == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "summarise"},
        {"temperatures": ()},
        {"temperatures": (0.0, 1.5)},
        {"beam_size": 0},
        {"batch_size": -1},
        {"threads": -1},
        {"multilingual": True, "language": "en"},
    ],
)
def test_options_that_make_no_sense_are_refused_with_a_hint(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        Options(**wrong)  # type: ignore[arg-type]

    assert caught.value.hint


# -- quality ---------------------------------------------------------------------------------------


def test_a_window_that_stays_doubtful_is_kept_and_named_by_its_time(minute: Path) -> None:
    def unsure_in_the_middle(window: Window, language: str, options: DecodingOptions) -> Decoded:
        return said(" perhaps", logprob=-1.5) if 20 < window.start < 40 else said(" All is well.")

    transcript = transcribe(minute, ScriptedEngine(hear=unsure_in_the_middle), EVERYTHING)

    [notice] = transcript.warnings
    assert notice.code == "doubtful_low_probability"
    assert "00:00:2" in notice.message
    assert "perhaps" in transcript.text


def test_words_piled_up_at_the_end_of_a_window_leave_the_transcript_valid(minute: Path) -> None:
    class Piled(ScriptedEngine):
        def align(
            self, encoded: ScriptedBatch, decoded: Sequence[Decoded], options: DecodingOptions
        ) -> list[list[Word]]:
            starts = [
                w.regions[-1].end - 0.01 if w.start == 0 else w.regions[0].start
                for w in encoded.windows
            ]
            pairs = zip(starts, decoded, strict=True)
            return [
                [Word(at, at + 0.01, f" {word}") for word in item.text.split()]
                for at, item in pairs
            ]

    transcript = transcribe(
        minute, Piled(hear=lambda window, language, options: said(" no" * 200)), EVERYTHING
    )

    assert transcript.duration == 60
    assert all(before.end <= after.start + 1e-6 for before, after in pairwise(transcript.words))


def test_windows_that_turn_out_silent_are_neither_timed_nor_in_the_result(minute: Path) -> None:
    def silent_at_first(window: Window, language: str, options: DecodingOptions) -> Decoded:
        return (
            said(" you", logprob=-1.5, no_speech=0.9)
            if window.start < 20
            else said(" All is well.")
        )

    engine = ScriptedEngine(hear=silent_at_first)

    transcript = transcribe(minute, engine, EVERYTHING)

    assert transcript.text == "All is well. All is well."
    assert 0.0 not in engine.aligned
    assert len(engine.aligned) == 2


def test_a_recording_without_speech_gives_a_valid_empty_transcript(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    silence = write_audio(
        tmp_path / "silence.wav", "pcm_s16le", np.zeros(12 * SAMPLE_RATE_HZ, np.float32)
    )

    transcript = transcribe(silence, engine)

    assert (transcript.segments, transcript.text, transcript.duration) == ((), "", 12.0)
    assert codes(transcript) == ["no_speech"]
    assert engine.calls == []
    assert Transcript.loads(transcript.dumps()).segments == ()


@pytest.mark.parametrize("vad", [True, False])
def test_a_tenth_of_a_second_is_a_recording_too(tmp_path: Path, vad: bool) -> None:
    transcript = transcribe(
        write_audio(tmp_path / "short.wav", "pcm_s16le", noise(0.1)),
        ScriptedEngine(),
        Options(vad=vad),
    )

    assert transcript.duration == pytest.approx(0.1)
    assert bool(transcript.words) != vad


def test_the_result_names_what_made_it_and_how_long_each_stage_took(minute: Path) -> None:
    transcript = transcribe(minute, ScriptedEngine(), EVERYTHING)

    made_by = (
        transcript.engine,
        transcript.model,
        transcript.device,
        transcript.compute_type,
        transcript.task,
    )
    assert made_by == ("scripted", "script", "cpu", "none", "transcribe")
    assert transcript.versions.items() >= {"script": "1"}.items()
    assert transcript.source == str(minute)
    assert {"read", "speech", "encode", "language", "decode", "align", "total"} <= set(
        transcript.timings
    )
    assert all(
        0 <= seconds <= transcript.timings["total"] for seconds in transcript.timings.values()
    )
    assert transcript.realtime_factor == pytest.approx(60 / transcript.timings["total"])


def test_words_can_be_left_out_and_the_sentences_stay_the_same(minute: Path) -> None:
    with_words = transcribe(minute, ScriptedEngine(), EVERYTHING)
    without = transcribe(minute, ScriptedEngine(), replace(EVERYTHING, words=False))

    assert without.words == ()
    assert without.segments == tuple(replace(segment, words=()) for segment in with_words.segments)


# -- progress, failures, threads -------------------------------------------------------------------


def test_every_stage_reports_up_to_the_end_and_never_backwards(long: Path) -> None:
    reports: dict[str, list[tuple[float, float | None]]] = defaultdict(list)

    transcribe(
        long,
        ScriptedEngine(),
        EVERYTHING,
        lambda stage, done, total: reports[stage].append((done, total)),
    )

    assert {"read", "speech", "windows"} <= set(reports)
    for stage in ("read", "speech", "windows"):
        done = [row[0] for row in reports[stage]]
        assert all(before <= after for before, after in pairwise(done))
        assert done[-1] == pytest.approx(LONG_S)
    assert all(total == pytest.approx(LONG_S) for rows in reports.values() for _, total in rows)
    assert all(0 <= amount <= LONG_S for rows in reports.values() for amount, _ in rows)


def test_the_windows_stage_ends_at_the_duration_of_a_recording_without_speech_too(
    tmp_path: Path,
) -> None:
    path = write_audio(tmp_path / "noise.wav", "pcm_s16le", noise(20))
    reports: dict[str, list[float]] = defaultdict(list)

    transcribe(
        path, ScriptedEngine(), Options(), lambda stage, done, total: reports[stage].append(done)
    )

    assert reports["windows"][-1] == 20


@pytest.mark.usefixtures("no_thread_stays")
@pytest.mark.parametrize("stage", ["read", "speech", "windows"])
def test_cancelling_at_any_stage_stops_the_work_and_every_thread(long: Path, stage: str) -> None:
    engine = ScriptedEngine()

    def cancel(reported: str, done: float, total: float | None) -> None:
        if reported == stage and done > 0:
            raise CancelledError("the user had enough")

    with pytest.raises(CancelledError, match="had enough"):
        transcribe(long, engine, replace(EVERYTHING, batch_size=1), cancel)

    assert len(engine.calls) == (1 if stage == "windows" else 0)


@pytest.mark.usefixtures("no_thread_stays")
def test_cancelling_stops_voice_detection_too() -> None:
    def cancel(stage: str, done: float, total: float | None) -> None:
        if stage == "windows":
            raise CancelledError("the user had enough")

    with pytest.raises(CancelledError):
        transcribe(WELCOME, ScriptedEngine(), Options(threads=2), cancel)


@pytest.mark.usefixtures("no_thread_stays")
def test_an_engine_that_fails_in_the_middle_fails_the_recording_and_stops_every_thread(
    long: Path,
) -> None:
    engine = ScriptedEngine(fails_at_call=3)

    with pytest.raises(EngineFailedError, match="the script ends here"):
        transcribe(long, engine, replace(EVERYTHING, batch_size=2))

    assert len(engine.calls) == 3


@pytest.mark.usefixtures("no_thread_stays")
def test_a_finished_recording_leaves_no_thread() -> None:
    assert transcribe(WELCOME, ScriptedEngine(), Options(threads=2)).words


def test_engines_are_called_from_the_thread_of_the_caller(minute: Path) -> None:
    engine = ScriptedEngine()

    transcribe(minute, engine, EVERYTHING)

    assert engine.threads == {threading.current_thread().name}


def test_a_recording_that_is_none_is_an_error_before_the_engine_is_asked(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    path = tmp_path / "notes.txt"
    path.write_text("nothing to hear")

    with pytest.raises(TranscribeError, match=r"notes\.txt"):
        transcribe(path, engine)

    assert engine.calls == []
