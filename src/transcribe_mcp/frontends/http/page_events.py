"""Changes of jobs as server-sent events. One look at the database serves all listeners."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sse_starlette import ServerSentEvent

from ...errors import TranscribeError
from ...service.async_service import AsyncService
from ...service.models import Job, JobFilter, JobStatus
from ...service.viewing import Viewing
from .page_answers import job_row

LOOK_S = 1.0
NEWEST = 100  # jobs that are watched, beside unfinished ones
MAX_WAITING = 1_000  # events for a listener that does not read; then it must connect again

_log = logging.getLogger("transcribe_mcp.http")
_UNFINISHED = JobFilter(statuses=(JobStatus.QUEUED, JobStatus.RUNNING))


class Events:
    """The events of one server."""

    def __init__(self, service: AsyncService, viewing: Viewing) -> None:
        self._service = service
        self._viewing = viewing
        self._listeners: set[asyncio.Queue[ServerSentEvent | None]] = set()
        self._watching: asyncio.Task[None] | None = None

    async def stream(self) -> AsyncIterator[ServerSentEvent]:
        """The events of one listener, until it leaves."""
        queue: asyncio.Queue[ServerSentEvent | None] = asyncio.Queue(MAX_WAITING)
        self._listeners.add(queue)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._listeners.discard(queue)

    async def _watch(self) -> None:
        """Look for changes while somebody listens."""
        known: Mapping[str, Job] | None = None
        while self._listeners:
            try:
                now = await self._service.call(self._jobs)
                if known is not None:
                    await self._tell(known, now)
                known = now
            except TranscribeError as error:
                _log.warning("the database cannot be read now: %s", error.code)
            await asyncio.sleep(LOOK_S)

    def _jobs(self) -> dict[str, Job]:
        service = self._service.service
        pages = [service.list_jobs(limit=NEWEST), service.list_jobs(_UNFINISHED, limit=NEWEST)]
        return {job.job_id: job for page in reversed(pages) for job in page.jobs}

    async def _tell(self, known: Mapping[str, Job], now: Mapping[str, Job]) -> None:
        changed = [job for job in now.values() if known.get(job.job_id) != job]
        outlines = await self._service.call(self._viewing.outlines, changed) if changed else {}
        events = [_event("job", job_row(job, outlines.get(job.job_id))) for job in changed]
        events += [_event("deleted", {"job_id": job_id}) for job_id in _deleted(known, now)]
        for queue in tuple(self._listeners):
            self._send(queue, events)

    def _send(
        self, queue: asyncio.Queue[ServerSentEvent | None], events: Sequence[ServerSentEvent]
    ) -> None:
        try:
            for event in events:
                queue.put_nowait(event)
        except asyncio.QueueFull:
            self._listeners.discard(queue)
            with suppress(asyncio.QueueEmpty):
                queue.get_nowait()
            queue.put_nowait(None)


def _deleted(known: Mapping[str, Job], now: Mapping[str, Job]) -> list[str]:
    """The jobs that are gone. Older ones than all now may only have left the newest page."""
    oldest = min(now, default="")
    return [job_id for job_id in known if job_id not in now and job_id > oldest]


def _event(name: str, content: Any) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(content, ensure_ascii=False), event=name)
