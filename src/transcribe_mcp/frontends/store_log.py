"""The log of a server that looks at the database again and again."""

from __future__ import annotations

import logging

from ..errors import TranscribeError


class StoreLog:
    """Says once that the database cannot be read, and once that it can be read again."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._code = ""

    def failed(self, error: TranscribeError) -> None:
        if error.code != self._code:
            self._code = error.code
            self._log.warning("the database cannot be read now: %s", error.code)

    def succeeded(self) -> None:
        if self._code:
            self._code = ""
            self._log.warning("the database can be read again")
