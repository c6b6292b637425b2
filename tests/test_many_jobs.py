"""One engine, one process, many recordings of all lengths: memory does not pile up."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from whisper_nano import kept_conversions, speech_truths, whisper_nano

from transcribe_mcp.audio import read
from transcribe_mcp.engines import Engine, EngineRequest, load_engine
from transcribe_mcp.pipeline import Options, transcribe

RATE_HZ = 16_000
SLOW = os.environ.get("TRANSCRIBE_MCP_SLOW_TESTS") == "1"
JOBS = 1000 if SLOW else 12
SLACK_BYTES = 32 * 2**20
GREEDY = Options(language="en", temperatures=(0.0,), threads=1)


@pytest.fixture(scope="module", params=["ctranslate2", "whisper"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "whisper":
        pytest.importorskip("torch")
    with kept_conversions():
        engine = load_engine(EngineRequest(request.param, str(whisper_nano()), "cpu", "auto", threads=1, offline=True))
        yield engine
    engine.close()


@pytest.mark.timeout(3600 if SLOW else 300)
def test_memory_does_not_grow_with_the_number_of_recordings(engine: Engine) -> None:
    talk = np.concatenate([read(truth.path) for truth in speech_truths().values()])
    random = np.random.default_rng(0)
    process = psutil.Process()
    resident: list[int] = []
    for number in range(JOBS):
        # The first tenth has one of the longest, so that what the largest batch takes is there from then on.
        length_s = 40.0 if number == 0 else float(np.exp(random.uniform(np.log(0.5), np.log(20.0 if SLOW else 6.0))))
        first = int(random.integers(0, len(talk) - round(40 * RATE_HZ)))
        transcribe(talk[first : first + round(length_s * RATE_HZ)], engine, GREEDY)
        gc.collect()
        resident.append(process.memory_info().rss)

    early = max(resident[: JOBS // 4])
    late = min(resident[-JOBS // 4 :])
    assert late - early < SLACK_BYTES, f"{early / 2**20:.0f} MiB became {late / 2**20:.0f} MiB"
