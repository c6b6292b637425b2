"""The file of known voices: ``voices.json`` in the data directory, for its owner only.

Writers replace the file atomically, one at a time under a lock. A file that cannot be read is left
unchanged.
"""

from __future__ import annotations

import json
import math
import secrets
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ..domain.files import atomic_write
from ..domain.options import ALL, chosen_voices
from ..domain.private_files import FILE_MODE, make_private_dir
from ..domain.speaker_labels import checked_voice_name
from ..errors import UnknownNameError, UsageError, VoiceSampleError, VoiceStoreError
from .clustering import unit
from .evidence import N_EMBEDDING
from .voices import Kind, KnownVoice, VoicePrint

FILE_NAME = "voices.json"
LOCK_NAME = "voices.lock"
VERSION = 1
LOCK_S = 10.0
MAX_PRINTS = 5  # of a voice and kind
OTHER_NAME = 0.80  # cosine above which a clip is the voice of another known person
DIGITS = 6
# What reading a damaged file raises.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError)


class VoiceStore:
    """The known voices of a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir
        self.path = data_dir / FILE_NAME

    def voices(self) -> tuple[KnownVoice, ...]:
        """All voices, by name.

        Raises:
            VoiceStoreError: the file is damaged, unreadable, or of a newer version.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._refused("read", error) from error
        return tuple(sorted(self._parsed(text), key=lambda voice: key_of(voice.name)))

    def chosen(self, requested: str) -> tuple[KnownVoice, ...]:
        """The voices that the option ``voices`` names.

        Raises:
            UnknownNameError: a name that is not stored.
            VoiceStoreError: see ``voices``.
        """
        names = chosen_voices(requested)
        if not names:
            return ()
        known = self._by_key()
        return tuple(known.values() if names == (ALL,) else (_known(one, known) for one in names))

    def voice(self, name: str) -> KnownVoice:
        """Raises as ``chosen``."""
        return _known(name, self._by_key())

    def _by_key(self) -> dict[str, KnownVoice]:
        return {key_of(voice.name): voice for voice in self.voices()}

    def remaining(self, requested: str) -> tuple[KnownVoice, ...]:
        """As ``chosen``, without the names that are not stored."""
        keys = {key_of(name) for name in chosen_voices(requested)}
        known = self.voices() if keys else ()
        return tuple(voice for voice in known if ALL in keys or key_of(voice.name) in keys)

    def add(self, name: str, print_: VoicePrint) -> tuple[KnownVoice, bool]:
        """Add a print; return the voice, and whether its oldest print was replaced.

        Raises:
            VoiceSampleError: another known voice sounds the same.
            VoiceStoreError: the file cannot be read or written.
        """
        with self._changing() as known:
            _refuse_other_name(name, print_, known.values())
            dated = replace(print_, added=time.strftime("%Y-%m-%d"), id=secrets.token_hex(6))
            before = known.get(key_of(name), KnownVoice(name))
            same = [one.id for one in before.prints if _is_like(one, print_)]
            dropped = same[: max(0, len(same) - MAX_PRINTS + 1)]
            kept = tuple(one for one in before.prints if one.id not in dropped)
            voice = replace(before, prints=(*kept, dated))
            known[key_of(name)] = voice
            return voice, bool(dropped)

    def remove(self, name: str) -> KnownVoice:
        """Delete a voice with all its prints.

        Raises:
            UnknownNameError: it is not stored.
            VoiceStoreError: the file cannot be read or written.
        """
        with self._changing() as known:
            voice = _known(name, known)
            del known[key_of(name)]
            return voice

    @contextmanager
    def _changing(self) -> Iterator[dict[str, KnownVoice]]:
        """The voices, written back at the end of the block."""
        try:
            make_private_dir(self._folder)
            with FileLock(self._folder / LOCK_NAME, timeout=LOCK_S, mode=FILE_MODE):
                known = self._by_key()
                yield known
                content = json.dumps(to_json(known.values()), ensure_ascii=False)
                with atomic_write(self.path, mode=FILE_MODE) as file:
                    file.write(content.encode())
        except Timeout as error:
            hint = f"try again; another command holds {self._folder / LOCK_NAME}"
            raise VoiceStoreError("another command changes the known voices", hint=hint) from error
        except OSError as error:
            raise self._refused("write", error) from error

    def _parsed(self, content: bytes) -> list[KnownVoice]:
        try:
            data = json.loads(content)
            version = int(data["version"])
            voices = [_voice(row) for row in data["voices"]] if version <= VERSION else []
            is_whole = len({key_of(voice.name) for voice in voices}) == len(voices)
        except _DAMAGE as error:
            raise self._damaged() from error
        if version > VERSION:
            raise VoiceStoreError(
                f"{self.path}: a newer version of this program wrote the known voices",
                hint="update this installation",
            )
        if not is_whole:
            raise self._damaged()
        return voices

    def _damaged(self) -> VoiceStoreError:
        return VoiceStoreError(
            f"{self.path}: the file of known voices is damaged; it is left unchanged",
            hint="restore it from a backup, or delete it and add the voices again",
        )

    def _refused(self, action: str, error: OSError) -> VoiceStoreError:
        return VoiceStoreError(
            f"cannot {action} the known voices in {self._folder}: {error.strerror or error}",
            hint="check the permissions and the free space of the data directory",
        )


