"""The garbage collector of Python while a process starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """Load modules in this block: the collector would walk through all loaded ones again and again.

    That takes a sixth of the start of a worker or an MCP server. Modules stay to the end, so the
    collector never visits them again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
