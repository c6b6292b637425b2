"""Windows whose decoding is doubtful are decoded again in other ways, and the best decoding is kept.

Batched decoding elsewhere drops this, because a batch cannot be decoded again as a whole for the sake of one window.
Here only the doubtful windows are taken out of the batch. Ways that always give the same text come first: beam search,
then the window cut in two. Sampling comes last, and only on engines that repeat their samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .align.times import clamp_to_speech
from .engines import Decoded, DecodingOptions, Encoded, Engine, decode_until
from .heard import Heard
from .quality_rules import (
    RULES,
    Judged,
    QualityRules,
    certainty,
    judge,
    speech_s,
    without_loop,
    word_certainty,
    wordless,
)
from .regions import SAMPLE_RATE_HZ, Region, Window
from .transcript import Word

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BETTER = 1.02  # a decoding replaces another only with a score higher by this factor
SHORTEST_PIECE_S = 0.5  # of speech; shorter pieces make Whisper models invent words
QUIET_FRAME_S = 0.04  # a window is cut in the quietest moment of this length


@dataclass(frozen=True, slots=True)
class Ladder:
    """The temperatures to try in turn, and the rules that decide whether to go on. One temperature: no second try."""

    temperatures: tuple[float, ...] = TEMPERATURES
    rules: QualityRules = RULES


@dataclass(frozen=True, slots=True)
class Attempt:
    """One decoding of a window.

    Attributes:
        parts: what was heard, in order; none in silence, several where the window was cut.
        failure: the first rule that it breaks, or ``None``.
        score: from 0 to 1: the share of the speech that has words, times the mean probability of a token there.
        fits: the speech can hold the text. Where it cannot, ``parts`` are without the loop.
        wordless: the longest stretch of speech without a word, where that is all that is wrong.
    """

    parts: tuple[Heard, ...]
    failure: str | None
    score: float = 0.0
    fits: bool = True
    wordless: tuple[Region, ...] = ()

    @property
    def is_doubtful(self) -> bool:
        return self.failure not in (None, "silence")

    @property
    def is_sure(self) -> bool:
        return self.fits and self.failure not in ("low_probability", "silence")

    def is_better_than(self, other: Attempt) -> bool:
        """A sure text is never given up for an unsure one, nor any text for one that the speech cannot hold."""
        if not self.parts or not self.fits or (other.is_sure and not self.is_sure):
            return False
        return self.score > other.score * BETTER


@dataclass(frozen=True, slots=True)
class Decoder:
    """An engine, and how its decodings are judged.

    ``encode`` is the engine's own, guarded where the engine is used by several threads.
    """

    engine: Engine
    options: DecodingOptions
    ladder: Ladder
    encode: Callable[[Sequence[Window]], Encoded]

    def decode(self, encoded: Encoded, languages: Sequence[str]) -> list[Decoded]:
        """Decode a batch once, at the first temperature."""
        found: dict[int, Decoded] = {}

        def accept(i: int, decoded: Decoded) -> None:
            found[i] = decoded

        decode_until(self.engine, encoded, languages, self.options.at(self.ladder.temperatures[0]), accept)
        return [found[i] for i in range(len(languages))]

    def time_words(
        self, encoded: Encoded, windows: Sequence[Window], decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[Attempt]:
        """Judge decodings by their text and, where it is not silence, by the times of its words."""
        rules = self.ladder.rules
        judged = [judge(one, window, rules) for one, window in zip(decoded, windows, strict=True)]
        spoken = [i for i, one in enumerate(judged) if one.failure != "silence"]
        attempts = [Attempt((), "silence")] * len(windows)
        if spoken:
            part = encoded if len(spoken) == len(windows) else encoded.select(spoken)
            timed = self.engine.align(part, [decoded[i] for i in spoken], options)
            for i, words in zip(spoken, timed, strict=True):
                attempts[i] = self._judged(decoded[i], windows[i], words)
        return attempts

    def _judged(self, decoded: Decoded, window: Window, words: Sequence[Word]) -> Attempt:
        judged = judge(decoded, window, self.ladder.rules, words)
        kept = words if judged.fits else without_loop(words, self.ladder.rules)
        clamped = clamp_to_speech(kept, window.regions)
        return self._scored(window, [Heard(window.start, clamped, judged)], [kept])

    def _scored(self, window: Window, parts: Sequence[Heard], raw: Sequence[Sequence[Word]]) -> Attempt:
        """The parts as one attempt. ``raw``: their words as the engine timed them."""
        failures = [part.judged.failure for part in parts if part.judged.failure is not None]
        fits = all(part.judged.fits for part in parts)
        words = [word for part in parts for word in part.words]
        free = wordless(window.regions, [word for own in raw for word in own], words)
        longest = max(free, key=speech_s, default=())
        is_long = self.engine.info.skips_speech and speech_s(longest) > self.ladder.rules.max_wordless_s
        if not is_long or failures:
            longest = ()
        else:
            failures = ["speech_without_words"]
            parts = [replace(part, judged=replace(part.judged, failure=failures[0])) for part in parts]
        total_s = speech_s(window.regions)
        covered = 1 - sum(map(speech_s, free)) / total_s if total_s else 1.0
        n_words = [max(1, len(part.words)) for part in parts]
        sure = sum(n * _certainty(part) for n, part in zip(n_words, parts, strict=True)) / max(1, sum(n_words))
        return Attempt(tuple(parts), failures[0] if failures else None, covered * sure, fits, longest)

    # -- again -------------------------------------------------------------------------------------------------------

    def improved(
        self, encoded: Encoded, windows: Sequence[Window], languages: Sequence[str], attempts: Sequence[Attempt]
    ) -> list[Attempt]:
        """The attempts, better ones in place of doubtful ones where any is found."""
        best = list(attempts)
        if len(self.ladder.temperatures) < 2:
            return best
        for way in (self._with_beams, self._in_pieces, self._sampled):
            doubtful = [i for i, attempt in enumerate(best) if attempt.is_doubtful]
            if not doubtful:
                break
            for i, attempt in way(_Doubtful(encoded, windows, languages, best), doubtful):
                if attempt.is_better_than(best[i]):
                    best[i] = attempt
        return best

    def _with_beams(self, batch: _Doubtful, doubtful: Sequence[int]) -> Iterator[tuple[int, Attempt]]:
        chosen = [i for i in doubtful if not batch.attempts[i].wordless]  # what is left out, beams leave out as well
        if chosen and self._beams is not None:
            part = batch.encoded.select(chosen)
            yield from zip(chosen, self._once(part, *batch.of(chosen), self._beams), strict=True)

    @property
    def _beams(self) -> DecodingOptions | None:
        size = self.engine.info.retry_beam_size
        return replace(self.options, beam_size=size) if size > self.options.beam_size else None

    def _once(
        self, encoded: Encoded, windows: Sequence[Window], languages: Sequence[str], options: DecodingOptions
    ) -> list[Attempt]:
        return self.time_words(encoded, windows, self.engine.decode(encoded, languages, options), options)

    def _in_pieces(self, batch: _Doubtful, doubtful: Sequence[int]) -> Iterator[tuple[int, Attempt]]:
        """Skipped speech, and loops, often begin anew where the decoder begins anew."""
        if not self.engine.info.skips_speech:
            return
        cuts = {i: pair for i in doubtful if (pair := _cut(batch.windows[i], batch.attempts[i]))}
        if not cuts:
            return
        pieces = [piece for pair in cuts.values() for piece in pair]
        languages = [batch.languages[i] for i in cuts for _ in cuts[i]]
        encoded = self.encode(pieces)
        found = self._once(encoded, pieces, languages, self.options)
        again = _Doubtful(encoded, pieces, languages, found)
        for k, better in self._with_beams(again, [k for k, one in enumerate(found) if one.is_doubtful]):
            if better.is_better_than(found[k]):
                found[k] = better
        for n, i in enumerate(cuts):
            halves = found[2 * n : 2 * n + 2]
            parts = [part for half in halves for part in half.parts]
            yield i, self._scored(batch.windows[i], parts, [part.words for part in parts])

    def _sampled(self, batch: _Doubtful, doubtful: Sequence[int]) -> Iterator[tuple[int, Attempt]]:
        """Higher temperatures in turn."""
        chosen = [i for i in doubtful if not batch.attempts[i].wordless]
        if not chosen or not self.engine.info.can_sample:
            return
        windows, languages = batch.of(chosen)
        steps = list(dict.fromkeys(self.ladder.temperatures[1:]))
        best: dict[int, Judged] = {}

        def following(k: int, decoded: Decoded) -> float | None:
            judged = judge(decoded, windows[k], self.ladder.rules)
            if k not in best or _rank(judged) > _rank(best[k]):
                best[k] = judged
            if judged.failure in (None, "silence"):
                return None
            next_step = steps.index(decoded.temperature) + 1
            return steps[next_step] if next_step < len(steps) else None

        part = batch.encoded.select(chosen)
        decode_until(self.engine, part, languages, self.options.at(steps[0]), following)
        decoded = [best[k].decoded for k in range(len(chosen))]
        yield from zip(chosen, self.time_words(part, windows, decoded, self.options), strict=True)


@dataclass(frozen=True, slots=True)
class _Doubtful:
    """A batch of which some windows are doubtful."""

    encoded: Encoded
    windows: Sequence[Window]
    languages: Sequence[str]
    attempts: Sequence[Attempt]

    def of(self, chosen: Sequence[int]) -> tuple[list[Window], list[str]]:
        return [self.windows[i] for i in chosen], [self.languages[i] for i in chosen]


def _rank(judged: Judged) -> tuple[bool, bool, float]:
    """Decodings that break no rule first, then those that fit; among equals the more probable."""
    return judged.failure is None, judged.fits and judged.failure != "silence", certainty(judged.decoded)


def _certainty(part: Heard) -> float:
    return certainty(part.judged.decoded) if part.judged.fits else word_certainty(part.words)


def _cut(window: Window, attempt: Attempt) -> tuple[Window, ...]:
    """The window in two, at its quietest moment in the speech without words, or near its middle where there is none.

    Nothing where a piece would be too short, or where the model is merely unsure.
    """
    regions = attempt.wordless or window.regions
    if not regions or (attempt.fits and not attempt.wordless):
        return ()
    begin, end = regions[0].start, regions[-1].end
    if not attempt.wordless:
        third = (end - begin) / 3
        begin, end = begin + third, end - third
    at = _quietest(window, begin, end)
    before = tuple(Region(r.start, min(r.end, at)) for r in window.regions if r.start < at)
    after = tuple(Region(max(r.start, at), r.end) for r in window.regions if r.end > at)
    if min(speech_s(before), speech_s(after)) < SHORTEST_PIECE_S:
        return ()
    n = round((at - window.start) * SAMPLE_RATE_HZ)
    middle = window.start + n / SAMPLE_RATE_HZ
    return Window(window.start, window.samples[:n], before), Window(middle, window.samples[n:], after)


def _quietest(window: Window, begin: float, end: float) -> float:
    """The middle of the quietest ``QUIET_FRAME_S`` between two times on the original clock."""
    size = round(QUIET_FRAME_S * SAMPLE_RATE_HZ)
    first = max(0, round((begin - window.start) * SAMPLE_RATE_HZ))
    samples = window.samples[first : round((end - window.start) * SAMPLE_RATE_HZ)]
    n = len(samples) // size
    if n == 0:
        return (begin + end) / 2
    power = np.square(samples[: n * size].reshape(n, size)).mean(axis=1)
    return window.start + (first + (int(power.argmin()) + 0.5) * size) / SAMPLE_RATE_HZ
