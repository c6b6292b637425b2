"""An engine that ends its process as native code does: late in a recording, on a GPU or where it is
told.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from transcribe_mcp.engines import Decoded, DecodingOptions, EngineInfo, EngineRequest
from transcribe_mcp.engines.fake import FakeEngine
from transcribe_mcp.speech.regions import Window

DEADLY_FROM_S = 60.0
LAST_WORDS = (
    "Could not load library libcudnn_ops_infer.so.8. Error: "
    "libcudnn_ops_infer.so.8: cannot open shared object"
)


class DeadlyEngine(FakeEngine):
    def __init__(self, device: str) -> None:
        super().__init__()
        self.info = EngineInfo(
            "ctranslate2", "deadly", device, "none", languages=("en",), batch_size=2
        )

    def decode_once(
        self, encoded: Any, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        windows: Sequence[Window] = encoded.windows
        deadly_on = os.environ.get("DEADLY_ENGINE_ON", "cuda")
        if self.info.device.startswith(deadly_on) and any(
            window.start > DEADLY_FROM_S for window in windows
        ):
            sys.stderr.write(LAST_WORDS + "\n")
            sys.stderr.flush()
            os.abort()
        return super().decode_once(encoded, languages, options)


def load(request: EngineRequest) -> DeadlyEngine:
    return DeadlyEngine("cuda:0" if request.device in ("auto", "cuda") else "cpu")
