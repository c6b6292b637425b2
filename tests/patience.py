"""How long a test waits for what has to happen: a guard against hangs, and no measure of anything.

Nothing that works comes near it, however busy the machine. Tests look at conditions; clocks are
read here only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import count

PATIENCE_S = 240.0  # below the limit of pytest-timeout in pyproject.toml
QUICK_LOOKS = 50
PAUSE = threading.Event()  # never set: between two looks, others have the processor


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition, which has to become true."""
    deadline = time.monotonic() + PATIENCE_S
    looks = count(1)
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        # A look can cost a query: whoever waits for long leaves the processor to what it waits for.
        PAUSE.wait(0.02 if next(looks) <= QUICK_LOOKS else 0.06)
