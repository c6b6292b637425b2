"""``/v1/realtime``: live transcription with OpenAI's Realtime API.

A WebSocket is one session. Its audio goes to the live process, whose events come back.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ...errors import TranscribeError
from ...service.async_service import AsyncService
from ...service.live import (
    RATE_LIMIT,
    LiveEvent,
    LiveProcess,
    LiveSession,
    SoundFile,
    settled_setup,
)
from ...service.models import JobOptions
from .error_answer import refusal
from .parts import Part
from .realtime_events import Event, ItemEvents, error, error_of, event, new_id
from .realtime_session import DEFAULT, merged, setup_of
from .refusals import Refused, refused_by

PATH = "/v1/realtime"
SUBPROTOCOL = "realtime"
MAX_SESSION_S = 3600.0
MAX_AUDIO_CHARS = 15 * 1024 * 1024
CLOSING_S = 10.0  # for the file of a session that is saved
MAX_MESSAGES = 8  # queued messages
POLICY = 1008  # codes of WebSockets
FAILED = 1011

_log = logging.getLogger("transcribe_mcp.http")


def part(service: AsyncService) -> Part:
    live = LiveProcess(service.service.settings)
    max_sessions = service.service.settings.max_live
    sessions: set[WebSocket] = set()

    async def serve(websocket: WebSocket) -> None:
        refused = _refusal(websocket, is_full=len(sessions) >= max_sessions)
        if refused is not None:
            await websocket.send_denial_response(refused)
            return
        sessions.add(websocket)
        try:
            await Conversation(websocket, service, live).run()
        finally:
            sessions.discard(websocket)

    return Part([WebSocketRoute(PATH, serve), Route(PATH, without_websocket)])


async def without_websocket(_: Request) -> Response:
    """The answer to a plain HTTP request, or if the server cannot open WebSockets."""
    if find_spec("websockets") is None:
        message = "this server cannot open WebSockets; there: pip install websockets"
        return refusal(501, message, "no_websockets")
    message = f"{PATH} is a WebSocket; connect to it with ws:// or wss://"
    return refusal(426, message, "usage", headers={"upgrade": "websocket"})


def _refusal(websocket: WebSocket, *, is_full: bool) -> Response | None:
    intent = websocket.query_params.get("intent", "transcription")
    if intent != "transcription":
        message = f"there is no intent {intent[:64]!r} on this server; connect with transcription"
        return refusal(400, message, "unsupported_value", param="intent")
    if is_full:
        message = "the maximum number of live sessions is open; try again later"
        return refusal(503, message, "too_many_sessions", headers={"retry-after": "10"})
    return None


class Conversation:
    """One WebSocket and its live session."""

    def __init__(self, websocket: WebSocket, service: AsyncService, live: LiveProcess) -> None:
        self._websocket = websocket
        self._service = service
        self._live = live
        self._id = new_id("sess")
        self._shown: dict[str, Any] = dict(DEFAULT)
        self._options: JobOptions | None = None  # once it is set up
        self._events: asyncio.Queue[LiveEvent | Event] = asyncio.Queue()
        self._received: asyncio.Queue[str | None] = asyncio.Queue(MAX_MESSAGES)
        self._answer: asyncio.Future[LiveEvent] | None = None  # of the setup in progress
        self._items = ItemEvents(self._id)
        self._closed: asyncio.Future[LiveEvent] = asyncio.get_running_loop().create_future()
        self._expires_at = int(time.time() + MAX_SESSION_S)
        self._sound: SoundFile | None = None
        self._session: LiveSession

    async def run(self) -> None:
        """Serve until the client leaves, or an error ends the session."""
        offered = self._websocket.scope.get("subprotocols", [])
        await self._websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        try:
            self._session = await self._service.call(self._live.open, self._listener())
        except OSError as failed:  # no memory for a process
            message = f"the process of live sessions cannot be started: {failed.strerror}"
            await self._end(LiveEvent("ended", code="engine_failed", message=message))
            return
        with suppress(asyncio.CancelledError):  # the server ends, and this task with it
            try:
                await self._converse()
            finally:
                await asyncio.shield(asyncio.ensure_future(self._close()))

    def _listener(self) -> Callable[[LiveEvent], None]:
        loop = asyncio.get_running_loop()

        def listen(found: LiveEvent) -> None:
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(self._take, found)

        return listen

    def _take(self, found: LiveEvent) -> None:
        if found.kind != "closed":
            self._events.put_nowait(found)
        elif not self._closed.done():
            self._closed.set_result(found)

    async def _converse(self) -> None:
        model = self._websocket.query_params.get("model")
        if model:
            self._shown = merged(DEFAULT, _transcription_by(model))
        self._events.put_nowait(event("session.created", session=self._session_object()))
        parts = (self._receive(), self._read(), self._write())
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=MAX_SESSION_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                minutes = MAX_SESSION_S / 60
                message = f"the session is {minutes:.0f} min old; open another"
                await self._end(LiveEvent("ended", code=RATE_LIMIT, message=message))
            for task in done:
                task.result()
        except WebSocketDisconnect:
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _close(self) -> None:
        """End the session. If it is saved, its audio becomes a job."""
        await self._service.call(self._session.close)
        if self._sound is None:
            return
        try:
            closed = await asyncio.wait_for(self._closed, CLOSING_S)
            if closed.seconds and self._options is not None:
                await self._service.submit(self._sound.submit, self._options)
        except TimeoutError:
            _log.warning("the audio of a live session was not saved: its process does not answer")
        except TranscribeError as failed:
            _log.warning("the audio of a live session cannot be saved: %s", failed.code)
        finally:
            await self._service.call(self._sound.close)

    # --- from the session to the client --------------------------------------------------------

    async def _write(self) -> None:
        while True:
            found = await self._events.get()
            if isinstance(found, dict):
                await self._tell(found)
                continue
            if self._answer is not None and found.kind in ("configured", "refused", "ended"):
                self._answer.set_result(found)
                self._answer = None
            if found.kind == "ended":
                await self._end(found)
                return
            for each in self._items.of(found):
                await self._tell(each)

    async def _tell(self, event: dict[str, Any]) -> None:
        """Send an event. In ASCII, because client data may contain half a character."""
        await self._send({"type": "websocket.send", "text": json.dumps(event)})

    async def _end(self, found: LiveEvent) -> None:
        await self._tell(error_of(found))
        code = POLICY if found.code == RATE_LIMIT else FAILED
        await self._send({"type": "websocket.close", "code": code, "reason": ""})

    async def _send(self, message: Message) -> None:
        """Send, unless the client has left: ``_receive`` then ends the session, after the audio
        that the client sent before.
        """
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with suppress(WebSocketDisconnect):
                await self._websocket.send(message)

    # --- from the client to the session --------------------------------------------------------

    async def _receive(self) -> None:
        """Take messages until the client leaves, also while a model is loaded."""
        while (message := await self._websocket.receive())["type"] != "websocket.disconnect":
            await self._received.put(message.get("text"))
        if self._sound is not None:  # earlier audio is saved too
            with suppress(TimeoutError):
                await asyncio.wait_for(self._received.join(), CLOSING_S)

    async def _read(self) -> None:
        while True:
            text = await self._received.get()
            event_id = None
            try:
                given = _parsed(text)
                event_id = _event_id(given)
                handler = self.HANDLERS.get(str(given.get("type")))
                if handler is None:
                    raise _unknown(given)
                await handler(self, given)
            except Refused as refused:
                fields = json.loads(bytes(refused.response.body))["error"]
                self._events.put_nowait(error(fields, event_id))
            finally:
                self._received.task_done()

    async def _update(self, given: Event) -> None:
        session = merged(self._shown, given.get("session"))
        if await self._configure(session, _event_id(given)):
            self._shown = session
            self._events.put_nowait(event("session.updated", session=self._session_object()))

    async def _configure(self, session: Mapping[str, Any], tag: str | None) -> bool:
        """Set the session up; may wait for its model to load."""
        service = self._service.service
        try:
            setup = await self._service.call(setup_of, session)
            setup = await self._service.call(settled_setup, service, setup)
        except TranscribeError as failed:
            raise refused_by(failed) from failed
        if session["store"]:
            if self._sound is None:
                self._sound = await self._service.call(SoundFile, service)
            setup = replace(setup, sound_path=str(self._sound.path))
        answer: asyncio.Future[LiveEvent] = asyncio.get_running_loop().create_future()
        self._answer = answer
        await self._service.call(self._session.configure, setup, tag)
        if (await answer).kind != "configured":
            return False
        self._options = setup.options
        return True

    async def _require_setup(self) -> None:
        """Set the session up with defaults, if the client has not done so."""
        if self._options is None and not await self._configure(self._shown, None):
            message = "the session cannot start; the previous error has the cause"
            self._events.put_nowait(LiveEvent("ended", code="engine_failed", message=message))
            await asyncio.Event().wait()  # wait until the client has read it

    async def _append(self, given: Event) -> None:
        audio = given.get("audio")
        if not isinstance(audio, str):
            raise Refused(400, "audio is not text; send base64", "usage", param="audio")
        if len(audio) > MAX_AUDIO_CHARS:
            message = f"audio has {len(audio)} characters; send at most 15 MiB at once"
            raise Refused(400, message, "usage", param="audio")
        try:
            sound = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError) as broken:
            message = f"audio is not base64: {broken}"
            raise Refused(400, message, "invalid_audio", param="audio") from broken
        await self._require_setup()
        await self._service.call(self._session.append, sound)

    async def _commit(self, given: Event) -> None:
        await self._require_setup()
        await self._service.call(self._session.commit, _event_id(given))

    async def _clear(self, _: Event) -> None:
        await self._require_setup()
        await self._service.call(self._session.clear)

    HANDLERS: ClassVar[Mapping[str, Callable[[Conversation, Event], Awaitable[None]]]] = {
        "session.update": _update,
        "input_audio_buffer.append": _append,
        "input_audio_buffer.commit": _commit,
        "input_audio_buffer.clear": _clear,
    }

    def _session_object(self) -> Event:
        about = {"id": self._id, "object": "realtime.transcription_session"}
        return {**about, **self._shown, "expires_at": self._expires_at}


def _event_id(given: Event) -> str | None:
    found = given.get("event_id")
    return found if isinstance(found, str) else None


def _transcription_by(model: str) -> Event:
    return {"audio": {"input": {"transcription": {"model": model}}}}


def _parsed(text: str | None) -> Event:
    try:
        given = json.loads(text or "")
    except (ValueError, RecursionError) as broken:
        raise Refused(400, f"the message is not JSON: {broken}", "invalid_json") from broken
    if not isinstance(given, dict):
        raise Refused(400, "the message is not a JSON object", "invalid_json")
    return given


def _unknown(given: Event) -> Refused:
    kind = str(given.get("type"))[:64]
    message = (
        f"there is no event {kind!r}; send session.update, input_audio_buffer.append, .commit "
        "or .clear"
    )
    return Refused(400, message, "unknown_event", param="type")
