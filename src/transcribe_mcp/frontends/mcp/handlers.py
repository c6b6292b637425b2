"""What the tools do: one use case each, on the store's threads, waiting where the caller wants to wait."""

from __future__ import annotations

import asyncio
import gc
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from functools import lru_cache, partial
from typing import Any, ParamSpec, TypeVar

from ...errors import CancelledError, JobStateError, TranscribeError, UsageError
from ...service import jobs as service
from ...service import model_fit, sandbox
from ...service.jobs import Batch, Job, JobFilter, JobRequest, JobStatus
from . import answers, pages
from .notices import SCHEME

# A call that waits in the store (a locked file, a long transcript) holds up no other.
_THREADS = ThreadPoolExecutor(max_workers=16, thread_name_prefix="store")
# Jobs that are being submitted when the client leaves are submitted first; nobody waits for the other calls.
_SUBMITTING = ThreadPoolExecutor(max_workers=4, thread_name_prefix="submit")
_ending = threading.Event()

# A waiting call looks the less often the longer it waits: short recordings are not kept waiting by the looking.
FIRST_LOOK_S, LONGEST_LOOK_S, LOOK_SHARE = 0.03, 0.25, 0.05
_PROCESS = f"client {secrets.token_hex(8)}"
SEGMENTS = "segments"
REPORT_CHARS = 6_000
QUIET_S = 0.5
DAY_S = 86_400.0

P = ParamSpec("P")
T = TypeVar("T")

Report = Callable[[float, str], Awaitable[None]]
"""Told how many percent are done, and what is being done."""


async def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A use case in a thread: the loop answers others meanwhile."""
    return await _in(_THREADS, partial(function, *args, **kwargs))


def client(request: Any) -> AbstractContextManager[None]:
    """Work in the name of a client: the one of this process, or of an HTTP request's session.

    Requests without a session (since 2026) do not say whose they are: each of their submissions is an owner.
    """
    name = _PROCESS if request is None else request.headers.get("mcp-session-id", "")
    return service.acting_for(name)


async def submitting(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A use case that queues jobs, in a thread. The process ends after it."""
    return await _in(_SUBMITTING, partial(function, *args, **kwargs))


