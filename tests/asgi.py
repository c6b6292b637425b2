"""Requests to an ASGI application without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found


def ask(
    app: Any, method: str, path: str, body: bytes | Sequence[bytes] = b"", **headers: str
) -> Answer:
    """The whole answer. The client leaves once it has sent the body, which may come in pieces.

    ``x_api_key`` is the header ``x-api-key``. The method WEBSOCKET opens one.
    """
    given = {"host": "localhost", **headers}
    path, _, query = path.partition("?")
    pieces = [body] if isinstance(body, bytes) else body
    is_socket = method == "WEBSOCKET"
    scope = {
        "type": "websocket" if is_socket else "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "ws" if is_socket else "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [
            (name.replace("_", "-").encode(), value.encode("latin-1"))
            for name, value in given.items()
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {"websocket.http.response": {}},
    }
    incoming: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, start=1)
    ]
    if is_socket:
        incoming = [{"type": "websocket.connect"}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0) if incoming else {"type": f"{scope['type']}.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start = next((message for message in sent if message["type"].endswith("response.start")), None)
    if start is None:  # an accepted or closed WebSocket
        return Answer(101 if sent[0]["type"] == "websocket.accept" else 403, {}, b"")
    found = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    return Answer(start["status"], found, b"".join(each.get("body", b"") for each in sent))