def key_of(name: str) -> str:
    """Equal for names that differ in letter case or in the encoding of accents only."""
    return unicodedata.normalize("NFC", name).casefold()


def to_json(voices: Iterable[KnownVoice]) -> dict[str, Any]:
    """The form of the file, and of what users export."""
    return {
        "version": VERSION,
        "voices": [
            {"name": voice.name, "prints": [_print_to_json(one) for one in voice.prints]}
            for voice in voices
        ],
    }


def _print_to_json(one: VoicePrint) -> dict[str, Any]:
    facts = {each: getattr(one, each) for each in ("id", "kind", "added", "model", "weights")}
    vector = [round(value, DIGITS) for value in one.vector.tolist()]
    return facts | {"seconds": round(one.seconds, 1), "vector": vector}


def _voice(row: dict[str, Any]) -> KnownVoice:
    return KnownVoice(checked_voice_name(row["name"]), tuple(map(_print, row["prints"])))


def _print(row: dict[str, Any]) -> VoicePrint:
    texts = {name: str(row[name]) for name in ("added", "id", "model", "weights")}
    vector = np.array(row["vector"], np.float32)
    found = VoicePrint(Kind(row["kind"]), unit(vector), float(row["seconds"]), **texts)
    is_shaped = vector.ndim == 1 and (len(vector) == N_EMBEDDING or not found.is_current)
    if not is_shaped or not np.isfinite(vector).all() or not math.isfinite(found.seconds):
        raise ValueError("not the embedding of a voice")
    return found


def _known(name: str, known: Mapping[str, KnownVoice]) -> KnownVoice:
    voice = known.get(key_of(name))
    if voice is not None:
        return voice
    names = [one.name for one in known.values()]
    message = f"there is no known voice {name!r}"
    if not names:
        hint = "none is stored; add one: transcribe-mcp voices add NAME CLIP"
        raise UnknownNameError(message, hint=hint)
    raise UnknownNameError.unknown(message, name, names, "voices")


def _refuse_other_name(name: str, new: VoicePrint, known: Iterable[KnownVoice]) -> None:
    for voice in known:
        likeness = voice.likeness(new)
        if key_of(voice.name) != key_of(name) and likeness and likeness >= OTHER_NAME:
            raise VoiceSampleError(
                f"the clip sounds like {voice.name}, a known voice",
                hint=f"add it to {voice.name}, or remove that voice first",
            )


def _is_like(one: VoicePrint, other: VoicePrint) -> bool:
    """Whether both may be compared."""
    facts = ("kind", "model", "weights")
    return all(getattr(one, name) == getattr(other, name) for name in facts)
