"""A worker whose CTranslate2 engine counts: ``python counting_worker.py [how the one before ended]``."""

from __future__ import annotations

import sys

from transcribe_mcp.engines import ENGINES, EngineEntry
from transcribe_mcp.jobs.worker import main

if __name__ == "__main__":
    ENGINES["ctranslate2"] = EngineEntry("counting_engine", "counts")  # type: ignore[index]
    sys.exit(main(sys.argv[1:]))
