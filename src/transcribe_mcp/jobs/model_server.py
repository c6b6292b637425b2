"""Transcribe for a command with the model that this worker has loaded; see ``model_client.py``.

Nothing is stored: no job and no transcript. The work ends when the connection does.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..domain.options import EngineSpec, Options, part_of
from ..engines import EngineInfo
from ..errors import CancelledError, TranscribeError
from ..runtime.executor import Executor
from ..runtime.queue import Claim, Recording
from .model_client import ALIVE_S, SILENT_S, file_of
from .models import JobOptions
from .quarantine import Gate
from .writer_protocol import Inbox, dumps, listen, prove_as_listener, receive

BETWEEN_S = 600.0  # at most, between two recordings of a command


def serves(requested: EngineSpec, loaded: EngineSpec, info: EngineInfo) -> bool:
    """Whether the loaded model is the one that a command would load."""
    if (requested.model, requested.threads) != (loaded.model, loaded.threads):
        return False
    names = ("engine", "device", "compute_type")
    return all(
        getattr(requested, name) in (getattr(loaded, name), getattr(info, name)) for name in names
    )


@dataclass(eq=False, slots=True)
class Guest:
    """A command that uses the model."""

    connection: socket.socket
    inbox: Inbox = field(default_factory=Inbox)
    options: JobOptions = field(default_factory=JobOptions)
    is_done: bool = False  # with its current recording
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self) -> Any:
        return receive(self.inbox, self.connection)

    def send(self, **message: object) -> bool:
        """Send from any thread; returns whether the command is still connected."""
        with self._lock, suppress(OSError):
            self.connection.sendall(dumps(message))
            return True
        return False

    def progress(self, stage: str, done: float, total: float | None) -> None:
        self.send(progress=[stage, done, total])

    def show_text(self, text: str) -> None:
        self.send(text=text)


class ModelServer:
    """Serves one command at a time, while no job runs.

    Args:
        is_idle: whether no job runs.
    """

    def __init__(self, executor: Executor, gate: Gate, is_idle: Callable[[], bool]) -> None:
        self._executor = executor
        self._gate = gate
        self._is_idle = is_idle
        self._taken = threading.Lock()

    @property
    def is_busy(self) -> bool:
        return self._taken.locked()

    def start(self, data_dir: Path, name: str) -> None:
        """
        Raises:
            OSError: it cannot listen.
        """
        listener, secret = listen(data_dir, name)
        threading.Thread(
            target=self._accept, args=(listener, secret), name="models", daemon=True
        ).start()

    def _accept(self, listener: socket.socket, secret: bytes) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._serve, args=(connection, secret), daemon=True).start()

    def _serve(self, connection: socket.socket, secret: bytes) -> None:
        connection.settimeout(SILENT_S)
        with (
            closing(connection),
            suppress(OSError, EOFError, ValueError, KeyError, TypeError, TranscribeError),
        ):
            prove_as_listener(connection, secret)
            guest = Guest(connection)
            request = guest.receive()
            if request["version"] != __version__:
                guest.send(refused="the worker runs another version")
            elif not self._taken.acquire(blocking=False):
                guest.send(refused="the worker is used by another command")
            else:
                try:
                    threads = int(request["threads"])
                    guest.options = part_of(
                        JobOptions, JobOptions.loads(request["options"]), threads=threads
                    )
                    self._serve_recordings(guest)
                finally:
                    self._taken.release()

    def _serve_recordings(self, guest: Guest) -> None:
        refused = self._refusal(guest)
        guest.send(**({"refused": refused} if refused else {"accepted": True}))
        while not refused:
            guest.connection.settimeout(BETWEEN_S)
            message = guest.receive()
            guest.connection.settimeout(SILENT_S)
            path = Path(message["source"])
            refused = self._refusal(guest)
            if not refused and file_of(path) != message["file"]:
                refused = "another file is at this path for the worker"
            if refused:
                guest.send(refused=refused)
            else:
                self._serve_recording(guest, path)

    def _refusal(self, guest: Guest) -> str:
        """Why a command cannot use the model now; empty if it can."""
        loaded = self._executor.loaded_spec
        if loaded is None:
            return "the worker has no model loaded"
        if not self._is_idle() or self._executor.queue.recordings:
            return "it is busy"
        requested = part_of(EngineSpec, guest.options)
        return (
            ""
            if serves(requested, loaded, self._executor.info)
            else "the worker has another model loaded"
        )

    def _serve_recording(self, guest: Guest, path: Path) -> None:
        """Transcribe; cancel if the command ends before."""
        guest.is_done = False
        recording = self._executor.open(Claim(self._executor.loaded_spec))
        work = threading.Thread(target=self._transcribe, args=(guest, recording, path), daemon=True)
        work.start()
        while not select.select([guest.connection], [], [], ALIVE_S)[0]:
            if not guest.send():
                break
        if not guest.is_done:
            recording.cancel()
        work.join()

    def _transcribe(self, guest: Guest, recording: Recording, path: Path) -> None:
        from ..pipeline.offline import transcribe_at

        def check() -> None:
            if recording.cancelled_at is not None:
                raise CancelledError("the command has ended")

        answer = {"refused": "it failed"}  # the command gets the same error, and reports it
        try:
            with suppress(TranscribeError), closing(recording):
                inside = self._gate.enter(alone=False, check=check)
                try:
                    options = part_of(Options, guest.options)
                    transcript = transcribe_at(
                        recording, path, options, guest.progress, None, guest.show_text
                    )
                finally:
                    inside.leave()
                answer = {"transcript": transcript.dumps()}
        finally:
            guest.is_done = True
            guest.send(**answer)
