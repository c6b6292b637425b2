"""An engine whose calls never come back where STUCK names a file, as those of a slow model on a slow machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transcribe_mcp.engines import EngineRequest
from transcribe_mcp.engines.fake import FakeEngine
from transcribe_mcp.regions import Window


class StuckEngine(FakeEngine):
    def encode(self, windows: Sequence[Window]) -> Any:
        if marker := os.environ.get("STUCK"):
            Path(marker).touch()
            threading.Event().wait()
        return super().encode(windows)


def load(request: EngineRequest) -> StuckEngine:
    return StuckEngine()
