"""The repository's own Whisper, expanded from its packed form on first use, and audio that it understands."""

from __future__ import annotations

import getpass
import importlib.util
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

DATA = Path(__file__).parent / "data"
SPEECH, CONVERSATION, NON_SPEECH = DATA / "speech", DATA / "conversation", DATA / "non-speech"
_PACKED = DATA / "whisper-nano"
_TOOL = Path(__file__).parents[1] / "tools" / "whisper_nano" / "expand.py"
CACHE = Path(tempfile.gettempdir()) / f"transcribe-mcp-tests-{getpass.getuser()}"  # kept between runs


@cache
def _expander() -> ModuleType:
    spec = importlib.util.spec_from_file_location("whisper_nano_expand", _TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def whisper_nano(n_mels: int = 80) -> Path:
    """Directory of the model in Hugging Face's layout: 80 mels and ids of its own, or 128 and large-v3's vocabulary.

    Written once for each version of the packed model, to a folder that later runs share.
    """
    directory: Path = _expander().expand(_PACKED, CACHE, n_mels)
    return directory
