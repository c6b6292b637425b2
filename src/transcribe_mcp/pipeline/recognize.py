"""The stage that turns windows into words: language, decoding, word timestamps, and retries of
doubtful windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from ..engines import Decoded, DecodingOptions, Recognizer
from ..runtime.stage import Part, Task, Workbench
from .language_vote import Detect, LanguageDecider
from .temperature_fallback import Attempt, Decoder, TemperatureSchedule

Draft = tuple[str, Decoded]  # the language of a window, and its first text


@dataclass(frozen=True, slots=True)
class Recipe:
    """How windows are recognized. Windows with equal recipes share calls of the model."""

    options: DecodingOptions
    ladder: TemperatureSchedule

    def decoder(self, device: Workbench) -> Decoder:
        return Decoder(device.model, self.options, self.ladder, device.encode)


class RecognizeStage:
    """The stage of one recording. See ``runtime.stage.Stage``."""

    def __init__(self, recipe: Recipe, decider: LanguageDecider) -> None:
        self.group = recipe
        self.decider = decider
        self._deciding = Lock()  # of several devices, one lets its windows vote

    @property
    def is_open(self) -> bool:
        return self.decider.is_open

    def decode(self, device: Workbench, part: Part) -> list[Draft]:
        with device.timed("language", part.tasks):
            languages = _languages(device.model, part)
        with device.timed("decode", part.tasks):
            decoded = self.group.decoder(device).decode(part.encoded, languages)
        return list(zip(languages, decoded, strict=True))

    def finish(self, device: Workbench, part: Part) -> list[Attempt]:
        texts = [text for _, text in part.drafts or ()]
        decoder = self.group.decoder(device)
        with device.timed("align", part.tasks):
            return decoder.time_words(part.encoded, part.windows, texts, decoder.options)

    def may_improve(self, device: Workbench, result: Attempt) -> bool:
        return self.group.decoder(device).may_improve(result)

    def improve(self, device: Workbench, part: Part) -> list[Attempt]:
        languages = [language for language, _ in part.drafts or ()]
        with device.timed("decode", part.tasks):
            return self.group.decoder(device).improved(
                part.encoded, part.windows, languages, part.results or ()
            )

    def languages(self, detect: Detect, tasks: Sequence[Task]) -> list[str]:
        with self._deciding:
            return self.decider.decide(detect, [task.window for task in tasks])


def _languages(model: Recognizer, part: Part) -> list[str]:
    """The language of each window, as its recording decides."""
    rows: dict[Any, list[int]] = {}
    for row, task in enumerate(part.tasks):
        rows.setdefault(task.stage, []).append(row)
    found: dict[int, str] = {}
    for stage, own in rows.items():

        def detect(own: Sequence[int] = own) -> Sequence[Mapping[str, float]]:
            return model.detect_language(part.select(own, encoded=True).encoded)

        tasks = [part.tasks[row] for row in own]
        found.update(zip(own, stage.languages(detect, tasks), strict=True))
    return [found[row] for row in range(len(part))]
