"""Errors as HTTP answers, in the shape of OpenAI's API: an object with a message for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from ...errors import (
    QueueFullError,
    SourceError,
    StoreBusyError,
    TranscribeError,
    VoiceSampleError,
)
from ...service.models import Batch, Job, JobFailure, JobStatus
from ..wording import Wording
from .error_answer import NO_RETRY, refusal

_NO_ROUTE = {404: "not_found", 405: "method_not_allowed"}


class Refused(Exception):
    """An error as an answer, raised by a handler; see ``refusal``."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.response = refusal(status, message, code, param=param, headers=headers)


_for_client = Wording(
    (
        (r"(?:wait until|submit it again when) some are done.*", "send it again later"),
        (
            r"(?:then )?retry the job(?:: transcribe-mcp jobs retry \w+)?",
            "then send the file again",
        ),
        (r"to try again: transcribe-mcp jobs retry \w+", "to try again, send the file again"),
        (r"submit the recording again with force", "send the file again"),
        (r"raise (TRANSCRIBE_MCP_\w+)", r"the owner of the server can raise \1"),
        (r"with a connection: .*", "choose one of /v1/models"),
        (r"(?:see all names: )?transcribe-mcp models list", "GET /v1/models has all names"),
        (r"--(model|language) ([\w.-]+)", r"\1 \2"),
        (r"transcribe-mcp (?:doctor|serve)\b[^;,.]*", "the log of the server"),
    )
)
# Clients retry some statuses, and interpret 404 and 422 as another kind of server.
_STATUS = {404: 400, 409: 400, 415: 400, 422: 400}
_RETRY_AFTER_S = {QueueFullError.code: "10", StoreBusyError.code: "2"}


def refused_by(
    error: TranscribeError | JobFailure, source: str = "", param: str | None = None
) -> Refused:
    """The answer for an error of a request or of its job.

    Args:
        source: the path of the recording, which clients do not see.
    """
    message = error.message if isinstance(error, JobFailure) else str(error)
    text = "; ".join(filter(None, (_for_client(message) or message, _for_client(error.hint))))
    if source:
        text = text.replace(f"{source}: ", "the file: ").replace(source, "the file")
    status = _statuses.get(error.code, 500)
    headers: Mapping[str, str] = NO_RETRY if status >= 500 else {}
    if error.code in _RETRY_AFTER_S:
        headers = {"retry-after": _RETRY_AFTER_S[error.code]}
    if error.code == VoiceSampleError.code:
        param = "known_speaker_references"
    elif error.code in _of_the_file:
        param = "file"
    return Refused(_STATUS.get(status, status), text, error.code, param=param, headers=headers)


def require_completed(job: Job | Batch) -> None:
    """
    Raises:
        Refused: it failed or was cancelled.
    """
    assert isinstance(job, Job)
    if job.status is JobStatus.CANCELLED:
        message = "the job was cancelled on the server; send the file again"
        raise Refused(500, message, "cancelled", headers=NO_RETRY)
    if job.status is not JobStatus.COMPLETED:
        raise refused_by(job.error or JobFailure("job", "the job failed"), job.source)


def _all_statuses(root: type[TranscribeError]) -> Iterator[tuple[str, int]]:
    yield root.code, root.http_status
    for child in root.__subclasses__():
        yield from _all_statuses(child)


_statuses = dict(_all_statuses(TranscribeError))
_of_the_file = dict(_all_statuses(SourceError))


def no_route(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request for an unknown path, or a method that the path does not support."""
    assert isinstance(error, HTTPException)
    message = f"there is no {request.method} {request.url.path[:200]!r}"
    code = _NO_ROUTE.get(error.status_code, "bad_request")
    return refusal(error.status_code, message, code, headers=error.headers)


async def no_socket(websocket: WebSocket) -> None:
    """The answer to a WebSocket for an unknown path."""
    message = f"there is no WebSocket {websocket.url.path[:200]!r}; live sessions: /v1/realtime"
    await websocket.send_denial_response(refusal(404, message, "not_found"))


def broken(_request: Request, _error: Exception) -> JSONResponse:
    """The answer after an unexpected error; uvicorn logs the cause."""
    message = "internal error; the server's log has the cause"
    return refusal(500, message, "error", headers=NO_RETRY)


def refused(_request: Request, error: Exception) -> JSONResponse:
    """The answer that a handler raised."""
    assert isinstance(error, Refused)
    return error.response


def failed(_request: Request, error: Exception) -> JSONResponse:
    """The answer for an error of the service, such as a database that cannot be opened."""
    assert isinstance(error, TranscribeError)
    return refused_by(error).response


HANDLERS: Mapping[Any, Any] = {
    HTTPException: no_route,
    Refused: refused,
    TranscribeError: failed,
    Exception: broken,
}
