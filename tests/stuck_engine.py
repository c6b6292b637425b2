"""An engine whose first call never comes back where it is told so, as that of a slow model on a slow machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from transcribe_mcp.engines import EngineRequest
from transcribe_mcp.engines.fake import FakeEngine
from transcribe_mcp.regions import Window


class StuckEngine(FakeEngine):
    def encode(self, windows: Sequence[Window]) -> Any:
        if os.environ.get("STUCK"):
            threading.Event().wait()
        return super().encode(windows)


def load(request: EngineRequest) -> StuckEngine:
    return StuckEngine()
