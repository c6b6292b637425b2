"""The answers of the page's ``/api``: jobs, hits and transcripts as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from ...errors import EditConflictError, TranscribeError
from ...service.models import Hit, Job, Outline, Revision, Transcript
from ...service.uploads import recording_name
from ..times import iso
from .error_answer import refusal

# Commands in hints, and their replacements for the page.
_COMMANDS = (
    (r"list its jobs with: transcribe-mcp jobs show (\w+)",
     r"list its jobs with: GET /api/jobs?batch=\1"),
    (r"to try again: transcribe-mcp jobs retry \w+", "to try again, retry the job"),
)  # fmt: skip
NO_STORE = {"cache-control": "no-store"}


def answer(content: Any, status: int = 200, headers: Mapping[str, str] = NO_STORE) -> JSONResponse:
    return JSONResponse(content, status, headers)


def tag(revision: int) -> dict[str, str]:
    """The headers of an answer about this revision."""
    return {**NO_STORE, "etag": f'"r{revision}"'}


def time_of_day(seconds: float | None) -> str | None:
    return None if seconds is None else iso(seconds, "milliseconds")


def job_row(job: Job, outline: Outline | None) -> dict[str, Any]:
    """A job as lists show it."""
    error = job.error
    # Lists show the name beside it; an upload's path is meaningless to users.
    message = error.message.replace(f"{job.source}: ", "") if error else ""
    return {
        "job_id": job.job_id,
        "name": recording_name(job.source),
        "source": job.source,
        "status": job.status.value,
        "stage": job.stage,
        "percent": round(job.percent, 1),
        "eta_s": job.eta_s,
        "queue_position": job.queue_position,
        "waiting_for": job.waiting_for,
        "created_at": time_of_day(job.created_at),
        "started_at": time_of_day(job.started_at),
        "finished_at": time_of_day(job.finished_at),
        "duration_s": job.duration_s,
        "language": job.language,
        "model": job.model,
        "device": job.device,
        "error": error and {"code": error.code, "message": message, "hint": error.hint},
        "warnings": [{"code": each.code, "message": each.message} for each in job.warnings],
        "preview": outline.preview if outline else None,
        "n_speakers": outline.n_speakers if outline else None,
        "revision": outline.revision if outline else None,
    }


def hit_row(hit: Hit) -> dict[str, Any]:
    return {
        "job_id": hit.job_id,
        "name": recording_name(hit.source),
        "start": hit.start,
        "end": hit.end,
        "text": hit.text,
        "before": hit.before,
        "after": hit.after,
        "speaker": hit.speaker,
        "created_at": time_of_day(hit.created_at),
    }


def revision_row(revision: Revision) -> dict[str, Any]:
    return {"revision": revision.revision, "created_at": time_of_day(revision.created_at)}


def document(transcript: Transcript, revision: int) -> Response:
    """A transcript as in ``domain/schema.json``, with its revision."""
    text = transcript.dumps().replace("{", f'{{"revision": {revision},', 1)
    return Response(text, media_type="application/json", headers=tag(revision))


def page_error(error: TranscribeError) -> JSONResponse:
    """An error of the service, with its HTTP status and hint."""
    hint = error.hint
    for command, words in _COMMANDS:
        hint = re.sub(command, words, hint)
    text = "; ".join(filter(None, (str(error), hint)))
    more: dict[str, Any] = {}
    headers = NO_STORE
    if isinstance(error, EditConflictError):
        more = {"revision": error.revision}
        headers = tag(error.revision)
    return refusal(error.http_status, text, error.code, headers=headers, more=more)
