"""Quality rules for the decoding of one window, for any engine, and the score that compares two
decodings.

Thresholds are those of openai-whisper's ``transcribe`` where it has the same rule.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import eq

from ..align.times import EDGE_S, LETTER_S
from ..domain.transcript import Word
from ..engines import Decoded
from ..speech.regions import Region, Window

REPEAT_WORDS = 8
SPEECH_FLOOR_S = 0.5  # a window with less speech than this is judged as if it had this much
CRAMMED_S = 0.05  # two steps of cross-attention: a word this short was not found in the audio
WIDE_LETTERS = 3  # a Chinese or Japanese character takes as long to say as three letters
DIGIT_LETTERS = 3  # the same for a digit
LOOP_IN_WORD = re.compile(r"(.{1,16}?)\1{5,}")  # without a space, as in S-S-S-S


@dataclass(frozen=True, slots=True)
class QualityRules:
    """When a decoding is doubtful.

    Attributes:
        max_compression_ratio: text that zlib compresses better than this repeats itself.
        max_repeats: so does text with more consecutive repeats of a phrase of up to
            ``REPEAT_WORDS`` words.
        min_avg_logprob: below this the model is unsure.
        min_sure_logprob: above this the model is sure: fast speech and repeated words are accepted.
        min_no_speech_prob: an unsure decoding with at least this probability of no speech is
            silence.
        max_letters_per_second: more text than this does not fit into the speech, unless the model
            is sure.
        max_sure_letters_per_second: more text than this does not fit, however sure the model is.
        max_crammed: share of words without duration; with more, the text is not in the audio.
        max_wordless_s: longest speech without a word, in seconds.
    """

    max_compression_ratio: float = 2.4
    max_repeats: int = 5
    min_avg_logprob: float = -1.0
    min_sure_logprob: float = -0.5
    min_no_speech_prob: float = 0.6
    max_letters_per_second: float = 40.0
    max_sure_letters_per_second: float = 80.0
    max_crammed: float = 0.4
    max_wordless_s: float = 1.2


RULES = QualityRules()


@dataclass(frozen=True, slots=True)
class ScoredResult:
    """A window's decoding, the first rule that it breaks (``None``: none), and whether the text
    fits into the speech.
    """

    decoded: Decoded
    compression_ratio: float
    failure: str | None
    fits: bool = True


def judge(
    decoded: Decoded,
    window: Window,
    rules: QualityRules = RULES,
    words: Sequence[Word] | None = None,
) -> ScoredResult:
    """Apply the rules to one decoding. ``words``: with the times that the engine gave them, once it
    has.
    """
    text = decoded.text.strip()
    ratio = compression_ratio(text)
    unsure = decoded.avg_logprob is not None and decoded.avg_logprob < rules.min_avg_logprob
    no_speech = (
        decoded.no_speech_prob is not None and decoded.no_speech_prob > rules.min_no_speech_prob
    )
    if not text or (no_speech and unsure):
        return ScoredResult(decoded, ratio, "silence")
    sure = decoded.avg_logprob is not None and decoded.avg_logprob >= rules.min_sure_logprob
    repetitive = is_repetitive(text, rules)
    limit = (
        rules.max_sure_letters_per_second
        if sure and not repetitive
        else rules.max_letters_per_second
    )
    fits = n_letters(text) <= limit * max(SPEECH_FLOOR_S, speech_s(window.regions))
    fits = fits and crammed_share(words or ()) <= rules.max_crammed
    failure = None
    if repetitive and not (fits and sure):
        failure = "repetition"
    elif not fits:
        failure = "words_in_silence"
    elif unsure:
        failure = "low_probability"
    return ScoredResult(decoded, ratio, failure, fits)


# -- text
# --------------------------------------------------------------------------------------------------


def is_repetitive(text: str, rules: QualityRules = RULES) -> bool:
    """Whether words are repeated, by a decoder loop or by the speaker."""
    return (
        compression_ratio(text) > rules.max_compression_ratio or repeats(text) > rules.max_repeats
    )


def compression_ratio(text: str) -> float:
    """Bytes of the text divided by the bytes that zlib compresses it to."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def repeats(text: str) -> int:
    """Consecutive occurrences of the most repeated phrase of up to ``REPEAT_WORDS`` words."""
    words = text.lower().split()
    return max(1, longest_run(words)[2]) if words else 0


