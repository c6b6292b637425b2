"""A transcript in the formats of OpenAI's API."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from ...domain.languages import LANGUAGES
from ...service.formats import FORMATS, render
from ...service.models import Transcript
from .parameters import DIARIZED, SEGMENT, WORD, AudioRequest

_NUMBERED = re.compile(r"Speaker ([1-9][0-9]*)")
UNKNOWN_SPEAKER = "unknown"  # for sentences without a speaker; clients expect a text
_LETTERS = 26


def answer(transcript: Transcript, request: AudioRequest, headers: Mapping[str, str]) -> Response:
    """The answer in the format of the request."""
    name = request.response_format
    if name == "text":
        return Response(f"{transcript.text}\n", headers=headers, media_type="text/plain")
    if name in ("srt", "vtt"):
        media_type = FORMATS[name].media_type
        return Response(render(transcript, name), headers=headers, media_type=media_type)
    shape = {"verbose_json": verbose, DIARIZED: diarized}.get(name, plain)
    return JSONResponse(shape(transcript, request), headers=headers)


def plain(transcript: Transcript, _request: AudioRequest) -> dict[str, Any]:
    return {
        "text": transcript.text,
        "languages": languages(transcript),
        "usage": _usage(transcript),
    }


def verbose(transcript: Transcript, request: AudioRequest) -> dict[str, Any]:
    """With segments, words or both. Some clients need a number in every field of a segment."""
    is_translated = transcript.task == "translate"
    code = transcript.language or ""
    document = transcript.to_json()
    found: dict[str, Any] = {
        "task": transcript.task,
        # OpenAI writes the English name in small letters, and names the language of a translation.
        "language": "english" if is_translated else LANGUAGES.get(code, code),
        "language_code": transcript.language,
        "duration": document["duration"],
        "text": transcript.text,
    }
    if SEGMENT in request.granularities:
        found["segments"] = [_segment(row) for row in document["segments"]]
    if WORD in request.granularities:
        words = (word for row in document["segments"] for word in row["words"])
        found["words"] = [
            {"word": word["word"].strip(), "start": word["start"], "end": word["end"]}
            for word in words
        ]
    return found | {"usage": _usage(transcript), "warnings": document["warnings"]}


def diarized(transcript: Transcript, _request: AudioRequest) -> dict[str, Any]:
    document = transcript.to_json()
    return {
        "task": transcript.task,
        "duration": document["duration"],
        "text": transcript.text,
        "segments": list(speaker_segments(document["segments"])),
        "usage": _usage(transcript),
    }


def speaker_segments(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Segments of a transcript's document as OpenAI's, with their speakers."""
    for row in rows:
        yield {
            "type": "transcript.text.segment",
            "id": f"seg_{row['id'] + 1:03}",
            "start": row["start"],
            "end": row["end"],
            "text": row["text"],
            "speaker": speaker_label(row["speaker"]),
        }


def speaker_label(name: str | None) -> str:
    """``A`` for ``Speaker 1``, ``AA`` for ``Speaker 27``; other names stay."""
    match = _NUMBERED.fullmatch(name or "")
    if match is None:
        return name or UNKNOWN_SPEAKER
    number = int(match[1])
    label = ""
    while number:
        number, place = divmod(number - 1, _LETTERS)
        label = chr(ord("A") + place) + label
    return label


def languages(transcript: Transcript) -> list[dict[str, str]]:
    return [{"code": transcript.language}] if transcript.language else []


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(transcript.duration, 3)}


def _segment(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": row["id"],
        "seek": 0,
        "start": row["start"],
        "end": row["end"],
        "text": row["text"],
        "tokens": [],
        "temperature": row["temperature"] or 0.0,
        "avg_logprob": _avg_logprob(row),
        "compression_ratio": _compression_ratio(row),
        "no_speech_prob": row["no_speech_prob"] or 0.0,
    }
    return found | ({"speaker": row["speaker"]} if row["speaker"] else {})


def _avg_logprob(row: Mapping[str, Any]) -> float:
    """The model's value, or else the mean of the words'."""
    if row["avg_logprob"] is not None:
        return float(row["avg_logprob"])
    found = [word["probability"] for word in row["words"] if word["probability"]]
    return round(sum(map(math.log, found)) / len(found), 4) if found else 0.0


def _compression_ratio(row: Mapping[str, Any]) -> float:
    if row["compression_ratio"] is not None:
        return float(row["compression_ratio"])
    text = row["text"].encode()
    return round(len(text) / len(zlib.compress(text)), 4)
