"""The front ends' side of the live process: they start it and exchange messages with it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ..domain.private_files import make_private_dir, open_private
from ..jobs.worker_process import environment_of, how_it_ended, rotate_log
from ..settings import Settings
from .messages import LiveEvent, LiveSetup

LOG_NAME = "live.log"
COMMAND = (sys.executable, "-m", "transcribe_mcp.live.process")
CLOSING_S = 30.0  # for the process to exit after its input ended; it may still be starting

OnEvent = Callable[[LiveEvent], None]


class LiveSession:
    """A session of ``LiveProcess``. Methods block while the process is busy."""

    def __init__(self, process: LiveProcess, running: Running, number: int) -> None:
        self._process = process
        self._running = running
        self._number = number

    def configure(self, setup: LiveSetup, tag: str | None = None) -> None:
        """Load the model and accept audio. The answer is ``configured`` or an error."""
        self._send("configure", setup=setup.to_json(), tag=tag)

    def append(self, audio: bytes) -> None:
        self._send("append", audio=base64.b64encode(audio).decode())

    def commit(self, tag: str | None = None) -> None:
        """End the utterance, if the session does not detect ends itself."""
        self._send("commit", tag=tag)

    def clear(self) -> None:
        """Drop audio that is not committed."""
        self._send("clear")

    def close(self) -> None:
        """End the session and drop what is not recognized yet. The answer is ``closed``."""
        self._send("close")
        self._process.closed(self._running)

    def finish(self) -> None:
        """As ``close``, but recognize everything that was sent first."""
        self._send("finish")
        self._process.closed(self._running)

    def _send(self, do: str, **fields: Any) -> None:
        self._running.send({"session": self._number, "do": do, **fields})


class Running:
    """One instance of the process."""

    def __init__(self, chosen: Settings, command: Sequence[str]) -> None:
        data_dir = chosen.data_dir.absolute()
        make_private_dir(data_dir)
        rotate_log(data_dir / LOG_NAME)
        with open_private(data_dir / LOG_NAME, "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=data_dir,
                env=environment_of(chosen),
                **_apart(),
            )
        self.n_sessions = 0
        self.listeners: dict[int, OnEvent] = {}
        self._writing = threading.Lock()
        threading.Thread(target=self._read, name="live", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # When the process ends, every session gets ``ended``.
        with self._writing, suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Stop the process, and wait for it."""
        self._close_input()
        try:
            self._process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with self._writing, suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                fields = json.loads(line)
                number = fields.pop("session")
                event = LiveEvent(**fields)
                listener = self.listeners.get(number)
                if event.kind == "closed":
                    self.listeners.pop(number, None)
                if listener is not None:
                    listener(event)
        end = how_it_ended(self._process.wait())
        self._close_input()
        for number in list(self.listeners):
            message = f"the process of live sessions has ended: {end}"
            hint = f"{LOG_NAME} in the data directory has the cause"
            listener = self.listeners.pop(number)
            listener(LiveEvent("ended", code="engine_failed", message=message, hint=hint))
            listener(LiveEvent("closed"))


class LiveProcess:
    """Starts the process with its first session, and ends it some time after the last one.

    Args:
        chosen: settings; the process stays for ``unload_after_s`` without a session.
        command: starts it.
    """

    def __init__(self, chosen: Settings, command: Sequence[str] = COMMAND) -> None:
        self._settings = chosen
        self._command = command
        self._lock = threading.Lock()
        self._running: Running | None = None
        self._n_opened = 0
        self._idle: threading.Timer | None = None

    def open(self, on_event: OnEvent) -> LiveSession:
        """A new session. ``on_event`` is called in another thread.

        Raises:
            OSError: the process cannot be started.
        """
        with self._lock:
            self._stop_timer()
            if self._running is None or not self._running.is_alive:
                self._running = Running(self._settings, self._command)
            running = self._running
            self._n_opened += 1
            running.n_sessions += 1
            running.listeners[self._n_opened] = on_event
            return LiveSession(self, running, self._n_opened)

    def closed(self, running: Running) -> None:
        """One of its sessions was closed."""
        with self._lock:
            running.n_sessions -= 1
            if running is self._running and not running.n_sessions:
                self._stop_timer()
                idle_s = min(self._settings.unload_after_s, threading.TIMEOUT_MAX)
                self._idle = threading.Timer(idle_s, self._end_idle, [running])
                self._idle.daemon = True
                self._idle.start()

    def close(self) -> None:
        """Stop the process."""
        with self._lock:
            self._stop_timer()
            running = self._running
            self._running = None
        if running is not None:
            running.close()

    def _end_idle(self, running: Running) -> None:
        with self._lock:
            if running is not self._running or running.n_sessions:
                return
            self._running = None
        running.close()

    def _stop_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


def _apart() -> dict[str, Any]:
    """Ignores Ctrl-C: the front end handles it and stops the process."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}
