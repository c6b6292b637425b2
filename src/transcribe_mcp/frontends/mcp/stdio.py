"""MCP over standard input and output, with an answer to lines that the SDK does not read.

The SDK skips such a line, and its client waits forever. JavaScript writes invalid JSON: half a
surrogate pair in a file name is enough. Clients of 2025-03-26 may send several messages in a list,
and PowerShell begins with a byte order mark.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
from pydantic import ValidationError

from . import sdk

_BYTE_ORDER_MARK = "\ufeff"
_OF_THE_WHOLE = ("missing", "model_type")  # types of errors whose input is the whole message
_ID = re.compile(r'"id"\s*:\s*(-?[0-9]{1,18}|"[^"\\]{0,200}")')


async def serve(server: sdk.MCPServer) -> None:
    """Serve until the client closes its side."""
    core = server._lowlevel_server
    async with sdk.stdio_server() as (reading, writing):
        await core.run(_Answering(reading, writing), writing, core.create_initialization_options())


class _Answering:
    """The incoming messages; answers requests that cannot be read with an error."""

    def __init__(self, reading: Any, writing: Any) -> None:
        self._reading = reading
        self._writing = writing
        self._read: deque[Any] = deque()  # messages of a list

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reading, name)

    async def receive(self) -> Any:
        while True:
            item = self._read.popleft() if self._read else await self._reading.receive()
            if isinstance(item, sdk.types.JSONRPCError):
                await self._writing.send(sdk.SessionMessage(item))
                continue
            found = _read_again(item) if isinstance(item, ValidationError) else []
            if not found:
                return item
            self._read.extend(found)

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


def _read_again(error: ValidationError) -> list[Any]:
    """The messages in a line, and errors for invalid ones that expect an answer."""
    errors = error.errors(include_url=False)
    line = errors[0]["input"]
    if errors[0]["type"] == "json_invalid":
        if isinstance(line, str) and line.startswith(_BYTE_ORDER_MARK):
            return _message(
                line.lstrip(_BYTE_ORDER_MARK), sdk.types.jsonrpc_message_adapter.validate_json
            )
        answer = _unreadable(line, errors[0])
        return [answer] if answer else []
    whole = next((each["input"] for each in errors if each["type"] in _OF_THE_WHOLE), None)
    if isinstance(whole, list):
        check = sdk.types.jsonrpc_message_adapter.validate_python
        return [each for part in whole for each in _message(part, check)]
    return _invalid(whole)


def _message(content: Any, check: Callable[..., Any]) -> list[Any]:
    try:
        return [sdk.SessionMessage(check(content, by_name=False))]
    except ValidationError as error:
        return _read_again(error) if isinstance(content, str) else _invalid(content)


def _invalid(content: Any) -> list[Any]:
    """An error for an invalid request; nothing for answers and notifications."""
    if not isinstance(content, dict) or {"result", "error"} & content.keys():
        return []
    number = content.get("id")
    if isinstance(number, bool) or not isinstance(number, int | str):
        return []
    message = (
        'the request is not one of JSON-RPC 2.0; send {"jsonrpc": "2.0", "id": 1, "method": "…", '
        '"params": {}}'
    )
    data = sdk.types.ErrorData(code=sdk.types.INVALID_REQUEST, message=message)
    return [sdk.types.JSONRPCError(jsonrpc="2.0", id=number, error=data)]


def _unreadable(line: Any, error: Any) -> sdk.types.JSONRPCError | None:
    """The error for a line with an ``id`` that is not JSON; other lines get no answer."""
    if not isinstance(line, str):
        return None
    found: Any = None
    with suppress(ValueError, RecursionError):
        found = json.loads(line)  # unlike the SDK's parser, it accepts half a surrogate pair
    number = found.get("id") if isinstance(found, dict) else None
    if number is None and (match := _ID.search(line)):
        number = json.loads(match[1])
    if isinstance(number, bool) or not isinstance(number, int | str):
        return None
    reason = str(error.get("ctx", {}).get("error", "invalid JSON"))
    data = sdk.types.ErrorData(
        code=sdk.types.PARSE_ERROR, message=f"the request cannot be read: {reason}"
    )
    return sdk.types.JSONRPCError(jsonrpc="2.0", id=number, error=data)
