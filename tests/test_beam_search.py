"""Beam search of the PyTorch engine: the texts of a plain search, whatever windows are searched
together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_nano import speech_truths, whisper_nano, window_of

torch = pytest.importorskip("torch")

from transcribe_mcp.engines import DecodingOptions, EngineRequest, load_recognizer  # noqa: E402
from transcribe_mcp.engines.whisper.alignment import teacher_forced_queries  # noqa: E402
from transcribe_mcp.engines.whisper.sampling import likeliest_few  # noqa: E402

BEAMS = 3
WIDE = DecodingOptions(beam_size=BEAMS)
NAMES = sorted(speech_truths())[:9]  # more windows than are searched at once
LANGUAGES = [name[:2] for name in NAMES]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    request = EngineRequest(
        "whisper", str(whisper_nano()), "cpu", "float32", threads=1, offline=True
    )
    engine = load_recognizer(request)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def encoded(engine: Any) -> Any:
    return engine.encode([window_of(name, 40.0 * i) for i, name in enumerate(NAMES)])


def plain_search(engine: Any, encoded: Any, i: int, language: str) -> tuple[int, ...]:
    """Beam search by its definition: every text is read anew from its beginning at every step."""
    request = engine._request(encoded, i, language, WIDE)
    rules = engine._step_rules(timestamps=False)
    going: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    ended: list[tuple[tuple[int, ...], float]] = []
    while len(ended) < BEAMS and going:
        found = []
        for text, total in going:
            _, logits = teacher_forced_queries(
                engine._running.model, (), request.audio, request.prompt, [*text, 0]
            )
            scores = (logits[-1] + rules.rules.biases[int(not text)]).log_softmax(dim=-1)
            best = scores.topk(BEAMS + 1)
            found += [
                ((*text, token), total + score)
                for score, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        going = []
        for text, total in sorted(found, key=lambda one: -one[1]):
            if text[-1] == rules.end_of_text:
                ended.append((text, total))
            elif len(going) < BEAMS:
                going.append((text, total))
            if len(going) == BEAMS:
                break
    text, _ = max(ended[:BEAMS], key=lambda one: one[1] / len(one[0]))
    return text[:-1]


def test_a_beam_says_what_a_plain_search_says(engine: Any, encoded: Any) -> None:
    said = [speech_truths()[name].segments for name in NAMES]
    i = min(range(len(NAMES)), key=lambda i: sum(len(segment.text) for segment in said[i]))
    [found] = engine.decode(encoded.select([i]), [LANGUAGES[i]], WIDE)

    with torch.inference_mode():
        assert found.tokens == plain_search(engine, encoded, i, LANGUAGES[i])


@pytest.fixture(scope="module")
def together(engine: Any, encoded: Any) -> Any:
    return engine.decode(encoded, LANGUAGES, WIDE)


def test_a_window_searched_among_others_says_what_it_says_alone(
    engine: Any, encoded: Any, together: Any
) -> None:
    again = engine.decode(encoded, LANGUAGES, WIDE)

    assert together == again
    for i, one in list(enumerate(together))[::3]:
        [alone] = engine.decode(encoded.select([i]), LANGUAGES[i : i + 1], WIDE)
        assert one.tokens == alone.tokens
        assert one.avg_logprob == pytest.approx(alone.avg_logprob, abs=1e-4)


def test_words_found_by_a_beam_are_timed_as_when_the_text_is_read_again(
    engine: Any, encoded: Any, together: Any
) -> None:
    timed = engine.align(encoded, together, WIDE)
    encoded.spoken.clear()

    for one, other in zip(timed, engine.align(encoded, together, WIDE), strict=True):
        assert [word.text for word in one] == [word.text for word in other]
        assert [word.start for word in one] == pytest.approx(
            [word.start for word in other], abs=0.02
        )


def test_timestamps_come_in_a_beam_as_the_rules_say(engine: Any, encoded: Any) -> None:
    options = DecodingOptions(beam_size=BEAMS, timestamps=True)
    requests = [engine._request(encoded, i, LANGUAGES[i], options) for i in range(3)]
    rules = engine._step_rules(timestamps=True)

    for one in engine._decode(rules, options, requests):
        stamps = [token for token in one.tokens if token >= rules.timestamp_begin]
        assert stamps
        assert stamps == sorted(stamps)


@settings(max_examples=50)
@given(st.integers(1, 4), st.integers(2, 900), st.integers(1, 6), st.integers(0, 2**31))
def test_the_likeliest_few_are_those_of_all(rows: int, width: int, n: int, seed: int) -> None:
    logits = torch.randn((rows, width), generator=torch.Generator().manual_seed(seed))
    n = min(n, width)

    values, ids = likeliest_few(logits, n)

    assert torch.equal(values, logits.topk(n, dim=1).values)
    assert torch.equal(logits.gather(1, ids), values)