async def _in(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    context = copy_context()  # who asks: see ``client``
    return await asyncio.get_running_loop().run_in_executor(threads, context.run, work)


async def searching(function: Callable[[Callable[[], None]], T]) -> T:
    """A use case that looks through directories, in a thread. What it is given raises once nobody waits for it."""
    is_over = threading.Event()

    def check() -> None:
        if is_over.is_set() or _ending.is_set():
            raise CancelledError("the call was cancelled")

    try:
        return await call(function, check)
    finally:
        is_over.set()


def end(patience_s: float) -> None:
    """Let jobs be submitted that are on their way, and stop searching."""
    _ending.set()
    _THREADS.shutdown(wait=False, cancel_futures=True)
    waiting = threading.Thread(target=_SUBMITTING.shutdown, daemon=True)
    waiting.start()
    waiting.join(patience_s)


async def open_store() -> None:
    """Open the store before the first call needs it, and after the first answers have gone out."""
    await asyncio.sleep(QUIET_S)
    with suppress(TranscribeError):  # the call that needs it will say so
        await call(service.prepare)
    # What is loaded by now stays: looking through it for garbage would stop every answer for a tenth of a second.
    gc.freeze()


async def wait_for(job: Job | Batch, wait_s: float, report: Report) -> Job | Batch:
    """The job once it is final, or as it is after ``wait_s``. ``report`` hears of every step forward."""
    begun = time.monotonic()
    deadline = begun + wait_s
    told = -1.0
    while True:
        if job.percent > told:
            told = job.percent
            await report(told, _describe(job))
        now = time.monotonic()
        if job.status.is_final or now >= deadline:
            return job
        pause = min(max((now - begun) * LOOK_SHARE, FIRST_LOOK_S), LONGEST_LOOK_S)
        await asyncio.sleep(min(pause, deadline - now))
        job = await call(service.get_job, job.job_id)


def _describe(job: Job | Batch) -> str:
    if isinstance(job, Batch):
        done = sum(each.status.is_final for each in job.jobs)
        return f"{done} of {len(job.jobs)} recordings done"
    if job.waiting_for:
        return f"{job.status}, {job.waiting_for}"
    if job.status == "queued":
        return f"queued, position {job.queue_position}" if job.queue_position else "queued"
    return f"{job.stage or job.status.value}, {job.percent:.0f} %"


async def transcribe(
    request: JobRequest, formats: Sequence[str], roots: list[str], wait_s: float, report: Report
) -> answers.Answer:
    """Submit one recording and wait for it a while."""

    def submit() -> tuple[list[str], Job | Batch]:
        return _known_formats(formats), sandbox.submit(request, sandbox.access(roots))

    names, job = await submitting(submit)
    return await finished_answer(await wait_for(job, wait_s, report), names)


async def transcribe_batch(
    sources: Sequence[str], request: JobRequest, roots: list[str], wait_s: float, report: Report
) -> answers.Answer:
    """Submit many and wait a while for all."""
    access = await call(sandbox.access, roots)
    found = await searching(lambda check: sandbox.find(sources, access, check))
    batch = await submitting(sandbox.submit_batch, found, request, access)
    return state(await wait_for(batch, wait_s, report))


def state(job: Job | Batch) -> answers.Answer:
    return answers.batch_answer(job) if isinstance(job, Batch) else answers.job_answer(job)


async def finished_answer(job: Job | Batch, formats: Sequence[str]) -> answers.Answer:
    """The state of a job, and once it is completed the first page of its text."""
    if isinstance(job, Batch) or job.status != "completed":
        return state(job)
    view = pages.View(job.job_id, formats[0])
    text, cursor = pages.text_page(
        await call(_finished_text, view), view, None, pages.DEFAULT_CHARS
    )
    resources = (
        {name: f"{SCHEME}{job.job_id}.{name}" for name in formats} if len(formats) > 1 else None
    )
    return answers.job_answer(
        job, format=view.form, text=text, next_cursor=cursor, resources=resources
    )


async def progress(job_id: str, wait_s: float, report: Report) -> answers.Answer:
    job = await call(service.get_job, job_id)
    return state(await wait_for(job, wait_s, report))


async def result(
    view: pages.View, page: tuple[str | None, int], wait_s: float, report: Report
) -> answers.Answer:
    """A page (its cursor, its length) of a transcript, which is waited for.

    Where it is not finished after that time: what there is, if the caller did not want to wait, else how far it is.
    """
    await call(_require_format, view.form)
    job = await _awaited(view, wait_s, report)
    if not job.status.is_final and (wait_s > 0 or not job.percent):
        return answers.job_answer(job)
    cursor, max_chars = page
    fields: dict[str, Any] = {}
    try:
        if view.form == SEGMENTS:
            transcript = await call(service.get_transcript, view.job_id)
            found, following = await call(pages.segment_page, transcript, view, cursor, max_chars)
            fields["segments"] = [_segment(each) for each in found]
        else:
            text = await call(_finished_text if job.status == "completed" else _text, view)
            fields["text"], following = pages.text_page(text, view, cursor, max_chars)
    except JobStateError:
        return answers.job_answer(
            job
        )  # it ended, or runs, without a finished batch: its state says why
    partial_result = True if job.status != "completed" else None
    return answers.job_answer(
        job, format=view.form, partial=partial_result, next_cursor=following, **fields
    )


def _segment(segment: sandbox.Segment) -> dict[str, Any]:
    return {
        "start": segment.start,
        "end": segment.end,
        "speaker": segment.speaker,
        "text": segment.text,
    }


async def write(view: pages.View, target: str, wait_s: float, report: Report) -> answers.Answer:
    """The whole transcript in a new file, once it is finished."""
    await call(sandbox.require_format, view.form)
    job = await _awaited(view, wait_s, report)
    if not job.status.is_final:
        return answers.job_answer(job)
    written = await call(
        lambda: sandbox.write_result(view.job_id, view.form, target, sandbox.access())
    )
    partial_result = True if job.status != "completed" else None
    return answers.job_answer(job, format=view.form, written=str(written), partial=partial_result)


async def _awaited(view: pages.View, wait_s: float, report: Report) -> Job:
    job = await call(service.get_job, view.job_id)
    if isinstance(job, Batch):
        hint = "get_transcription_progress lists its jobs: give the job_id of one"
        raise JobStateError(
            f"{view.job_id} is a batch, which has no transcript of its own", hint=hint
        )
    awaited = await wait_for(job, wait_s, report)
    assert isinstance(awaited, Job)
    return awaited


async def history(which: JobFilter, cursor: str | None, limit: int) -> answers.Answer:
    page = await call(service.list_jobs, which, cursor, limit)
    return answers.history_answer(page.jobs, page.next_cursor)


async def search(query: str, which: JobFilter, cursor: str | None, limit: int) -> answers.Answer:
    page = await call(service.search, query, cursor, limit, which)
    return answers.search_answer(page.hits, page.next_cursor)


async def cancel(job_id: str) -> answers.Answer:
    """Stop a job and see it stop."""

    async def nobody(percent: float, words: str) -> None: ...

    return state(await wait_for(await call(service.cancel, job_id), 3.0, nobody))


async def delete(job_id: str) -> answers.Answer:
    found = await call(service.get_job, job_id)
    await call(service.delete, job_id)
    return answers.DeletedAnswer(job_id, len(found.jobs) if isinstance(found, Batch) else 1)


async def models(*, cached_only: bool) -> answers.Answer:
    here = [
        model for model in await call(model_fit.models_here) if model.is_here or not cached_only
    ]
    return answers.models_answer(
        here, await call(model_fit.default_model), await call(model_fit.this_machine)
    )


async def diagnosis(*, details: bool) -> answers.Answer:
    return answers.diagnosis_answer(await call(model_fit.diagnose), REPORT_CHARS, details=details)


def filter_of(statuses: Sequence[str], source: str, batch_id: str, days: float | None) -> JobFilter:
    if days is not None and days <= 0:
        raise UsageError(f"days is {days:g}", hint="give a number above 0, such as 7 or 0.5")
    return JobFilter(
        statuses=tuple(map(JobStatus, statuses)),
        source_contains=source,
        batch_id=batch_id,
        since=None if days is None else time.time() - days * DAY_S,
    )


def transcript_text(job_id: str, form: str) -> str:
    """The whole transcript in a format, for a resource."""
    view = pages.View(job_id, form)
    return _finished_text(view) if service.get_job(job_id).status == "completed" else _text(view)


def _text(view: pages.View) -> str:
    return view.text(service.get_transcript(view.job_id))


# Subtitles of a day take seconds to lay out, and a page is a slice of them; what a finished job says never changes.
# Whoever asks has looked for the job before, so that a deleted one is not read from here.
_finished_text = lru_cache(maxsize=4)(_text)


def _known_formats(names: Sequence[str]) -> list[str]:
    """Formats in order, each once, known to exist before a recording is queued for them."""
    chosen = [format_name(name) for name in names]
    for name in chosen:
        sandbox.require_format(name)
    return list(dict.fromkeys(chosen))


def _require_format(name: str) -> None:
    if name != SEGMENTS:
        sandbox.require_format(name, SEGMENTS)


def format_name(written: str) -> str:
    """``SRT`` and ``.srt`` are ``srt``."""
    return written.strip().lower().lstrip(".")
