"""Requests that cannot be met, as errors and as entries of a batch."""

from __future__ import annotations

from ..errors import JobStateError, TranscribeError
from .models import JobFailure, Refused


def no_transcript(batch_id: str, hint: str) -> JobStateError:
    return JobStateError(f"{batch_id} is a batch, which has no transcript of its own", hint=hint)


def refusal_of(source: str, error: TranscribeError) -> Refused:
    """The entry of an unusable source in a batch."""
    from ..jobs.file_identity import as_text

    failure = JobFailure(error.code, as_text(str(error)), as_text(error.hint))
    return Refused(as_text(source), failure)
