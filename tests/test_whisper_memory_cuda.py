"""The PyTorch engine on a real GPU of which it is given little memory. Skipped where there is no
GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from functools import cache
from typing import Any

import numpy as np
import pytest
from whisper_nano import speech_truths, whisper_nano, window_of

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA GPU", allow_module_level=True)

from transcribe_mcp import Options, load_engine, transcribe  # noqa: E402
from transcribe_mcp.engines import EngineRequest  # noqa: E402
from transcribe_mcp.engines.whisper.loading import _load_on  # noqa: E402
from transcribe_mcp.media.decode import read  # noqa: E402
from transcribe_mcp.runtime.executor import Executor  # noqa: E402

MEBIBYTE = 1 << 20
GPU = torch.device("cuda", 0)
GREEDY = Options(language="en", temperatures=(0.0,), batch_size=64)


@contextmanager
def only(n_bytes: int) -> Iterator[None]:
    """PyTorch takes no more than this beside what it has."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, (torch.cuda.memory_reserved() + n_bytes) / total)
    )
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@cache
def talk() -> Any:
    return np.concatenate(
        [read(speech_truths()[name].path) for name in speech_truths() if name.startswith("en")] * 6
    )


def load(precision: str, device: str = "cuda:0") -> Executor:
    return load_engine(
        EngineRequest("whisper", str(whisper_nano()), device, precision, offline=True)
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16+int8"])
def test_a_gpu_of_little_memory_hears_the_same_words_in_smaller_batches(precision: str) -> None:
    """What it needs of a whole batch is 1.3 GB; the model, a window and the workspaces of libraries
    are 0.3 GB.
    """
    engine = load(precision)
    whole = transcribe(talk(), engine, GREEDY)
    engine.close()

    with only(400 * MEBIBYTE):
        engine = load(precision)
        first, again = (transcribe(talk(), engine, GREEDY) for _ in range(2))
        engine.close()

    for transcript in (first, again):
        same = SequenceMatcher(
            None, transcript.text.split(), whole.text.split(), autojunk=False
        ).ratio()
        # In 16 bits a window of many sounds otherwise than of few.
        assert same == 1.0 if precision == "float32" else same > 0.99
    assert "batch_halved" in [notice.code for notice in again.warnings]
    assert "batch_halved" not in [notice.code for notice in whole.warnings]


def test_where_the_gpu_has_no_memory_for_a_window_the_cpu_goes_on() -> None:
    whole = transcribe(talk(), load("float32", "cpu"), GREEDY)

    with only(60 * MEBIBYTE):
        transcript = transcribe(talk(), load("float32", "auto"), GREEDY)

    assert transcript.device == "cpu"
    assert transcript.text == whole.text
    assert "gpu_failed" in [notice.code for notice in transcript.warnings]


def test_windows_for_which_there_is_no_memory_to_capture_are_encoded_all_the_same() -> None:
    engine = _load_on(
        EngineRequest("whisper", str(whisper_nano()), "cuda", "float32", offline=True), GPU
    )
    windows = [window_of(name) for name in sorted(speech_truths())[:12]]
    torch.cuda.reset_peak_memory_stats()
    first = engine.encode(windows).rows[0].cache.values.cpu()
    peak = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()

    with only(peak - torch.cuda.memory_reserved() + 80 * MEBIBYTE):
        again = engine.encode(windows).rows[0].cache.values.cpu()

    assert torch.equal(again, first)
    assert engine._running.encode._room is None, (
        "there was room for captured work: the test shows nothing"
    )
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    engine.close()
