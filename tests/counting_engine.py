"""The CTranslate2 engine, which also writes down every window that it decodes: for tests that kill
its process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transcribe_mcp.engines import Decoded, DecodingOptions, EngineRequest, RetryPolicy, accept
from transcribe_mcp.engines.ctranslate2 import CTranslate2Engine
from transcribe_mcp.engines.ctranslate2 import load as load_ctranslate2

LOG_VARIABLE = "COUNTING_ENGINE_LOG"
GATE_VARIABLE = "COUNTING_ENGINE_GATE"


class CountingEngine:
    """Everything but ``decode`` is the inner engine's own."""

    def __init__(self, inner: CTranslate2Engine) -> None:
        self._inner = inner
        self._log = Path(os.environ[LOG_VARIABLE])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def decode(
        self,
        encoded: Any,
        languages: Sequence[str],
        options: DecodingOptions,
        retry: RetryPolicy = accept,
    ) -> list[Decoded]:
        if options.temperature == 0:
            with self._log.open("a", encoding="utf-8") as log:
                log.writelines(f"{window.start:.3f}\n" for window in encoded.windows)
        return self._inner.decode(encoded, languages, options, retry)


def load(request: EngineRequest) -> Any:
    engine = load_ctranslate2(replace(request, engine="ctranslate2"))
    assert isinstance(engine, CTranslate2Engine)
    return CountingEngine(engine)
