"""Changes of jobs and transcripts as server-sent events.

One query serves all listeners. It reads the newest jobs, and those that a listener shows, of any
age.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sse_starlette import ServerSentEvent

from ...errors import JobNotFoundError, TranscribeError
from ...service.async_service import AsyncService
from ...service.models import Job, JobFilter, JobStatus
from ...service.viewing import Viewing
from ..store_log import StoreLog
from .page_answers import job_row

LOOK_S = 1.0
NEWEST = 100  # jobs that are watched, besides unfinished ones
MAX_WAITING = 1_000  # queued events of a slow listener; beyond that it must reconnect

_log = logging.getLogger("transcribe_mcp.http")
_UNFINISHED = JobFilter(statuses=(JobStatus.QUEUED, JobStatus.RUNNING))


@dataclass(eq=False, frozen=True, slots=True)
class Subscriber:
    """``job_id``: the job that it shows; empty for a list."""

    job_id: str
    queue: asyncio.Queue[ServerSentEvent | None]


@dataclass(frozen=True, slots=True)
class State:
    """A job, and the newest revision of its transcript."""

    job: Job
    revision: int | None


class Events:
    """The events of one server."""

    def __init__(self, service: AsyncService, viewing: Viewing) -> None:
        self._service = service
        self._viewing = viewing
        self._listeners: set[Subscriber] = set()
        self._known: dict[str, State] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def stream(self, job_id: str = "") -> AsyncIterator[ServerSentEvent]:
        """The events of one listener, until it disconnects. The first is the state of its job."""
        listener = Subscriber(job_id, asyncio.Queue(MAX_WAITING))
        self._listeners.add(listener)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        elif self._known is not None:
            self._known.pop(job_id, None)
        try:
            while (event := await listener.queue.get()) is not None:
                yield event
        finally:
            self._listeners.discard(listener)

    async def _watch(self) -> None:
        """Poll for changes while there are listeners."""
        self._known = None
        log = StoreLog(_log)
        while self._listeners:
            try:
                await self._look()
            except TranscribeError as error:
                log.failed(error)
            else:
                log.succeeded()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        shown = {each.job_id for each in self._listeners} - {""}
        listed, now = await self._service.call(self._states, shown)
        if self._known is None:
            self._known = {job_id: state for job_id, state in now.items() if job_id not in shown}
        known, self._known = self._known, now
        changed = [state.job for job_id, state in now.items() if known.get(job_id) != state]
        outlines = await self._service.call(self._viewing.outlines, changed) if changed else {}
        events = [_event("job", job_row(job, outlines.get(job.job_id))) for job in changed]
        # Jobs older than all listed ones may only have left the list.
        oldest = min(listed, default="")
        gone = [each for each in known if each not in now and (each > oldest or each in shown)]
        events += [_event("deleted", {"job_id": job_id}) for job_id in gone]
        for listener in tuple(self._listeners):
            self._send(listener, events)

    def _states(self, shown: Collection[str]) -> tuple[Collection[str], dict[str, State]]:
        """The IDs of the jobs in the list, and the states of these and those that are shown."""
        service = self._service.service
        pages = [service.list_jobs(limit=NEWEST), service.list_jobs(_UNFINISHED, limit=NEWEST)]
        jobs = {job.job_id: job for page in reversed(pages) for job in page.jobs}
        listed = set(jobs)
        for job_id in set(shown) - listed:
            with suppress(JobNotFoundError):
                job = service.get_job(job_id)
                if isinstance(job, Job):
                    jobs[job_id] = job
        revisions = self._viewing.revisions(list(jobs))
        return listed, {each: State(job, revisions.get(each)) for each, job in jobs.items()}

    def _send(self, listener: Subscriber, events: Sequence[ServerSentEvent]) -> None:
        try:
            for event in events:
                listener.queue.put_nowait(event)
        except asyncio.QueueFull:
            self._listeners.discard(listener)
            with suppress(asyncio.QueueEmpty):
                listener.queue.get_nowait()
            listener.queue.put_nowait(None)


def _event(name: str, content: Any) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(content, ensure_ascii=False), event=name)