def longest_run(words: Sequence[str]) -> tuple[int, int, int]:
    """The phrase with the most consecutive repeats: its first word, its number of words, and its
    occurrences.
    """
    found = (0, 0, 0)
    for size in range(1, min(REPEAT_WORDS, len(words) // 2) + 1):
        as_before = bytes(
            map(eq, words[size:], words)
        )  # 1 where a word is the one a phrase earlier
        longest = max(as_before.split(b"\0"), key=len)
        times = len(longest) // size + 1
        if times > max(1, found[2]):
            found = (as_before.index(longest), size, times)
    return found


def n_letters(text: str) -> int:
    """Characters, wide ones counted as several: a measure of speaking time."""
    if text.isascii():
        return len(text)
    return sum(
        WIDE_LETTERS if unicodedata.east_asian_width(character) in "WF" else 1 for character in text
    )


def letters_of(word: Word) -> str:
    """A word without case, spaces and punctuation."""
    return "".join(character for character in word.text.casefold() if character.isalnum())


# -- words and speech
# --------------------------------------------------------------------------------------------------


def speech_s(regions: Sequence[Region]) -> float:
    return sum(region.end - region.start for region in regions)


def crammed_share(words: Sequence[Word]) -> float:
    """The share of words without duration, by the engine's timestamps."""
    return sum(word.end - word.start < CRAMMED_S for word in words) / max(1, len(words))


def wordless(
    regions: Sequence[Region], words: Sequence[Word], clamped: Sequence[Word]
) -> list[tuple[Region, ...]]:
    """Gaps: speech without words. The regions of one gap lie between the same two words.

    Args:
        words: as the engine timed them; ``clamped``: the same, moved into the speech. None covers
            more than it can take to say.
    """
    found: list[tuple[Region, ...]] = []
    gap: list[Region] = []  # since the last word
    spans = deque(zip(clamped, words, strict=True))
    for region in regions:
        at = region.start
        while spans and spans[0][0].start < region.end:
            word, raw = spans.popleft()
            if word.start > at:
                gap.append(Region(at, word.start))
            if gap:
                found.append(tuple(gap))
                gap = []
            at = max(at, _covered_until(word, raw))
        if region.end > at:
            gap.append(Region(at, region.end))
    return [*found, tuple(gap)] if gap else found


def _covered_until(word: Word, raw: Word) -> float:
    """Digits take longer to say than the time that a clamped word has for its characters."""
    if raw.end <= word.end:
        return word.end
    text = word.text.strip()
    letters = n_letters(text) + (DIGIT_LETTERS - 1) * sum(map(str.isdigit, text))
    return max(word.end, min(raw.end, word.start + letters * LETTER_S + EDGE_S))


def certainty(decoded: Decoded) -> float:
    """Mean probability of a token (geometric); 1 if the engine does not measure it."""
    return math.exp(decoded.avg_logprob) if decoded.avg_logprob is not None else 1.0


def word_certainty(words: Sequence[Word]) -> float:
    """The same from the words."""
    known = [max(1e-6, word.probability) for word in words if word.probability is not None]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else 1.0


def without_loop(words: Sequence[Word], rules: QualityRules = RULES) -> tuple[Word, ...]:
    """The words up to the end of the first turn of a loop, and those after the loop.

    Remaining words without duration are dropped.
    """
    kept = [replace(word, text=LOOP_IN_WORD.sub(r"\1", word.text)) for word in words]
    while True:
        names = [word.text.strip(" ,.!?").lower() for word in kept]
        first, size, times = longest_run(names)
        if times <= 2:
            break
        end = first + size
        while end < len(names) and names[end] == names[end - size]:
            end += 1
        del kept[first + size : end]
    if crammed_share(kept) > rules.max_crammed:
        kept = [word for word in kept if word.end - word.start >= CRAMMED_S]
    return tuple(kept)
