"""``/v1/realtime`` of a real server, with the official client."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from asgi import ask
from http_clients import form, send
from mcp_places import Home, home, http_server
from media import write_audio
from numpy.typing import NDArray
from patience import PATIENCE_S, until
from starlette.applications import Starlette
from starlette.routing import Route
from whisper_nano import SPEECH

from transcribe_mcp.frontends import host, limited_protocol
from transcribe_mcp.frontends.http import realtime
from transcribe_mcp.frontends.http.realtime import Conversation
from transcribe_mcp.media.decode import SAMPLE_RATE_HZ, read
from transcribe_mcp.service.models import JobStatus
from transcribe_mcp.service.service import Service
from transcribe_mcp.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import openai
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

# How the client itself opens its connection.
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used:DeprecationWarning")

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "live.md").read_text(encoding="utf-8")
TOKEN = "a-token-0123456789abcdef"
DIALOGUE = read(ROOT / "samples" / "dialogue.flac")
SECOND = np.zeros(SAMPLE_RATE_HZ, np.float32)
REAL = "tiny.en"
TRANSCRIPTION = "conversation.item.input_audio_transcription"
ITEM = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with home(tmp_path_factory.mktemp("live"), TOKEN=TOKEN) as made:
        yield made


@pytest.fixture(scope="module")
def url(place: Home) -> Iterator[str]:
    log: list[str] = []
    with http_server(place, log=log) as address:
        yield address.removesuffix("/mcp")
    assert "handshake" not in log[0]  # when a WebSocket is refused


class Talk:
    """A session of the official client."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def send(self, event: dict[str, Any]) -> None:
        self._connection.send(event)

    def update(self, **fields: Any) -> dict[str, Any]:
        """Change ``audio.input``; ``store`` belongs to the session."""
        session: dict[str, Any] = {"type": "transcription"}
        session |= {name: fields.pop(name) for name in ("store",) if name in fields}
        form = {"type": "audio/pcm", "rate": SAMPLE_RATE_HZ}
        session["audio"] = {"input": {"format": form, **fields}}
        self.send({"type": "session.update", "session": session})
        return self.until("session.updated")[-1]["session"]

    def play(self, samples: NDArray[np.float32], chunk_s: float = 0.1) -> None:
        step = round(chunk_s * SAMPLE_RATE_HZ)
        scaled = (np.clip(samples, -1, 1) * 32767).astype("<i2")
        for at in range(0, len(scaled), step):
            audio = base64.b64encode(scaled[at : at + step].tobytes()).decode()
            self._connection.input_audio_buffer.append(audio=audio)

    def until(self, kind: str, times: int = 1) -> list[dict[str, Any]]:
        """The events up to the one of this kind."""
        found: list[dict[str, Any]] = []
        while times:
            raw = self._connection.recv_bytes()
            found.append(json.loads(raw))
            assert self._connection.parse_event(raw).type == found[-1]["type"]
            times -= found[-1]["type"] == kind
        return found

    def code(self) -> str:
        """The code of the next event, which is an error."""
        error = self.until("error")
        assert len(error) == 1 and error[0]["error"]["message"]
        return str(error[0]["error"]["code"])


