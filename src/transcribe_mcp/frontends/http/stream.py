"""A growing transcript as events: ``stream=true``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
from sse_starlette import EventSourceResponse
from starlette.responses import Response

from ...errors import TranscribeError
from ...service.async_service import AsyncService
from ...service.models import Batch, Job, Transcript
from ...service.streaming import settled_text
from .answers import languages, speaker_segments
from .exchange import STOPPING
from .parameters import DIARIZED, AudioRequest
from .refusals import Refused, refused_by, require_completed

LOOK_S = 0.5  # between checks of a running job's text
PING_S = 15
FAREWELL_S = 2.0  # for the last event, when the server stops

Event = dict[str, str]


def stream(
    service: AsyncService, job: Job, request: AudioRequest, headers: Mapping[str, str]
) -> Response:
    """The answer to a job that may be running. If the client leaves, the job continues."""
    stopping = anyio.Event()
    return EventSourceResponse(
        _events(service, job, request, stopping),
        headers=headers,
        ping=PING_S,
        sep="\n",
        shutdown_event=stopping,
        shutdown_grace_period=FAREWELL_S,
    )


async def _events(
    service: AsyncService, job: Job, request: AudioRequest, stopping: anyio.Event
) -> AsyncIterator[Event]:
    try:
        async for event in _text_events(service, job, request, stopping):
            yield event
    except TranscribeError as error:
        yield _error(refused_by(error, job.source))
    except Refused as error:
        yield _error(error)


async def _text_events(
    service: AsyncService, job: Job | Batch, request: AudioRequest, stopping: anyio.Event
) -> AsyncIterator[Event]:
    """Deltas of the text, then sentences with speakers if requested, then the whole result."""
    sent = ""
    while not job.status.is_final:
        if stopping.is_set():
            raise Refused(503, STOPPING, "stopping")
        text = await service.call(settled_text, service.service, job.job_id)
        if text != sent and text.startswith(sent):
            yield _delta(text[len(sent) :])
            sent = text
        job = await service.wait_for(job, LOOK_S)
    require_completed(job)
    transcript = await service.call(service.service.get_transcript, job.job_id, 0)
    if not transcript.text.startswith(sent):  # a worker died, and its successor cut other windows
        message = "the transcription was restarted; send the file again for the text"
        raise Refused(500, message, "source_changed")
    if transcript.text != sent:
        yield _delta(transcript.text[len(sent) :])
    rows = transcript.to_json()["segments"]
    for segment in speaker_segments(rows) if request.response_format == DIARIZED else ():
        yield _event(segment)
    yield _event(_done(transcript, rows))


def _done(transcript: Transcript, rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("id", "start", "end", "text")
    return {
        "type": "transcript.text.done",
        "text": transcript.text,
        "languages": languages(transcript),
        "segments": [{name: row[name] for name in names} for row in rows],
    }


def _delta(text: str) -> Event:
    return _event({"type": "transcript.text.delta", "delta": text})


def _event(data: Mapping[str, Any]) -> Event:
    return {"event": data["type"], "data": json.dumps(data, ensure_ascii=False)}


def _error(error: Refused) -> Event:
    """An error after the response has started; the official clients raise it."""
    return {"event": "error", "data": bytes(error.response.body).decode()}
