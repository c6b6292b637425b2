"""The garbage collector of Python while a process starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """Load modules in this block, because the collector would visit all loaded ones repeatedly.

    That takes a sixth of the start of a worker or an MCP server. Modules are never freed, so the
    collector ignores them afterwards too.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
