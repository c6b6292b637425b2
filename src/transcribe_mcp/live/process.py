"""The process of live sessions: it reads messages and writes events until its input ends."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from typing import BinaryIO

from ..engines.malloc import share_arenas
from ..jobs.worker_process import note, where
from ..runtime.loading import shared_executor
from ..settings import settings, usable_cores
from .messages import LiveEvent
from .session import OneModel, Session

CLOSING_S = 2.0  # for the file of a session


class Sender:
    """Writes events for several threads."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._lock = threading.Lock()

    def send(self, session: int, event: LiveEvent) -> None:
        with self._lock:
            self._output.write(event.dumps(session))
            self._output.flush()


def serve(messages: BinaryIO, output: BinaryIO) -> None:
    """Serve until ``messages`` ends."""
    model = OneModel(shared_executor(settings().unload_after_s))
    sender = Sender(output)
    sessions: dict[int, Session] = {}
    ending: list[Session] = []
    for line in messages:
        message = json.loads(line)
        number = message["session"]
        if number not in sessions:
            sessions[number] = Session(model, partial(sender.send, number), _note_error)
        sessions[number].put(message)
        if message["do"] in ("close", "finish"):
            ending = [one for one in ending if not one.is_closed]
            ending.append(sessions.pop(number))
    for session in sessions.values():
        session.put({"do": "close"})
    for session in (*ending, *sessions.values()):
        session.wait_closed(CLOSING_S)


def _note_error(error: BaseException) -> None:
    note(f"{time.strftime('%Y-%m-%d %H:%M:%S')} a live session failed: {where(error)}")


def main() -> None:
    """Exits without waiting for engine threads."""
    faulthandler.enable()
    share_arenas(usable_cores())
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries goes to the log
    with suppress(BrokenPipeError):  # the front end has exited
        serve(sys.stdin.buffer, output)
    os._exit(0)


if __name__ == "__main__":
    main()
