"""A worker with an engine of a test in place of CTranslate2. Arguments: its module, how the last one ended."""

from __future__ import annotations

import sys

from transcribe_mcp.engines import ENGINES, EngineEntry
from transcribe_mcp.jobs.worker import main

if __name__ == "__main__":
    ENGINES["ctranslate2"] = EngineEntry(sys.argv[1], "of a test")  # type: ignore[index]
    sys.exit(main(sys.argv[2:]))
