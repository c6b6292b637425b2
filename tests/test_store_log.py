"""What a server logs about a database that it cannot read."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from transcribe_mcp.frontends.http import page_events
from transcribe_mcp.frontends.http.page_events import Events
from transcribe_mcp.frontends.mcp import notices, sdk
from transcribe_mcp.frontends.mcp.notices import Notices
from transcribe_mcp.service.async_service import AsyncService
from transcribe_mcp.service.service import Service
from transcribe_mcp.service.viewing import Viewing
from transcribe_mcp.settings import Settings

LOOKS = 5
FAILED = ["the database cannot be read now: store_damaged"]


class Looks(AsyncService):
    """Counts calls, and repairs the database after some."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.n_calls = 0
        self.are_over = asyncio.Event()

    async def call(self, function, *arguments):  # type: ignore[no-untyped-def]
        self.n_calls += 1
        if self.n_calls == LOOKS:
            (self.service.settings.data_dir / "transcribe-mcp.db").unlink()
        if self.n_calls > 2 * LOOKS:
            self.are_over.set()
        return await super().call(function, *arguments)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    for module, name in ((page_events, "LOOK_S"), (notices, "POLL_S"), (notices, "MAX_POLL_S")):
        monkeypatch.setattr(module, name, 0.0)
    (tmp_path / "transcribe-mcp.db").write_bytes(b"this is no database" * 100)
    return Service(Settings(data_dir=tmp_path, start_workers=False))


def test_a_page_whose_database_cannot_be_read_logs_it_once(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async def listen() -> None:
        looks = Looks(service)
        stream = Events(looks, Viewing(service)).stream()
        listening = asyncio.ensure_future(anext(stream))
        await looks.are_over.wait()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    with closing(service):
        asyncio.run(listen())
    assert caplog.messages == [*FAILED, "the database can be read again"]


def test_an_mcp_server_whose_database_cannot_be_read_logs_it_once(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async def watch() -> None:
        looks = Looks(service)
        watched = Notices(sdk.InMemorySubscriptionBus(), looks, lambda _: {})
        watched._streams = 1
        watching = asyncio.ensure_future(watched.watch())
        await looks.are_over.wait()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    with closing(service):
        asyncio.run(watch())
    assert caplog.messages == [*FAILED, "the database can be read again"]
