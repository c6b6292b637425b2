"""Records which functions of a package run in which thread. Python imports this at the start of
every process.

Each function is written to the file of its process when a thread calls it for the first time,
because some processes end without running exit handlers. Imports, class bodies and comprehensions
are not calls.
"""

from __future__ import annotations

import inspect
import itertools
import os
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PACKAGE = os.environ["CALL_WALK_PACKAGE"] + os.sep
_PATH = Path(os.environ["CALL_WALK_TRACE"]) / f"{os.getpid()}.tsv"
TRACE = _PATH.open("ab", buffering=0)
NUMBERS = itertools.count()


class _Thread(threading.local):
    """What this thread has called so far."""

    def __init__(self) -> None:
        self.number = next(NUMBERS)
        self.seen: set[CodeType] = set()


_thread = _Thread()


def _is_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _record(frame: FrameType, event: str, _argument: Any) -> None:
    code = frame.f_code
    if event != "call" or code in _thread.seen or not code.co_filename.startswith(PACKAGE):
        return
    is_function = code.co_flags & inspect.CO_OPTIMIZED and code.co_name[0] != "<"
    if not is_function or _is_import(frame):
        return
    _thread.seen.add(code)
    fields = (
        str(_thread.number),
        threading.current_thread().name,
        code.co_filename.removeprefix(PACKAGE),
        str(code.co_firstlineno),
        code.co_qualname,
    )
    TRACE.write(("\t".join(fields) + "\n").encode())


threading.setprofile(_record)
sys.setprofile(_record)
