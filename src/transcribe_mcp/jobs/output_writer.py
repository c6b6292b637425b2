"""The thread of a worker that writes the files which were asked for together with jobs.

A transcript is rendered to the same text each time. So a file that is there with this text counts as written, and a
worker that was killed before it could note that a file is written does no harm.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..domain.transcript import Transcript
from ..errors import OutputError, OutputExistsError, StoreDamagedError, StoreError, TranscribeError
from ..formats import FormatOptions, render, write
from . import outputs
from .store import Store

LOOK_S = 0.5


class OutputWriter:
    """Writes files of completed jobs for as long as its worker lives. Their disk may hang: nobody else waits for it."""

    def __init__(self, store: Store, log: Callable[[str], None]) -> None:
        self._store = store
        self._log = log
        self._look = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="outputs", daemon=True).start()

    def look(self) -> None:
        """A job has ended."""
        self._look.set()

    def _run(self) -> None:
        while True:
            self._look.wait(LOOK_S)
            self._look.clear()
            try:
                with self._store.begin() as connection:
                    due = outputs.due(connection)
                for row in due:
                    self._write(row)
            except StoreError as error:  # the next look tries again
                self._log(f"files are not written: {error}")

    def _write(self, row: Any) -> None:
        """Write one file. An error is noted with the job, which keeps its transcript."""
        failed: TranscribeError | None = None
        try:
            _write_file(row, self._store.transcript(row.transcript_id))
        except TranscribeError as error:
            if isinstance(error, StoreError) and not isinstance(error, StoreDamagedError):
                raise
            failed = error
        except Exception as error:  # noqa: BLE001 - a file that fails must not take the others with it
            failed = OutputError(f"cannot write {row.path}: {type(error).__name__}")
        with self._store.begin() as connection:
            outputs.end(connection, row.output_id, row.path, failed)


def _write_file(row: Any, transcript: Transcript | None) -> None:
    if transcript is None:
        raise OutputError(f"cannot write {row.path}: the transcript was deleted")
    transcript, look, path = (
        replace(transcript, source=row.source),
        outputs.load_look(row.look),
        Path(row.path),
    )
    try:
        write(transcript, row.format, path, overwrite=row.overwrite, options=look)
    except OutputExistsError:
        if not _holds(path, transcript, row.format, look):
            raise


def _holds(path: Path, transcript: Transcript, name: str, look: FormatOptions) -> bool:
    """Whether a file is this transcript: another worker wrote it, or one that was killed before it could note so."""
    try:
        return path.read_bytes() == render(transcript, name, look).encode()
    except OSError:
        return False
