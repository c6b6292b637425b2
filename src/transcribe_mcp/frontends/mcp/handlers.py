"""The work behind the tools: each handler calls the service and returns an answer."""

from __future__ import annotations

import asyncio
import gc
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ...errors import JobStateError, TranscribeError, UsageError
from ...service import model_fit
from ...service.acting import acting_for
from ...service.async_service import AsyncService
from ...service.formats import find_format
from ...service.models import (
    Batch,
    Job,
    JobFilter,
    JobRequest,
    JobStatus,
    SpeakerChange,
    Transcript,
)
from ...service.refusals import is_batch
from ...service.sandbox import Sandbox
from ...service.viewing import Viewing
from .. import page_address
from . import answers, pages, transcript_view
from .notices import SCHEME

SEGMENTS = "segments"
REPORT_CHARS = 6_000
SHOWN_CHARS = 1_500  # of a transcript that the user reads on the page
QUIET_S = 0.5
CANCEL_S = 3.0  # for a running job to stop
DAY_S = 86_400.0

Report = Callable[[Job | Batch], Awaitable[None]]
"""Called with the first state of a job and with each change."""


class ProgressReport:
    """Reports a job's progress to the client. The percentage only grows, see the protocol."""

    def __init__(self, send: Callable[[float, float, str], Awaitable[None]]) -> None:
        self._send = send
        self._percent = -1.0

    async def __call__(self, job: Job | Batch) -> None:
        if job.percent > self._percent:
            self._percent = job.percent
            await self._send(job.percent, 100, _describe(job))


def _describe(job: Job | Batch) -> str:
    if isinstance(job, Batch):
        n_final = sum(each.status.is_final for each in job.jobs)
        return f"{n_final} of {len(job.jobs)} recordings finished"
    if job.waiting_for:
        return f"{job.status}, {job.waiting_for}"
    if job.status == "queued":
        return f"queued, position {job.queue_position}" if job.queue_position else "queued"
    return f"{job.stage or job.status.value}, {job.percent:.0f} %"


