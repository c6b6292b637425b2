"""Transcripts as resources: the list in pages, and notifications about its changes.

Clients of the 2025 protocol subscribe with a request and get notifications on their connection.
Clients of the 2026 protocol open a stream with ``subscriptions/listen``. Several processes write to
the database, so it is polled for changes, and only while a client listens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from operator import methodcaller
from pathlib import PurePath
from typing import Any

from ...domain.text_breaks import JOINERS, shortened
from ...errors import JobNotFoundError, TranscribeError
from ...service.async_service import AsyncService
from ...service.formats import FORMATS
from ...service.models import Job, JobFilter, JobStatus
from ...service.service import Service
from ..store_log import StoreLog
from ..times import iso
from . import sdk
from .answers import clean

SCHEME = "transcript://"
PAGE_ROWS = 100
POLL_S = 1.0  # while jobs run and a client listens
MAX_POLL_S = 5.0  # while none run
MAX_WATCHED = 200  # unfinished jobs beyond the newest page
FIRST_MODERN = "2026-07-28"

_log = logging.getLogger("transcribe_mcp.mcp")


class Notices:
    """A middleware of the server (``__call__``) and a task beside it (``watch``)."""

    def __init__(
        self,
        bus: sdk.InMemorySubscriptionBus,
        service: AsyncService,
        list_page: Callable[[str | None], Mapping[str, Any]],
    ) -> None:
        self._bus = bus
        self._service = service
        self._list_page = list_page
        self._sessions: dict[int, Any] = {}  # connections of the 2025 protocol
        self._subscribed: dict[str, set[int]] = {}
        self._streams = 0
        self._known: dict[str, str] | None = (
            None  # job -> state known to clients; None without listeners
        )

    async def __call__(self, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        if ctx.method == "subscriptions/listen":
            self._streams += 1
            try:
                await self._begin()
                return await call_next(ctx)
            finally:
                self._streams -= 1
        if (
            ctx.method in ("resources/subscribe", "resources/unsubscribe")
            and ctx.protocol_version < FIRST_MODERN
        ):
            await self._begin()
            return self._subscribe(ctx)
        result = await call_next(ctx)
        if ctx.method == "resources/list":
            cursor = (ctx.params or {}).get("cursor")
            return {**result, **await self._service.call(self._list_page, cursor)}
        if ctx.method == "initialize":
            capability = {"subscribe": True, "listChanged": True}
            result = {**result, "capabilities": {**result["capabilities"], "resources": capability}}
        elif ctx.method == "notifications/initialized":
            self._remember(ctx.session)
            await self._begin()
        return result

    async def _begin(self) -> None:
        """Take the state before a subscription is confirmed, so that no change is missed."""
        if self._known is None:
            with suppress(TranscribeError):
                self._known = await self._look({})

    def _remember(self, session: Any) -> int:
        """Keep a session of this connection; session objects live for one request."""
        connection = getattr(session, "_connection", session)  # no public API in mcp 2.3
        key = id(connection)
        if key not in self._sessions:
            self._sessions[key] = session
            with suppress(AttributeError):  # otherwise dropped when sending fails
                connection.exit_stack.callback(self._drop, key)
        return key

    def _subscribe(self, ctx: Any) -> dict[str, Any]:
        uri = str((ctx.params or {}).get("uri", ""))[:500]
        key = self._remember(ctx.session)
        if ctx.method == "resources/subscribe":
            self._subscribed.setdefault(uri, set()).add(key)
        elif uri in self._subscribed:
            self._subscribed[uri].discard(key)
        return {}

    async def watch(self) -> None:
        """Poll the database until cancelled; after an error, poll again later."""
        pause = POLL_S
        log = StoreLog(_log)
        while True:
            await asyncio.sleep(pause)
            if not self._sessions and not self._streams:
                self._known = None
                continue
            known = self._known or {}
            pause = POLL_S if "live" in known.values() else min(pause * 1.5, MAX_POLL_S)
            try:
                now = await self._look(known)
            except TranscribeError as error:
                log.failed(error)
                continue
            log.succeeded()
            if self._known is not None and now != known:
                ended = [
                    job_id for job_id, state in now.items() if known.get(job_id, "live") != state
                ]
                gone = [
                    job_id
                    for job_id in known
                    if job_id not in now and job_id >= min(now, default="")
                ]
                await self._tell([*ended, *gone], listed=bool(ended or gone))
            self._known = now

    async def _look(self, known: Mapping[str, str]) -> dict[str, str]:
        return await self._service.call(_look, self._service.service, known)

    async def _tell(self, changed: list[str], *, listed: bool) -> None:
        if listed:
            await self._bus.publish(sdk.ResourcesListChanged())
            send = methodcaller("send_resource_list_changed")
            await self._to_sessions(send, set(self._sessions))
        endings = ("", *(f".{name}" for name in FORMATS))
        for uri in {f"{SCHEME}{job_id}{ending}" for job_id in changed for ending in endings}:
            await self._bus.publish(sdk.ResourceUpdated(uri=uri))
            send = methodcaller("send_resource_updated", uri)
            await self._to_sessions(send, self._subscribed.get(uri, set()))

    async def _to_sessions(self, send: Callable[[Any], Awaitable[None]], keys: set[int]) -> None:
        for key in list(keys):
            session = self._sessions.get(key)
            try:
                if session is not None:
                    await asyncio.wait_for(send(session), POLL_S)
            except Exception as error:  # noqa: BLE001 - each transport has its own error
                _log.debug("a client has disconnected: %s", type(error).__name__)
                self._drop(key)

    def _drop(self, key: int) -> None:
        self._sessions.pop(key, None)
        for keys in self._subscribed.values():
            keys.discard(key)


def _look(service: Service, known: Mapping[str, str]) -> dict[str, str]:
    """Job -> state, of the newest jobs and of older ones that were unfinished."""
    now = {job.job_id: _state(job) for job in service.list_jobs(limit=PAGE_ROWS).jobs}
    oldest = min(now, default="")
    older = [
        job_id
        for job_id, state in known.items()
        if job_id not in now and job_id < oldest and state == "live"
    ]
    for job_id in older[:MAX_WATCHED]:
        with suppress(JobNotFoundError):
            job = service.get_job(job_id)
            if isinstance(job, Job):
                now[job_id] = _state(job)
    return now


def _state(job: Job) -> str:
    return job.status.value if job.status.is_final else "live"


def resource_rows(service: Service, cursor: str | None) -> dict[str, Any]:
    """A page of ``resources/list`` in the protocol's form: one resource per transcript.

    Raises:
        UsageError: a cursor that no earlier page gave.
    """
    finished = JobFilter(statuses=(JobStatus.COMPLETED,))
    page = service.list_jobs(finished, cursor=cursor, limit=PAGE_ROWS)
    return {"resources": [_resource(job) for job in page.jobs]} | (
        {"nextCursor": page.next_cursor} if page.next_cursor else {}
    )


def _resource(job: Job) -> dict[str, Any]:
    # A name can have line breaks and control characters, and clients show it to a model.
    name = "".join(
        c if c.isprintable() or c in JOINERS else " " for c in PurePath(clean(job.source)).name
    )
    name = shortened(name, 200).strip()
    length = "" if job.duration_s is None else f", {job.duration_s:.0f} s"
    date = iso(job.created_at).partition("T")[0]
    made = f"language {job.language or 'unknown'}, model {job.model or 'unknown'}"
    return {
        "uri": f"{SCHEME}{job.job_id}",
        "name": name or job.job_id,
        "description": f"Transcript of {date}{length}, {made}",
        "mimeType": "text/plain",
    }
