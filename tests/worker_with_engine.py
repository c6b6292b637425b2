"""A worker with an engine of a test in place of CTranslate2. Arguments: its module, then the
worker's own.
"""

from __future__ import annotations

import os
import sys

from transcribe_mcp.engines import ENGINES, EngineEntry
from transcribe_mcp.jobs import worker
from transcribe_mcp.jobs.worker import main

if __name__ == "__main__":
    ENGINES["ctranslate2"] = EngineEntry(sys.argv[1], "of a test")  # type: ignore[index]
    worker.SILENT_S = float(os.environ.get("WORKER_SILENT_S", worker.SILENT_S))
    worker.HEARTBEAT_LIMIT_S = float(
        os.environ.get("WORKER_HEARTBEAT_LIMIT_S", worker.HEARTBEAT_LIMIT_S)
    )
    main(sys.argv[2:])
