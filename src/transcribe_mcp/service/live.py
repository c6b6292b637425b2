"""Live sessions, for front ends, which use nothing below the service."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import TranscribeError, UsageError
from ..live.client import LiveProcess, LiveSession, OnEvent
from ..live.messages import EMPTY, RATE_LIMIT, LiveEvent, LiveSetup
from .models import Job, JobOptions, JobRequest
from .service import Service
from .uploads import FILE_MODE, TEMPORARY, Upload, make_folder, submit_upload

__all__ = [
    "EMPTY",
    "RATE_LIMIT",
    "LiveEvent",
    "LiveProcess",
    "LiveSession",
    "LiveSetup",
    "LiveSound",
    "SoundFile",
    "listen",
    "open_sound",
    "settled_setup",
]


@dataclass(frozen=True, slots=True)
class LiveSound:
    """Audio as it arrives: 16 bits, blocks with interleaved ``channels``.

    Attributes:
        name: of the microphone; "" for standard input.
    """

    name: str
    rate_hz: int
    channels: int
    blocks: Iterable[bytes]


@contextmanager
def open_sound(source: str, microphone: str, rate_hz: int) -> Iterator[LiveSound]:
    """Audio of a microphone, or of standard input if ``source`` is ``-``.

    Args:
        microphone: a part of its name; "" for the default one.
        rate_hz: of raw samples on standard input.

    Raises:
        UsageError: another source, or no pipe.
        SourceError: it cannot be used.
    """
    if source == "-":
        from ..media.live_stdin import open_stdin

        piped = open_stdin(rate_hz)
        yield LiveSound("", piped.rate_hz, piped.channels, piped.blocks)
    elif source:
        raise UsageError(
            f"listen reads a microphone, or standard input as -, not {source!r}",
            hint=f"transcribe-mcp transcribe {source}",
        )
    else:
        from ..media.microphone import open_microphone

        with open_microphone(microphone) as opened:
            yield LiveSound(opened.name, opened.rate_hz, 1, opened.blocks)


def settled_setup(service: Service, setup: LiveSetup) -> LiveSetup:
    """The setup with checked options and, if it names no model, the default one.

    Raises:
        UsageError: options contradict each other, or name something unknown.
    """
    from ..jobs.job_options import normalized_options

    return replace(setup, options=normalized_options(setup.options, service.settings.model))


class SoundFile:
    """The file of a session's audio until it becomes a job. Close it afterwards."""

    def __init__(self, service: Service) -> None:
        self._service = service
        folder = make_folder(service.settings.data_dir)
        self._folder = TemporaryDirectory(prefix=TEMPORARY, dir=folder, ignore_cleanup_errors=True)
        self.path = Path(self._folder.name) / "sound.wav"

    def submit(self, options: JobOptions) -> Job:
        """Submit the audio as a job; the file is moved.

        Raises:
            TranscribeError: it cannot be submitted.
        """
        self.path.chmod(FILE_MODE)
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = time.strftime("Live %Y-%m-%d %H.%M.wav")
        upload = Upload(self.path, digest, ".wav", name)
        return submit_upload(self._service, upload, JobRequest("", options))

    def close(self) -> None:
        self._folder.cleanup()


def listen(
    service: Service,
    setup: LiveSetup,
    blocks: Iterable[bytes],
    on_event: OnEvent,
    *,
    stores: bool = False,
) -> Job | None:
    """Transcribe audio in a separate process until the audio ends or Ctrl-C stops it.

    Args:
        blocks: of the setup's format.
        on_event: called for each event in another thread.
        stores: the audio becomes a job.

    Returns:
        That job.

    Raises:
        TranscribeError: the session cannot begin, or fails.
    """
    setup = settled_setup(service, setup)
    process = LiveProcess(service.settings)
    sound = SoundFile(service) if stores else None
    if sound is not None:
        setup = replace(setup, sound_path=str(sound.path))
    try:
        closed = _Listening(process, on_event).run(setup, blocks)
        return sound.submit(setup.options) if sound is not None and closed.seconds else None
    finally:
        process.close()
        if sound is not None:
            sound.close()


class _Listening:
    """One session of ``listen``."""

    def __init__(self, process: LiveProcess, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._ready: Future[None] = Future()
        self._closed: Future[LiveEvent] = Future()
        self._error: LiveEvent | None = None
        self._session = process.open(self._take)

    def _take(self, found: LiveEvent) -> None:
        if found.kind in ("refused", "error", "ended"):
            self._error = found
        if found.kind in ("configured", "refused", "ended") and not self._ready.done():
            self._ready.set_result(None)
        if found.kind == "closed":
            self._closed.set_result(found)
        self._on_event(found)

    def run(self, setup: LiveSetup, blocks: Iterable[bytes]) -> LiveEvent:
        try:
            self._session.configure(setup)
            self._ready.result()
            with suppress(KeyboardInterrupt):  # treated as the end of the audio
                for block in blocks:
                    if self._error is not None:
                        break
                    self._session.append(block)
            self._session.finish()
            closed = self._closed.result()
        except KeyboardInterrupt:
            self._session.close()
            raise
        if self._error is not None:
            raise _as_error(self._error)
        return closed


def _as_error(found: LiveEvent) -> TranscribeError:
    """The error of the live process."""
    kinds = {kind.code: kind for kind in _all_kinds(TranscribeError)}
    return kinds.get(found.code, TranscribeError)(found.message, hint=found.hint)


def _all_kinds(root: type[TranscribeError]) -> Iterator[type[TranscribeError]]:
    yield root
    for child in root.__subclasses__():
        yield from _all_kinds(child)
