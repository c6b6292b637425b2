"""Real MCP servers, each a process of its own, and the official client that talks to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from job_places import Place, end_workers
from mcp import Client, StdioServerParameters, types
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from patience import PATIENCE_S
from whisper_nano import CACHE, whisper_nano

SERVE = ("-m", "transcribe_mcp", "serve")
MODERN, LEGACY = "2026-07-28", "legacy"
STATUSES = ("queued", "running", "completed", "failed", "cancelled")


@dataclass(frozen=True)
class Home:
    """A directory that may be read (``root``), one that may not (``outside``), and the data of the
    servers.
    """

    path: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.path / "root"

    @property
    def outside(self) -> Path:
        return self.path / "outside"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("TRANSCRIBE_MCP_")
        }
        chosen = {
            "MODEL": str(whisper_nano()),
            "DATA_DIR": str(self.data),
            "CACHE_DIR": str(CACHE / "cache"),
            "ALLOWED_ROOTS": str(self.root),
            "OFFLINE": "1",
            "EXIT_AFTER_S": "60",
            **self.settings,
        }
        return kept | {f"TRANSCRIBE_MCP_{name}": value for name, value in chosen.items()}


@contextmanager
def home(path: Path, **settings: str) -> Iterator[Home]:
    """No server and no worker of it is left when it ends."""
    made = Home(path, settings)
    made.root.mkdir(parents=True)
    made.outside.mkdir()
    try:
        yield made
    finally:
        end_workers(Place(made.data))


@dataclass(frozen=True)
class Caller:
    """The official client, called from tests that are no coroutines."""

    portal: BlockingPortal
    client: Client

    def call(self, tool: str, **arguments: Any) -> types.CallToolResult:
        return self.portal.call(self._call, tool, arguments)

    async def _call(self, tool: str, arguments: dict[str, Any]) -> types.CallToolResult:
        return await self.client.call_tool(tool, arguments, read_timeout_seconds=PATIENCE_S)

    def answer(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The answer of a call that succeeds."""
        result = self.call(tool, **arguments)
        assert not result.is_error, result.content
        return answer_of(result)

    def refusal(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The error of a call that is refused in words."""
        result = self.call(tool, **arguments)
        assert result.is_error, result.content
        answer = answer_of(result)
        assert set(answer) == {"error"} and answer["error"]["message"], answer
        error: dict[str, Any] = answer["error"]
        return error

    def finished(self, job_id: str) -> dict[str, Any]:
        """The job's last state."""
        while True:
            answer = self.answer("get_transcription_progress", job_id=job_id, wait_s=45)
            if answer["status"] not in ("queued", "running"):
                return answer


def answer_of(result: types.CallToolResult) -> dict[str, Any]:
    """An answer comes once: one block of text that is a JSON object, in which a status is a
    job's.
    """
    assert result.structured_content is None
    (block,) = result.content
    assert isinstance(block, types.TextContent)
    answer = json.loads(block.text)
    assert isinstance(answer, dict)
    if "status" in answer:
        assert answer["job_id"] and answer["status"] in STATUSES
    return answer


@contextmanager
def calling(server: Any, mode: str = MODERN, **options: Any) -> Iterator[Caller]:
    """A client of a server: an address, or how to start one."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Client(server, mode=mode, **options)) as client,
    ):
        yield Caller(portal, client)


@contextmanager
def calling_with_token(url: str, token: str, mode: str = MODERN) -> Iterator[Caller]:
    """A client of an HTTP server that sends a bearer token."""
    with start_blocking_portal() as portal:
        headers = {"Authorization": f"Bearer {token}"}
        http = portal.wrap_async_context_manager(create_mcp_http_client(headers=headers))
        with http as session:
            client = Client(streamable_http_client(url, http_client=session), mode=mode)
            with portal.wrap_async_context_manager(client) as entered:
                yield Caller(portal, entered)


def stdio(place: Home, *arguments: str, **variables: str) -> StdioServerParameters:
    environment = place.environment | variables
    return StdioServerParameters(
        command=sys.executable, args=[*SERVE, *arguments], env=environment, cwd=str(place.path)
    )


@contextmanager
def http_server(
    place: Home,
    *arguments: str,
    log: list[str] | None = None,
    asked: signal.Signals = signal.SIGTERM,
    **variables: str,
) -> Iterator[str]:
    """The address of a server that listens on a free port and ends when it is ``asked``. ``log``
    gets its standard error.
    """
    command = [sys.executable, *SERVE, "--http", "--port", "0", *arguments]
    environment = place.environment | variables
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, env=environment, cwd=place.path, text=True
    ) as server:
        assert server.stderr is not None
        try:
            line = server.stderr.readline()
            assert line.startswith("serving MCP on "), line
            yield line.rpartition(" ")[2].strip()
        finally:
            server.send_signal(asked)
            server.wait(PATIENCE_S)
            rest = server.stderr.read()  # communicate() would miss what readline() has buffered
            if log is not None:
                log.append(rest)