@contextmanager
def talking(url: str, key: str = TOKEN, *, is_patient: bool = True, **query: str) -> Iterator[Talk]:
    """``is_patient``: wait for the place of a session that has just ended."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key) as client, ExitStack() as stack:
        asked = {"intent": "transcription", **query}
        found: list[Any] = []

        def has_connected() -> bool:
            connecting = client.realtime.connect(
                extra_query=asked, websocket_connection_options={"open_timeout": PATIENCE_S}
            )
            try:
                found.append(stack.enter_context(connecting))
            except InvalidStatus as refused:
                if not is_patient or refused.response.status_code != 503:
                    raise
            return bool(found)

        until(has_connected, "the server has a place")
        yield Talk(found[0])


def words(text: str) -> list[str]:
    return text.lower().replace(",", "").replace(".", "").replace("?", "").split()


def spoken(events: list[dict[str, Any]]) -> list[str]:
    """The texts of the items, each the sum of its deltas."""
    deltas: dict[str, str] = {}
    texts = {}
    for event in events:
        if event["type"] == f"{TRANSCRIPTION}.delta":
            deltas[event["item_id"]] = deltas.get(event["item_id"], "") + event["delta"]
        elif event["type"] == f"{TRANSCRIPTION}.completed":
            texts[event["item_id"]] = event["transcript"]
            assert event["usage"]["type"] == "duration" and event["usage"]["seconds"] >= 0
    assert deltas == {item: text for item, text in texts.items() if text}
    return list(texts.values())


# --- what is said ---------------------------------------------------------------------------------


def test_the_official_client_gets_every_utterance_of_a_dialogue(url: str) -> None:
    with talking(url) as talk:
        created = talk.until("session.created")[-1]["session"]
        assert created["object"] == "realtime.transcription_session"
        updated = talk.update(transcription={"model": REAL})
        assert updated["id"] == created["id"] and updated["type"] == "transcription"
        assert updated["audio"]["input"]["turn_detection"]["type"] == "server_vad"
        talk.play(DIALOGUE)
        talk.play(SECOND)
        events = talk.until(f"{TRANSCRIPTION}.completed", times=3)
    said = " ".join(spoken(events))
    truth = (ROOT / "samples" / "dialogue.txt").read_text(encoding="utf-8")
    missing = [word for word in words(said) if word not in words(truth)]
    assert len(words(said)) > 20 and not missing
    items = [event["item_id"] for event in events if event["type"] == ITEM[2]]
    assert len(set(items)) == 3
    before = [event["previous_item_id"] for event in events if event["type"] == ITEM[2]]
    assert before == [None, *items[:2]]
    for item in items:
        own = [
            each for each in events
            if item in (each.get("item_id"), each.get("item", {}).get("id"))
        ]  # fmt: skip
        assert [each["type"] for each in own] == [
            *ITEM, f"{TRANSCRIPTION}.delta", f"{TRANSCRIPTION}.completed"
        ]  # fmt: skip
        assert own[0]["audio_start_ms"] < own[1]["audio_end_ms"]
    assert len({event["event_id"] for event in events}) == len(events)


def test_a_minute_of_silence_is_no_item(url: str) -> None:
    with talking(url) as talk:
        talk.until("session.created")
        talk.play(np.tile(SECOND, 60), chunk_s=1.0)
        talk.send({"type": "input_audio_buffer.clear"})
        assert len(talk.until("input_audio_buffer.cleared")) == 1


def test_without_turn_detection_a_commit_ends_an_utterance(url: str) -> None:
    clip = read(SPEECH / "en_0.flac")
    with talking(url, model="default") as talk:
        talk.until("session.created")
        talk.update(turn_detection=None)
        talk.play(np.concatenate([clip, SECOND, clip]))
        talk.send({"type": "input_audio_buffer.commit"})
        events = talk.until(f"{TRANSCRIPTION}.completed")
        assert [event["type"] for event in events[:3]] == ITEM[2:]
        assert len(words(*spoken(events))) > 3
        for name in ("audio/pcmu", "audio/pcma"):
            assert talk.update(format={"type": name})["audio"]["input"]["format"]["type"] == name
            talk.play(SECOND)
            talk.send({"type": "input_audio_buffer.commit"})
            assert spoken(talk.until(f"{TRANSCRIPTION}.completed")) == [""]


def test_a_stored_session_is_a_job_with_its_sound(url: str, place: Home) -> None:
    """All of it: the client leaves at once, while the server still finds utterances."""
    with talking(url) as talk:
        assert talk.update(store=True)["store"] is True
        talk.play(DIALOGUE)
        talk.play(SECOND)
    jobs = Service(Settings(data_dir=place.data, start_workers=False))
    until(lambda: jobs.list_jobs().jobs, "the session is a job")
    [job] = jobs.list_jobs().jobs
    until(lambda: jobs.get_job(job.job_id).status.is_final, "the job is done")
    transcript = jobs.get_transcript(job.job_id)
    assert transcript.duration == pytest.approx(len(DIALOGUE) / SAMPLE_RATE_HZ + 1, abs=0.1)
    assert len(words(transcript.text)) > 5
    [left] = (place.data / "uploads").glob("*.wav")  # and no folder of the session
    assert not list((place.data / "uploads").glob("new-*")), left
    jobs.delete(job.job_id)
    jobs.close()


# --- what is refused ------------------------------------------------------------------------------


def test_errors_do_not_end_a_session(url: str) -> None:
    append = "input_audio_buffer.append"
    wrong: list[tuple[Any, str]] = [
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty"),
        ({"type": append, "audio": "no base64!"}, "invalid_audio"),
        ({"type": append, "audio": 7}, "usage"),
        ({"type": append}, "usage"),
        ({"type": "response.create"}, "unknown_event"),
        ({}, "unknown_event"),
        ({"type": "session.update"}, "usage"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "unsupported_value"),
    ]
    with talking(url) as talk:
        talk.until("session.created")
        for number, (event, code) in enumerate(wrong):
            talk.send({**event, "event_id": f"mine_{number}"})
            [error] = talk.until("error")
            assert (error["error"]["code"], error["error"]["event_id"]) == (code, f"mine_{number}")
        talk.send({"type": "nothing", "event_id": "\ud800"})  # half a character comes back as it is
        assert talk.until("error")[-1]["error"]["event_id"] == "\ud800"
        talk._connection.send_raw("no json")
        assert talk.code() == "invalid_json"
        talk._connection.send_raw("[1]")
        assert talk.code() == "invalid_json"
        unknown = {"input": {"transcription": {"model": "nothing"}}}
        talk.send({"type": "session.update", "session": {"audio": unknown}})
        assert talk.code() == "model_not_found"
        talk.play(SECOND)
        talk.send({"type": "input_audio_buffer.commit"})
        assert spoken(talk.until(f"{TRANSCRIPTION}.completed")) == [""]


def test_an_error_of_another_event_does_not_answer_an_update(url: str) -> None:
    with talking(url) as talk:
        talk.update()
        talk.send({"type": "input_audio_buffer.commit"})
        changed = talk.update(turn_detection={"silence_duration_ms": 700})
    assert changed["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 700


def test_a_session_that_cannot_begin_is_closed_with_the_cause(tmp_path: Path) -> None:
    with (
        home(tmp_path / "home", MODEL="medium", HF_HUB_OFFLINE="1") as own,
        http_server(own) as address,
        talking(address.removesuffix("/mcp")) as talk,
    ):
        talk.until("session.created")
        talk.play(SECOND)
        [cause] = talk.until("error")
        assert "medium" in cause["error"]["message"] and cause["error"]["code"]
        assert talk.code() == "engine_failed"
        with pytest.raises(ConnectionClosed) as closed:
            talk.until("nothing")
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011


def test_a_connection_that_may_not_be_is_refused_before_it_is_one(url: str) -> None:
    def status(**fields: Any) -> int:
        with pytest.raises(InvalidStatus) as refused, talking(url, is_patient=False, **fields):
            pass
        return int(refused.value.response.status_code)

    assert status(key=TOKEN + "x") == 401
    with pytest.raises(InvalidStatus) as unknown:
        key = {"Authorization": f"Bearer {TOKEN}"}
        connect(url.replace("http", "ws", 1) + "/v1/nothing", additional_headers=key)
    answer = unknown.value.response
    assert (answer.status_code, json.loads(answer.body)["error"]["code"]) == (404, "not_found")
    assert status(intent="conversation") == 400
    with talking(url) as first, talking(url) as second:
        first.until("session.created")
        second.until("session.created")
        assert status() == 503
    head = "GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    plain = send(url, f"{head}Authorization: Bearer {TOKEN}\r\n\r\n".encode())
    assert plain.status == 426 and "ws://" in plain.error["message"]


def test_a_server_without_websockets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Starlette(routes=[Route(realtime.PATH, realtime.without_websocket)])
    monkeypatch.setattr(realtime, "find_spec", lambda _: None)
    answer = ask(app, "GET", realtime.PATH)
    assert answer.status == 501 and "pip install websockets" in answer.error["message"]
    monkeypatch.setattr(host, "find_spec", lambda _: None)
    assert host._websockets() is None


# --- beside other work ----------------------------------------------------------------------------


def test_two_sessions_are_served_while_a_job_runs(url: str, place: Home, tmp_path: Path) -> None:
    long = tmp_path / "long.wav"
    write_audio(long, "pcm_s16le", np.tile(DIALOGUE, 80))  # 20 min
    body, content_type = form(long.read_bytes(), model=REAL, stream="true")
    service = Service(Settings(data_dir=place.data, start_workers=False))
    key = f"Authorization: Bearer {TOKEN}"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as batch:
        head = ["POST /v1/audio/transcriptions HTTP/1.1", "Host: 127.0.0.1", key,
                f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]  # fmt: skip
        batch.sendall("\r\n".join([*head, "", ""]).encode() + body)

        def running() -> list[str]:
            jobs = service.list_jobs().jobs
            return [each.job_id for each in jobs if each.status is JobStatus.RUNNING]

        until(running, "the job runs")
        with talking(url) as first, talking(url) as second:
            for talk in (first, second):
                talk.update(transcription={"model": REAL})
                talk.play(DIALOGUE[: 6 * SAMPLE_RATE_HZ])
            for talk in (first, second):
                [text] = spoken(talk.until(f"{TRANSCRIPTION}.completed"))
                assert "recording of the meeting" in text
        [job_id] = running()  # the sessions did not wait for its end
        service.cancel(job_id, for_all=True)
        until(lambda: not running(), "the job is cancelled")
    service.close()


def test_a_client_that_leaves_in_the_middle_frees_its_place(url: str) -> None:
    for _ in range(3):
        with talking(url) as talk:
            talk.until("session.created")
            talk.play(DIALOGUE[: 3 * SAMPLE_RATE_HZ])
            talk._connection._connection.socket.shutdown(socket.SHUT_RDWR)
    with talking(url) as first, talking(url) as second:
        assert first.until("session.created") and second.until("session.created")


def test_a_server_that_stops_closes_its_sessions(tmp_path: Path) -> None:
    log: list[str] = []
    with home(tmp_path / "home") as own:
        with http_server(own, "--max-live", "1", log=log) as address:
            connecting = talking(address.removesuffix("/mcp"))
            talk = connecting.__enter__()
            talk.until("session.created")
            talk.play(DIALOGUE[: 2 * SAMPLE_RATE_HZ])
        with pytest.raises(ConnectionClosed) as closed:
            talk.until("nothing")
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
        connecting.__exit__(None, None, None)
    assert "Traceback" not in log[0]


def test_a_session_without_sound_is_no_slow_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of a request end where a WebSocket begins."""
    monkeypatch.setattr(limited_protocol, "REQUEST_S", 0.05)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        await send({"type": "websocket.accept"})
        with suppress(TimeoutError):
            async with asyncio.timeout(10 * limited_protocol.REQUEST_S):
                await asyncio.Event().wait()
        await send({"type": "websocket.send", "text": "still here"})

    config = uvicorn.Config(
        app, http=limited_protocol.LimitedProtocol, ws=host._websockets() or "none",
        lifespan="off", log_level="warning",
    )  # fmt: skip
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as bound, ThreadPoolExecutor(1) as threads:
        running = threads.submit(server.run, sockets=[bound])
        with connect(f"ws://127.0.0.1:{bound.getsockname()[1]}") as websocket:
            assert websocket.recv() == "still here"
        server.should_exit = True
        running.result()


# --- the page about it ----------------------------------------------------------------------------


def test_the_program_of_the_page_prints_what_is_said(url: str) -> None:
    [program] = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    program = program.replace("http://127.0.0.1:8765", url).replace('"none"', repr(TOKEN))
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    assert len(printed.stdout.splitlines()) == 3


def test_the_page_names_every_event() -> None:
    kinds = {"session.created", "session.updated", *ITEM, f"{TRANSCRIPTION}.delta",
             f"{TRANSCRIPTION}.completed", f"{TRANSCRIPTION}.failed"}  # fmt: skip
    kinds |= set(Conversation.HANDLERS)
    for kind in kinds:
        prefix, _, last = kind.rpartition(".")
        assert f"`{kind}`" in PAGE or (f"`.{last}`" in PAGE and prefix in PAGE), kind
