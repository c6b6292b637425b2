"""Captured steps and Triton's kernels on a GPU against their slow twins. Skipped where there is no GPU."""

from __future__ import annotations

from typing import Any

import pytest
from whisper_nano import speech_truths, whisper_nano

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA GPU", allow_module_level=True)

from transcribe_mcp.audio import SAMPLE_RATE_HZ, read  # noqa: E402
from transcribe_mcp.engines import DecodingOptions, EngineRequest  # noqa: E402
from transcribe_mcp.engines.whisper import alignment, alignment_kernels, runner  # noqa: E402
from transcribe_mcp.engines.whisper.graphs import CapturedSteps  # noqa: E402
from transcribe_mcp.engines.whisper.loading import INT8_AUDIO, _load_on  # noqa: E402
from transcribe_mcp.engines.whisper.slots import Slots  # noqa: E402
from transcribe_mcp.regions import Region, Window  # noqa: E402

GREEDY = DecodingOptions()
NAMES = sorted(speech_truths())
LANGUAGES = [name[:2] for name in NAMES]


def window_of(name: str) -> Window:
    samples = read(speech_truths()[name].path)[: 30 * SAMPLE_RATE_HZ]
    return Window(0.0, samples, (Region(0.0, len(samples) / SAMPLE_RATE_HZ),))


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16", "bfloat16+int8", "float16+int8"])
def engine(request: pytest.FixtureRequest) -> Any:
    asked = EngineRequest("whisper", str(whisper_nano()), "cuda", request.param, offline=True)
    engine = _load_on(asked, torch.device("cuda", 0))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def encoded(engine: Any) -> Any:
    return engine.encode([window_of(name) for name in NAMES])


def said(engine: Any, encoded: Any, kind: str, n_slots: int = 64) -> list[runner.Spoken]:
    requests = [engine._request(encoded, i, language, GREEDY) for i, language in enumerate(LANGUAGES)]
    slots = Slots(engine._running.model, engine._directions.alignment_heads, n_slots, 256)
    int8 = engine.info.compute_type.endswith(INT8_AUDIO)
    steps: runner.Steps = runner.EagerSteps(slots)
    if kind != "torch":
        steps = CapturedSteps(slots, int8=int8, capture=kind == "captured")
    with torch.inference_mode():
        return runner.run(steps, engine._step_rules(timestamps=False), requests)


def test_captured_steps_say_what_the_same_steps_say_one_by_one(engine: Any, encoded: Any) -> None:
    captured, one_by_one = said(engine, encoded, "captured"), said(engine, encoded, "one by one")

    assert [one.tokens for one in captured] == [one.tokens for one in one_by_one]
    assert [one.log_probabilities for one in captured] == [one.log_probabilities for one in one_by_one]


def test_kernels_say_what_plain_torch_says(engine: Any, encoded: Any) -> None:
    kernels, plain = said(engine, encoded, "captured"), said(engine, encoded, "torch")

    assert [one.tokens for one in kernels] == [one.tokens for one in plain]


def test_windows_that_come_and_go_say_what_they_say_all_at_once(engine: Any, encoded: Any) -> None:
    few, all_at_once = said(engine, encoded, "captured", n_slots=4), said(engine, encoded, "captured")

    assert [one.tokens for one in few] == [one.tokens for one in all_at_once]


def test_words_timed_while_decoding_are_within_a_frame_of_those_timed_anew(engine: Any, encoded: Any) -> None:
    decoded = engine.decode(encoded, LANGUAGES, GREEDY)
    kept = engine.align(encoded, decoded, GREEDY)
    encoded.spoken.clear()

    for one, other in zip(kept, engine.align(encoded, decoded, GREEDY), strict=True):
        assert [word.start for word in one] == pytest.approx([word.start for word in other], abs=0.021)


def test_kernels_of_the_alignment_find_what_torch_finds() -> None:
    weights = torch.randn((5, 3, 20, 1500), device="cuda")
    cost = -alignment.smoothed(weights)

    assert torch.allclose(alignment_kernels.smoothed(weights), -cost, atol=1e-6)
    sizes = ([20, 3, 1, 15, 20], [1500, 700, 33, 1499, 20])
    assert alignment_kernels.path_starts(cost, *sizes) == alignment.path_starts(cost, *sizes)
