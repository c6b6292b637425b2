"""The worker's thread that writes the output files of jobs.

Rendering is deterministic, so an existing file with the same text counts as written. A worker that
is killed between writing a file and recording it does no harm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..domain.transcript import Transcript
from ..errors import OutputError, OutputExistsError, StoreDamagedError, StoreError, TranscribeError
from ..formats import FormatOptions, render, write
from . import outputs
from .changes import Changes
from .store import Store

LOOK_S = 0.5
IDLE_LOOK_S = 5.0  # the same without changes, in case one was missed


class OutputWriter:
    """Writes the files of completed jobs. It has its own thread because a disk may hang."""

    def __init__(self, store: Store, log: Callable[[str], None]) -> None:
        self._store = store
        self._log = log
        self._look = threading.Event()
        self._changes = Changes(store.url)

    def start(self) -> None:
        threading.Thread(target=self._run, name="outputs", daemon=True).start()

    def look(self) -> None:
        """A job has finished: check at once."""
        self._look.set()

    def _run(self) -> None:
        looked_at = 0.0
        while True:
            is_called = self._look.wait(LOOK_S)
            self._look.clear()
            is_due = time.monotonic() - looked_at > IDLE_LOOK_S
            if not (is_called or self._changes.seen() or is_due):
                continue
            looked_at = time.monotonic()
            try:
                with self._store.begin() as connection:
                    due = outputs.due(connection)
                for row in due:
                    self._write(row)
            except StoreError as error:  # retried at the next check
                self._log(f"output files were not written: {error}")

    def _write(self, row: Any) -> None:
        """Write one file. An error is recorded with the job, which keeps its transcript."""
        failed: TranscribeError | None = None
        try:
            _write_file(row, self._store.transcript(row.transcript_id))
        except TranscribeError as error:
            if isinstance(error, StoreError) and not isinstance(error, StoreDamagedError):
                raise
            failed = error
        except Exception as error:  # noqa: BLE001 - one file must not stop the others
            failed = OutputError(f"cannot write {row.path}: {type(error).__name__}")
        with self._store.begin() as connection:
            outputs.end(connection, row.output_id, row.path, failed)


def _write_file(row: Any, transcript: Transcript | None) -> None:
    if transcript is None:
        raise OutputError(f"cannot write {row.path}: the transcript was deleted")
    transcript = replace(transcript, source=row.source)
    look = outputs.load_look(row.look)
    path = Path(row.path)
    try:
        write(transcript, row.format, path, overwrite=row.overwrite, options=look)
    except OutputExistsError:
        if not _holds(path, transcript, row.format, look):
            raise


def _holds(path: Path, transcript: Transcript, name: str, look: FormatOptions) -> bool:
    """Whether a file has this text: another worker wrote it, or one that was killed since."""
    try:
        return path.read_bytes() == render(transcript, name, look).encode()
    except OSError:
        return False
