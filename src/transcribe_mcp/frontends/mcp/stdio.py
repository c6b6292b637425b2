"""MCP over standard input and output, with an error for lines that are not valid JSON.

The SDK skips such a line, and its client waits forever. JavaScript writes them: half a surrogate
pair in a file name is enough.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import anyio
from pydantic import ValidationError

from . import sdk

_ID = re.compile(r'"id"\s*:\s*(-?[0-9]{1,18}|"[^"\\]{0,200}")')


async def serve(server: sdk.MCPServer) -> None:
    """Serve until the client closes its side."""
    core = server._lowlevel_server
    async with sdk.stdio_server() as (reading, writing):
        await core.run(_Answering(reading, writing), writing, core.create_initialization_options())


class _Answering:
    """The incoming messages; answers unreadable requests with an error."""

    def __init__(self, reading: Any, writing: Any) -> None:
        self._reading = reading
        self._writing = writing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reading, name)

    async def receive(self) -> Any:
        while True:
            item = await self._reading.receive()
            answer = _answer(item) if isinstance(item, ValidationError) else None
            if answer is None:
                return item
            await self._writing.send(sdk.SessionMessage(answer))

    def __aiter__(self) -> _Answering:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> _Answering:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reading.aclose()


def _answer(error: ValidationError) -> sdk.types.JSONRPCError | None:
    """The error for a line with an ``id``; other lines get no answer."""
    first = error.errors(include_url=False)[0]
    line = first["input"]
    if first["type"] != "json_invalid" or not isinstance(line, str):
        return None
    found: Any = None
    with suppress(ValueError, RecursionError):
        found = json.loads(line)  # unlike the SDK's parser, it accepts half a surrogate pair
    number = found.get("id") if isinstance(found, dict) else None
    if number is None and (match := _ID.search(line)):
        number = json.loads(match[1])
    if isinstance(number, bool) or not isinstance(number, int | str):
        return None
    reason = str(first.get("ctx", {}).get("error", "invalid JSON"))
    data = sdk.types.ErrorData(
        code=sdk.types.PARSE_ERROR, message=f"the request cannot be read: {reason}"
    )
    return sdk.types.JSONRPCError(jsonrpc="2.0", id=number, error=data)
