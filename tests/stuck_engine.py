"""An engine whose first call does not come back while the file that STUCK names is there, as on a
slow machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transcribe_mcp.engines import EngineRequest
from transcribe_mcp.engines.fake import FakeEngine
from transcribe_mcp.speech.regions import Window


class StuckEngine(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        self._was_stuck = False
        self.info = replace(self.info, engine="ctranslate2")  # so that a job goes on with this one

    def encode(self, windows: Sequence[Window]) -> Any:
        marker = Path(os.environ.get("STUCK", ""))
        if "STUCK" in os.environ and not self._was_stuck:
            self._was_stuck = True
            marker.touch()
            while marker.exists():
                threading.Event().wait(0.05)
        return super().encode(windows)


def load(request: EngineRequest) -> StuckEngine:
    return StuckEngine()
