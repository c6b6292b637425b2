"""The ``session`` object of ``/v1/realtime``: checked, merged and shown."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...service.live import LiveSetup
from .models import find_model
from .parameters import checked_options
from .refusals import Refused

MAX_ITEMS = 1_000  # of a list
CODECS = {"audio/pcm": "pcm_s16le", "audio/pcmu": "pcm_mulaw", "audio/pcma": "pcm_alaw"}
G711_HZ = 8_000
DEFAULT: Mapping[str, Any] = {
    "type": "transcription",
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24_000},
            "transcription": {"model": "default"},
            "turn_detection": {
                "type": "server_vad",
                "threshold": 0.5,
                "prefix_padding_ms": 300,
                "silence_duration_ms": 500,
            },
            "noise_reduction": None,
        }
    },
    "include": None,
    "store": False,
}


_KINDS = {"model_type": "send an object", "model_attributes_type": "send an object"}


class _Part(BaseModel):
    """Clients send fields of newer versions, too; they have no effect."""

    model_config = ConfigDict(extra="ignore", strict=True)


class Format(_Part):
    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: Literal[8_000, 16_000, 24_000] | None = None


class Transcription(_Part):
    model: str | None = None
    language: str | None = None
    languages: list[str] | None = Field(default=None, max_length=MAX_ITEMS)
    prompt: str | None = None
    keywords: list[str] | None = Field(default=None, max_length=MAX_ITEMS)


class TurnDetection(_Part):
    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=5_000)
    silence_duration_ms: int = Field(default=500, ge=100, le=10_000)


class Input(_Part):
    format: Format = Format()
    transcription: Transcription | None = None
    turn_detection: TurnDetection | None = None


class Audio(_Part):
    input: Input = Input()


class Session(_Part):
    type: Literal["transcription"]
    audio: Audio = Audio()
    include: list[Any] | None = Field(default=None, max_length=0)
    store: bool = False


def merged(session: Mapping[str, Any], update: Any) -> dict[str, Any]:
    """The session after an update. Missing fields stay, also inside objects.

    Raises:
        Refused: a field has an invalid value.
    """
    if not isinstance(update, dict):
        raise Refused(400, "session is not an object", "usage", param="session")
    try:
        whole = _merged(session, update)
        Session.model_validate(whole)
    except (ValidationError, RecursionError) as error:
        raise _refused(error) from error
    whole["audio"].setdefault("input", {})["noise_reduction"] = None  # has no effect here
    return whole


def setup_of(session: Mapping[str, Any]) -> LiveSetup:
    """The setup of a checked session. Blocks: it searches the disk for the model.

    Raises:
        Refused: no such model or language.
    """
    checked = Session.model_validate(session).audio.input
    chosen = checked.transcription or Transcription()
    languages = chosen.languages or []
    given: dict[str, Any] = {
        "model": find_model(chosen.model or ""),
        "language": chosen.language or (languages[0] if len(languages) == 1 else "auto"),
        "prompt": chosen.prompt or "",
        "vocabulary": tuple(filter(None, map(str.strip, chosen.keywords or ()))),
    }
    rate_hz = checked.format.rate or 24_000
    turns = checked.turn_detection
    rules = turns or TurnDetection()
    return LiveSetup(
        options=checked_options(given),
        codec=CODECS[checked.format.type],
        rate_hz=rate_hz if checked.format.type == "audio/pcm" else G711_HZ,
        finds_turns=turns is not None,
        threshold=rules.threshold,
        prefix_s=rules.prefix_padding_ms / 1000,
        silence_s=rules.silence_duration_ms / 1000,
    )


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    found = deepcopy(dict(old))
    for name, value in new.items():
        before = found.get(name)
        if isinstance(before, dict) and isinstance(value, dict) and name != "format":
            value = _merged(before, value)
        found[name] = value
    return found


def _refused(error: ValidationError | RecursionError) -> Refused:
    if isinstance(error, RecursionError):
        return Refused(400, "session has too many nested objects", "usage", param="session")
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    hints = {
        "type": "this server supports only transcription sessions; send the type transcription",
        "audio.input.turn_detection.type": "send server_vad or null",
        "include": "leave out include; log-probabilities are not sent",
    }
    hint = hints.get(place) or _KINDS.get(first["type"]) or first["msg"]
    return Refused(400, f"session.{place} is not supported: {hint}", "unsupported_value",
                   param=f"session.{place}")  # fmt: skip
