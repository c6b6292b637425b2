"""Data for viewers of transcripts: outlines for lists, and the audio."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..domain.private_files import FOLDER_MODE
from ..errors import JobStateError, SourceChangedError
from .models import Job, JobStatus, Outline
from .service import Service

COPY_TYPE = "audio/mp4"


@dataclass(frozen=True, slots=True)
class Sound:
    """A file that browsers play. Its owner calls ``close`` after the last read."""

    path: Path
    media_type: str
    close: Callable[[], None]


class Viewing:
    """Reads for a viewer of the transcripts of one service. All methods block; threads may share
    it.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._folder = service.settings.cache_dir / "playback"
        self._copying = threading.Lock()  # a recording is decoded once, with all cores

    def outlines(self, jobs: Sequence[Job]) -> dict[str, Outline]:
        """Outlines of the jobs that have text; of a running job, its newest text."""
        from ..jobs import transcripts

        store = self._service.read_store()
        with store.begin() as connection:
            found = transcripts.outlines(connection, [job.job_id for job in jobs])
        for job in jobs:
            if job.status == JobStatus.RUNNING and job.percent and job.job_id not in found:
                found[job.job_id] = Outline(self._newest_text(job.job_id))
        return found

    def revisions(self, job_ids: Sequence[str]) -> dict[str, int]:
        """The newest revisions of those of these jobs that have a transcript."""
        from ..jobs import transcripts

        with self._service.read_store().begin() as connection:
            return transcripts.newest_revisions(connection, job_ids)

    def _newest_text(self, job_id: str) -> str:
        from ..jobs.partial import partial_transcript

        store = self._service.read_store()
        transcript = partial_transcript(store.row(job_id), store.steps(job_id)[-1:])
        return transcript.segments[-1].text.strip() if transcript.segments else ""

    def sound(self, job_id: str) -> Sound:
        """The recording, or a copy of its audio if browsers cannot play it or seek in it.

        Raises:
            JobNotFoundError: no job has this id.
            JobStateError: it is a batch, or has not read its recording yet.
            SourceError: the recording is gone, has changed, or cannot be decoded.
        """
        from ..media.playback import played_type

        with ExitStack() as stack:
            row = self._service.row(job_id)
            path = stack.enter_context(self._recording(row))
            media_type = played_type(path)
            if media_type is not None:
                return Sound(Path(os.fspath(path)), media_type, stack.pop_all().close)
            return Sound(self._copy(row, path), COPY_TYPE, lambda: None)

    def clip(self, job_id: str, start_s: float, duration_s: float) -> bytes:
        """A part of the audio as Opus in an Ogg file. Raises as ``sound``."""
        from ..media.playback import clip

        with closing(self.sound(job_id)) as sound:
            return clip(sound.path, start_s, duration_s)

    def peaks(self, job_id: str) -> bytes:
        """The loudest sample of each 50 ms, 0 to 127, one byte each. Raises as ``sound``."""
        from ..media.playback import write_peaks

        row = self._service.row(job_id)
        target = self._kept(row, ".peaks")
        if not target.exists():
            with self._recording(row) as path, self._copying, self._new_files() as folder:
                write_peaks(path, folder / "peaks", _threads())
                (folder / "peaks").replace(target)
        return target.read_bytes()

    def sweep(self) -> None:
        """Delete files of recordings that no job names any more."""
        from ..jobs import transcripts

        kept = {path.stem for path in self._folder.glob("[!.]*.*")}
        with self._service.read_store().begin() as connection:
            known = transcripts.known_contents(connection, list(kept))
        for path in self._folder.glob("[!.]*.*"):
            if path.stem in kept - known:
                path.unlink(missing_ok=True)

    def _copy(self, row: Any, path: Path) -> Path:
        from ..media.playback import write_copy

        target = self._kept(row, ".m4a")
        with self._copying:
            if not target.exists():
                with self._new_files() as folder:
                    write_copy(path, folder / "copy", folder / "peaks", _threads())
                    (folder / "peaks").replace(self._kept(row, ".peaks"))
                    (folder / "copy").replace(target)
        return target

    def _kept(self, row: Any, suffix: str) -> Path:
        if row.content_hash is None:
            message = f"job {row.job_id} has not read its recording yet"
            raise JobStateError(message, hint="wait until it is running")
        return self._folder / f"{row.content_hash}{suffix}"

    @contextmanager
    def _new_files(self) -> Iterator[Path]:
        """A folder for files that are not complete yet."""
        self._folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _recording(self, row: Any) -> Iterator[Path]:
        from ..jobs.file_identity import opened, signature
        from ..media.inputs import is_url

        if is_url(row.source):
            message = "the recording was downloaded for the job and deleted afterwards"
            raise JobStateError(message, hint="download it, and transcribe the file")
        with opened(Path(row.source), self._service.read_store().roots(row.job_id)) as path:
            if signature(path) != row.signature:
                raise SourceChangedError(
                    f"{row.source} has changed since it was transcribed",
                    hint="transcribe it again",
                )
            yield path


def _threads() -> int:
    from ..settings import usable_cores

    return max(1, usable_cores() // 2)
