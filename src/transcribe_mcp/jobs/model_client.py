"""Use the model that a worker of the data directory has loaded, instead of loading it again.

    {"version": v, "options": text, "threads": n}  ->  {"accepted": true} or {"refused": reason}
    {"source": path, "file": [...]}  ->  {"progress": [stage, done, total]} and {"text": t}, then
                                          {"transcript": text} or {"refused": reason}

The worker also sends ``{}`` regularly, so that a command notices a hanging worker. Imports
nothing heavy.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..domain.progress import Progress, ShowText
from ..domain.transcript import Transcript
from .models import JobOptions
from .writer_protocol import Inbox, connect, dumps, receive

NAME = "worker"  # of the sockets; further workers have a number
CONNECT_S = 5.0  # for a connection, and for the first answer
ALIVE_S = 2.0  # between keep-alive messages
SILENT_S = 20.0  # a worker or a command counts as gone after this long without one


class WorkerLostError(Exception):
    """The worker cannot transcribe the recording; its argument says why."""


def file_of(path: Path) -> list[int]:
    """Identifies a file: in a container, a worker may have another file at the same path.

    Raises:
        OSError: it cannot be examined.
    """
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]


class WorkerModel:
    """A connection to a worker that has the model loaded.

    Raises:
        WorkerLostError: the worker has ended, or refuses.
    """

    def __init__(self, data_dir: Path, name: str, options: JobOptions) -> None:
        self._inbox = Inbox()
        try:
            self._socket: socket.socket = connect(data_dir, CONNECT_S, name)
        except OSError as error:
            raise WorkerLostError("none runs") from error
        request = {"version": __version__, "options": options.dumps(), "threads": options.threads}
        try:
            self._ask(request)
            self._answer("accepted")
        except WorkerLostError:
            self.close()
            raise
        self._socket.settimeout(SILENT_S)

    def transcribe(self, path: Path, progress: Progress, show_text: ShowText) -> Transcript:
        """Transcribe a file, as ``pipeline.offline.transcribe`` does."""
        try:
            self._ask({"source": str(path.absolute()), "file": file_of(path)})
            text = self._answer("transcript", progress, show_text)
            return replace(Transcript.loads(text), source=str(path))
        except (OSError, ValueError) as error:
            raise WorkerLostError(str(error)) from error

    def close(self) -> None:
        self._socket.close()

    def _ask(self, message: dict[str, Any]) -> None:
        try:
            self._socket.sendall(dumps(message))
        except OSError as error:
            raise WorkerLostError("it has ended") from error

    def _answer(
        self, name: str, progress: Progress | None = None, show_text: ShowText | None = None
    ) -> Any:
        while True:
            try:
                answer = receive(self._inbox, self._socket)
            except (OSError, EOFError) as error:
                raise WorkerLostError("it has ended") from error
            if name in answer:
                return answer[name]
            if "refused" in answer:
                raise WorkerLostError(answer["refused"])
            if "progress" in answer and progress is not None:
                progress(*answer["progress"])
            if "text" in answer and show_text is not None:
                show_text(answer["text"])


def find_model(data_dir: Path, options: JobOptions) -> WorkerModel:
    """The first idle worker that has the model of these options loaded.

    Raises:
        WorkerLostError: there is none.
    """
    reasons = []
    listeners = (*data_dir.glob(f"{NAME}*.sock"), *data_dir.glob(f"{NAME}*.address"))
    for name in sorted({path.stem for path in listeners}):
        try:
            return WorkerModel(data_dir, name, options)
        except WorkerLostError as error:
            reasons.append(str(error))
    raise WorkerLostError(next(iter(reasons), "none runs"))
