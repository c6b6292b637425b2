"""A request and its response, from the first byte to the last, also when the server stops."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from .error_answer import refusal

LINGER_S = 10.0  # for the rest of a request that is answered early
STOPPING = "the server is stopping; send the request again when it runs"


class Exchange:
    """A request and its answer, as the application sees them.

    Answers get an id. If the application answers before it has read the request, the rest is read
    for a while: many clients read the response only after sending everything, and lose it if the
    connection is closed before.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        # A client that sends "Expect: 100-continue" waits for the answer.
        self._is_unread = scope["type"] == "http" and has_body and "expect" not in headers
        self._is_answered = False  # or the answer has begun
        self._is_open = False  # part of the response is missing
        self._scope = scope
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._is_unread = False
        return message

    async def send(self, message: Message) -> None:
        self._is_answered = True
        self._is_open = message["type"] == "http.response.start" or message.get("more_body", False)
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            MutableHeaders(scope=message).setdefault("x-request-id", secrets.token_hex(8))
        is_last = message["type"] == "http.response.body" and not self._is_open
        if is_last and self._is_unread:
            await self._send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    while self._is_unread:
                        await self.receive()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def end(self) -> None:
        """Complete the answer: streams of events just return when the server stops."""
        if self._is_open:
            await self._send({"type": "http.response.body", "body": b""})

    async def stop(self) -> None:
        """Answer a request that the server does not wait for. An answer that has begun is lost."""
        if not self._is_answered:
            self._is_unread = False  # no time for the rest
            response = refusal(503, STOPPING, "stopping")
            await response(self._scope, self.receive, self.send)
