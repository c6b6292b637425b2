"""A server that stops: every answer ends, and the log has nothing that looks like a fault."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import wave
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from asgi import ask
from http_clients import connected, form
from mcp_places import Home, home, http_server
from patience import PATIENCE_S, until
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from whisper_nano import SPEECH

from transcribe_mcp.frontends.host import Address
from transcribe_mcp.frontends.http.exchange import STOPPING
from transcribe_mcp.frontends.http.guard import Area, Guard
from transcribe_mcp.frontends.http.start import Server

CLIP = (SPEECH / "en_0.flac").read_bytes()
TOKEN = "a-token-0123456789abcdef"
MCP = "Accept: application/json, text/event-stream\r\nContent-Type: application/json"
HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {},
               "clientInfo": {"name": "x", "version": "1"}},
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Home]:
    """Its jobs stay in the queue."""
    with home(tmp_path / "home", START_WORKERS="0", TOKEN=TOKEN) as made:
        yield made


class Request:
    """A request over a connection of its own."""

    def __init__(
        self, url: str, method: str, path: str, body: bytes = b"", headers: str = ""
    ) -> None:
        self.connection = connected(url)
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {TOKEN}",
                 f"Content-Length: {len(body)}", *filter(None, [headers])]  # fmt: skip
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        self.answer = HTTPResponse(self.connection)

    def begin(self) -> HTTPResponse:
        self.answer.begin()
        return self.answer

    def read(self) -> bytes:
        """What is left of the answer; raises if it is cut off."""
        try:
            return self.answer.read()
        finally:
            self.close()

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


def upload(url: str, recording: bytes, **fields: str) -> Request:
    body, kind = form(recording, **fields)
    return Request(url, "POST", "/v1/audio/transcriptions", body, f"Content-Type: {kind}")


def jobs(url: str) -> list[dict[str, Any]]:
    request = Request(url, "GET", "/api/jobs", headers="Connection: close")
    request.begin()
    found: list[dict[str, Any]] = json.loads(request.read())["jobs"]
    return found


def silence(path: Path, seconds: int) -> bytes:
    """More than the buffers of a connection take."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(bytes(2 * 48_000 * seconds))
    return path.read_bytes()


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_streams_end_downloads_are_cut_others_are_refused_and_nothing_is_logged(
    place: Home, asked: signal.Signals
) -> None:
    log: list[str] = []
    with ExitStack() as running:
        url = running.enter_context(http_server(place, log=log, asked=asked))
        waiting = upload(url, silence(place.root / "long.wav", 300), language="en")
        until(lambda: len(jobs(url)) == 1, "the job waits for a worker")
        greeting = Request(url, "POST", "/mcp", json.dumps(HELLO).encode(), MCP)
        mcp = f"{MCP}\r\nMcp-Session-Id: {greeting.begin().headers['mcp-session-id']}"
        greeting.close()
        streams = {
            "page": Request(url, "GET", "/api/events"),
            "mcp": Request(url, "GET", "/mcp", headers=mcp),
            "text": upload(url, CLIP, stream="true"),
        }
        for name, request in streams.items():
            assert request.begin().status == 200, name
        until(lambda: len(jobs(url)) == 2, "both jobs are there")
        stalled = Request(url, "GET", f"/api/jobs/{jobs(url)[-1]['job_id']}/audio")
        assert stalled.begin().status == 200

    rest = {name: request.read() for name, request in streams.items()}
    assert f'"message":"{STOPPING}"'.encode() in rest["text"]
    answer = waiting.begin()
    assert (answer.status, json.loads(waiting.read())["error"]["code"]) == (503, "stopping")
    stalled.close()
    assert log == [f"open {url.removesuffix('mcp')}\n"]


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[None]:
    """The lifespan of a server, as uvicorn has it."""
    orders: asyncio.Queue[Any] = asyncio.Queue()
    answers: asyncio.Queue[Any] = asyncio.Queue()
    lifespan = asyncio.create_task(server({"type": "lifespan"}, orders.get, answers.put))
    await orders.put({"type": "lifespan.startup"})
    assert (await answers.get())["type"] == "lifespan.startup.complete"
    yield
    await orders.put({"type": "lifespan.shutdown"})
    await lifespan


def test_a_request_that_waits_for_its_routes_is_refused_when_the_server_stops() -> None:
    loading = threading.Event()

    def make() -> Guard:
        loading.wait(PATIENCE_S)
        return Guard(Starlette(), [Area("/", is_public=True)], Address())

    server = Server(make, Address(), "")

    async def stopped(scope: Scope, receive: Receive, send: Send) -> None:
        async with running(server):
            request = asyncio.create_task(server(scope, receive, send))
            await asyncio.wait([request], timeout=0)  # it waits for the routes
            request.cancel()
            await request
            loading.set()

    refused = ask(stopped, "POST", "/v1/audio/transcriptions", b"unread", content_length="6")

    assert (refused.status, refused.error["code"]) == (503, "stopping")
    assert refused.headers["x-request-id"]
