"""Requests to an ASGI application without a network."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


def ask(app: Any, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """The whole answer. ``x_api_key`` is the header ``x-api-key``. Method WEBSOCKET opens one."""
    given = {"host": "localhost", **headers}
    is_socket = method == "WEBSOCKET"
    scope = {
        "type": "websocket" if is_socket else "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "ws" if is_socket else "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (name.replace("_", "-").encode(), value.encode("latin-1"))
            for name, value in given.items()
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {"websocket.http.response": {}},
    }
    first = {"type": "websocket.connect"} if is_socket else {"type": "http.request", "body": body}
    incoming: list[dict[str, Any]] = [first]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start = next((message for message in sent if message["type"].endswith("response.start")), None)
    if start is None:  # an accepted or closed WebSocket
        return Answer(101 if sent[0]["type"] == "websocket.accept" else 403, {}, b"")
    found = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    return Answer(start["status"], found, b"".join(each.get("body", b"") for each in sent))
