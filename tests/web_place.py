"""A real server with jobs in its store, and the system's Chromium that opens its page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from job_places import fake_options, jobs, place, request
from mcp_places import Home, home, http_server
from patience import until
from whisper_nano import CONVERSATION

from transcribe_mcp import Transcript
from transcribe_mcp.jobs.transcripts import ContentKey
from transcribe_mcp.jobs.worker_store import WorkerStore

WAIT_MS = 60_000  # for what a click shows; a guard, no measure
DURATION_S = 120.0  # of the recording
TOKEN = "a-token-0123456789abcdef"
NAMES = {"anna": "Anna", "ben": "Speaker 2", "carol": "Speaker 3"}
MARKUP = "<img src=x onerror=alert(1)>"
ARGUMENTS = ("--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Stops console messages of other origins from hiding what the policy refused.
REPORT = "addEventListener('securitypolicyviolation', e => console.error('CSP', e.blockedURI))"


@dataclass(frozen=True)
class Site:
    """A server, and the jobs that it has: one of a conversation, one with hostile text."""

    url: str
    home: Home
    talk: str
    hostile: str
    more: tuple[str, ...] = ()


@dataclass
class Tab:
    """A page in the browser. ``problems`` has what its console reported."""

    page: Any
    url: str
    problems: list[str] = field(default_factory=list)

    def note(self, message: Any) -> None:
        self.problems.append(f"{message.text} {message.location['url']}")

    def until(self, condition: str) -> None:
        """Wait for an expression in JavaScript; the policy of the page stops Playwright's way."""
        until(lambda: self.page.evaluate(condition), condition)

    def open(self, path: str, token: str = TOKEN) -> Any:
        self.page.goto(f"{self.url}{path}#token={token}" if token else self.url + path)
        self.page.wait_for_selector("html[data-ready], #door")
        return self.page


def saved(page: Any, state: str = "saved") -> None:
    """Wait until the page says so of its edits."""
    page.locator(f"#saved[data-state={state}]").wait_for()


def spoken(start: float, end: float, texts: Sequence[str], speaker: str | None) -> dict[str, Any]:
    """A segment as in schema.json, with words of equal length."""
    step = (end - start) / len(texts)
    words = [
        {
            "word": f" {text}",
            "start": round(start + i * step, 3),
            "end": round(start + (i + 1) * step, 3),
            "probability": 0.3 if text == "bench" else 0.9,
            "speaker": speaker,
        }
        for i, text in enumerate(texts)
    ]
    return {
        "id": 0, "start": start, "end": end, "text": "".join(word["word"] for word in words),
        "language": None, "speaker": speaker, "avg_logprob": -0.2, "no_speech_prob": 0.0,
        "compression_ratio": 1.0, "temperature": 0.0, "words": words,
    }  # fmt: skip


def document(source: Path, segments: Sequence[dict[str, Any]]) -> Transcript:
    """A transcript as in schema.json, with these segments."""
    turns = [
        {"start": each["start"], "end": each["end"], "speaker": each["speaker"], "overlap": False}
        for each in segments
    ]
    content = {
        "schema_version": 1, "text": "", "language": "en", "language_probability": 0.99,
        "task": "transcribe", "source": str(source), "engine": "fake",
        "duration": max(DURATION_S, segments[-1]["end"]),
        "model": "fake", "device": "cpu", "compute_type": "none", "realtime_factor": 10.0,
        "warnings": [{"code": "quiet", "message": "the recording is quiet"}],
        "timings": {}, "versions": {}, "turns": turns,
        "segments": [{**each, "id": i} for i, each in enumerate(segments)],
    }  # fmt: skip
    return Transcript.loads(json.dumps(content))


def conversation() -> list[dict[str, Any]]:
    """What three people say in the recording, with the words' own times."""
    (truth,) = json.loads((CONVERSATION / "truth.json").read_text(encoding="utf-8"))
    segments = []
    for part in truth["segments"]:
        texts = [word["word"] for word in part["words"]]
        texts[-1] += "."
        segment = spoken(part["start"], part["end"], texts, NAMES[part["speaker"]])
        for word, known in zip(segment["words"], part["words"], strict=True):
            word |= {"start": known["start"], "end": known["end"]}
        segments.append(segment)
    return segments


def hostile() -> list[dict[str, Any]]:
    """Markup and marks of direction, as words and as a name."""
    hebrew = ["\u05e9\u05dc\u05d5\u05dd", "\u202egnp."]
    return [
        spoken(0.5, 3.0, [MARKUP, "</p><script>alert(2)</script>"], "<b>Eve</b>"),
        spoken(4.0, 6.0, hebrew, "\u05d3\u05e0\u05d4"),
    ]


def store(recording: Path, segments: Sequence[dict[str, Any]]) -> str:
    """A finished job of a recording with these segments; returns its id."""
    database = jobs._store()
    job = jobs.submit(request(recording, fake_options(), force=True))
    worker = WorkerStore(database, "device-0")
    claim = worker.claim(job.job_id)
    assert claim is not None
    worker.finish(claim, ContentKey(job.job_id, "test"), document(recording, segments))
    return job.job_id


@contextmanager
def site(folder: Path, *more: tuple[str, Sequence[dict[str, Any]]]) -> Iterator[Site]:
    """A server with a token. ``more``: names and segments of further jobs."""
    with home(folder) as made:
        recording = made.root / "three-voices.opus"
        shutil.copy(CONVERSATION / "three_voices.opus", recording)
        odd = made.root / "\u202e<b>gnp.opus"
        shutil.copy(recording, odd)
        with place(made.data, START_WORKERS="0"):  # this process plays the worker
            talk = store(recording, conversation())
            other = store(odd, hostile())
            rest = []
            for name, segments in more:
                shutil.copy(recording, made.root / name)
                rest.append(store(made.root / name, segments))
        with http_server(made, TRANSCRIBE_MCP_TOKEN=TOKEN) as url:
            yield Site(url.removesuffix("/mcp"), made, talk, other, tuple(rest))


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's browser. Skips without it, or without Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield started
        started.close()


@contextmanager
def tab(browser: Any, url: str, **options: Any) -> Iterator[Tab]:
    """A page of its own session."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, **options)
    try:
        made = Tab(context.new_page(), url)
        made.page.set_default_timeout(WAIT_MS)
        made.page.on("pageerror", lambda error: made.problems.append(str(error)))
        made.page.on("console", lambda message: message.type == "error" and made.note(message))
        made.page.add_init_script(REPORT)
        yield made
    finally:
        context.close()
