"""An engine that says what a test tells it to: the Engine protocol, written in the test.

What it hears in a window is up to ``hear(window, language, options)``; every call is kept in
``calls``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from transcribe_mcp.domain.transcript import Notice, Word
from transcribe_mcp.engines import (
    Decoded,
    DecodesInRounds,
    DecodingOptions,
    EngineInfo,
    VoiceDetector,
)
from transcribe_mcp.errors import EngineFailedError
from transcribe_mcp.speech.regions import Window

Hear = Callable[[Window, str, DecodingOptions], Decoded]
Detect = Callable[[Window], Mapping[str, float]]

INFO = EngineInfo(
    engine="scripted",
    model="script",
    device="cpu",
    compute_type="none",
    languages=("de", "en"),
    tasks=("transcribe", "translate"),
    batch_size=4,
    versions={"script": "1"},
)

WORD_S = 0.3


def said(text: str, *, logprob: float | None = -0.2, no_speech: float | None = 0.01) -> Decoded:
    return Decoded(text, "en", 0.0, avg_logprob=logprob, no_speech_prob=no_speech)


def says_hello(window: Window, language: str, options: DecodingOptions) -> Decoded:
    return Decoded(
        " Hello there.", language, options.temperature, avg_logprob=-0.2, no_speech_prob=0.01
    )


@dataclass(frozen=True, slots=True)
class Call:
    """One call of ``decode``: its windows by their starts."""

    starts: tuple[float, ...]
    languages: tuple[str, ...]
    options: DecodingOptions


@dataclass(frozen=True, slots=True)
class ScriptedBatch:
    windows: tuple[Window, ...]

    def __len__(self) -> int:
        return len(self.windows)

    def select(self, indices: Sequence[int]) -> ScriptedBatch:
        return ScriptedBatch(tuple(self.windows[i] for i in indices))


@dataclass(slots=True)
class ScriptedEngine(DecodesInRounds):
    """Words follow each other from the beginning of a window's speech."""

    hear: Hear = says_hello
    detect: Detect = lambda window: {"en": 1.0}
    info: EngineInfo = INFO
    fails_at_call: int | None = None
    calls: list[Call] = field(default_factory=list)
    aligned: list[float] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        return ()

    def encode(self, windows: Sequence[Window]) -> ScriptedBatch:
        self.threads.add(threading.current_thread().name)
        return ScriptedBatch(tuple(windows))

    def join(self, batches: Sequence[ScriptedBatch]) -> ScriptedBatch:
        return ScriptedBatch(tuple(window for batch in batches for window in batch.windows))

    def voice_detector(self) -> VoiceDetector | None:
        return None

    def detect_language(self, encoded: ScriptedBatch) -> list[dict[str, float]]:
        return [dict(self.detect(window)) for window in encoded.windows]

    def decode_once(
        self, encoded: ScriptedBatch, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        self.calls.append(
            Call(tuple(window.start for window in encoded.windows), tuple(languages), options)
        )
        if len(self.calls) == self.fails_at_call:
            raise EngineFailedError("the script ends here")
        return [
            self.hear(window, language, options)
            for window, language in zip(encoded.windows, languages, strict=True)
        ]

    def align(
        self, encoded: ScriptedBatch, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        self.aligned += [window.start for window in encoded.windows]
        return [
            spread(item.text, window) for item, window in zip(decoded, encoded.windows, strict=True)
        ]

    def close(self) -> None:
        """Nothing is held."""


def spread(text: str, window: Window) -> list[Word]:
    texts = [" " + word for word in text.split()]
    start, end = (
        (window.regions[0].start, window.regions[-1].end)
        if window.regions
        else (window.start, window.end)
    )
    step = min(WORD_S, (end - start) / max(1, len(texts)))
    return [
        Word(start + i * step, start + (i + 1) * step, word, 0.9) for i, word in enumerate(texts)
    ]
