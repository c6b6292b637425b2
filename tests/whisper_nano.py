"""The repository's own Whisper, expanded from its packed form on first use, and audio that it
understands.
"""

from __future__ import annotations

import getpass
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from media import write_audio

from transcribe_mcp.media.decode import SAMPLE_RATE_HZ, read
from transcribe_mcp.quality.evaluation import Truth, TruthSegment, load_truth
from transcribe_mcp.settings import settings
from transcribe_mcp.speech.regions import Region, Window

DATA = Path(__file__).parent / "data"
SPEECH, CONVERSATION, NON_SPEECH = DATA / "speech", DATA / "conversation", DATA / "non-speech"
_PACKED = DATA / "whisper-nano"
_TOOL = Path(__file__).parents[1] / "tools" / "whisper_nano" / "expand.py"
CACHE = (
    Path(tempfile.gettempdir()) / f"transcribe-mcp-tests-{getpass.getuser()}"
)  # kept between runs


@cache
def _expander() -> ModuleType:
    spec = importlib.util.spec_from_file_location("whisper_nano_expand", _TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def whisper_nano(n_mels: int = 80) -> Path:
    """Directory of the model in Hugging Face's layout: 80 mels and ids of its own, or 128 and
    large-v3's vocabulary.

    Written once for each version of the packed model, to a folder that later runs share.
    """
    directory: Path = _expander().expand(_PACKED, CACHE, n_mels)
    return directory


@contextmanager
def kept_conversions() -> Iterator[None]:
    """Conversions of the model go beside it, not into the user's cache, and are made once for all
    runs.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSCRIBE_MCP_CACHE_DIR", str(CACHE / "cache"))
        settings.cache_clear()
        yield
    settings.cache_clear()


@cache
def speech_truths() -> dict[str, Truth]:
    """Name of a recording in ``speech/`` without its suffix -> what it says."""
    return {truth.path.stem: truth for truth in load_truth(SPEECH)}


def window_of(name: str, start: float = 0.0) -> Window:
    """The first 30 s of a recording, as if they began at ``start``."""
    samples = read(speech_truths()[name].path)[: 30 * SAMPLE_RATE_HZ]
    return Window(start, samples, (Region(start, start + len(samples) / SAMPLE_RATE_HZ),))


def join_speech(path: Path, names: Sequence[str]) -> Truth:
    """Write recordings of ``speech/`` one after another to ``path``; the truth has sentences, not
    words.
    """
    segments: list[TruthSegment] = []
    parts = []
    at_s = 0.0
    for truth in (speech_truths()[name] for name in names):
        for segment in truth.segments:
            assert segment.start is not None and segment.end is not None
            segments.append(
                replace(segment, start=segment.start + at_s, end=segment.end + at_s, words=())
            )
        parts.append(read(truth.path))
        at_s += len(parts[-1]) / SAMPLE_RATE_HZ
    languages = {segment.language for segment in segments}
    write_audio(path, "pcm_s16le", np.concatenate(parts))
    return Truth(path, tuple(segments), languages.pop() if len(languages) == 1 else None, at_s)