class Handlers:
    """The handlers of one server."""

    def __init__(self, service: AsyncService) -> None:
        self.service = service
        self._jobs = service.service
        self._viewing = Viewing(service.service)
        self._owner = f"client {secrets.token_hex(8)}"
        # Subtitles of a day take seconds to lay out, and clients read them in pages. A revision of
        # a transcript never changes.
        self._revised_text = lru_cache(maxsize=4)(self._text)

    def acting_for(self, request: Any) -> AbstractContextManager[None]:
        """Make the client the owner of its jobs: this process's client, or the HTTP session.

        Requests without a session (since 2026) have no client: each submission is an owner.
        """
        name = self._owner if request is None else request.headers.get("mcp-session-id", "")
        return acting_for(name)

    async def open_store(self) -> None:
        """Open the database before the first call needs it, after the first answers are sent."""
        await asyncio.sleep(QUIET_S)
        with suppress(TranscribeError):  # raised again by the first call that needs it
            await self.service.call(self._jobs.prepare)
        # These modules stay. A garbage collection over them would delay answers by 0.1 s.
        gc.freeze()

    # --- transcribing ----------------------------------------------------------------------------

    async def needs_roots(self, sources: Sequence[str]) -> bool:
        """Whether access to the sources depends on the client's directories."""
        return await self.service.call(lambda: Sandbox.of(self._jobs).refuses(sources))

    async def transcribe(
        self,
        request: JobRequest,
        formats: Sequence[str],
        roots: list[str],
        wait_s: float,
        report: Report,
    ) -> answers.Answer:
        """Submit one recording and wait for it."""

        def submit() -> tuple[list[str], Job]:
            return _known_formats(formats), Sandbox.of(self._jobs, roots).submit(request)

        names, job = await self.service.submit(submit)
        return await self.finished_answer(await self.service.wait_for(job, wait_s, report), names)

    async def transcribe_batch(
        self,
        sources: Sequence[str],
        request: JobRequest,
        roots: list[str],
        wait_s: float,
        report: Report,
    ) -> answers.Answer:
        """Submit many recordings and wait for all."""
        sandbox = await self.service.call(Sandbox.of, self._jobs, roots)
        found = await self.service.interruptible(lambda check: sandbox.find(sources, check))
        batch = await self.service.submit(sandbox.submit_batch, found, request)
        return state(await self.service.wait_for(batch, wait_s, report))

    async def finished_answer(self, job: Job | Batch, formats: Sequence[str]) -> answers.Answer:
        """The state of a job; of a completed one also the first page of its text."""
        if isinstance(job, Batch) or job.status != "completed":
            return state(job)
        # The same file with the same options gets the same answer, regardless of later edits.
        view = pages.View(job.job_id, formats[0], revision=0)
        whole = await self.service.call(self._finished_text, view)
        text, cursor = pages.text_page(whole, view, None, pages.DEFAULT_CHARS)
        uris = {name: f"{SCHEME}{job.job_id}.{name}" for name in formats}
        resources = uris if len(formats) > 1 else None
        speakers = await self._speakers(job, view)
        return answers.job_answer(
            job,
            format=view.form,
            text=text,
            next_cursor=cursor,
            resources=resources,
            speakers=speakers,
        )

    async def _speakers(self, job: Job, view: pages.View) -> list[answers.SpeakerLine] | None:
        """Those of a completed job; none of a recording without diarization."""
        if job.status != "completed":
            return None
        transcript = await self._transcript(view)
        return answers.speaker_lines(transcript) or None

    async def _transcript(self, view: pages.View) -> Transcript:
        return await self.service.call(self._jobs.get_transcript, view.job_id, view.revision)

    # --- following a job -------------------------------------------------------------------------

    async def progress(self, job_id: str, wait_s: float, report: Report) -> answers.Answer:
        job = await self.service.call(self._jobs.get_job, job_id)
        return state(await self.service.wait_for(job, wait_s, report))

    async def result(
        self, view: pages.View, page: tuple[str | None, int], wait_s: float, report: Report
    ) -> answers.Answer:
        """Wait for a transcript and return a page of it.

        If ``wait_s`` is over, returns the job's state. With ``wait_s`` 0, the text so far.

        Args:
            page: its cursor and its length in characters.
        """
        if view.form != SEGMENTS:
            find_format(view.form, (SEGMENTS,))
        job = await self._awaited(view, wait_s, report)
        if not job.status.is_final and (wait_s > 0 or not job.percent):
            return answers.job_answer(job)
        try:
            view = await self._of_one_revision(job, view, page[0])
            fields = await self._page(job, view, *page)
        except JobStateError:  # without text, the state gives the reason
            return answers.job_answer(job)
        partial = _is_partial(job)
        if page[0] is None:
            fields["speakers"] = await self._speakers(job, view)
        return answers.job_answer(job, format=view.form, partial=partial, **fields)

    async def _of_one_revision(self, job: Job, view: pages.View, cursor: str | None) -> pages.View:
        """The view with the revision that all its pages show. A job that runs has none yet."""
        if cursor:
            return view.continued(cursor)
        if job.status != "completed" or view.revision is not None:
            return view
        revision = await self.service.call(self._jobs.get_revision, view.job_id)
        return replace(view, revision=revision)

    async def _page(
        self, job: Job, view: pages.View, cursor: str | None, max_chars: int
    ) -> dict[str, Any]:
        if view.form == SEGMENTS:
            transcript = await self._transcript(view)
            found, following = await self.service.call(
                pages.segment_page, transcript, view, cursor, max_chars
            )
            names = ("start", "end", "speaker", "text")
            rows = [{name: getattr(each, name) for name in names} for each in found]
            return {"segments": rows, "next_cursor": following}
        render = self._finished_text if job.status == "completed" else self._text
        whole = await self.service.call(render, view)
        text, following = pages.text_page(whole, view, cursor, max_chars)
        return {"text": text, "next_cursor": following}

    async def write(
        self, view: pages.View, target: str, wait_s: float, report: Report
    ) -> answers.Answer:
        """Wait for a transcript and write all of it to a new file."""
        find_format(view.form)
        job = await self._awaited(view, wait_s, report)
        if not job.status.is_final:
            return answers.job_answer(job)
        written = await self.service.call(
            lambda: Sandbox.of(self._jobs).write_result(
                view.job_id, view.form, target, view.revision
            )
        )
        return answers.job_answer(
            job, format=view.form, written=str(written), partial=_is_partial(job)
        )

    async def _awaited(self, view: pages.View, wait_s: float, report: Report) -> Job:
        job = await self.service.call(self._jobs.get_job, view.job_id)
        if isinstance(job, Batch):
            raise is_batch(view.job_id)
        awaited = await self.service.wait_for(job, wait_s, report)
        assert isinstance(awaited, Job)
        return awaited

    async def shown(self, job_id: str, at_s: float, seen_at: str | None) -> answers.Answer:
        """The start of a transcript: its first lines from a time on, and the URL of its page.

        Args:
            seen_at: this server's URL for the client; ``None`` over stdio.
        """
        view = pages.View(job_id, "timed", start_s=at_s or None)
        answer = await self.result(view, (None, SHOWN_CHARS), 0.0, _silent)
        address = await self.service.call(page_address.find, self._jobs.settings.data_dir)
        if address is None or not isinstance(answer, answers.JobAnswer):
            return answer
        at = f"?at={at_s:g}" if at_s else ""
        return replace(answer, page=f"{seen_at or address}/t/{answer.job_id}{at}")

    async def view_transcript(
        self, job_id: str, first: int, revision: int | None
    ) -> answers.Answer:
        """A part of a transcript for the transcript view."""

        def look() -> answers.Answer:
            job = self._jobs.get_job(job_id)
            if isinstance(job, Batch):
                raise is_batch(job_id)
            transcript, number = self._jobs.read_revision(job_id, revision)
            return transcript_view.text_answer(job, transcript, number, first)

        return await self.service.call(look)

    async def view_audio(self, job_id: str, start_s: float) -> answers.Answer:
        """A part of the audio for the transcript view."""
        clip = await self.service.call(self._viewing.clip, job_id, start_s, transcript_view.CLIP_S)
        return transcript_view.clip_answer(start_s, clip)

    def transcript_text(self, job_id: str, form: str) -> str:
        """The whole transcript in a format, for a resource. Blocks."""
        is_completed = self._jobs.get_job(job_id).status == "completed"
        return (self._finished_text if is_completed else self._text)(pages.View(job_id, form))

    def _finished_text(self, view: pages.View) -> str:
        if view.revision is None:
            view = replace(view, revision=self._jobs.get_revision(view.job_id))
        text: str = self._revised_text(view)
        return text

    def _text(self, view: pages.View) -> str:
        return view.text(self._jobs.get_transcript(view.job_id, view.revision))

    # --- the library -----------------------------------------------------------------------------

    async def history(self, which: JobFilter, cursor: str | None, limit: int) -> answers.Answer:
        page = await self.service.call(self._jobs.list_jobs, which, cursor, limit)
        return answers.history_answer(page.jobs, page.next_cursor)

    async def name_speakers(
        self, job_id: str, names: Mapping[str, str], merge: Sequence[Sequence[str]]
    ) -> answers.Answer:
        """Rename and merge speakers; without either, list them."""
        change = SpeakerChange(merge=tuple(map(tuple, merge)), names=names)
        if names or merge:
            transcript = await self.service.call(self._jobs.change_speakers, job_id, change)
        else:
            transcript = await self.service.call(self._jobs.get_transcript, job_id)
        return answers.SpeakersAnswer(job_id, answers.speaker_lines(transcript))

    async def search(
        self, query: str, which: JobFilter, speaker: str, cursor: str | None, limit: int
    ) -> answers.Answer:
        page = await self.service.call(self._jobs.search, query, cursor, limit, which, speaker)
        is_filtered = bool(speaker) or which != JobFilter()
        return answers.search_answer(page.hits, page.next_cursor, is_filtered=is_filtered)

    async def cancel(self, job_id: str) -> answers.Answer:
        """Cancel a job and wait until it has stopped."""
        cancelled = await self.service.call(self._jobs.cancel, job_id)
        return state(await self.service.wait_for(cancelled, CANCEL_S))

    async def delete(self, job_id: str) -> answers.Answer:
        found = await self.service.call(self._jobs.get_job, job_id)
        await self.service.call(self._jobs.delete, job_id)
        return answers.DeletedAnswer(job_id, len(found.jobs) if isinstance(found, Batch) else 1)

    # --- this machine ----------------------------------------------------------------------------

    async def models(self, *, cached_only: bool) -> answers.Answer:
        found = await self.service.call(model_fit.models_here)
        machine = await self.service.call(model_fit.this_machine)
        shown = [model for model in found if model.is_here or not cached_only]
        return answers.models_answer(shown, self._jobs.settings.model, machine)

    async def diagnosis(self, *, details: bool) -> answers.Answer:
        found = await self.service.call(model_fit.diagnose)
        return answers.diagnosis_answer(found, REPORT_CHARS, details=details)


def state(job: Job | Batch) -> answers.Answer:
    return answers.batch_answer(job) if isinstance(job, Batch) else answers.job_answer(job)


async def _silent(_: Job | Batch) -> None:
    """Report nothing."""


def _is_partial(job: Job) -> bool | None:
    return True if job.status != "completed" else None


def filter_of(statuses: Sequence[str], source: str, batch_id: str, days: float | None) -> JobFilter:
    if days is not None and days <= 0:
        raise UsageError(f"days is {days:g}", hint="give a number above 0, such as 7 or 0.5")
    return JobFilter(
        statuses=tuple(map(JobStatus, statuses)),
        source_contains=source,
        batch_id=batch_id,
        since=None if days is None else time.time() - days * DAY_S,
    )


def _known_formats(names: Sequence[str]) -> list[str]:
    """The formats in order without duplicates, checked before a recording is queued for them."""
    chosen = [format_name(name) for name in names]
    for name in chosen:
        find_format(name)
    return list(dict.fromkeys(chosen))


def format_name(written: str) -> str:
    """``SRT`` and ``.srt`` are ``srt``."""
    return written.strip().lower().lstrip(".")
