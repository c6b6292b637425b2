"""``known_speaker_names[]`` and ``known_speaker_references[]``: clips of expected persons."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from ...domain.speaker_labels import checked_voice_name
from ...errors import UsageError
from .refusals import Refused, refused_by
from .uploads import Form

NAMES = "known_speaker_names"
REFERENCES = "known_speaker_references"
MAX_SPEAKERS = 4
MAX_CLIP_BYTES = 4 * 1024 * 1024
_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w=.+-]+)*;base64,", re.ASCII)


def known_speakers(form: Form, *, diarize: bool) -> dict[str, bytes]:
    """Name of each person -> clip of the voice, as a file.

    Args:
        diarize: whether the answer shows speakers.

    Raises:
        Refused: too many persons, a missing clip, an invalid data URL, or an impossible name.
    """
    names = form.many(NAMES)
    references = form.many(REFERENCES)
    if not names and not references:
        return {}
    if not diarize:
        given = NAMES if names else REFERENCES
        raise _wrong(given, f"{given} needs speakers; set response_format to diarized_json")
    if len(names) != len(references):
        numbers = f"{NAMES}: {len(names)}, {REFERENCES}: {len(references)}"
        message = f"each name needs a clip, and each clip a name ({numbers})"
        raise _wrong(REFERENCES, message)
    if len(names) > MAX_SPEAKERS:
        raise _wrong(NAMES, f"{NAMES} has {len(names)} names; give at most {MAX_SPEAKERS}")
    try:
        checked = [checked_voice_name(name) for name in names]
    except UsageError as error:
        raise refused_by(error, param=NAMES) from error
    if len({name.casefold() for name in checked}) < len(checked):
        raise _wrong(NAMES, f"{NAMES} has a name twice; give each person one name")
    return dict(zip(checked, map(_clip, references, checked), strict=True))


def digest_of(clip: bytes) -> str:
    return hashlib.sha256(clip).hexdigest()


def _clip(url: str, name: str) -> bytes:
    head = _DATA_URL.match(url)
    if head is None:
        message = f"the clip of {name} is not a data URL; send data:audio/wav;base64,..."
        raise _wrong(REFERENCES, message)
    try:
        clip = base64.b64decode(url[head.end() :], validate=True)
    except binascii.Error as error:
        message = f"the clip of {name} is not in base64; send data:audio/wav;base64,..."
        raise _wrong(REFERENCES, message) from error
    if not 0 < len(clip) <= MAX_CLIP_BYTES:
        message = f"the clip of {name} has {len(clip)} bytes; give 1 to {MAX_CLIP_BYTES}"
        raise _wrong(REFERENCES, message)
    return clip


def _wrong(param: str, message: str) -> Refused:
    return Refused(400, message, "invalid_value", param=param)
