"""The use cases of durable jobs. Every call is quick: it talks to the store, never to a model.

    submit, submit_batch -> job_id -> get_job, wait_for -> get_transcript
                                   -> cancel, retry, delete
    list_jobs, search

A batch has a ``job_id`` too; ``get_job``, ``wait_for``, ``cancel`` and ``delete`` take either.

All raise ``StoreError`` where the store cannot be used: busy, damaged, full, or written by a newer version.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..domain.transcript import Transcript
from ..errors import (
    JobNotFoundError,
    JobStateError,
    StoreError,
    StoreReplacedError,
    TranscribeError,
    UsageError,
)
from ..jobs.models import (
    Batch,
    Hit,
    HitPage,
    Job,
    JobFailure,
    JobFilter,
    JobOptions,
    JobPage,
    JobRequest,
    JobStatus,
    OutputRequest,
    Refused,
)
from .acting import acting_for, owner

if TYPE_CHECKING:
    from ..jobs.store import Store
    from ..jobs.submission import Submission

__all__ = [
    "Batch",
    "Hit",
    "HitPage",
    "Job",
    "JobFailure",
    "JobFilter",
    "JobOptions",
    "JobPage",
    "JobRequest",
    "JobStatus",
    "OutputRequest",
    "Refused",
    "Transcript",
    "acting_for",
    "cancel",
    "close",
    "count_old",
    "delete",
    "forget_old",
    "get_job",
    "get_transcript",
    "list_jobs",
    "prepare",
    "render",
    "retry",
    "search",
    "submit",
    "submit_batch",
    "wait_for",
    "work",
]

POLL_S = 0.03  # how often a waiting call looks at first; the longer it waits, the less it matters
LONGEST_POLL_S = 0.5
POLL_SHARE = 0.04  # of the time waited so far
WAKE_S = 2.0  # how often a call that looks sees to it that there is a worker
EVERYTHING = JobFilter()

_lock = threading.Lock()
_waking = threading.Lock()
_open: dict[tuple[Path, str], Store] = {}
_woken_at = -WAKE_S


def submit(request: JobRequest) -> Job:
    """Queue one recording, or answer from the library; starts the worker if none runs.

    A file that was transcribed in the same way before is answered with the job that did it. A job that waits or runs on
    the same file with the same options is given instead of another, unless forced. Then it has several owners, and goes
    on until the last of them cancels.

    Raises:
        SourceNotFoundError, SourceUnreadableError: the file is not there or may not be read.
        UsageError: the options contradict each other or name something unknown.
        QueueFullError: as many jobs wait as may wait.
    """
    from ..settings import settings

    store, submission = _store(), _submission(request)
    new = submission.prepare(request.source, request)
    if new.answer is not None and new.answer.source == new.source and not new.outputs:
        store.rejoin(new.answer.job_id, owner.get())
        return _job(new.answer.job_id)
    job_id = store.add(new, settings().max_queue_length)
    if new.answer is None or not store.is_idle():
        _wake()
    return _job(job_id)


def submit_batch(
    sources: Sequence[str], request: JobRequest, refused: Sequence[Refused] = ()
) -> Batch:
    """Queue every recording that files, directories, patterns and URLs name, each with the options of ``request``.

    One that cannot be used is refused with its reason and costs no other its place; ``request.source`` is not used.
    ``refused`` is what the caller already left out, and stays with the batch. Recordings that wait or run already are
    shared with whoever asked for them before.

    Raises:
        UsageError: no source, or options that contradict each other.
        OutputError: nothing can be written to the output directory.
        QueueFullError: not even the first fits into the queue.
    """
    from ..media.inputs import as_recordings, find_recordings
    from ..settings import settings
    from .queueing import drop_unused, prepare_all

    store, submission = _store(), _submission(request)
    if not sources and not refused:
        raise UsageError(
            "no recording was named",
            hint="name files, directories or patterns such as 'talks/*.mp3'",
        )
    if request.roots is None:
        recordings, missing = find_recordings(sources, from_shell=request.from_shell)
    else:  # the caller has found the files inside of its roots; to look again would follow links
        recordings, missing = as_recordings(sources), []
    prepared = prepare_all(submission, recordings, request)
    new = prepared.new
    left_out = [
        *refused,
        *(refusal_of(source, error) for source, error in (*missing, *prepared.refused)),
    ]
    if not new and not left_out:
        return Batch("", (), skipped=prepared.skipped)
    try:
        batch_id = store.add_batch(new, left_out, settings().max_queue_length)
    finally:
        drop_unused(store, new)
    if any(job.answer is None or job.outputs for job in new) or not store.is_idle():
        _wake()
    batch = store.get(batch_id)
    assert isinstance(batch, Batch)
    return replace(batch, skipped=prepared.skipped)


def get_job(job_id: str) -> Job | Batch:
    """
    Raises:
        JobNotFoundError: no job and no batch has this id.
    """
    return _read_store().get(job_id, owner.get())


def wait_for(
    job_id: str, seconds: float, on_change: Callable[[Job | Batch], None] | None = None
) -> Job | Batch:
    """The job once it is final, or as it is after ``seconds``. ``on_change`` hears of it first and after each change.

    Raises:
        JobNotFoundError: no job and no batch has this id, or it was deleted meanwhile.
    """
    begin = time.monotonic()
    seen: Job | Batch | None = None
    while True:
        found = get_job(job_id)
        if found != seen:
            seen = found
            if on_change is not None:
                on_change(found)
        waited_s = time.monotonic() - begin
        if found.status.is_final or waited_s >= seconds:
            return found
        poll_s = min(LONGEST_POLL_S, max(POLL_S, POLL_SHARE * waited_s))
        time.sleep(min(poll_s, seconds - waited_s))


def get_transcript(job_id: str) -> Transcript:
    """The transcript; of a running, cancelled or failed job what is finished by now, with a warning ``partial``.

    Raises:
        JobNotFoundError: no job has this id.
        JobStateError: it is a batch, or nothing of it is transcribed yet.
    """
    store = _read_store()
    try:
        row = store.row(job_id)
    except JobNotFoundError:
        if isinstance(store.get(job_id), Batch):
            hint = "ask for one of its jobs"
            raise JobStateError(
                f"{job_id} is a batch, which has no transcript of its own", hint=hint
            ) from None
        raise
    if row.transcript_id is not None:
        transcript = _transcript(row.transcript_id)
        if transcript is not None:
            return replace(transcript, source=row.source)
    steps = store.steps(job_id)
    if not steps:
        hint = "wait for it" if row.status in ("queued", "running") else "retry it"
        raise JobStateError(
            f"job {job_id} is {row.status}; nothing of it is transcribed yet", hint=hint
        )
    from ..jobs.partial import partial_transcript

    return partial_transcript(row, steps)


def render(transcript: Transcript, format_name: str) -> str:
    """The transcript's text in a format of ``format_names()``.

    Raises:
        UnknownNameError: no such format.
    """
    from ..formats import render as render_format

    return render_format(transcript, format_name)


def list_jobs(which: JobFilter = EVERYTHING, cursor: str | None = None, limit: int = 50) -> JobPage:
    """Jobs, newest first.

    Raises:
        UsageError: a cursor that no earlier page gave, a limit below 1 or above 500.
    """
    return _read_store().list_jobs(which, cursor, limit)


def search(
    query: str, cursor: str | None = None, limit: int = 20, which: JobFilter = EVERYTHING
) -> HitPage:
    """Sentences of finished transcripts that hold every word of ``query``; "double quotes" keep words together.

    Raises:
        UsageError: a query without a word, or see ``list_jobs``.
    """
    return _read_store().search(query, which, cursor, limit)


def cancel(job_id: str, *, for_all: bool = False) -> Job | Batch:
    """Give up a job or a batch. What nobody else wants stops: at once if it waits, within two seconds if it runs.

    For its owner it is cancelled, also where it goes on for others; ``for_all`` stops it for them too. What it has
    finished stays readable. A final job stays as it is.

    Raises:
        JobNotFoundError: no job and no batch has this id.
    """
    store = _read_store()
    n_shared = store.cancel(job_id, owner.get(), for_all=for_all)
    store.sweep_spool()
    found = store.get(job_id, owner.get())
    if n_shared and isinstance(found, Job) and not found.status.is_final:
        return replace(found, status=JobStatus.CANCELLED, stage="", eta_s=None, queue_position=None)
    return found


def delete(job_id: str) -> int:
    """Delete a job or a batch with its transcripts; gives how many jobs. Running work is stopped first.

    What others still wait for, and of a batch also what others have, stays for them.

    Raises:
        JobNotFoundError: no job and no batch has this id.
    """
    return _read_store().delete(job_id, owner.get())


def retry(job_id: str) -> Job:
    """Queue a failed or cancelled job again; it goes on after its last checkpoint.

    Raises:
        JobNotFoundError: no job has this id.
        JobStateError: it is neither failed nor cancelled.
    """
    _store().retry(job_id, owner.get())
    _wake()
    return _job(job_id)


def count_old(keep_days: float) -> int:
    """How many jobs ``forget_old`` would delete now."""
    return _store().count_old(keep_days)


def forget_old(keep_days: float) -> int:
    """Delete the jobs that ended more than ``keep_days`` ago, with their transcripts; gives how many. 0 deletes none.

    Raises:
        UsageError: no number of days.
    """
    return _store().delete_old(keep_days)


def prepare() -> None:
    """Do what the first call would wait for; a server does so in the background. Raises as ``rehearse``."""
    store = (
        _store()
    )  # first: it loads SQLAlchemy under a lock, which two threads must not do at once
    from ..jobs import job_options, partial, rehearsal, submission, worker_process

    assert all(
        (job_options, partial, worker_process, submission)
    )  # loaded is all that they have to be
    rehearsal.rehearse(store)


def close() -> None:
    """Give back what this process holds of the store; the next call opens it anew."""
    with _lock:
        for store in _open.values():
            store.close()
        _open.clear()
    _transcript.cache_clear()


def work() -> int:
    """Be the supervisor of this machine's workers until nothing is left to do; gives the exit code."""
    from ..jobs.supervisor import supervise

    return supervise()


