"""Local transcription: any recording in, words with times out.

Public names are loaded when first used, so that ``import transcribe_mcp`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "EngineRequest": "engines",  # for one release: EngineSpec
    "EngineSpec": "domain.options",
    "Notice": "domain.transcript",
    "Options": "domain.options",
    "Segment": "domain.transcript",
    "TranscribeError": "errors",
    "Transcript": "domain.transcript",
    "Turn": "domain.transcript",
    "Word": "domain.transcript",
    "load_engine": "runtime.loading",
    "transcribe": "pipeline.offline",
}
__all__ = [
    "EngineRequest",
    "EngineSpec",
    "Notice",
    "Options",
    "Segment",
    "TranscribeError",
    "Transcript",
    "Turn",
    "Word",
    "__version__",
    "load_engine",
    "transcribe",
]

if TYPE_CHECKING:
    from .domain.options import EngineSpec, Options
    from .domain.transcript import Notice, Segment, Transcript, Turn, Word
    from .errors import TranscribeError
    from .pipeline.offline import transcribe
    from .runtime.loading import load_engine


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
