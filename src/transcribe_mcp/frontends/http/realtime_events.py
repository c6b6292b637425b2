"""Events of a live session in the form of OpenAI's Realtime API."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from ...service.live import LiveEvent

Event = dict[str, Any]


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(10)}"


def event(kind: str, **fields: Any) -> Event:
    return {"type": kind, "event_id": new_id("event"), **fields}


def error(fields: Mapping[str, Any], event_id: str | None = None) -> Event:
    """An error after which the session continues.

    Args:
        fields: code, message and more, as in ``refusals``.
        event_id: ID of the client's invalid event.
    """
    shown = {"type": "invalid_request_error", "param": None, **fields, "event_id": event_id}
    return event("error", error=shown)


def error_of(found: LiveEvent) -> Event:
    message = "; ".join(filter(None, (found.message, found.hint)))
    kind = "server_error" if found.kind in ("ended", "failed") else "invalid_request_error"
    return error({"type": kind, "code": found.code, "message": message}, found.tag)


def _delta(found: LiveEvent) -> Event:
    return {"delta": found.text}


def _completed(found: LiveEvent) -> Event:
    usage = {"type": "duration", "seconds": round(found.seconds, 3)}
    return {"transcript": found.text, "usage": usage}


def _failed(found: LiveEvent) -> Event:
    return {"error": error_of(found)["error"]}


_SOUND = {
    "started": ("speech_started", "audio_start_ms"),
    "stopped": ("speech_stopped", "audio_end_ms"),
}
_TEXT = {
    "text": ("delta", _delta),
    "completed": ("completed", _completed),
    "failed": ("failed", _failed),
}


class ItemEvents:
    """The events of one session's utterances."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._last_committed: str | None = None

    def of(self, found: LiveEvent) -> Iterator[Event]:
        """``None`` for internal events."""
        item_id = self._id(found)
        if found.kind == "committed":
            yield from self._committed(item_id)
        elif found.kind in _SOUND:
            kind, name = _SOUND[found.kind]
            at_ms = {name: round(found.at_s * 1000)}
            yield event(f"input_audio_buffer.{kind}", item_id=item_id, **at_ms)
        elif found.kind in _TEXT:
            kind, fields = _TEXT[found.kind]
            kind = f"conversation.item.input_audio_transcription.{kind}"
            yield event(kind, item_id=item_id, content_index=0, **fields(found))
        elif found.kind == "cleared":
            yield event("input_audio_buffer.cleared")
        elif found.kind in ("error", "refused", "ended"):
            yield error_of(found)

    def _committed(self, item_id: str) -> Iterator[Event]:
        before = {"previous_item_id": self._last_committed}
        self._last_committed = item_id
        yield event("input_audio_buffer.committed", item_id=item_id, **before)
        item = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        for kind in ("added", "done"):
            yield event(f"conversation.item.{kind}", item=item, **before)

    def _id(self, found: LiveEvent) -> str:
        return f"item_{self._session_id.rpartition('_')[2]}_{found.item}"