def _store() -> Store:
    from ..settings import settings

    chosen = settings()
    which = (chosen.data_dir, chosen.database_url)
    with _lock:
        if which not in _open:
            from ..jobs.store import Store

            _open[which] = Store(*which)
        store = _open[which]
        try:
            store.check_file()
        except StoreReplacedError:
            _open.pop(which).close()
            raise
        return store


@lru_cache(maxsize=4)
def _transcript(transcript_id: str) -> Transcript | None:
    """Kept for the pages of one: what a transcript holds never changes."""
    return _store().transcript(transcript_id)


def _submission(request: JobRequest) -> Submission:
    from ..jobs.job_options import normalized_options, options_key
    from ..jobs.submission import Submission
    from ..settings import settings

    options = normalized_options(request.options, settings().model)
    return Submission(_store(), options, options_key(options), owner.get())


def _read_store() -> Store:
    """The store, for calls that look at it: while work is left, they start the workers again if none is there."""
    store = _store()
    if time.monotonic() - _woken_at > WAKE_S and not store.is_idle():
        _wake()
    return store


def _wake() -> None:
    """Start the workers of this machine, unless they are there. Why that fails is told by the jobs that wait."""
    from ..jobs.worker_process import start_worker
    from ..settings import settings

    global _woken_at
    _woken_at = time.monotonic()
    if not settings().start_workers:
        return
    try:
        with _waking:
            start_worker(settings())
    except OSError as error:  # no place to write, no memory for a process
        reason = f"it cannot be started: {error.strerror or error}"
        with suppress(StoreError):  # the call that wakes it meets that, too
            _store().record_failed_start(settings().data_dir, reason, WAKE_S)


def _job(job_id: str) -> Job:
    found = _store().get(job_id)
    assert isinstance(found, Job)
    return found


def refusal_of(source: str, error: TranscribeError) -> Refused:
    """What a batch keeps of a source that it cannot use."""
    from ..jobs.file_identity import as_text

    return Refused(
        as_text(source), JobFailure(error.code, as_text(str(error)), as_text(error.hint))
    )
