"""The use cases of known voices: only a user adds one, by a command of the shell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..domain.options import NONE, Options
from ..domain.progress import Progress, no_progress
from ..domain.speaker_labels import checked_voice_name
from ..errors import OutputError, OutputExistsError

if TYPE_CHECKING:
    from ..speakers.voice_store import VoiceStore
    from ..speakers.voices import KnownVoice


@dataclass(frozen=True, slots=True)
class VoiceRow:
    """A known voice for people and programs.

    Attributes:
        wideband, telephone: number of prints.
        old: number of prints of another network; they are not used.
        seconds: of speech in all prints.
        added: day of the latest print.
    """

    name: str
    wideband: int
    telephone: int
    old: int
    seconds: float
    added: str

    @classmethod
    def of(cls, voice: KnownVoice) -> VoiceRow:
        current = [one.kind.value for one in voice.prints if one.is_current]
        return cls(
            name=voice.name,
            wideband=current.count("wideband"),
            telephone=current.count("telephone"),
            old=len(voice.prints) - len(current),
            seconds=round(sum(one.seconds for one in voice.prints), 1),
            added=max((one.added for one in voice.prints), default=""),
        )


@dataclass(frozen=True, slots=True)
class Added:
    """A print that was added.

    Attributes:
        kind: ``wideband`` or ``telephone``.
        seconds: of clean speech in the clip.
        is_replacing: the oldest print of this kind was deleted.
    """

    voice: VoiceRow
    kind: str
    seconds: float
    is_replacing: bool


def check_addable(name: str) -> str:
    """The name in its stored form, checked before asking.

    Raises:
        UsageError: an impossible name.
        VoiceStoreError: the file of known voices cannot be used.
    """
    checked = checked_voice_name(name)
    _store().voices()
    return checked


def add_voice(name: str, clip: Path, options: Options, progress: Progress = no_progress) -> Added:
    """Add a print of a voice. The caller has made sure that the person agrees.

    Args:
        options: the track and channel of the clip.

    Raises:
        UsageError: an impossible name.
        SourceError: the clip cannot be used, or is not 10 s of one voice.
        VoiceStoreError: the file of known voices cannot be read or written.
    """
    from ..pipeline.enrolment import print_of_clip

    checked = check_addable(name)
    print_ = print_of_clip(clip, options, progress)
    voice, is_replacing = _store().add(checked, print_)
    return Added(VoiceRow.of(voice), print_.kind.value, print_.seconds, is_replacing)


def list_voices() -> list[VoiceRow]:
    """
    Raises:
        VoiceStoreError: see ``add_voice``.
    """
    return [VoiceRow.of(voice) for voice in _store().voices()]


def remove_voice(name: str) -> VoiceRow:
    """Delete a voice with all its prints. Transcripts keep the name.

    Raises:
        UnknownNameError: no such voice.
        VoiceStoreError: see ``add_voice``.
    """
    return VoiceRow.of(_store().remove(name))


def export_voices(name: str = "", output: Path | None = None) -> str:
    """The stored prints of a voice, or of all, as JSON; written to a new private file if given.

    Raises:
        UnknownNameError: no such voice.
        OutputError: the file exists, or cannot be written.
        VoiceStoreError: see ``add_voice``.
    """
    from ..domain.files import atomic_write
    from ..domain.private_files import FILE_MODE
    from ..speakers.voice_store import to_json

    store = _store()
    voices = (store.voice(name),) if name else store.voices()
    text = json.dumps(to_json(voices), ensure_ascii=False, indent=1) + "\n"
    if output is None:
        return text
    if output.exists():
        raise OutputExistsError(f"{output} exists already", hint="name another file")
    try:
        with atomic_write(output, mode=FILE_MODE) as file:
            file.write(text.encode())
    except OSError as error:
        hint = "choose another --output"
        raise OutputError(f"cannot write {output}: {error.strerror}", hint=hint) from error
    return text


def known_prints(data_dir: Path, voices: str) -> list[str]:
    """IDs of the prints that the option ``voices`` selects.

    Raises:
        UnknownNameError: a voice is not stored.
        VoiceStoreError: see ``add_voice``.
    """
    if voices == NONE:
        return []
    from ..speakers.voice_store import VoiceStore

    found = VoiceStore(data_dir).chosen(voices)
    return [one.id for voice in found for one in voice.prints if one.is_current]


def require_known(voices: str) -> None:
    """Raises as ``known_prints``."""
    from ..settings import settings

    known_prints(settings().data_dir, voices)


def _store() -> VoiceStore:
    from ..settings import settings
    from ..speakers.voice_store import VoiceStore

    return VoiceStore(settings().data_dir)
