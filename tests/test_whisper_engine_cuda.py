"""Captured steps and Triton's kernels on a GPU against their slow twins. Skipped where there is no
GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE_S
from whisper_nano import speech_truths, whisper_nano, window_of

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA GPU", allow_module_level=True)

from transcribe_mcp import Options, load_engine, transcribe  # noqa: E402
from transcribe_mcp.engines import Decoded, DecodingOptions, EngineRequest, load_recognizer  # noqa: E402
from transcribe_mcp.engines.whisper import (  # noqa: E402
    alignment,
    alignment_kernels,
    continuous_batching,
    gemv_kernels,
)
from transcribe_mcp.engines.whisper.decode_slots import Slots  # noqa: E402
from transcribe_mcp.engines.whisper.graphs import CapturedSteps  # noqa: E402
from transcribe_mcp.engines.whisper.loading import INT8_AUDIO, _load_on  # noqa: E402
from transcribe_mcp.media.decode import read  # noqa: E402
from transcribe_mcp.speech import lstm_kernels  # noqa: E402
from transcribe_mcp.speech.silero import read_weights  # noqa: E402
from transcribe_mcp.speech.silero_gpu import LaneNetwork  # noqa: E402

GREEDY = DecodingOptions()
NAMES = sorted(speech_truths())
LANGUAGES = [name[:2] for name in NAMES]


@pytest.fixture(
    scope="module", params=["float32", "bfloat16", "float16", "bfloat16+int8", "float16+int8"]
)
def engine(request: pytest.FixtureRequest) -> Any:
    asked = EngineRequest("whisper", str(whisper_nano()), "cuda", request.param, offline=True)
    engine = _load_on(asked, torch.device("cuda", 0))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def encoded(engine: Any) -> Any:
    return engine.encode([window_of(name) for name in NAMES])


def said(
    engine: Any, encoded: Any, kind: str, n_slots: int = 64
) -> list[continuous_batching.DecodedTokens]:
    requests = [
        engine._request(encoded, i, language, GREEDY) for i, language in enumerate(LANGUAGES)
    ]
    slots = Slots(engine._running.model, engine._directions.alignment_heads, n_slots, 256)
    int8 = engine.info.compute_type.endswith(INT8_AUDIO)
    steps: continuous_batching.Steps = continuous_batching.EagerSteps(slots)
    if kind != "torch":
        steps = CapturedSteps(slots, int8=int8, capture=kind == "captured")
    with torch.inference_mode():
        return continuous_batching.run(steps, engine._step_rules(timestamps=False), requests)


def test_captured_steps_say_what_the_same_steps_say_one_by_one(engine: Any, encoded: Any) -> None:
    captured, one_by_one = said(engine, encoded, "captured"), said(engine, encoded, "one by one")

    assert [one.tokens for one in captured] == [one.tokens for one in one_by_one]
    assert [one.log_probabilities for one in captured] == [
        one.log_probabilities for one in one_by_one
    ]


def test_kernels_say_what_plain_torch_says(engine: Any, encoded: Any) -> None:
    kernels, plain = said(engine, encoded, "captured"), said(engine, encoded, "torch")

    assert [one.tokens for one in kernels] == [one.tokens for one in plain]


def test_windows_that_come_and_go_say_what_they_say_all_at_once(engine: Any, encoded: Any) -> None:
    few, all_at_once = (
        said(engine, encoded, "captured", n_slots=4),
        said(engine, encoded, "captured"),
    )

    assert [one.tokens for one in few] == [one.tokens for one in all_at_once]


def test_windows_heard_again_hotter_go_back_into_the_running_batch(
    engine: Any, encoded: Any
) -> None:
    told: list[tuple[int, float, str]] = []

    def following(i: int, one: Decoded) -> float | None:
        told.append((i, one.temperature, one.text))
        return {0.0: 0.4, 0.4: 0.8}.get(one.temperature) if i in (1, 4) else None

    engine.decode(encoded, LANGUAGES, GREEDY, following)

    expected = [(i, 0.0) for i in range(len(NAMES))] + [(i, t) for i in (1, 4) for t in (0.4, 0.8)]
    assert sorted((i, temperature) for i, temperature, _ in told) == sorted(expected)
    if (
        engine.info.compute_type == "float32"
    ):  # elsewhere a sample may differ by what a batch rounds otherwise
        hot = engine.decode(encoded.select([1, 4]), [LANGUAGES[i] for i in (1, 4)], GREEDY.at(0.8))
        assert [text for i, temperature, text in sorted(told) if temperature == 0.8] == [
            one.text for one in hot
        ]


def test_windows_are_encoded_alike_the_first_time_and_captured(engine: Any) -> None:
    """From the second time on a number of windows is replayed; room for more of them is made in
    between.
    """
    fresh = _load_on(
        EngineRequest(
            "whisper", str(whisper_nano()), "cuda", engine.info.compute_type, offline=True
        ),
        torch.device("cuda", 0),
    )
    windows = [window_of(NAMES[i % len(NAMES)]) for i in range(13)]
    first: dict[int, Any] = {}
    for n in (1, 3, 12):
        first[n] = fresh.encode(windows[:n]).rows[0].cache
        fresh.encode(windows[1 : 1 + n])
        for size, before in first.items():
            again = fresh.encode(windows[:size]).rows[0].cache
            assert torch.equal(again.values, before.values), (
                f"{size} windows, after room was made for {n}"
            )
            assert before.scales is None or torch.equal(again.scales, before.scales)
        assert not torch.equal(fresh.encode(windows[1 : 1 + n]).rows[0].cache.values, again.values)
    fresh.close()


def test_windows_are_captured_in_a_thread_that_has_encoded_nothing_before(engine: Any) -> None:
    fresh = _load_on(
        EngineRequest(
            "whisper", str(whisper_nano()), "cuda", engine.info.compute_type, offline=True
        ),
        torch.device("cuda", 0),
    )
    windows = [window_of(NAMES[i % len(NAMES)]) for i in range(12)]
    for n in (12, 12, 5):  # room for twelve is made in this thread
        first = fresh.encode(windows[:n]).rows[0].cache

    with ThreadPoolExecutor(1) as another:
        again = another.submit(fresh.encode, windows[:5]).result().rows[0].cache

    assert torch.equal(again.values, first.values)
    fresh.close()


def test_one_engine_closed_leaves_another_as_it_was(engine: Any, encoded: Any) -> None:
    before = [one.text for one in engine.decode(encoded, LANGUAGES, GREEDY)]
    asked = EngineRequest(
        "whisper", str(whisper_nano()), "cuda", engine.info.compute_type, offline=True
    )
    other = _load_on(asked, torch.device("cuda", 0))
    other.decode(other.encode([window_of(NAMES[0])]), LANGUAGES[:1], GREEDY)
    other.close()
    taken = torch.randn(64 << 20, device="cuda")  # where something was freed, this is now

    assert [
        one.text for one in engine.decode(engine.encode(encoded.windows), LANGUAGES, GREEDY)
    ] == before
    assert bool(torch.isfinite(taken).all())


def test_words_timed_while_decoding_are_within_a_frame_of_those_timed_anew(
    engine: Any, encoded: Any
) -> None:
    decoded = engine.decode(encoded, LANGUAGES, GREEDY)
    kept = engine.align(encoded, decoded, GREEDY)
    encoded.spoken.clear()

    for one, other in zip(kept, engine.align(encoded, decoded, GREEDY), strict=True):
        assert [word.start for word in one] == pytest.approx(
            [word.start for word in other], abs=0.021
        )


def test_kernels_of_the_alignment_find_what_torch_finds() -> None:
    weights = torch.randn((5, 3, 20, 1500), device="cuda")
    cost = -alignment.smoothed(weights)

    assert torch.allclose(alignment_kernels.smoothed(weights), -cost, atol=1e-6)
    sizes = ([20, 3, 1, 15, 20], [1500, 700, 33, 1499, 20])
    assert alignment_kernels.path_starts(cost, *sizes) == alignment.path_starts(cost, *sizes)


@pytest.mark.parametrize(
    ("width", "n_out"), [(256, 768), (384, 1536), (1280, 1280), (5120, 1280), (256, 100)]
)
@pytest.mark.parametrize("gelu", [False, True])
def test_the_product_of_one_row_is_torch_s(width: int, n_out: int, gelu: bool) -> None:
    weight, bias = (
        torch.randn((n_out, width), device="cuda") * 0.05,
        torch.randn(n_out, device="cuda"),
    )
    x = torch.randn((1, 1, width), device="cuda")
    exact = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    exact = torch.nn.functional.gelu(exact, approximate="tanh") if gelu else exact

    for dtype, within in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        found = gemv_kernels.product(x.to(dtype), weight.to(dtype), bias.to(dtype), gelu=gelu)
        assert found.dtype == dtype
        assert float((found.double() - exact).norm() / exact.norm()) < within


@pytest.mark.parametrize("keeps_weights", [True, False])
@pytest.mark.parametrize("n_frames", [1501, 7500, 40])
def test_lanes_in_one_launch_remember_what_torch_s_lstm_does(
    n_frames: int, keeps_weights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if keeps_weights and not lstm_kernels._keeps_weights(torch.device("cuda", 0)):
        pytest.skip("this GPU has no room for them")
    monkeypatch.setattr(lstm_kernels, "_keeps_weights", lambda device: keeps_weights)
    network = LaneNetwork(read_weights(), torch.device("cuda"))
    features = torch.relu(torch.randn((n_frames, 128), device="cuda"))
    state = (torch.rand((1, 1, 128), device="cuda"), torch.rand((1, 1, 128), device="cuda"))
    with torch.inference_mode():
        found, after = network.remember_in_one_launch(features, state)
        exact, exactly_after = network.remember_by_library(features, state)

    assert float((found - exact).abs().max()) < 0.05  # 10 bits of a number, over hundreds of steps
    assert float((found - exact).abs().mean()) < 1e-3
    assert float((after[0] - exactly_after[0]).abs().max()) < 0.05
    assert (
        float((after[1] - exactly_after[1]).norm() / exactly_after[1].norm()) < 0.02
    )  # cells know no bounds


def test_without_a_c_compiler_words_are_the_same_and_the_result_says_why_it_was_slower(
    tmp_path: Path,
) -> None:
    """In a process of its own: what was found out about Triton is kept in it."""
    file = speech_truths()[NAMES[0]].path
    script = """if True:
        import json, sys
        from transcribe_mcp import EngineRequest, Options, load_engine, transcribe
        request = EngineRequest("whisper", sys.argv[1], "cuda:0", "float32", offline=True)
        engine = load_engine(request)
        transcript = transcribe(sys.argv[2], engine, Options(language=sys.argv[3]))
        engine.close()
        print(json.dumps([transcript.text, [notice.code for notice in transcript.warnings]]))
    """
    there = {name: value for name, value in os.environ.items() if name != "CC"}
    found = []
    for changed in ({}, {"PATH": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path)}):
        command = [sys.executable, "-c", script, str(whisper_nano()), str(file), NAMES[0][:2]]
        done = subprocess.run(
            command,
            env=there | changed,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))

    (text, codes), (text_without, codes_without) = found
    assert text_without == text
    assert "kernels_unused" in codes_without
    assert "kernels_unused" not in codes


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="takes two GPUs")
@pytest.mark.parametrize(
    ("device", "gpu", "used", "named"),
    [
        ("auto", 0, 0, "cuda"),
        ("auto", 1, 1, "cuda:1"),
        ("cuda", 1, 1, "cuda:1"),
        ("cuda:0", 1, 0, "cuda:0"),
    ],
)
def test_a_request_says_which_gpu_is_meant_unless_its_device_has_a_number(
    encoded: Any, engine: Any, device: str, gpu: int, used: int, named: str
) -> None:
    other = 1 - used
    before = [torch.cuda.memory_allocated(i) for i in range(2)]
    asked = EngineRequest(
        "whisper", str(whisper_nano()), device, engine.info.compute_type, offline=True, gpu=gpu
    )
    one = load_recognizer(asked)
    texts = one.decode(one.encode([window_of(name) for name in NAMES]), LANGUAGES, GREEDY)
    after = [torch.cuda.memory_allocated(i) for i in range(2)]
    info = one.info
    one.close()

    assert info.device == named
    assert after[used] > before[used]
    assert after[other] <= before[other]
    alone = engine.decode(encoded, LANGUAGES, GREEDY)
    assert sum(a.text == b.text for a, b in zip(texts, alone, strict=True)) >= len(NAMES) - 2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="takes two GPUs")
def test_two_gpus_share_a_recording_and_say_what_one_says(engine: Any) -> None:
    asked = EngineRequest(
        "whisper", str(whisper_nano()), "cuda:0,1", engine.info.compute_type, offline=True
    )
    talk = np.concatenate(
        [read(speech_truths()[name].path) for name in NAMES if name.startswith("en")] * 6
    )
    options = Options(language="en", temperatures=(0.0,))
    both = load_engine(asked)
    together, alone = transcribe(talk, both, options), transcribe(talk, engine, options)
    both.close()

    texts = [transcript.text.split() for transcript in (together, alone)]
    assert SequenceMatcher(None, *texts, autojunk=False).ratio() > 0.99
    assert together.words
