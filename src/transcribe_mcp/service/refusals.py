"""Impossible requests, as errors and as entries of a batch."""

from __future__ import annotations

from typing import Any

from ..errors import JobStateError, TranscribeError
from .models import JobFailure, Refused


def is_batch(batch_id: str) -> JobStateError:
    """The error for a request that needs one job."""
    return JobStateError(
        f"{batch_id} is a batch; this needs one of its jobs",
        hint=f"list its jobs with: transcribe-mcp jobs show {batch_id}",
    )


def no_text(row: Any) -> JobStateError:
    """The error for the transcript of a job that is not completed.

    Args:
        row: of the job.
    """
    if row.status in ("queued", "running"):
        message = f"job {row.job_id} is {row.status} and has no finished transcript yet"
        return JobStateError(message, hint="wait for it")
    cause = (row.error_message or "").replace(f"{row.source}: ", "")
    advice = (row.error_hint or "").rstrip(".")
    retry = f"to try again: transcribe-mcp jobs retry {row.job_id}"
    return JobStateError(
        f"job {row.job_id} has no transcript, because it {_ENDS[row.status]}"
        + (f": {cause}" if cause else ""),
        hint=f"{advice}; {retry}" if advice else retry,
    )


_ENDS = {"failed": "failed", "cancelled": "was cancelled", "completed": "lost it"}


def refusal_of(source: str, error: TranscribeError) -> Refused:
    """The entry of an unusable source in a batch."""
    from ..jobs.file_identity import as_text

    failure = JobFailure(error.code, as_text(str(error)), as_text(error.hint))
    return Refused(as_text(source), failure)
