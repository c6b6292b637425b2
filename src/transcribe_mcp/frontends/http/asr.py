"""``/asr`` and ``/detect-language``, for clients of whisper-asr-webservice such as Bazarr."""

from __future__ import annotations

import hashlib
import sys
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...domain.audio import SAMPLE_RATE_HZ
from ...domain.languages import LANGUAGES
from ...service.async_service import AsyncService
from ...service.formats import FORMATS, render
from ...service.models import JobOptions, Transcript
from ...service.uploads import FILE_MODE, Upload
from . import answers
from .guard import Area
from .parameters import AudioRequest, checked_options, is_true
from .parts import Part
from .refusals import Refused
from .transcriptions import finished_transcript, submit
from .uploads import WRITE_BYTES, received_form

FILE_FIELD = "audio_file"
OUTPUTS = ("txt", "vtt", "srt", "tsv", "json")
DETECTED_BYTES = 2 * SAMPLE_RATE_HZ * 600  # ten minutes have enough speech for the language
SEGMENTS_AND_WORDS = frozenset({"segment", "word"})


def part(service: AsyncService) -> Part:
    async def transcribe(request: Request) -> Response:
        query = request.query_params
        output = query.get("output", "txt") or "txt"
        if output not in OUTPUTS:
            message = f"there is no output {output[:64]!r}; choose {', '.join(OUTPUTS)}"
            raise Refused(400, message, "unsupported_value", param="output")
        transcript, name, headers = await _transcript(service, request, _options(query))
        file_name = quote(f"{Path(name).stem or 'transcript'}{FORMATS[output].extension}", safe="")
        headers["content-disposition"] = f"attachment; filename*=utf-8''{file_name}"
        if output == "json":
            shown = AudioRequest(JobOptions(), "verbose_json", SEGMENTS_AND_WORDS, False, ())
            answer = answers.verbose(transcript, shown) | {"language": transcript.language}
            return JSONResponse(answer, headers=headers)
        text = await service.call(render, transcript, output)
        return Response(text, headers=headers, media_type="text/plain")

    async def detect(request: Request) -> Response:
        transcript, _, headers = await _transcript(service, request, JobOptions(), DETECTED_BYTES)
        return JSONResponse(detected(transcript, headers), headers=headers)

    routes = [
        Route("/asr", transcribe, methods=["POST"]),
        Route("/detect-language", detect, methods=["POST"]),
    ]
    areas = [Area("/asr", is_cross_origin=True), Area("/detect-language", is_cross_origin=True)]
    return Part(routes, areas)


def detected(transcript: Transcript, headers: Mapping[str, str]) -> dict[str, Any]:
    """The answer to ``/detect-language``.

    Raises:
        Refused: the model supports one language only, so none was detected.
    """
    code = transcript.language or ""
    if code and transcript.language_probability is None:
        message = (
            f"the model {transcript.model} supports {LANGUAGES[code].title()} only and detects no "
            "language; start the server with another one, such as serve --model small"
        )
        raise Refused(400, message, "unsupported_task", headers=headers)
    return {
        "detected_language": LANGUAGES.get(code, code),
        "language_code": code,
        "confidence": transcript.language_probability or 0.0,
    }


async def _transcript(
    service: AsyncService, request: Request, options: JobOptions, max_bytes: int | None = None
) -> tuple[Transcript, str, dict[str, str]]:
    """The transcript, the name of the recording, and the headers of the answer.

    Args:
        max_bytes: of samples without a header.
    """
    is_raw = not is_true(request.query_params.get("encode") or "true", "encode")
    async with received_form(request, service, FILE_FIELD) as form:
        if is_raw and form.upload is not None:
            form.upload = await service.call(_as_wav, form.upload, max_bytes)
        job = await submit(service, form, options, FILE_FIELD)
        name = form.upload.name if form.upload is not None else ""
    headers = {"x-transcribe-mcp-job": job.job_id}
    return await finished_transcript(service, request, job, headers), name, headers


def _as_wav(upload: Upload, max_bytes: int | None) -> Upload:
    """Samples without a header (16 bits, 16 kHz, mono) as a WAV file. A WAV file stays."""
    path = upload.path.with_name("upload.wav")
    with upload.path.open("rb") as raw:
        if raw.read(4) in (b"", b"RIFF"):
            return upload
        raw.seek(0)
        with wave.open(str(path), "wb") as target:
            target.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
            left = max_bytes or sys.maxsize
            while chunk := raw.read(min(left, WRITE_BYTES)):
                target.writeframesraw(chunk)
                left -= len(chunk)
    path.chmod(FILE_MODE)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Upload(path, digest, ".wav", upload.name)


def _options(query: Mapping[str, str]) -> JobOptions:
    given: dict[str, Any] = {
        "task": query.get("task") or "transcribe",
        "language": query.get("language") or "auto",
        "prompt": query.get("initial_prompt", ""),
        "diarize": is_true(query.get("diarize", ""), "diarize"),
    }
    return checked_options(given)
