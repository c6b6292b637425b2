"""What the tools do: one use case each, on the store's threads, waiting where the caller wants to wait."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, ParamSpec, TypeVar

from ..errors import CancelledError, TranscribeError, UnknownNameError, UsageError
from ..service import allowed, format_names, machine
from ..service import jobs as service
from ..service.jobs import Batch, Job, JobFilter, JobRequest, JobStatus
from . import mcp_answers as answers
from . import mcp_pages as pages
from .mcp_notices import SCHEME

# A call that waits in the store (a locked file, a long transcript) holds up no other.
_THREADS = ThreadPoolExecutor(max_workers=16, thread_name_prefix="store")
# Jobs that are being submitted when the client leaves are submitted first; nobody waits for the other calls.
_SUBMITTING = ThreadPoolExecutor(max_workers=4, thread_name_prefix="submit")
_ending = threading.Event()

# A waiting call looks the less often the longer it waits: short recordings are not kept waiting by the looking.
FIRST_LOOK_S, LONGEST_LOOK_S, LOOK_SHARE = 0.03, 0.25, 0.05
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
    return await asyncio.get_running_loop().run_in_executor(_THREADS, partial(function, *args, **kwargs))


async def submitting(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A use case that queues jobs, in a thread. The process ends after it."""
    return await asyncio.get_running_loop().run_in_executor(_SUBMITTING, partial(function, *args, **kwargs))


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
    if job.status == "queued":
        return f"queued, position {job.queue_position}" if job.queue_position else "queued"
    return f"{job.stage or job.status.value}, {job.percent:.0f} %"


async def transcribe(
    request: JobRequest, formats: list[str], roots: list[str], wait_s: float, report: Report
) -> answers.JobAnswer:
    """Submit one recording and wait for it a while."""

    def submit() -> tuple[list[str], Job | Batch]:
        return _known_formats(formats), allowed.submit(request, allowed.access(roots))

    names, job = await submitting(submit)
    return await finished_answer(await wait_for(job, wait_s, report), names)


async def transcribe_batch(
    sources: list[str], request: JobRequest, roots: list[str], wait_s: float, report: Report
) -> answers.JobAnswer:
    """Submit many and wait a while for all."""
    access = await call(allowed.access, roots)
    found = await searching(lambda check: allowed.find(sources, access, check))
    batch = await submitting(allowed.submit_batch, found, request, access)
    return answers.job_answer(await wait_for(batch, wait_s, report))


async def finished_answer(job: Job | Batch, formats: list[str]) -> answers.JobAnswer:
    """The state of a job, and once it is completed the first page of its text."""
    if isinstance(job, Batch) or job.status != "completed":
        return answers.job_answer(job)
    view = pages.View(job.job_id, formats[0])
    text, cursor = pages.text_page(await call(_finished_text, view), view, None, pages.DEFAULT_CHARS)
    resources = {name: f"{SCHEME}{job.job_id}.{name}" for name in formats}
    return answers.job_answer(job, text=text, next_cursor=cursor, resources=resources)


async def progress(job_id: str, wait_s: float, report: Report) -> answers.JobAnswer:
    job = await call(service.get_job, job_id)
    return answers.job_answer(await wait_for(job, wait_s, report))


async def result(view: pages.View, cursor: str | None, max_chars: int) -> answers.ResultAnswer:
    """A page of a transcript."""
    job = await call(service.get_job, view.job_id)
    fields: dict[str, Any] = {}
    if view.form == SEGMENTS:
        transcript = await call(service.get_transcript, view.job_id)
        found, following = await call(pages.segment_page, transcript, view, cursor, max_chars)
        names = ("start", "end", "text", "speaker")
        fields["segments"] = [answers.Segment(**{name: getattr(one, name) for name in names}) for one in found]
    else:
        text = await call(_finished_text if job.status == "completed" else _text, view)
        fields["text"], following = pages.text_page(text, view, cursor, max_chars)
    return await _result_answer(view, next_cursor=following, **fields)


async def write(view: pages.View, target: str) -> answers.ResultAnswer:
    """The whole transcript in a new file."""
    written = await call(lambda: allowed.write_result(view.job_id, view.form, target, allowed.access()))
    return await _result_answer(view, written=str(written))


async def _result_answer(view: pages.View, **fields: Any) -> answers.ResultAnswer:
    job = await call(service.get_job, view.job_id)
    if isinstance(job, Job):  # a batch has no transcript: refused before
        warnings = [answers.Warning(code=notice.code, message=notice.message) for notice in job.warnings] or None
        fields |= {"source": job.source, "duration_s": job.duration_s, "language": job.language, "warnings": warnings}
    partial_result = True if job.status != "completed" else None
    return answers.ResultAnswer(
        job_id=view.job_id, status=job.status.value, format=view.form, partial=partial_result, **fields
    )


async def history(which: JobFilter, cursor: str | None, limit: int) -> answers.HistoryAnswer:
    page = await call(service.list_jobs, which, cursor, limit)
    return answers.history_answer(page.jobs, page.next_cursor)


async def search(query: str, which: JobFilter, cursor: str | None, limit: int) -> answers.SearchAnswer:
    page = await call(service.search, query, cursor, limit, which)
    return answers.search_answer(page.hits, page.next_cursor)


async def cancel(job_id: str) -> answers.JobAnswer:
    """Stop a job and see it stop."""

    async def nobody(percent: float, words: str) -> None: ...

    return answers.job_answer(await wait_for(await call(service.cancel, job_id), 3.0, nobody))


async def delete(job_id: str) -> answers.Answer:
    job = await call(service.get_job, job_id)
    await call(service.delete, job_id)
    return answers.Answer(job_id=job_id, status=job.status.value if job.status.is_final else "cancelled")


async def models() -> answers.ModelsAnswer:
    return answers.models_answer(await call(machine.models_here), await call(machine.default_model))


async def diagnosis() -> answers.DiagnosisAnswer:
    return answers.diagnosis_answer(await call(service.diagnose), REPORT_CHARS)


def filter_of(statuses: Sequence[str], source: str, batch_id: str, days: float | None) -> JobFilter:
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


def unknown_argument(tool: str, given: Mapping[str, Any], known: Sequence[str]) -> UsageError | None:
    """A misspelt argument would else be left out in silence."""
    unknown = sorted(set(given) - set(known)) if known else []
    hint = f"arguments: {', '.join(known)}"
    return UsageError(f"{tool} has no argument {unknown[0][:100]!r}", hint=hint) if unknown else None


def said_by_sdk(texts: Sequence[str]) -> TranscribeError:
    """Arguments that the schema refuses, a tool that is none, or a defect of ours; in one line."""
    lines = [line for line in "\n".join(texts).splitlines() if "For further information" not in line]
    words = "; ".join(line.strip() for line in lines)[:1000]
    if "validation error" in words or "Unknown tool" in words:
        return UsageError(words, hint="the tool's input schema says what it takes")
    return TranscribeError(words, hint="the cause is on the server's standard error")


def _known_formats(names: list[str]) -> list[str]:
    """Formats in order, each once, known to exist before a recording is queued for them."""
    chosen = list(dict.fromkeys(names)) or ["txt"]
    for name in chosen:
        if name not in format_names():
            raise UnknownNameError(f"there is no output format {name!r}", hint=f"formats: {', '.join(format_names())}")
    return chosen
