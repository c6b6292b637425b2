"""Messages between a front end and the live process, one line of JSON each.

    {"session": n, "do": "configure", "setup": {...}, "tag": t}
    {"session": n, "do": "append", "audio": base64}
    {"session": n, "do": "commit" | "clear" | "close" | "finish", "tag": t}

The answers are ``LiveEvent``. Imports nothing heavy.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..jobs.models import JobOptions

RATE_LIMIT = "rate_limit"
EMPTY = "input_audio_buffer_commit_empty"


@dataclass(frozen=True, slots=True)
class LiveSetup:
    """The configuration of a session.

    Attributes:
        options: of the model and the text.
        codec: of the audio; see ``media.live_input.LiveFormat``.
        rate_hz: samples per second.
        channels: 1 or 2, which are mixed.
        finds_turns: a pause ends an utterance; otherwise only a commit does.
        threshold: probability at which speech begins.
        prefix_s: audio kept before speech.
        silence_s: a pause of this length ends an utterance.
        is_limited: the session has limits of time and of queued speech. Otherwise the sender waits.
        sound_path: WAV file for the audio, or "".
    """

    options: JobOptions
    codec: str = "pcm_s16le"
    rate_hz: int = 24_000
    channels: int = 1
    finds_turns: bool = True
    threshold: float = 0.5
    prefix_s: float = 0.3
    silence_s: float = 0.5
    is_limited: bool = True
    sound_path: str = ""

    def to_json(self) -> dict[str, Any]:
        names = [each.name for each in fields(self) if each.name != "options"]
        return {name: getattr(self, name) for name in names} | {"options": self.options.dumps()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LiveSetup:
        return cls(**{**data, "options": JobOptions.loads(data["options"])})


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """Something that happened in a session.

    Attributes:
        kind: ``configured`` or ``refused`` (a setup), ``started``, ``stopped``, ``committed``,
            ``text``, ``completed`` or ``failed`` (an item), ``cleared``, ``error`` (the session
            continues), ``ended`` (by an error) or ``closed``.
        item: number of the utterance, from 1.
        at_s: seconds since the first sample.
        text: new text with ``text``, all of it with ``completed``.
        seconds: of audio, of an item or of the session's file.
        code, message, hint: of an error.
        tag: of the message that it answers.
    """

    kind: str
    item: int = 0
    at_s: float = 0.0
    text: str = ""
    seconds: float = 0.0
    code: str = ""
    message: str = ""
    hint: str = ""
    tag: str | None = None

    def dumps(self, session: int) -> bytes:
        return json.dumps({"session": session, **asdict(self)}).encode() + b"\n"
