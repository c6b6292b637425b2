"""Routes that load while the server already answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from patience import PATIENCE_S
from starlette.applications import Starlette

from transcribe_mcp.frontends.http import later
from transcribe_mcp.frontends.http.later import Later


class Made:
    """An application that counts how often it was built."""

    def __init__(self) -> None:
        self.n = 0
        self.later = Later(self._make)

    def _make(self) -> Any:
        self.n += 1
        return Starlette()


def test_the_first_request_builds_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later, "HEAD_START_S", 10 * PATIENCE_S)
    made = Made()

    async def requests() -> None:
        async with made.later.running(None):
            await asyncio.to_thread(int)  # a thread for the application would have been first
            assert made.n == 0
            both = await asyncio.wait_for(
                asyncio.gather(made.later.loaded(), made.later.loaded()), PATIENCE_S
            )
            assert both[0] is both[1]

    asyncio.run(requests())
    assert made.n == 1


def test_without_requests_the_application_is_built_soon() -> None:
    made = Made()

    async def no_request() -> None:
        async with made.later.running(None):
            await asyncio.wait_for(asyncio.shield(made.later._app), PATIENCE_S)

    asyncio.run(no_request())
    assert made.n == 1
