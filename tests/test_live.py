"""Live sessions without a server: utterances, their texts, limits, and the process that hears."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from queue import Queue
from threading import Event

import numpy as np
import pytest
from numpy.typing import NDArray
from patience import PATIENCE_S
from scripted_engine import ScriptedEngine, said
from whisper_nano import NON_SPEECH, SPEECH

from transcribe_mcp.domain.options import Options
from transcribe_mcp.engines import Decoded, DecodingOptions
from transcribe_mcp.errors import EngineFailedError
from transcribe_mcp.jobs.models import JobOptions
from transcribe_mcp.live import session as live
from transcribe_mcp.live.client import LiveProcess
from transcribe_mcp.live.messages import EMPTY, RATE_LIMIT, LiveEvent, LiveSetup
from transcribe_mcp.live.session import OneModel, Session
from transcribe_mcp.media.decode import SAMPLE_RATE_HZ, read
from transcribe_mcp.media.live_input import LiveFormat, LiveInput
from transcribe_mcp.runtime.executor import Executor
from transcribe_mcp.settings import Settings
from transcribe_mcp.speech.detector import SpeechDetector
from transcribe_mcp.speech.regions import WINDOW_S, RegionFinder, RegionRules, Window
from transcribe_mcp.speech.utterances import (
    Found,
    SpeechStarted,
    SpeechStopped,
    TurnRules,
    UtteranceFinder,
)

Samples = NDArray[np.float32]
CLIP = read(SPEECH / "en_0.flac")
PAUSE = np.zeros(SAMPLE_RATE_HZ, np.float32)
SPOKEN = np.concatenate([PAUSE, CLIP, PAUSE])
SENTENCE = np.concatenate([PAUSE, CLIP[: 3 * SAMPLE_RATE_HZ], PAUSE])  # its first


def pcm(samples: Samples) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def found_in(samples: Samples, step: int, rules: TurnRules | None = None) -> list[Found]:
    finder = UtteranceFinder(rules or TurnRules())
    pieces = (samples[at : at + step] for at in range(0, len(samples), step))
    return [*(found for piece in pieces for found in finder.push(piece)), *finder.flush()]


def windows(found: Sequence[Found]) -> list[Window]:
    return [each for each in found if isinstance(each, Window)]


# --- utterances -----------------------------------------------------------------------------------


def test_utterances_do_not_depend_on_how_the_sound_is_cut() -> None:
    whole = found_in(np.tile(SPOKEN, 3), 10**9)
    assert [type(each) for each in whole] == [SpeechStarted, Window, SpeechStopped] * 3
    for step in (160, 511, 4_000):
        for before, after in zip(whole, found_in(np.tile(SPOKEN, 3), step), strict=True):
            if isinstance(before, Window) and isinstance(after, Window):
                assert (before.start, before.regions) == (after.start, after.regions)
                assert np.array_equal(before.samples, after.samples)
            else:
                assert before == after


def test_an_utterance_is_the_region_that_voice_detection_finds_in_the_whole() -> None:
    sound = np.tile(SPOKEN, 2)
    finder = RegionFinder(RegionRules(min_silence_s=0.5))
    regions = finder.push(SpeechDetector(threads=1).push(sound, last=True), last=True)
    found = windows(found_in(sound, 320))
    assert [window.regions for window in found] == [(region,) for region in regions]
    for window, region in zip(found, regions, strict=True):
        assert window.start == pytest.approx(region.start - TurnRules().prefix_s)
        first = round(window.start * SAMPLE_RATE_HZ)
        assert np.array_equal(window.samples, sound[first : first + len(window.samples)])


def test_speech_without_a_pause_is_cut_into_windows_that_lose_no_sample() -> None:
    sound = np.tile(CLIP, 1 + int(70 * SAMPLE_RATE_HZ / len(CLIP)))
    found = found_in(sound, 16_000, TurnRules(silence_s=10.0))
    parts = windows(found)
    assert [type(each) for each in found] == [
        SpeechStarted, *[Window] * len(parts), SpeechStopped
    ]  # fmt: skip
    assert len(parts) > 2 and all(part.duration <= WINDOW_S for part in parts)
    joined = np.concatenate([part.samples for part in parts])
    first = round(parts[0].start * SAMPLE_RATE_HZ)
    assert np.array_equal(joined, sound[first : first + len(joined)])


@pytest.mark.parametrize("form", [LiveFormat(), LiveFormat("pcm_mulaw", 8_000)])
def test_sound_is_resampled_alike_however_it_is_cut(form: LiveFormat) -> None:
    data = pcm(CLIP)
    seconds = len(data) / form.sample_bytes / form.rate_hz
    resampled = []
    for step in (961, 48_000, len(data)):
        stream = LiveInput(form)
        pieces = [stream.push(data[at : at + step]) for at in range(0, len(data), step)]
        late = stream.finish()
        assert len(late) <= 0.05 * SAMPLE_RATE_HZ
        resampled.append(np.concatenate([*pieces, late]))
    assert len(resampled[0]) == pytest.approx(seconds * SAMPLE_RATE_HZ, abs=2)
    assert np.array_equal(resampled[0], resampled[1]) and np.array_equal(*resampled[1:])


# --- sessions -------------------------------------------------------------------------------------


class Talk:
    """A session of a scripted engine, and its events."""

    def __init__(self, engine: ScriptedEngine, model: OneModel | None = None) -> None:
        self.events: Queue[LiveEvent] = Queue()
        self.defects: list[BaseException] = []
        executor = Executor(lambda spec, progress: [engine], own_thread=True)
        self.model = model or OneModel(executor)
        self.session = Session(self.model, self.events.put, self.defects.append)

    def do(self, do: str, **fields: object) -> None:
        self.session.put({"do": do, **fields})

    def configure(self, **fields: object) -> LiveEvent:
        setup = LiveSetup(JobOptions(language="en"), rate_hz=SAMPLE_RATE_HZ)
        self.do("configure", setup=setup.to_json() | fields)
        return self.until("configured", "refused")[-1]

    def play(self, samples: Samples) -> None:
        self.do("append", audio=base64.b64encode(pcm(samples)).decode())

    def until(self, *kinds: str) -> list[LiveEvent]:
        found = [self.events.get(timeout=PATIENCE_S)]
        while found[-1].kind not in kinds:
            assert found[-1].kind not in ("ended", "closed"), found
            found.append(self.events.get(timeout=PATIENCE_S))
        return found


@contextmanager
def talking(hear: Callable[[Window, str, DecodingOptions], Decoded]) -> Iterator[Talk]:
    talk = Talk(ScriptedEngine(hear))
    yield talk
    talk.do("close")
    talk.until("closed")
    assert not talk.defects


class Counting:
    """Hears "This is number 1." in the first window, and so on."""

    def __init__(self) -> None:
        self.heard: list[Window] = []
        self.prompts: list[str] = []

    def __call__(self, window: Window, language: str, options: DecodingOptions) -> Decoded:
        self.heard.append(window)
        self.prompts.append(options.prompt)
        return said(f" This is number {len(self.heard)}.")


def test_the_model_hears_an_utterance_after_those_before_it_and_continues_their_text() -> None:
    hear = Counting()
    with talking(hear) as talk:
        talk.configure()
        for number in (1, 2, 3):
            talk.play(SENTENCE)
            kinds = talk.until("completed")
            assert [each.kind for each in kinds] == [
                "started", "stopped", "committed", "text", "completed"
            ]  # fmt: skip
            assert {each.item for each in kinds} == {number}
            assert kinds[-1].text == kinds[-2].text == f"This is number {number}."
            assert 0 < kinds[-1].seconds < len(SENTENCE) / SAMPLE_RATE_HZ
    heard = hear.heard
    assert heard[0].known is None and not any(hear.prompts)
    for before, window, text in zip(
        heard,
        heard[1:],
        (" This is number 1.", " This is number 1. This is number 2."),
        strict=False,
    ):
        assert window.known is not None and window.known.text == text
        assert np.array_equal(window.samples[: len(before.samples)], before.samples)
        assert window.known.end == pytest.approx(window.start + before.duration)
        (region,) = window.regions
        assert window.known.end < region.start < region.end <= window.end


def test_text_before_what_the_model_hears_again_is_the_prompt() -> None:
    hear = Counting()
    n_sentences = 3 + int(WINDOW_S * SAMPLE_RATE_HZ / len(SENTENCE)) * 2
    with talking(hear) as talk:
        talk.configure()
        for _ in range(n_sentences):
            talk.play(SENTENCE)
            talk.until("completed")
    heard, prompts = hear.heard, hear.prompts
    assert all(window.duration < WINDOW_S - 0.9 for window in heard)  # silence follows
    assert prompts[0] == "" and prompts[-1].startswith("This is number 1.")
    for number, (window, prompt) in enumerate(zip(heard, prompts, strict=True)):
        known = window.known.text if window.known else ""
        texts = [f" This is number {n}." for n in range(1, number + 1)]
        assert f" {prompt}{known}".strip() == "".join(texts).strip()


def test_where_the_language_is_detected_each_utterance_is_heard_by_itself() -> None:
    hear = Counting()
    with talking(hear) as talk:
        talk.configure(options=JobOptions().dumps())
        for _ in range(3):
            talk.play(SENTENCE)
            talk.until("completed")
    assert [window.known for window in hear.heard] == [None] * 3
    assert hear.prompts == ["", "This is number 1.", "This is number 1. This is number 2."]


def test_an_utterance_without_a_sure_text_after_others_is_heard_by_itself() -> None:
    """A noise after speech is not speech by itself."""
    heard: list[Window] = []

    def hear(window: Window, language: str, options: DecodingOptions) -> Decoded:
        heard.append(window)
        if len(heard) == 1:
            return said(" This is number 1.")
        return said(" The", logprob=-1.5, no_speech=0.9 if window.known is None else 0.01)

    with talking(hear) as talk:
        talk.configure()
        for _ in range(2):
            talk.play(SENTENCE)
            found = talk.until("completed")
    assert heard[1].known is not None and heard[-1].known is None
    assert found[-1].text == ""


def test_a_text_that_the_model_doubts_is_no_prompt() -> None:
    prompts = []

    def hear(window: Window, language: str, options: DecodingOptions) -> Decoded:
        prompts.append(options.prompt)
        return said(" Perhaps it is this.", logprob=-1.5)

    with talking(hear) as talk:
        talk.configure()
        for _ in range(2):
            talk.play(SPOKEN)
            talk.until("completed")
    assert set(prompts) == {""}


def test_parts_of_a_long_utterance_are_one_item_with_a_text_each() -> None:
    numbers = count(1)

    def hear(window: Window, language: str, options: DecodingOptions) -> Decoded:
        return said(f" Part {next(numbers)}.")

    with talking(hear) as talk:
        talk.configure(finds_turns=False)
        talk.play(np.tile(CLIP, 1 + int(35 * SAMPLE_RATE_HZ / len(CLIP))))
        talk.do("commit", tag="c")
        found = talk.until("completed")
    assert found[0].kind == "committed"  # no text comes before
    texts = [each.text for each in found if each.kind == "text"]
    assert len(texts) > 1 and "".join(texts) == found[-1].text
    assert found[-1].text.startswith("Part 1. Part 2.")


def test_a_failed_utterance_does_not_end_the_session() -> None:
    numbers = count()

    def hear(window: Window, language: str, options: DecodingOptions) -> Decoded:
        if next(numbers) == 0:
            raise EngineFailedError("the script fails", hint="try again")
        return said(" Again.")

    with talking(hear) as talk:
        talk.configure()
        talk.play(SPOKEN)
        failed = talk.until("failed")[-1]
        assert (failed.item, failed.code, failed.hint) == (1, "engine_failed", "try again")
        talk.play(SPOKEN)
        assert talk.until("completed")[-1].text == "Again."


def test_speech_that_comes_faster_than_it_is_recognized_ends_the_session() -> None:
    may_go_on = Event()

    def hear(window: Window, language: str, options: DecodingOptions) -> Decoded:
        assert may_go_on.wait(PATIENCE_S)
        return said(" Late.")

    with talking(hear) as talk:
        talk.configure()
        for _ in range(1 + int(live.MAX_WAITING_S * SAMPLE_RATE_HZ / len(CLIP)) * 2):
            talk.play(SPOKEN)
        ended = talk.until("ended")[-1]
        assert ended.code == RATE_LIMIT and "30 s" in ended.message
        may_go_on.set()
        talk.play(SPOKEN)  # is ignored


def test_utterances_are_heard_by_themselves_while_others_wait() -> None:
    heard: list[Window] = []
    may_go_on = Event()

    def hear(window: Window, language: str, options: DecodingOptions) -> Decoded:
        assert may_go_on.wait(PATIENCE_S)
        heard.append(window)
        return said(f" This is number {len(heard)}.")

    n_sentences = 4
    with talking(hear) as talk:
        talk.configure()
        for _ in range(n_sentences):
            talk.play(SENTENCE)
            talk.until("committed")
        may_go_on.set()
        for _ in range(n_sentences):
            talk.until("completed")
    assert [window.known is not None for window in heard] == [False, False, False, True]


def test_a_session_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_SESSION_S", 3.0)
    with talking(lambda *_: said(" x")) as talk:
        talk.configure()
        talk.play(np.zeros(2 * SAMPLE_RATE_HZ, np.float32))
        talk.play(np.zeros(2 * SAMPLE_RATE_HZ, np.float32))
        assert talk.until("ended")[-1].code == RATE_LIMIT


def test_an_empty_buffer_cannot_be_committed_and_a_cleared_one_is_empty() -> None:
    with talking(lambda *_: said(" Said.")) as talk:
        talk.configure(finds_turns=False)
        talk.do("commit", tag="first")
        assert talk.until("error")[-1].tag == "first"
        talk.play(SPOKEN)
        talk.do("clear")
        talk.until("cleared")
        talk.do("commit", tag="second")
        refused = talk.until("error")[-1]
        assert (refused.code, refused.tag) == (EMPTY, "second")
        talk.play(np.zeros(SAMPLE_RATE_HZ, np.float32))
        talk.do("commit")
        committed, completed = talk.until("completed")
        assert (committed.kind, completed.text) == ("committed", "")


def test_a_setup_that_cannot_be_is_refused_and_the_next_one_counts() -> None:
    with talking(lambda *_: said(" Said.")) as talk:
        refused = talk.configure(options=JobOptions(language="fr").dumps())
        assert refused.kind == "refused" and "French" in refused.message and refused.hint
        assert talk.configure().kind == "configured"
        talk.play(SPOKEN)
        assert talk.until("completed")[-1].text == "Said."


def test_sessions_have_one_model_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def wants(model: str) -> str:
        return JobOptions(model=model, language="en").dumps()

    engine = ScriptedEngine(lambda *_: said(" Said."))
    with talking(lambda *_: said(" Said.")) as first:
        assert first.configure(options=wants("small")).kind == "configured"
        second = Talk(engine, first.model)
        monkeypatch.setattr(live, "LEAVING_S", 0.0)
        loaded = first.model.executor.loaded
        for model, kind in (("medium", "refused"), ("small", "configured"), (loaded, "configured")):
            answer = second.configure(options=wants(model))
            assert answer.kind == kind, answer
            assert answer.kind == "configured" or (loaded in answer.message and answer.hint)
        assert first.configure(options=wants("medium")).kind == "refused"
        second.do("close")
        second.until("closed")
        assert first.configure(options=wants("medium")).kind == "configured"
        first.play(SPOKEN)
        assert first.until("completed")[-1].text == "Said."


def test_noise_and_silence_are_no_utterances() -> None:
    rules = TurnRules()
    for path in sorted(NON_SPEECH.glob("0[0-6]*")):
        assert windows(found_in(read(path)[: 20 * SAMPLE_RATE_HZ], 8_000, rules)) == [], path
    assert Options().vad


# --- the process ----------------------------------------------------------------------------------


def test_a_process_that_ends_is_told_to_its_sessions_and_the_next_one_starts_another(
    tmp_path: Path,
) -> None:
    code = "import sys; sys.stdin.readline(); sys.exit(3)"
    process = LiveProcess(Settings(data_dir=tmp_path), (sys.executable, "-c", code))
    for _ in range(2):
        events: Queue[LiveEvent] = Queue()
        session = process.open(events.put)
        session.commit()
        ended = events.get(timeout=PATIENCE_S)
        assert (ended.kind, ended.code) == ("ended", "engine_failed")
        assert "exit code 3" in ended.message and "live.log" in ended.hint
        assert events.get(timeout=PATIENCE_S).kind == "closed"
        session.close()
    process.close()


def test_the_process_ends_some_time_after_its_last_session(tmp_path: Path) -> None:
    chosen = Settings(data_dir=tmp_path, unload_after_s=0)
    process = LiveProcess(chosen)
    events: Queue[LiveEvent] = Queue()
    session = process.open(events.put)
    running = process._running
    session.close()
    assert events.get(timeout=PATIENCE_S).kind == "closed"
    assert running is not None and running._process.wait(PATIENCE_S) == 0
    process.close()
