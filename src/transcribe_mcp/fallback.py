"""Quality rules for one window and the temperature ladder, for any engine.

Batched decoding elsewhere drops these rules, because a batch cannot be decoded again as a whole for the sake of one
window. Here only the windows that fail are taken out of the batch and decoded again at the next temperature.
Thresholds are those of openai-whisper's ``transcribe`` where it has the same rule.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from operator import eq

from .engines import Decoded, DecodingOptions, Encoded, Engine, decode_until
from .regions import Window

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class QualityRules:
    """When a window counts as misheard.

    Attributes:
        max_compression_ratio: text that zlib packs better than this repeats itself.
        min_avg_logprob: a decoder less sure than this is guessing.
        min_no_speech_prob: with the model at least this sure that there is no speech, and guessing, it is silence.
        max_repeats: the same phrase of up to ``REPEAT_WORDS`` words, this often in a row, is a loop.
        max_characters_per_second: nobody speaks faster; there is more text than speech.
    """

    max_compression_ratio: float = 2.4
    min_avg_logprob: float = -1.0
    min_no_speech_prob: float = 0.6
    max_repeats: int = 5
    max_characters_per_second: float = 40.0


REPEAT_WORDS = 8
SPEECH_FLOOR_S = 0.5  # a window with less speech than this is judged as if it had this much


@dataclass(frozen=True, slots=True)
class Judged:
    """A window's decoding, and the first rule that it breaks (``None``: none)."""

    decoded: Decoded
    compression_ratio: float
    failure: str | None


def decode_with_fallback(
    engine: Engine,
    encoded: Encoded,
    windows: Sequence[Window],
    languages: Sequence[str],
    options: DecodingOptions,
    ladder: Ladder,
) -> list[Judged]:
    """Decode a batch; windows that break a rule are decoded again, hotter, and the best attempt is kept."""
    best: dict[int, Judged] = {}
    steps = list(dict.fromkeys(ladder.temperatures))

    def following(i: int, decoded: Decoded) -> float | None:
        judged = judge(decoded, windows[i], ladder.rules)
        if i not in best or _rank(judged) > _rank(best[i]):
            best[i] = judged
        if judged.failure in (None, "silence"):
            return None
        next_step = steps.index(decoded.temperature) + 1
        return steps[next_step] if next_step < len(steps) else None

    decode_until(engine, encoded, languages, options.at(steps[0]), following)
    return [best[i] for i in range(len(windows))]


@dataclass(frozen=True, slots=True)
class Ladder:
    """The temperatures to try in turn, and the rules that decide whether to go on."""

    temperatures: tuple[float, ...] = TEMPERATURES
    rules: QualityRules = QualityRules()


def judge(decoded: Decoded, window: Window, rules: QualityRules) -> Judged:
    """Hold one decoding against the rules."""
    text = decoded.text.strip()
    ratio = compression_ratio(text)
    return Judged(decoded, ratio, _failure(decoded, text, ratio, window, rules))


def _failure(decoded: Decoded, text: str, ratio: float, window: Window, rules: QualityRules) -> str | None:
    unsure = decoded.avg_logprob is not None and decoded.avg_logprob < rules.min_avg_logprob
    no_speech = decoded.no_speech_prob is not None and decoded.no_speech_prob > rules.min_no_speech_prob
    if not text or (no_speech and unsure):
        return "silence"
    if ratio > rules.max_compression_ratio or repeats(text) > rules.max_repeats:
        return "repetition"
    speech_s = max(SPEECH_FLOOR_S, sum(region.end - region.start for region in window.regions))
    if len(text) > rules.max_characters_per_second * speech_s:
        return "words_in_silence"
    return "low_probability" if unsure else None


def _rank(judged: Judged) -> tuple[bool, bool, float]:
    """Sound decodings first, then those that are merely unsure; among equals the more probable."""
    logprob = judged.decoded.avg_logprob
    return (
        judged.failure is None,
        judged.failure in ("silence", "low_probability"),
        logprob if logprob is not None else 0.0,
    )


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes that zlib makes of it; above 2.4 it repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def repeats(text: str) -> int:
    """How often in a row the most repeated phrase of up to ``REPEAT_WORDS`` words occurs."""
    words = text.lower().split()
    most = 1 if words else 0
    for size in range(1, min(REPEAT_WORDS, len(words) // 2) + 1):
        as_before = bytes(map(eq, words[size:], words))  # 1 where a word is the one a phrase earlier
        longest = max(map(len, as_before.split(b"\0")))
        most = max(most, longest // size + 1)
    return most
