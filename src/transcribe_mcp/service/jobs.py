"""The use cases of durable jobs. Every call is quick: it talks to the store, never to a model.

    submit, submit_batch -> job_id -> get_job, wait_for -> get_transcript
                                   -> cancel, retry, delete
    list_jobs, search

A batch has a ``job_id`` too; ``get_job``, ``wait_for``, ``cancel`` and ``delete`` take either.

All raise ``StoreError`` where the store cannot be used: busy, damaged, full, or written by a newer version.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, overload

from ..errors import JobNotFoundError, JobStateError, TranscribeError
from ..jobs.records import (
    Batch,
    Diagnosis,
    Hit,
    HitPage,
    Job,
    JobFailure,
    JobFilter,
    JobOptions,
    JobPage,
    JobRequest,
    JobStatus,
    Refused,
)

if TYPE_CHECKING:
    from ..jobs.store import Store
    from ..transcript import Transcript

__all__ = [
    "Batch",
    "Diagnosis",
    "Hit",
    "HitPage",
    "Job",
    "JobFailure",
    "JobFilter",
    "JobOptions",
    "JobPage",
    "JobRequest",
    "JobStatus",
    "Refused",
    "cancel",
    "delete",
    "diagnose",
    "get_job",
    "get_transcript",
    "list_jobs",
    "render",
    "retry",
    "search",
    "submit",
    "submit_batch",
    "wait_for",
]

POLL_S = 0.05  # how often a waiting call looks; grows to the next while nothing changes
LONGEST_POLL_S = 0.25


def submit(request: JobRequest) -> Job:
    """Queue one recording, or answer from the library; starts the worker if none runs.

    Raises:
        SourceNotFoundError, SourceUnreadableError: the file is not there or may not be read.
        UsageError: the options contradict each other or name something unknown.
        QueueFullError: as many jobs wait as may wait.
    """


def submit_batch(sources: Sequence[str], request: JobRequest, refused: Sequence[Refused] = ()) -> Batch:
    """Queue every recording that files, directories and patterns name, each with the options of ``request``.

    One that cannot be used is refused with its reason and costs no other its place; ``request.source`` is not used.
    ``refused`` is what the caller already left out, and stays with the batch.

    Raises:
        UsageError: no source, or options that contradict each other.
        QueueFullError: not even the first fits into the queue.
    """


def get_job(job_id: str) -> Job | Batch:
    """
    Raises:
        JobNotFoundError: no job and no batch has this id.
    """


def wait_for(job_id: str, seconds: float, on_change: Callable[[Job | Batch], None] | None = None) -> Job | Batch:
    """The job once it is final, or as it is after ``seconds``. ``on_change`` hears of it first and after each change.

    Raises:
        JobNotFoundError: no job and no batch has this id, or it was deleted meanwhile.
    """


def get_transcript(job_id: str) -> Transcript:
    """The transcript; of a running, cancelled or failed job what is finished by now, with a warning ``partial``.

    Raises:
        JobNotFoundError: no job has this id.
        JobStateError: it is a batch, or nothing of it is transcribed yet.
    """


def render(transcript: Transcript, format_name: str) -> str:
    """The transcript's text in a format of ``format_names()``."""


def list_jobs(which: JobFilter = JobFilter(), cursor: str | None = None, limit: int = 50) -> JobPage:
    """Jobs, newest first.

    Raises:
        UsageError: a cursor that no earlier page gave, a limit below 1 or above 500.
    """


def search(query: str, cursor: str | None = None, limit: int = 20, which: JobFilter = JobFilter()) -> HitPage:
    """Sentences of finished transcripts that hold every word of ``query``; "double quotes" keep words together.

    Raises:
        UsageError: a query without a word, or see ``list_jobs``.
    """


def cancel(job_id: str) -> Job | Batch:
    """Stop a job: at once if it waits, within two seconds if it runs. What it has finished stays readable.

    A final job stays as it is.

    Raises:
        JobNotFoundError: no job and no batch has this id.
    """


def delete(job_id: str) -> None:
    """Forget a job or a batch with its transcripts. Running work is stopped first.

    Raises:
        JobNotFoundError: no job and no batch has this id.
    """


def retry(job_id: str) -> Job:
    """Queue a failed or cancelled job again; it goes on after its last checkpoint.

    Raises:
        JobNotFoundError: no job has this id.
        JobStateError: it is neither failed nor cancelled.
    """


def diagnose() -> Diagnosis:
    """What the doctor finds on this machine, and its plan."""
