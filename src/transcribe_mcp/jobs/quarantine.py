"""A gate for shared or exclusive access."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Gate:
    """A job whose worker crashed runs exclusively until it passes the crash point, so that the next
    crash can be attributed.

    Exclusive requests take priority over later ones.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting_alone = 0
        self._is_alone = False

    def enter(self, *, alone: bool, check: Callable[[], None], poll_s: float = 0.1) -> Pass:
        """Wait until the gate is open. ``check`` is called meanwhile; it may raise to stop."""
        with self._changed:
            self._waiting_alone += alone
            try:
                while self._is_alone or (self._inside if alone else self._waiting_alone):
                    self._changed.wait(poll_s)
                    check()
            finally:
                self._waiting_alone -= alone
                self._changed.notify_all()
            self._inside += 1
            self._is_alone = alone
        return Pass(self, alone=alone)

    def open(self) -> None:
        """Turn exclusive access into shared access."""
        with self._changed:
            self._is_alone = False
            self._changed.notify_all()

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()


class Pass:
    """One job's pass through the gate."""

    def __init__(self, gate: Gate, *, alone: bool) -> None:
        self._gate = gate
        self._alone = alone

    def share(self) -> None:
        """Let others pass."""
        if self._alone:
            self._alone = False
            self._gate.open()

    def leave(self) -> None:
        self.share()
        self._gate.leave()
