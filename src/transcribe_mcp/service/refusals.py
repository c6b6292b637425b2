"""Requests that cannot be met, as errors and as entries of a batch."""

from __future__ import annotations

from ..errors import JobStateError, TranscribeError
from .models import JobFailure, Refused


def is_batch(batch_id: str) -> JobStateError:
    """The error for a request that needs one job."""
    return JobStateError(
        f"{batch_id} is a batch, and this needs one of its jobs",
        hint=f"list its jobs with: transcribe-mcp jobs show {batch_id}",
    )


def refusal_of(source: str, error: TranscribeError) -> Refused:
    """The entry of an unusable source in a batch."""
    from ..jobs.file_identity import as_text

    failure = JobFailure(error.code, as_text(str(error)), as_text(error.hint))
    return Refused(as_text(source), failure)
