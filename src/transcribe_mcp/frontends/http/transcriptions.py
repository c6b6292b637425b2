"""``/v1/audio/transcriptions`` and ``translations``: a request becomes a job and waits for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import TranscribeError
from ...service.async_service import AsyncService
from ...service.models import Job, JobOptions, JobRequest, Transcript
from ...service.uploads import submit_upload
from . import answers
from .guard import Area
from .parameters import audio_request
from .parts import Part
from .refusals import Refused, refused_by, require_completed
from .stream import stream
from .uploads import Form, received_form


def part(service: AsyncService) -> Part:
    async def transcribe(request: Request) -> Response:
        return await _answer(service, request, "transcribe")

    async def translate(request: Request) -> Response:
        return await _answer(service, request, "translate")

    routes = [
        Route("/v1/audio/transcriptions", transcribe, methods=["POST"]),
        Route("/v1/audio/translations", translate, methods=["POST"]),
    ]
    return Part(routes, [Area("/v1/*", is_cross_origin=True)])


async def _answer(service: AsyncService, request: Request, task: str) -> Response:
    async with received_form(request, service) as form:
        given = await service.call(audio_request, form, task)
        job = await submit(service, form, given.options, clips=given.clips)
    headers = {"x-transcribe-mcp-job": job.job_id}
    if given.ignored:
        headers["x-transcribe-mcp-ignored"] = _listed(given.ignored)
    if given.is_streamed:
        return stream(service, job, given, headers)
    transcript = await finished_transcript(service, request, job, headers)
    return await service.call(answers.answer, transcript, given, headers)


async def submit(
    service: AsyncService,
    form: Form,
    options: JobOptions,
    file_field: str = "file",
    clips: Sequence[bytes] = (),
) -> Job:
    """The job of a form's recording.

    Args:
        clips: of the voices that the options name.

    Raises:
        Refused: there is no recording, or the queue is full.
    """
    upload = form.upload
    if upload is None:
        message = f"the form has no file; send the recording as {file_field}"
        raise Refused(400, message, "usage", param=file_field)
    if upload.path.stat().st_size == 0:
        message = "the file is empty; record or export it again"
        raise Refused(400, message, "not_media", param=file_field)
    job_request = JobRequest(str(upload.path), options)
    try:
        return await service.submit(submit_upload, service.service, upload, job_request, clips)
    except TranscribeError as error:
        raise refused_by(error, str(upload.path)) from error


async def finished_transcript(
    service: AsyncService, request: Request, job: Job, headers: Mapping[str, str]
) -> Transcript:
    """Wait for a job. If the client disconnects, it continues and answers the next upload.

    Raises:
        Refused: the job failed or was cancelled.
    """
    waiting = asyncio.ensure_future(service.wait_for(job, math.inf))
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait([waiting, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise Refused(499, "the client has disconnected; its job continues", "cancelled")
        try:
            done = waiting.result()
            require_completed(done)
            # The same upload gets the same answer, regardless of later edits.
            return await service.call(service.service.get_transcript, done.job_id, 0)
        except TranscribeError as error:
            raise refused_by(error, job.source) from error
    except Refused as error:
        error.response.headers.update(headers)
        raise
    finally:
        for task in (waiting, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, TranscribeError):
                await task


async def _disconnected(request: Request) -> None:
    """Returns when the client has disconnected; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _listed(names: Sequence[str]) -> str:
    """Names for a header, which may contain only ASCII."""
    texts = (name.encode("ascii", "replace").decode() for name in dict.fromkeys(names))
    return ", ".join("".join(char for char in text if char.isprintable())[:64] for text in texts)
