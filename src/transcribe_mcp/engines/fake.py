"""A deterministic engine for tests and demonstrations of front ends: it names the time instead of
recognizing speech.

The word at 12.5 s is ``word0025`` in every run, regardless of windows: the original clock is
divided into slots of half a second, and every slot inside a region of speech gives its number.

Models: ``fake`` (the default), and ``fake-failing``, which fails at its first batch like a broken
engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..domain.languages import AUTO
from ..domain.transcript import Notice, Word
from ..errors import EngineFailedError, UnknownNameError, UsageError
from ..speech.regions import Region, Window
from . import (
    Decoded,
    DecodesInRounds,
    DecodingOptions,
    EngineInfo,
    EngineRequest,
    VoiceDetector,
)

MODEL = "fake"
FAILING_MODEL = "fake-failing"
LANGUAGES = ("en", "de")

SLOT_S = 0.5
WORD_S = 0.4  # the rest of a slot is the pause before the next word
WORDS_PER_SENTENCE = 8


@dataclass(frozen=True, slots=True)
class RawBatch:
    """The windows themselves."""

    windows: tuple[Window, ...]

    def __len__(self) -> int:
        return len(self.windows)

    def select(self, indices: Sequence[int]) -> RawBatch:
        return RawBatch(tuple(self.windows[i] for i in indices))


class FakeEngine(DecodesInRounds):
    """Words from the clock; see the module."""

    def __init__(self, model: str = MODEL) -> None:
        self.info = EngineInfo(
            engine="fake",
            model=model,
            device="cpu",
            compute_type="none",
            languages=LANGUAGES,
            tasks=("transcribe", "translate"),
        )

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        return ()

    def encode(self, windows: Sequence[Window]) -> RawBatch:
        return RawBatch(tuple(windows))

    def join(self, batches: Sequence[RawBatch]) -> RawBatch:
        return RawBatch(tuple(window for batch in batches for window in batch.windows))

    def detect_language(self, encoded: RawBatch) -> list[dict[str, float]]:
        return [{"en": 0.75, "de": 0.25} for _ in encoded.windows]

    def decode_once(
        self, encoded: RawBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        if self.info.model == FAILING_MODEL:
            raise EngineFailedError(
                f"engine fake was asked to fail by the model name {FAILING_MODEL!r}"
            )
        return [
            Decoded("".join(word.text for word in _words(window)), language, options.temperature)
            for window, language in zip(encoded.windows, languages, strict=True)
        ]

    def align(
        self, encoded: RawBatch, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        return [list(_words(window)) for window, _ in zip(encoded.windows, decoded, strict=True)]

    def voice_detector(self) -> VoiceDetector | None:
        return None

    def close(self) -> None:
        """Nothing to free."""


def load(request: EngineRequest) -> FakeEngine:
    """Make the engine.

    Raises:
        UnknownNameError: no such model.
        UsageError: a device or a precision that it does not have.
    """
    model = MODEL if request.model == AUTO else request.model
    if model not in (MODEL, FAILING_MODEL):
        raise UnknownNameError(
            f"engine fake has no model {model!r}", hint=f"choose {MODEL} or {FAILING_MODEL}"
        )
    if request.device not in (AUTO, "cpu"):
        raise UsageError(
            f"engine fake runs on the CPU, not on {request.device!r}", hint="leave out the device"
        )
    if request.compute_type != AUTO:
        raise UsageError(
            f"engine fake has no compute type {request.compute_type!r}",
            hint="leave out the compute type",
        )
    return FakeEngine(model)


def _words(window: Window) -> Iterator[Word]:
    for region in window.regions:
        for slot in _slots_inside(region, window):
            stop = "." if slot % WORDS_PER_SENTENCE == WORDS_PER_SENTENCE - 1 else ""
            start = slot * SLOT_S
            yield Word(start, start + WORD_S, f" word{slot:04d}{stop}")


def _slots_inside(region: Region, window: Window) -> range:
    start = max(region.start, window.start)
    end = min(region.end, window.end)
    return range(math.ceil(start / SLOT_S), math.floor(end / SLOT_S))
