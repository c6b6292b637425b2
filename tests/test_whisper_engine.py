"""The PyTorch engine on the CPU against transformers' Whisper, and against itself in other batches
and precisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from slow import SLOW
from whisper_nano import speech_truths, whisper_nano, window_of

torch = pytest.importorskip("torch")

from transcribe_mcp.align.edit_distance import align  # noqa: E402
from transcribe_mcp.engines import (  # noqa: E402
    Decoded,
    DecodingOptions,
    EngineRequest,
    Recognizer,
    load_recognizer,
)
from transcribe_mcp.engines.whisper import continuous_batching  # noqa: E402
from transcribe_mcp.engines.whisper.attention import TorchAttention  # noqa: E402
from transcribe_mcp.engines.whisper.caches import AudioRow, audio_cache, layer_values, text_cache  # noqa: E402
from transcribe_mcp.engines.whisper.decode_slots import Request, Slots  # noqa: E402
from transcribe_mcp.engines.whisper.model import decode, encode, logits_of  # noqa: E402
from transcribe_mcp.errors import EngineFailedError  # noqa: E402
from transcribe_mcp.quality.wer import normalise  # noqa: E402
from transcribe_mcp.speech.features_torch import log_mel_windows  # noqa: E402

GREEDY = DecodingOptions()
WORD_ERRORS = 0.005  # that 8 bits may cost


def load(**changes: Any) -> Recognizer:
    request = EngineRequest(
        "whisper", str(whisper_nano()), "cpu", "float32", threads=1, offline=True
    )
    return load_recognizer(replace(request, **changes))


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    engine = load()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def names() -> list[str]:
    every = sorted(speech_truths())
    return every if SLOW else every[::3]


@pytest.fixture(scope="module")
def languages(names: list[str]) -> list[str]:
    return [name[:2] for name in names]


@pytest.fixture(scope="module")
def encoded(engine: Any, names: list[str]) -> Any:
    return engine.encode([window_of(name, 40.0 * i) for i, name in enumerate(names)])


@pytest.fixture(scope="module")
def decoded(engine: Any, encoded: Any, languages: list[str]) -> list[Decoded]:
    decoded: list[Decoded] = engine.decode(encoded, languages, GREEDY)
    return decoded


@pytest.fixture(scope="module")
def reference() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.WhisperForConditionalGeneration.from_pretrained(
        whisper_nano(), dtype=torch.float32
    ).eval()


def requests_of(
    engine: Any, encoded: Any, languages: list[str], options: DecodingOptions = GREEDY
) -> list[Request]:
    return [engine._request(encoded, i, language, options) for i, language in enumerate(languages)]


def said(
    engine: Any, requests: list[Request], n_slots: int, again: Any = None
) -> list[continuous_batching.DecodedTokens]:
    with torch.inference_mode():
        slots = Slots(engine._running.model, engine._directions.alignment_heads, n_slots, 448)
        return continuous_batching.run(
            continuous_batching.EagerSteps(slots),
            engine._step_rules(timestamps=False),
            requests,
            again,
        )


# --- right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("timestamps", [False, True])
def test_greedy_tokens_are_those_of_transformers(
    engine: Any,
    encoded: Any,
    decoded: list[Decoded],
    languages: list[str],
    reference: Any,
    timestamps: bool,
) -> None:
    n = len(languages) if SLOW else 4
    ours = decoded[:n]
    if timestamps:
        ours = engine.decode(
            encoded.select(range(n)), languages[:n], DecodingOptions(timestamps=True)
        )
    mel = log_mel_windows(encoded.windows[:n], 80, torch.device("cpu"))
    theirs = reference.generate(
        mel,
        language=languages[:n],
        task="transcribe",
        return_timestamps=timestamps,
        num_beams=1,
        do_sample=False,
    )

    for item, tokens in zip(ours, theirs.tolist(), strict=True):
        assert item.tokens == tuple(token for token in tokens if engine._vocabulary.is_text(token))


def test_logits_are_those_of_transformers(engine: Any, encoded: Any, reference: Any) -> None:
    model = engine._running.model
    mel = log_mel_windows(encoded.windows[:2], 80, model.device)
    tokens = torch.tensor(
        [[*engine._vocabulary.start_sequence(code, "transcribe"), 5, 6, 7] for code in ("de", "de")]
    )
    positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
    with torch.inference_mode():
        cache = audio_cache(model, encode(model, mel), int8=False)
        rows = [AudioRow(cache, i) for i in range(2)]
        attention = TorchAttention(positions, text_cache(model, 2, 16), rows, tokens.shape[1])
        ours = logits_of(model, decode(model, tokens, positions, attention).flatten(0, 1)).view(
            *tokens.shape, -1
        )
        theirs = reference(input_features=mel, decoder_input_ids=tokens).logits

    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < 1e-3


def test_the_second_geometry_with_the_ids_of_large_v3_hears_the_same_words(
    names: list[str],
) -> None:
    engine = load(model=str(whisper_nano(128)))
    [heard] = engine.decode(engine.encode([window_of("en_0")]), ["en"], GREEDY)
    engine.close()

    said_words = normalise(
        " ".join(segment.text for segment in speech_truths()["en_0"].segments), "en"
    )
    assert normalise(heard.text, "en") == said_words


# --- batches --------------------------------------------------------------------------------------


def test_windows_that_come_and_go_say_what_they_say_all_at_once(
    engine: Any, encoded: Any, decoded: list[Decoded], languages: list[str]
) -> None:
    few = said(engine, requests_of(engine, encoded, languages)[:7], n_slots=3)

    assert [one.tokens for one in few] == [item.tokens for item in decoded[:7]]
    assert [one.average for one in few] == pytest.approx(
        [item.avg_logprob for item in decoded[:7]], abs=1e-4
    )


def test_prompts_of_different_lengths_go_together_in_a_batch(
    engine: Any, encoded: Any, languages: list[str]
) -> None:
    prompts = (
        "",
        "The captain",
        "Hello there, my friend, how are you today in this house by the sea?",
    )
    mixed = [
        engine._request(encoded, i, languages[i], DecodingOptions(prompt=prompt))
        for i, prompt in enumerate(prompts)
    ]

    together = said(engine, mixed, n_slots=3)
    apart = [said(engine, [request], n_slots=1)[0] for request in mixed]

    assert len({len(request.prompt) for request in mixed}) == 3
    assert [one.tokens for one in together] == [one.tokens for one in apart]
    assert [one.no_speech for one in together] == pytest.approx(
        [one.no_speech for one in apart], abs=1e-5
    )


def test_a_window_that_is_to_be_decoded_again_goes_back_into_the_running_batch(
    engine: Any, encoded: Any, languages: list[str]
) -> None:
    requests = requests_of(engine, encoded, languages)[:4]
    hot = requests_of(engine, encoded, languages, DecodingOptions(temperature=1.0))
    told: list[tuple[int, tuple[int, ...]]] = []

    def again(number: int, spoken: continuous_batching.DecodedTokens) -> Request | None:
        told.append((number, spoken.tokens))
        return hot[number] if number == 1 and len([n for n, _ in told if n == 1]) == 1 else None

    results = said(engine, requests, 2, again)

    assert sorted(number for number, _ in told) == [0, 1, 1, 2, 3]
    assert results[1].tokens == said(engine, [hot[1]], 1)[0].tokens
    assert [one.tokens for one in results[2:]] == [
        tokens for number, tokens in sorted(told) if number > 1
    ]


def test_sampling_depends_on_the_window_and_the_temperature_not_on_the_batch(
    engine: Any, encoded: Any, languages: list[str]
) -> None:
    hot, next_temperature = DecodingOptions(temperature=0.9), DecodingOptions(temperature=1.0)
    in_company = engine.decode(encoded.select([3, 0, 5]), [languages[i] for i in (3, 0, 5)], hot)
    alone = engine.decode(encoded.select([0]), [languages[0]], hot)
    differently = engine.decode(encoded.select([0]), [languages[0]], next_temperature)

    assert in_company[1].tokens == alone[0].tokens
    assert alone[0].avg_logprob != differently[0].avg_logprob
    assert alone[0].temperature == 0.9


def test_a_beam_finds_texts_at_least_as_likely(
    engine: Any, encoded: Any, decoded: list[Decoded], languages: list[str]
) -> None:
    wide = engine.decode(encoded.select(range(3)), languages[:3], DecodingOptions(beam_size=3))

    for item, greedy in zip(wide, decoded[:3], strict=True):
        assert item.avg_logprob >= greedy.avg_logprob - 1e-4
        assert item.text


def test_a_beam_of_one_window_is_timed_like_any_other_text(
    engine: Any, encoded: Any, languages: list[str]
) -> None:
    part = encoded.select([0])
    options = DecodingOptions(beam_size=2)

    [words] = engine.align(part, engine.decode(part, languages[:1], options), options)

    assert all(before.start <= after.start for before, after in pairwise(words))


# --- words ----------------------------------------------------------------------------------------


def test_words_timed_while_decoding_are_timed_as_when_the_text_is_gone_through_again(
    engine: Any, encoded: Any, languages: list[str]
) -> None:
    part = encoded.select(range(4))
    texts = engine.decode(part, languages[:4], GREEDY)
    engine.decode(
        part, languages[:4], DecodingOptions(timestamps=True)
    )  # the same words, found in another way
    kept = engine.align(part, texts, GREEDY)
    anew = engine.align(replace(part, spoken={}), texts, GREEDY)

    for one, other in zip(kept, anew, strict=True):
        assert [word.text for word in one] == [word.text for word in other]
        assert [word.start for word in one] == pytest.approx(
            [word.start for word in other], abs=0.02
        )
        assert [word.probability for word in one] == pytest.approx(
            [word.probability for word in other], abs=1e-3
        )


def test_words_are_timed_where_they_were_said(
    engine: Any, encoded: Any, decoded: list[Decoded], names: list[str]
) -> None:
    timed = engine.align(encoded, decoded, GREEDY)
    errors = []
    for name, words, window in zip(names, timed, encoded.windows, strict=True):
        known = [word for segment in speech_truths()[name].segments for word in segment.words]
        pairs = align(
            [normalise(w.text, name[:2])[0] for w in known],
            [" ".join(normalise(w.text, "")) for w in words],
        )
        errors += [
            abs(words[j].start - window.start - known[i].start)
            for i, j in pairs
            if i and j and normalise(known[i].text, "") == normalise(words[j].text, "")
        ]

    assert len(errors) > 100
    assert float(np.median(errors)) < 0.025


# --- precisions -----------------------------------------------------------------------------------


def word_errors(texts: list[str], names: list[str]) -> float:
    wrong = total = 0
    for name, text in zip(names, texts, strict=True):
        known = normalise(
            " ".join(segment.text for segment in speech_truths()[name].segments), name[:2]
        )
        heard = normalise(text, name[:2])
        pairs = align(known, heard)
        wrong += sum(i is None or j is None or known[i] != heard[j] for i, j in pairs)
        total += len(known)
    return wrong / total


def test_8_bit_weights_hear_as_well(
    decoded: list[Decoded], encoded: Any, names: list[str], languages: list[str]
) -> None:
    engine = load(compute_type="int8")
    texts = [item.text for item in engine.decode(engine.encode(encoded.windows), languages, GREEDY)]
    engine.close()

    assert (
        word_errors(texts, names)
        <= word_errors([item.text for item in decoded], names) + WORD_ERRORS
    )


def test_8_bit_keys_and_values_hear_as_well(
    engine: Any, encoded: Any, decoded: list[Decoded], names: list[str], languages: list[str]
) -> None:
    model = engine._running.model
    with torch.inference_mode():
        mel = log_mel_windows(encoded.windows, 80, model.device)
        cache = audio_cache(model, encode(model, mel), int8=True)
    requests = requests_of(engine, encoded, languages)
    rows = [replace(request, audio=AudioRow(cache, i)) for i, request in enumerate(requests)]

    texts = [engine._vocabulary.decode(one.tokens) for one in said(engine, rows, 8)]

    assert cache.values.dtype == torch.int8
    assert (
        word_errors(texts, names)
        <= word_errors([item.text for item in decoded], names) + WORD_ERRORS
    )


def test_8_bit_keys_and_values_are_off_by_half_a_step_at_most(engine: Any) -> None:
    model = engine._running.model
    states = torch.randn((2, 1500, 256), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        exact, coarse = (audio_cache(model, states, int8=int8) for int8 in (False, True))
        for layer in range(len(model.decoder_layers)):
            pairs = zip(
                layer_values(exact, slice(0, 2), layer, model.dtype),
                layer_values(coarse, slice(0, 2), layer, model.dtype),
                strict=True,
            )
            assert coarse.scales is not None
            for part, (true, near) in enumerate(pairs):
                step = coarse.scales[:, layer, part][:, :, None]
                assert bool(((true - near).abs() <= step * 0.5001 + 1e-7).all())


# --- what goes wrong ------------------------------------------------------------------------------


def test_samples_that_are_no_numbers_are_refused_and_the_engine_goes_on(
    engine: Any, decoded: list[Decoded]
) -> None:
    good, bad = window_of("de_0"), window_of("de_0", start=60.0)
    bad = replace(
        bad, samples=np.where(np.arange(len(bad.samples)) == 900, np.float32(np.nan), bad.samples)
    )

    with pytest.raises(EngineFailedError, match=r"window at 60\.00 s") as caught:
        engine.decode(engine.encode([good, bad]), ["de", "de"], GREEDY)

    assert caught.value.hint
    assert engine.decode(engine.encode([good]), ["de"], GREEDY)[0].tokens == decoded[0].tokens


def test_no_windows_give_no_words(engine: Any) -> None:
    nothing = engine.encode([])

    assert engine.decode(nothing, [], GREEDY) == []
    assert engine.align(nothing, [], GREEDY) == []
    assert engine.detect_language(nothing) == []


def test_a_closed_engine_says_so() -> None:
    engine = load()
    engine.close()

    with pytest.raises(EngineFailedError, match="closed"):
        engine.encode([window_of("en_0")])


def test_windows_that_break_a_rule_are_heard_again_hotter_and_the_best_is_kept(
    engine: Any, encoded: Any, decoded: list[Decoded], languages: list[str]
) -> None:
    told: list[tuple[int, float]] = []

    def following(i: int, one: Decoded) -> float | None:
        told.append((i, one.temperature))
        assert one.tokens != () and one.language == languages[i]
        return {0.0: 0.4, 0.4: 0.8}.get(one.temperature) if i in (1, 4) else None

    engine.decode(encoded, languages, GREEDY, following)

    expected = [(i, 0.0) for i in range(len(encoded))] + [
        (i, t) for i in (1, 4) for t in (0.4, 0.8)
    ]
    assert sorted(told) == sorted(expected)
