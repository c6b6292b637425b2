"""Whisper tiny.en with OpenAI's weights on both engines: the same words at the same times."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from real_whisper import real_whisper
from slow import SLOW

from transcribe_mcp import EngineRequest, Options, Transcript, load_engine, transcribe
from transcribe_mcp.align.edit_distance import align
from transcribe_mcp.media.decode import read

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
SHARED_SETS = ROOT.parent / "shared" / "accuracy" / "sets"
SAME_WORDS = 0.998  # of all words
ENGINES = ("ctranslate2", "whisper")


@pytest.fixture(scope="module")
def in_both_layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("torch", reason="the PyTorch engine needs torch")
    source, target = real_whisper(), tmp_path_factory.mktemp("tiny.en") / "huggingface"
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import huggingface_layout
    finally:
        sys.path.remove(str(ROOT / "tools"))
    huggingface_layout.write(source, target)
    return {"ctranslate2": source, "whisper": target}


@pytest.fixture(scope="module")
def talk() -> np.ndarray:
    """The samples; of the slow tests, minutes of other voices too where they are at hand."""
    parts = [read(path) for path in sorted(SAMPLES.glob("*.flac"))]
    more = [SHARED_SETS / name for name in ("p_lecture.flac", "t16.flac")]
    parts += [read(path) for path in more if SLOW and path.exists()]
    pause = np.zeros(16_000, np.float32)
    return np.concatenate([samples for part in parts for samples in (part, pause)])


@pytest.fixture(scope="module")
def heard(in_both_layouts: dict[str, Path], talk: np.ndarray) -> Iterator[dict[str, Transcript]]:
    found = {}
    for name in ENGINES:
        request = EngineRequest(name, str(in_both_layouts[name]), "cpu", "float32", offline=True)
        engine = load_engine(request)
        found[name] = transcribe(talk, engine, Options(language="en", beam_size=1))
        engine.close()
    yield found


def test_both_engines_give_the_same_words(heard: dict[str, Transcript]) -> None:
    texts = [[word.text.strip() for word in heard[name].words] for name in ENGINES]
    pairs = align(*texts)
    same = sum(None not in pair and texts[0][pair[0]] == texts[1][pair[1]] for pair in pairs)

    assert len(pairs) > 50
    assert same >= SAME_WORDS * len(pairs), texts


def test_both_engines_give_them_the_same_times(heard: dict[str, Transcript]) -> None:
    words = [heard[name].words for name in ENGINES]
    pairs = align(*([word.text for word in each] for each in words))
    apart_s = [
        abs(words[0][i].start - words[1][j].start)
        for i, j in pairs
        if i is not None and j is not None
    ]

    assert np.mean(np.array(apart_s) <= 0.04) >= 0.97
