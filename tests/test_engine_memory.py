"""An engine gives its memory back, and many recordings do not pile up.

Each is measured in a process of its own, which does nothing else: in that of the tests, memory that
others have freed is filled again at some time or other, and that looks like growth.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import psutil
import pytest
from patience import PATIENCE_S
from slow import SLOW, slow
from whisper_nano import kept_conversions, speech_truths, whisper_nano

from transcribe_mcp.engines import ENGINES, EngineRequest, load_recognizer
from transcribe_mcp.engines.malloc import give_back_freed
from transcribe_mcp.media.decode import SAMPLE_RATE_HZ, read
from transcribe_mcp.pipeline.offline import Options, transcribe

RECORDINGS = 1000 if SLOW else 12
LIMIT_S = 3600 if SLOW else PATIENCE_S
SLACK_BYTES = 16 * 2**20
SLACK_OF_A_ROUND_BYTES = 10 * 2**20  # a model that stays takes 30 and more
OF_WHISPER = ("ctranslate2", "whisper")
GREEDY = Options(language="en", temperatures=(0.0,), threads=1)


def measured_alone(measure: Callable[[str], list[int]], engine: str) -> list[int]:
    """What ``measure`` returns for an engine in a process that does nothing else; bytes."""
    if engine == "whisper":
        pytest.importorskip("torch")
    child = [sys.executable, __file__, measure.__name__, engine]
    small_pages = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        child, capture_output=True, text=True, timeout=LIMIT_S, env=small_pages, check=False
    )
    assert done.returncode == 0, done.stderr
    figures: list[int] = json.loads(done.stdout)
    return figures


def asked(engine: str) -> EngineRequest:
    model = str(whisper_nano()) if engine in OF_WHISPER else "auto"
    return EngineRequest(engine, model, "cpu", threads=1, offline=True)


def resident_bytes() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def closing(engine: str) -> list[int]:
    """After each of six times that it was loaded, used and closed."""
    sentence = read(next(iter(speech_truths().values())).path)[: 4 * SAMPLE_RATE_HZ]
    resident = []
    for _ in range(6):
        loaded = load_recognizer(asked(engine))
        transcribe(sentence, loaded, GREEDY)
        loaded.close()
        del loaded
        give_back_freed()  # what glibc keeps for later is not the engine's
        resident.append(resident_bytes())
    return resident


def many_recordings(engine: str) -> list[int]:
    """After each of them."""
    talk = np.concatenate([read(truth.path) for truth in speech_truths().values()])
    random = np.random.default_rng(0)
    loaded = load_recognizer(asked(engine))
    resident = []
    for number in range(RECORDINGS):
        # The first tenth has one of the longest, so that what the largest batch takes is there from
        # then on.
        length_s = (
            40.0
            if number == 0
            else float(np.exp(random.uniform(np.log(0.5), np.log(20.0 if SLOW else 6.0))))
        )
        first = int(random.integers(0, len(talk) - round(40 * SAMPLE_RATE_HZ)))
        transcribe(talk[first : first + round(length_s * SAMPLE_RATE_HZ)], loaded, GREEDY)
        resident.append(resident_bytes())
    loaded.close()
    return resident


@pytest.mark.parametrize("engine", ENGINES)
def test_closing_an_engine_gives_its_memory_back(engine: str) -> None:
    resident = measured_alone(closing, engine)

    growth_bytes = (resident[-1] - resident[0]) / (len(resident) - 1)
    assert growth_bytes < SLACK_OF_A_ROUND_BYTES, [
        f"{number / 2**20:.0f} MiB" for number in resident
    ]


@pytest.mark.timeout(LIMIT_S + 30)
@pytest.mark.parametrize("engine", ["ctranslate2", pytest.param("whisper", marks=slow)])
def test_memory_does_not_grow_with_the_number_of_recordings(engine: str) -> None:
    resident = measured_alone(many_recordings, engine)

    early, late = max(resident[: RECORDINGS // 4]), min(resident[-RECORDINGS // 4 :])
    assert late - early < SLACK_BYTES, [f"{number / 2**20:.0f} MiB" for number in resident]


if __name__ == "__main__":
    with kept_conversions():
        print(
            json.dumps(
                {"closing": closing, "many_recordings": many_recordings}[sys.argv[1]](sys.argv[2])
            )
        )
