"""Decode doubtful windows again in other ways, and keep the best result.

Other batched decoders omit this, because they cannot decode a whole batch again for one window.
Here only the doubtful windows of a batch are decoded again. Deterministic methods come first: beam
search, then speech without words decoded separately, then the window cut in two. Sampling comes
last, and only on engines with reproducible samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from ..align.borders import at_quiet_moments
from ..align.times import clamp_to_speech
from ..domain.options import TEMPERATURES
from ..domain.transcript import Word
from ..engines import Decoded, DecodingOptions, EncodedBatch, Recognizer
from ..speech.regions import Region, Window
from .checkpoint import PartResult
from .pieces import SHORTEST_PIECE_S, halves, piece_of
from .quality_rules import (
    RULES,
    QualityRules,
    ScoredResult,
    certainty,
    judge,
    letters_of,
    speech_s,
    without_loop,
    word_certainty,
    wordless,
)
from .style_prompts import STYLE_PROMPTS, lacks_punctuation, punctuates

BETTER = 1.02  # a decoding replaces another only with a score higher by this factor
AS_GOOD = 0.8  # better punctuation may lower the score by this factor
GAP = "speech_without_words"


@dataclass(frozen=True, slots=True)
class TemperatureSchedule:
    """The temperatures to try in turn, and the rules that decide whether to continue. One
    temperature means no retry.
    """

    temperatures: tuple[float, ...] = TEMPERATURES
    rules: QualityRules = RULES


@dataclass(frozen=True, slots=True)
class Attempt:
    """One decoding of a window.

    Attributes:
        parts: results in order; none in silence, several if the window was cut.
        failure: the first rule that it breaks, or ``None``.
        score: from 0 to 1: the share of the speech that has words, times the mean probability of a
            token there.
        fits: the text fits into the speech. If not, ``parts`` omit the loop.
        raw: the words of each part as the engine timed them.
        wordless: long speech without words, if there is no other problem.
    """

    parts: tuple[PartResult, ...]
    failure: str | None
    score: float = 0.0
    fits: bool = True
    raw: tuple[Sequence[Word], ...] = ()
    wordless: tuple[tuple[Region, ...], ...] = ()

    @property
    def words(self) -> list[Word]:
        return [word for part in self.parts for word in part.words]

    @property
    def is_doubtful(self) -> bool:
        return self.failure not in (None, "silence")

    @property
    def is_sure(self) -> bool:
        return self.fits and self.failure not in ("low_probability", "silence")

    def is_better_than(self, other: Attempt) -> bool:
        """A sure text is never replaced by an unsure one, nor any text by one that does not fit
        into the speech.
        """
        if not self.parts or not self.fits or (other.is_sure and not self.is_sure):
            return False
        return self.score > other.score * BETTER


@dataclass(frozen=True, slots=True)
class Decoder:
    """An engine, and the rules for its decodings.

    ``encode`` is the engine's method, guarded if several threads use the engine.
    """

    engine: Recognizer
    options: DecodingOptions
    ladder: TemperatureSchedule
    encode: Callable[[Sequence[Window]], EncodedBatch]

    def decode(self, encoded: EncodedBatch, languages: Sequence[str]) -> list[Decoded]:
        """Decode a batch once, at the first temperature."""
        options = self.options.at(self.ladder.temperatures[0])
        return self.engine.decode(encoded, languages, options)

    def time_words(
        self,
        encoded: EncodedBatch,
        windows: Sequence[Window],
        decoded: Sequence[Decoded],
        options: DecodingOptions,
    ) -> list[Attempt]:
        """Judge decodings by their text and, except for silence, by their word timestamps."""
        rules = self.ladder.rules
        judged = [judge(one, window, rules) for one, window in zip(decoded, windows, strict=True)]
        spoken = [i for i, one in enumerate(judged) if one.failure != "silence"]
        attempts = [self._silent(one, window) for one, window in zip(judged, windows, strict=True)]
        if spoken:
            part = encoded if len(spoken) == len(windows) else encoded.select(spoken)
            timed = self.engine.align(part, [decoded[i] for i in spoken], options)
            for i, words in zip(spoken, timed, strict=True):
                attempts[i] = self._judged(decoded[i], windows[i], words)
        return attempts

    def _silent(self, judged: ScoredResult, window: Window) -> Attempt:
        """No words: accepted only if there is little speech."""
        if not self._skips(speech_s(window.regions)):
            return Attempt((), "silence")
        part = PartResult(window.start, (), replace(judged, failure=GAP))
        return Attempt((part,), GAP, raw=((),), wordless=(tuple(window.regions),))

    def _skips(self, without_words_s: float) -> bool:
        return self.engine.info.skips_speech and without_words_s > self.ladder.rules.max_wordless_s

    def _judged(self, decoded: Decoded, window: Window, words: Sequence[Word]) -> Attempt:
        judged = judge(decoded, window, self.ladder.rules, words)
        kept = words if judged.fits else without_loop(words, self.ladder.rules)
        clamped = clamp_to_speech(kept, window.regions, self.engine.info.word_lag_s)
        clamped = at_quiet_moments(clamped, window.samples, window.start)
        return self._scored(window, [PartResult(window.start, clamped, judged)], [kept])

    def _scored(
        self, window: Window, parts: Sequence[PartResult], raw: Sequence[Sequence[Word]]
    ) -> Attempt:
        """The parts as one attempt. ``raw``: their words as the engine timed them."""
        if not parts:
            return Attempt((), "silence")
        parts = [  # checked again for speech without words
            replace(part, judged=replace(part.judged, failure=None))
            if part.judged.failure == GAP
            else part
            for part in parts
        ]
        failures = [part.judged.failure for part in parts if part.judged.failure is not None]
        fits = all(part.judged.fits for part in parts)
        words = [word for part in parts for word in part.words]
        free = wordless(window.regions, [word for own in raw for word in own], words)
        gaps = () if failures else map(_without_crumbs, free)
        skipped = tuple(gap for gap in gaps if self._skips(speech_s(gap)))
        if skipped:
            failures = [GAP]
            for gap in skipped:
                before = sum(part.start <= gap[0].start for part in parts[1:])
                parts[before] = replace(
                    parts[before], judged=replace(parts[before].judged, failure=GAP)
                )
        total_s = speech_s(window.regions)
        covered = 1 - sum(map(speech_s, free)) / total_s if total_s else 1.0
        n_words = [max(1, len(part.words)) for part in parts]
        sure = sum(n * _certainty(part) for n, part in zip(n_words, parts, strict=True)) / max(
            1, sum(n_words)
        )
        return Attempt(
            tuple(parts),
            failures[0] if failures else None,
            covered * sure,
            fits,
            tuple(raw),
            skipped,
        )

    # -- again
    # ----------------------------------------------------------------------------------------------

    def may_improve(self, attempt: Attempt) -> bool:
        """Whether another decoding may be better, in its words or in its punctuation."""
        return attempt.is_doubtful or self._lacks_punctuation(attempt)

    def improved(
        self,
        encoded: EncodedBatch,
        windows: Sequence[Window],
        languages: Sequence[str],
        attempts: Sequence[Attempt],
    ) -> list[Attempt]:
        """The attempts, with doubtful ones replaced where a better one is found."""
        best = list(attempts)
        if len(self.ladder.temperatures) < 2:
            return best
        for way in (self._with_beams, self._filled, self._in_pieces, self._filled, self._sampled):
            doubtful = [i for i, attempt in enumerate(best) if attempt.is_doubtful]
            if not doubtful:
                break
            for i, attempt in way(_Doubtful(encoded, windows, languages, best), doubtful):
                if attempt.is_better_than(best[i]):
                    best[i] = attempt
        for i, attempt in self._with_style(_Doubtful(encoded, windows, languages, best)):
            best[i] = attempt
        return best

    def _lacks_punctuation(self, attempt: Attempt) -> bool:
        """A prompt of the user sets its own style."""
        may_be_asked = (
            self.engine.info.punctuates and not self.options.prompt and attempt.failure is None
        )
        return may_be_asked and lacks_punctuation(attempt.words)

    def _with_style(self, batch: _Doubtful) -> Iterator[tuple[int, Attempt]]:
        """Decode text without punctuation again after a punctuated prompt; accept it if it has as
        many words and a similar score.
        """
        chosen = defaultdict(list)
        for i, attempt in enumerate(batch.attempts):
            language = "en" if self.options.task == "translate" else batch.languages[i]
            if language in STYLE_PROMPTS and self._lacks_punctuation(attempt):
                chosen[language].append(i)
        for language, places in sorted(chosen.items()):
            options = replace(self.options, prompt=STYLE_PROMPTS[language])
            styled = self._once(batch.encoded.select(places), *batch.of(places), options)
            for i, attempt in zip(places, styled, strict=True):
                before = batch.attempts[i]
                as_good = attempt.failure is None and attempt.score >= before.score * AS_GOOD
                if as_good and punctuates(before.words, attempt.words):
                    yield i, attempt

    def _with_beams(
        self, batch: _Doubtful, doubtful: Sequence[int]
    ) -> Iterator[tuple[int, Attempt]]:
        chosen = [
            i for i in doubtful if not batch.attempts[i].wordless
        ]  # beam search skips the same speech
        if chosen and self._beams is not None:
            part = batch.encoded.select(chosen)
            yield from zip(chosen, self._once(part, *batch.of(chosen), self._beams), strict=True)

    @property
    def _beams(self) -> DecodingOptions | None:
        size = self.engine.info.retry_beam_size
        return replace(self.options, beam_size=size) if size > self.options.beam_size else None

    def _once(
        self,
        encoded: EncodedBatch,
        windows: Sequence[Window],
        languages: Sequence[str],
        options: DecodingOptions,
    ) -> list[Attempt]:
        return self.time_words(
            encoded, windows, self.engine.decode(encoded, languages, options), options
        )

    def _filled(self, batch: _Doubtful, doubtful: Sequence[int]) -> Iterator[tuple[int, Attempt]]:
        """Decode speech without words separately, and insert the words found there."""
        gaps = [(i, gap) for i in doubtful for gap in batch.attempts[i].wordless]
        if not gaps:
            return
        pieces = [piece_of(batch.windows[i], gap) for i, gap in gaps]
        languages = [batch.languages[i] for i, _ in gaps]
        found = self._once(self.encode(pieces), pieces, languages, self.options)
        for i, own in groupby(zip(gaps, found, strict=True), key=lambda pair: pair[0][0]):
            sure = [
                (gap, piece)
                for (_, gap), piece in own
                if piece.failure is None and not _is_silent(piece)
            ]
            if sure:
                yield i, self._scored(batch.windows[i], *_merged(batch.attempts[i], sure))

    def _in_pieces(
        self, batch: _Doubtful, doubtful: Sequence[int]
    ) -> Iterator[tuple[int, Attempt]]:
        """Restarting the decoder often recovers skipped speech and ends loops."""
        if not self.engine.info.skips_speech:
            return
        cuts = {i: pair for i in doubtful if (pair := _halves(batch.windows[i], batch.attempts[i]))}
        if not cuts:
            return
        pieces = [piece for pair in cuts.values() for piece in pair]
        languages = [batch.languages[i] for i in cuts for _ in cuts[i]]
        encoded = self.encode(pieces)
        found = self._once(encoded, pieces, languages, self.options)
        again = _Doubtful(encoded, pieces, languages, found)
        for way in (self._with_beams, self._filled):
            for k, better in way(again, [k for k, one in enumerate(found) if one.is_doubtful]):
                if better.is_better_than(found[k]):
                    found[k] = better
        for n, i in enumerate(cuts):
            halves = found[2 * n : 2 * n + 2]
            if not batch.attempts[i].words:  # it may not be speech
                halves = [half for half in halves if half.failure is None and not _is_silent(half)]
            pairs = [
                pair
                for half in halves
                for pair in zip(half.parts, half.raw, strict=True)
                if pair[0].words
            ]
            yield (
                i,
                self._scored(
                    batch.windows[i], [part for part, _ in pairs], [raw for _, raw in pairs]
                ),
            )

    def _sampled(self, batch: _Doubtful, doubtful: Sequence[int]) -> Iterator[tuple[int, Attempt]]:
        """Higher temperatures in turn."""
        chosen = [i for i in doubtful if not batch.attempts[i].wordless]
        if not chosen or not self.engine.info.can_sample:
            return
        windows, languages = batch.of(chosen)
        steps = list(dict.fromkeys(self.ladder.temperatures[1:]))
        best: dict[int, ScoredResult] = {}

        def following(k: int, decoded: Decoded) -> float | None:
            judged = judge(decoded, windows[k], self.ladder.rules)
            if k not in best or _rank(judged) > _rank(best[k]):
                best[k] = judged
            if judged.failure in (None, "silence"):
                return None
            next_step = steps.index(decoded.temperature) + 1
            return steps[next_step] if next_step < len(steps) else None

        part = batch.encoded.select(chosen)
        self.engine.decode(part, languages, self.options.at(steps[0]), following)
        decoded = [best[k].decoded for k in range(len(chosen))]
        yield from zip(chosen, self.time_words(part, windows, decoded, self.options), strict=True)


@dataclass(frozen=True, slots=True)
class _Doubtful:
    """A batch of which some windows are doubtful."""

    encoded: EncodedBatch
    windows: Sequence[Window]
    languages: Sequence[str]
    attempts: Sequence[Attempt]

    def of(self, chosen: Sequence[int]) -> tuple[list[Window], list[str]]:
        return [self.windows[i] for i in chosen], [self.languages[i] for i in chosen]


def _rank(judged: ScoredResult) -> tuple[bool, bool, float]:
    """Best decoding: one that breaks no rule, else one that fits; then the more probable."""
    return (
        judged.failure is None,
        judged.fits and judged.failure != "silence",
        certainty(judged.decoded),
    )


def _certainty(part: PartResult) -> float:
    return certainty(part.judged.decoded) if part.judged.fits else word_certainty(part.words)


def _halves(window: Window, attempt: Attempt) -> tuple[Window, ...]:
    """Two halves of the window, cut in its longest speech without words. Empty if the model is
    merely unsure.
    """
    merely_unsure = attempt.fits and not attempt.wordless
    return () if merely_unsure else halves(window, max(attempt.wordless, key=speech_s, default=()))


def _without_crumbs(gap: tuple[Region, ...]) -> tuple[Region, ...]:
    """Drop short remainders of the regions of the words before and after."""
    kept = [i for i, region in enumerate(gap) if region.end - region.start >= SHORTEST_PIECE_S]
    return gap[kept[0] : kept[-1] + 1] if kept else ()


def _is_silent(attempt: Attempt) -> bool:
    """Whether the model finds no speech, which is more likely in a gap than elsewhere."""
    likely = (part.judged.decoded.no_speech_prob or 0.0 for part in attempt.parts)
    return any(probability > RULES.min_no_speech_prob for probability in likely)


def _merged(
    attempt: Attempt, found: Sequence[tuple[Sequence[Region], Attempt]]
) -> tuple[list[PartResult], list[Sequence[Word]]]:
    """The parts of an attempt and those found in its gaps, in order, with their raw words.

    Words of a gap that the engine timed outside of it belong to its neighbours.
    """
    pairs: list[tuple[PartResult, Sequence[Word]]] = []
    for part, raw in zip(attempt.parts, attempt.raw, strict=True):
        rest = list(zip(part.words, raw, strict=True))
        for gap, _ in found:
            n_before = sum(word.start < gap[0].start for word, _ in rest)
            pairs.append(_part(part.start, part.judged, rest[:n_before]))
            rest = rest[n_before:]
        pairs.append(_part(part.start, part.judged, rest))
    known = [word for part, _ in pairs for word in part.words]
    for gap, piece in found:
        for part, raw in zip(piece.parts, piece.raw, strict=True):
            inside = [
                (word, own)
                for word, own in zip(part.words, raw, strict=True)
                if gap[0].start <= (own.start + own.end) / 2 <= gap[-1].end
            ]
            pairs.append(_part(part.start, part.judged, _only_new(inside, known, gap[0].start)))
    pairs = sorted((pair for pair in pairs if pair[0].words), key=lambda pair: pair[0].start)
    return [part for part, _ in pairs], [raw for _, raw in pairs]


def _only_new(
    found: Sequence[tuple[Word, Word]], known: Sequence[Word], at: float
) -> Sequence[tuple[Word, Word]]:
    """Drop words at both ends that repeat the known words before and after the time ``at``."""
    texts = [letters_of(word) for word, _ in found]
    before = [letters_of(word) for word in known if word.start < at]
    after = [letters_of(word) for word in known if word.start >= at]
    first = max((n for n in range(1, len(texts) + 1) if before[-n:] == texts[:n]), default=0)
    last = max((n for n in range(1, len(texts) - first + 1) if after[:n] == texts[-n:]), default=0)
    return found[first : len(found) - last]


def _part(
    start: float, judged: ScoredResult, words: Sequence[tuple[Word, Word]]
) -> tuple[PartResult, Sequence[Word]]:
    """A part from words and their raw timestamps; it starts at the first word."""
    first = words[0][0].start if words else start
    return PartResult(first, tuple(word for word, _ in words), judged), [raw for _, raw in words]
