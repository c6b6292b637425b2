"""In a worker of the chaos benchmark: an engine that writes down what it decodes, in place of
CTranslate2.
"""

import os
import sys

if os.environ.get("CHAOS_DECODED") and "transcribe_mcp.jobs.worker" in getattr(
    sys, "orig_argv", []
):
    from transcribe_mcp.engines import ENGINES, EngineEntry

    ENGINES["ctranslate2"] = EngineEntry("logging_engine", "of a benchmark")  # type: ignore[index]
