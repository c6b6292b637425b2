"""``/api``: the data of the page. Browsers log in with the token of the page."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import PurePath
from typing import Any, TypeVar
from urllib.parse import quote

from sse_starlette import EventSourceResponse
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ... import __version__
from ...errors import TranscribeError, UsageError
from ...service import list_models
from ...service.async_service import AsyncService
from ...service.editing import Editing
from ...service.formats import export, exports, find_export
from ...service.models import Batch, Job, JobFilter, JobRequest, JobStatus, SpeakerChange
from ...service.refusals import is_batch
from ...service.sandbox import Sandbox
from ...service.uploads import recording_name
from ...service.viewing import Sound, Viewing
from .guard import SESSION_COOKIE, Area
from .page_answers import (
    NO_STORE,
    answer,
    document,
    hit_row,
    job_row,
    page_error,
    revision_row,
    tag,
)
from .page_events import Events
from .parameters import form_options, named_options
from .parts import Part
from .preconditions import if_match, number_of
from .refusals import Refused
from .sessions import Sessions
from .transcriptions import submit as submit_upload
from .uploads import received_form

PING_S = 15
_SPAN = re.compile(r"(?=.*[0-9])([0-9]{0,19})-([0-9]{0,19})")
MAX_BODY_BYTES = 1 << 20  # of JSON

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


def part(service: AsyncService, sessions: Sessions) -> Part:
    """The routes of ``/api``. All but the login need a session or the token of the server."""
    api = PageApi(service, sessions)
    routes = [
        _route("/api/session", "POST", api.log_in),
        _route("/api/config", "GET", api.config),
        _route("/api/events", "GET", api.events),
        _route("/api/search", "GET", api.search),
        _route("/api/jobs", "GET", api.list_jobs),
        _route("/api/jobs", "POST", api.submit),
        _route("/api/jobs/{job_id}", "GET", api.job),
        _route("/api/jobs/{job_id}", "DELETE", api.delete),
        _route("/api/jobs/{job_id}/cancel", "POST", api.cancel),
        _route("/api/jobs/{job_id}/retry", "POST", api.retry),
        _route("/api/jobs/{job_id}/transcript", "GET", api.transcript),
        _route("/api/jobs/{job_id}/transcript", "PATCH", api.edit),
        _route("/api/jobs/{job_id}/revisions", "GET", api.revisions),
        _route("/api/jobs/{job_id}/revisions/{revision}/restore", "POST", api.restore),
        _route("/api/jobs/{job_id}/speakers", "POST", api.change_speakers),
        _route("/api/jobs/{job_id}/export", "GET", api.export),
        _route("/api/jobs/{job_id}/audio", "GET", api.audio),
        _route("/api/jobs/{job_id}/peaks", "GET", api.peaks),
    ]
    return Part(routes, [Area("/api/*", takes_session=True), Area("/api/session", is_public=True)])


def _route(path: str, method: str, handler: Handler) -> Route:
    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except TranscribeError as error:
            return page_error(error)

    return Route(path, handle, methods=[method], name=handler.__name__)


class PageApi:
    """The handlers of one server."""

    def __init__(self, service: AsyncService, sessions: Sessions) -> None:
        self._service = service
        self._jobs = service.service
        self._sessions = sessions
        self._viewing = Viewing(service.service)
        self._editing = Editing(service.service)
        self._events = Events(service, self._viewing)

    async def log_in(self, request: Request) -> Response:
        cookie = self._sessions.begin(str((await _json(request)).get("token", "")))
        if cookie is None:
            message = "this is not the token of the server; it prints a link with it when it starts"
            raise Refused(401, message, "invalid_api_key", param="token")
        response = Response(status_code=204, headers=NO_STORE)
        is_secure = request.url.scheme == "https"
        response.set_cookie(
            SESSION_COOKIE, cookie, httponly=True, samesite="strict", secure=is_secure
        )
        return response

    async def config(self, _: Request) -> Response:
        settings = self._jobs.settings
        models = await self._service.call(list_models)
        return answer(
            {
                "version": __version__,
                "formats": [
                    {"name": name, "label": form.summary} for name, form in exports().items()
                ],
                "models": [row.name for row in models if row.path is not None],
                "default_model": settings.model,
                "max_file_bytes": settings.max_file_bytes,
            }
        )

    async def events(self, request: Request) -> Response:
        events = self._events.stream(request.query_params.get("job", ""))
        return EventSourceResponse(events, ping=PING_S, headers=NO_STORE)

    # --- jobs ------------------------------------------------------------------------------------

    async def list_jobs(self, request: Request) -> Response:
        query = request.query_params
        statuses = tuple(map(_status, query.getlist("status")))
        which = JobFilter(statuses, query.get("source", ""), batch_id=query.get("batch", ""))
        page = await self._call(
            self._jobs.list_jobs, which, query.get("cursor"), _limit(request, 50)
        )
        outlines = await self._call(self._viewing.outlines, page.jobs)
        rows = [job_row(job, outlines.get(job.job_id)) for job in page.jobs]
        return answer({"jobs": rows, "next_cursor": page.next_cursor})

    async def submit(self, request: Request) -> Response:
        """Queue an upload, or a recording on this machine inside the allowed directories."""
        if request.headers.get("content-type", "").lower().startswith("application/json"):
            content = await _json(request)
            job_request = await self._call(_job_request, content)
            job = await self._service.submit(lambda: Sandbox.of(self._jobs).submit(job_request))
            return await self._row(job, 201)
        async with received_form(request, self._service) as form:
            options = await self._call(form_options, form)
            job = await submit_upload(self._service, form, options)
        return await self._row(job, 201)

    async def job(self, request: Request) -> Response:
        return await self._row(await self._found(request))

    async def cancel(self, request: Request) -> Response:
        job = await self._found(request)
        await self._call(partial(self._jobs.cancel, job.job_id, for_all=True))
        return await self._row(await self._found(request))

    async def retry(self, request: Request) -> Response:
        return await self._row(await self._call(self._jobs.retry, _job_id(request)))

    async def delete(self, request: Request) -> Response:
        job = await self._found(request)
        await self._call(self._jobs.delete, job.job_id)
        await self._call(self._viewing.sweep)
        return Response(status_code=204, headers=NO_STORE)

    # --- transcripts -----------------------------------------------------------------------------

    async def transcript(self, request: Request) -> Response:
        found = await self._document(_job_id(request), _revision(request))
        found.background = BackgroundTask(self._call, self._editing.prepare)
        return found

    async def edit(self, request: Request) -> Response:
        known = if_match(request)
        if known is None:
            message = "the request does not say which revision it changes; send If-Match"
            raise Refused(428, message, "revision_missing", headers=NO_STORE)
        ops = (await _json(request)).get("ops")
        if not isinstance(ops, list):
            raise UsageError("the request has no list of ops", hint='send {"ops": [...]}')
        saved = await self._call(self._editing.edit, _job_id(request), ops, known)
        return answer(asdict(saved), headers=tag(saved.revision))

    async def revisions(self, request: Request) -> Response:
        found = await self._call(self._editing.history, _job_id(request))
        return answer({"revisions": [revision_row(each) for each in found]})

    async def restore(self, request: Request) -> Response:
        number = number_of(request.path_params["revision"])
        await self._call(self._editing.restore, _job_id(request), number, if_match(request))
        return await self._document(_job_id(request))

    async def change_speakers(self, request: Request) -> Response:
        body = await _json(request)
        change = SpeakerChange(merge=_groups(body.get("merge")), names=_names(body.get("names")))
        await self._call(self._jobs.change_speakers, _job_id(request), change)
        return await self._document(_job_id(request))

    async def export(self, request: Request) -> Response:
        name = request.query_params.get("format", "txt")
        form = find_export(name)
        revision = _revision(request)
        job = await self._found(request)

        def rendered() -> bytes:
            return export(self._jobs.get_transcript(job.job_id, revision), name)

        content = await self._call(rendered)
        file = f"{PurePath(recording_name(job.source)).stem}{form.extension}"
        return Response(
            content, media_type=form.media_type, headers={**NO_STORE, **_attachment(file)}
        )

    async def search(self, request: Request) -> Response:
        query = request.query_params
        found = await self._call(
            self._jobs.search, query.get("q", ""), query.get("cursor"), _limit(request, 20)
        )
        hits = [hit_row(hit) for hit in found.hits]
        return answer({"hits": hits, "next_cursor": found.next_cursor})

    # --- the sound -------------------------------------------------------------------------------

    async def audio(self, request: Request) -> Response:
        return _HeldFile(await self._call(self._viewing.sound, _job_id(request)))

    async def peaks(self, request: Request) -> Response:
        found = await self._call(self._viewing.peaks, _job_id(request))
        return Response(found, media_type="application/octet-stream", headers=NO_STORE)

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._service.call(function, *arguments)

    async def _found(self, request: Request) -> Job:
        job = await self._call(self._jobs.get_job, _job_id(request))
        if isinstance(job, Batch):
            raise is_batch(job.job_id)
        return job

    async def _row(self, job: Job, status: int = 200) -> Response:
        outlines = await self._call(self._viewing.outlines, [job])
        return answer(job_row(job, outlines.get(job.job_id)), status)

    async def _document(self, job_id: str, revision: int | None = None) -> Response:
        return await self._call(lambda: document(*self._jobs.read_revision(job_id, revision)))


class _HeldFile(Response):
    """A file, or ranges of it, that is held open until the answer ends."""

    def __init__(self, sound: Sound) -> None:
        super().__init__()
        self._sound = sound

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sound = self._sound
        # A server ignores ranges that it cannot read (RFC 9110, 14.2); Starlette refuses them.
        headers = [(name, value) for name, value in scope["headers"] if _is_readable(name, value)]
        try:
            response = FileResponse(sound.path, media_type=sound.media_type, headers=NO_STORE)
            await response({**scope, "headers": headers}, receive, send)
        finally:
            sound.close()


def _is_readable(name: bytes, value: bytes) -> bool:
    if name != b"range":
        return True
    unit, _, ranges = value.decode("latin-1").partition("=")
    spans = [_SPAN.fullmatch(each.strip()) for each in ranges.split(",")]
    return unit.strip().lower() == "bytes" and all(
        span and int(span[1] or 0) <= int(span[2] or span[1]) for span in spans
    )


def _job_id(request: Request) -> str:
    found: str = request.path_params["job_id"]
    return found


async def _json(request: Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        UsageError: invalid or too large.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise UsageError("the request is larger than 1 MiB", hint="send less at once")
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise UsageError("the request is not JSON", hint="send a JSON object") from error
    if not isinstance(content, dict):
        raise UsageError("the request is not a JSON object", hint="send a JSON object")
    return content


def _job_request(content: Mapping[str, Any]) -> JobRequest:
    """
    Raises:
        UsageError, Refused: the source or the options are invalid.
    """
    source = content.get("source")
    options = {} if content.get("options") is None else content["options"]
    example = 'send {"source": "/talks/monday.mp3", "options": {"language": "en"}}'
    if not isinstance(source, str) or not source:
        raise UsageError("source is not a path or URL", hint=example)
    if not isinstance(options, dict):
        raise UsageError("options is not an object", hint=example)
    return JobRequest(source, named_options(options))


def _revision(request: Request) -> int | None:
    given = request.query_params.get("revision")
    return number_of(given) if given else None


def _limit(request: Request, usual: int) -> int:
    given = request.query_params.get("limit", "")
    if given and not (given.isascii() and given.isdecimal() and len(given) < 6):
        raise UsageError(f"limit {given[:20]!r} is not a number", hint="give a number up to 500")
    return int(given or usual)


def _status(name: str) -> JobStatus:
    try:
        return JobStatus(name)
    except ValueError as error:
        hint = f"give one of {', '.join(JobStatus)}"
        raise UsageError(f"there is no status {name[:40]!r}", hint=hint) from error


def _names(given: Any) -> dict[str, str]:
    given = {} if given is None else given
    if not isinstance(given, dict) or not all(isinstance(each, str) for each in given.values()):
        raise UsageError("names is not an object of names", hint='send {"Speaker 1": "Anna"}')
    return dict(given)


def _groups(given: Any) -> tuple[tuple[str, ...], ...]:
    given = [] if given is None else given
    is_list = isinstance(given, list) and all(isinstance(each, list) for each in given)
    if not is_list or not all(isinstance(name, str) for each in given for name in each):
        message = "merge is not a list of lists of names"
        raise UsageError(message, hint='send [["Speaker 1", "Speaker 2"]]')
    return tuple(map(tuple, given))


def _attachment(file: str) -> dict[str, str]:
    """The header that offers a file for download under its name."""
    plain = file.encode("ascii", "replace").decode().translate({34: "_", 92: "_", 63: "_"})
    clean = "".join(char if char.isprintable() else "_" for char in plain)
    name = quote(file.encode("utf-8", "replace"), safe="")
    return {"content-disposition": f"attachment; filename=\"{clean}\"; filename*=utf-8''{name}"}
