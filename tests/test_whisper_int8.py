"""The PyTorch engine in 8 bits on a CPU against the same in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from slow import slow
from whisper_nano import speech_truths, whisper_nano, window_of

torch = pytest.importorskip("torch")

from transcribe_mcp.engines import DecodingOptions, EngineRequest, Recognizer, load_recognizer  # noqa: E402
from transcribe_mcp.engines.whisper import loading  # noqa: E402
from transcribe_mcp.engines.whisper.attention import TorchAttention  # noqa: E402
from transcribe_mcp.engines.whisper.caches import AudioRow, audio_cache, text_cache  # noqa: E402
from transcribe_mcp.engines.whisper.cpu_operations import (  # noqa: E402
    bfloat16_attention,
    fastest,
    float32_attention,
    has_bfloat16_products,
    int8_attention,
)
from transcribe_mcp.engines.whisper.linear import (  # noqa: E402
    Bfloat16Dense,
    Dense,
    Int8Dense,
    Int8DenseAtOnce,
    has_int8_products,
)
from transcribe_mcp.engines.whisper.model import encode  # noqa: E402
from transcribe_mcp.engines.whisper.quantized_states import audio_states  # noqa: E402
from transcribe_mcp.media.decode import read  # noqa: E402
from transcribe_mcp.pipeline.offline import Options, transcribe  # noqa: E402
from transcribe_mcp.speech.features_torch import log_mel_windows  # noqa: E402
from transcribe_mcp.speech.regions import Window  # noqa: E402

pytestmark = pytest.mark.skipif(
    not has_int8_products(), reason="torch is built without FBGEMM for this processor"
)

OFFERED = ("int8", "bfloat16+int8") if has_bfloat16_products() else ("int8",)
GREEDY = DecodingOptions()
NAMES = ("de_0", "en_1", "es_2", "en_noise")
LANGUAGES = [name[:2] for name in NAMES]


def load(compute_type: str, threads: int = 2) -> Recognizer:
    return load_recognizer(
        EngineRequest(
            "whisper", str(whisper_nano()), "cpu", compute_type, threads=threads, offline=True
        )
    )


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    return [window_of(name, 40.0 * i) for i, name in enumerate(NAMES)]


@pytest.fixture(scope="module")
def exact() -> Iterator[Any]:
    engine = load("float32")
    yield engine
    engine.close()


@pytest.fixture(scope="module", params=["int8", "bfloat16+int8"])
def coarse(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param not in OFFERED:
        pytest.skip("no products of bfloat16 on this processor")
    engine = load(request.param)
    yield engine
    engine.close()


def test_a_cpu_takes_8_bits_by_itself_in_the_encoder_only_if_those_are_faster() -> None:
    engine = load("auto")
    engine.close()

    assert engine.info.compute_type in OFFERED


@pytest.mark.parametrize("reverse", [False, True])
def test_of_several_ways_the_one_that_takes_the_shortest_time_is_chosen(reverse: bool) -> None:
    x = torch.randn(256, 256)
    ways = {
        f"{times} times": partial(lambda times: [x @ x for _ in range(times)], times)
        for times in (50, 1, 400)
    }

    assert fastest(dict(sorted(ways.items(), reverse=reverse)), threads=1) == "1 times"


def test_a_way_that_this_torch_cannot_compute_is_not_taken() -> None:
    x = torch.ones(2, 3)

    assert (
        fastest({"impossible": lambda: x @ x, "possible": lambda: x @ x.t()}, threads=1)
        == "possible"
    )


def test_measuring_leaves_the_threads_of_the_caller_alone() -> None:
    before = torch.get_num_threads()
    fastest({"a": lambda: None, "b": lambda: None}, threads=before + 1)

    assert torch.get_num_threads() == before


@pytest.mark.parametrize("attention", [int8_attention, bfloat16_attention])
@pytest.mark.parametrize(
    "sharpness", [0.0, 1.0, 3.0, 100.0]
)  # 100: scores beyond what float32 can take the power of
def test_attention_of_few_bits_is_near_to_that_of_float32(attention: Any, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(7)
    query, key, value = torch.randn((3, 2, 4, 375, 64), generator=generator)
    key += 5 * torch.randn((4, 1, 64), generator=generator)  # what all keys have in common
    with torch.inference_mode():
        wanted, found = (
            way(sharpness * query, key, value) for way in (float32_attention, attention)
        )

    assert found.shape == wanted.shape
    assert float((found - wanted).norm()) < (0.05 if sharpness < 100 else 0.3) * float(
        wanted.norm()
    )


@pytest.mark.parametrize("n_tokens", [1, 5])
def test_attention_to_the_encoder_s_output_is_attention_to_keys_and_values(
    exact: Any, windows: list[Window], n_tokens: int
) -> None:
    model = exact._running.model
    with torch.inference_mode():
        mel = log_mel_windows(windows, 80, model.device)
        states = encode(model, mel)
        caches = (audio_cache(model, states, int8=False), audio_states(model, states))
        query = torch.randn((len(NAMES), n_tokens, 256), generator=torch.Generator().manual_seed(4))
        positions = torch.arange(n_tokens).expand(len(NAMES), n_tokens)
        true, near = (
            TorchAttention(
                positions,
                text_cache(model, len(NAMES), 8),
                [AudioRow(cache, i) for i in range(len(NAMES))],
                n_tokens,
            )
            for cache in caches
        )
        for layer in range(len(model.decoder_layers)):
            wanted, found = true.audio(layer, query), near.audio(layer, query)
            assert found.shape == wanted.shape
            assert float((found - wanted).norm()) < 0.04 * float(wanted.norm())


def test_keys_of_alignment_heads_are_the_same_from_both(exact: Any, windows: list[Window]) -> None:
    model = exact._running.model
    heads = torch.tensor([0, 2])
    with torch.inference_mode():
        states = encode(model, log_mel_windows(windows[:2], 80, model.device))
        made = audio_states(model, states).keys(slice(0, 2), 1, heads)
        kept = audio_cache(model, states, int8=False).keys(slice(0, 2), 1, heads)

    assert made.shape == kept.shape
    assert float((made - kept).abs().max()) < 1e-3


@pytest.mark.parametrize("kind", [Int8Dense, Int8DenseAtOnce, Bfloat16Dense])
def test_products_of_few_bits_are_near_to_those_of_float32(kind: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    weight, bias, x = (
        torch.randn(size, generator=generator) for size in ((96, 64), (96,), (3, 7, 64))
    )

    wanted, found = Dense(weight, bias)(x), kind(weight, bias)(x)

    assert found.shape == wanted.shape
    assert float((found - wanted).norm()) < 0.03 * float(wanted.norm())
    assert float((kind(weight, bias).gelu(x) - Dense(weight, bias).gelu(x)).abs().max()) < 1.0


def test_a_row_is_multiplied_alike_beside_one_that_is_a_thousand_times_larger() -> None:
    generator = torch.Generator().manual_seed(6)
    weight, bias, x = (
        torch.randn(size, generator=generator) for size in ((96, 64), (96,), (1, 64))
    )
    layer = Int8Dense(weight, bias)

    assert torch.equal(layer(torch.cat([x, 1000 * x]))[:1], layer(x))


def test_silence_beside_a_row_does_no_harm() -> None:
    layer = Int8Dense(torch.ones(4, 8), torch.arange(4.0))

    assert torch.equal(layer(torch.zeros(2, 8)), torch.arange(4.0).expand(2, 4))


def test_what_a_window_says_does_not_depend_on_those_beside_it(
    coarse: Any, windows: list[Window]
) -> None:
    encoded = coarse.encode(windows)
    together = coarse.decode(encoded, LANGUAGES, GREEDY)
    alone = [
        coarse.decode(encoded.select([i]), LANGUAGES[i : i + 1], GREEDY)[0]
        for i in range(len(NAMES))
    ]

    assert [one.tokens for one in alone] == [one.tokens for one in together]
    assert [one.avg_logprob for one in alone] == pytest.approx(
        [one.avg_logprob for one in together], abs=2e-3
    )


@pytest.mark.parametrize("compute_type", OFFERED)
def test_words_are_timed_as_in_float32(
    exact: Any, compute_type: str, windows: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What computes is measured when an engine is loaded; with convolutions in bfloat16 a window may
    # say another word.
    monkeypatch.setattr(loading, "convolution_dtype", lambda geometry, threads: torch.float32)
    coarse: Any = load(compute_type)
    starts = []
    for engine in (exact, coarse):
        encoded = engine.encode(windows)
        texts = engine.decode(encoded, LANGUAGES, GREEDY)
        starts.append(
            [
                (word.text, word.start)
                for words in engine.align(encoded, texts, GREEDY)
                for word in words
            ]
        )
    coarse.close()

    assert [text for text, _ in starts[0]] == [text for text, _ in starts[1]]
    shifts = np.abs(
        np.array([start for _, start in starts[0]]) - np.array([start for _, start in starts[1]])
    )
    assert float(np.mean(shifts < 0.0201)) >= 0.98


@slow
def test_windows_encoded_early_and_aside_give_the_same_words(coarse: Any) -> None:
    talk = np.concatenate([read(truth.path) for truth in speech_truths().values()])
    options = Options(language="en", batch_size=12, temperatures=(0.0,))
    assert coarse.info.encode_chunk and coarse.info.concurrent_encode

    early = transcribe(talk, coarse, options)
    known, whole_batches = coarse.info, {"encode_chunk": 0, "concurrent_encode": False}
    coarse.info = replace(known, concurrent_align=False, **whole_batches)
    full = transcribe(talk, coarse, options)
    coarse.info = known

    assert early.words == full.words


def test_one_thread_is_one_thread() -> None:
    engine: Any = load("int8", threads=1)
    counts = engine._each(lambda _: torch.get_num_threads(), [0])
    engine.close()

    assert counts == [1]
