"""Decides which language a recording, or each of its windows, is in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..domain.languages import AUTO, LANGUAGES, requested_language
from ..domain.transcript import Notice
from ..engines import EngineInfo
from ..errors import UnsupportedTaskError

if TYPE_CHECKING:
    from ..speech.regions import Window

Detect = Callable[[], Sequence[Mapping[str, float]]]

SURE = 0.8  # a language probability that counts as certain
UNSURE = 0.5  # below this another language is more likely than not
MIXED_SHARE = 0.2  # share of speech in another language that is worth a notice


@dataclass(frozen=True, slots=True)
class Vote:
    """The decision about a recording's language so far; ``None`` if there is none."""

    language: str | None
    probability: float | None
    notices: tuple[Notice, ...] = ()


class LanguageDecider:
    """Decides the language of the windows of each batch.

    A given language is used unchanged. Otherwise the windows of the first batch vote, each with its
    probabilities times its seconds of speech; ``multilingual`` decides for each window.
    """

    def __init__(self, requested: str, info: EngineInfo, *, multilingual: bool) -> None:
        self._multilingual = multilingual
        self.notices: list[Notice] = []
        code = requested_language(requested)
        self.language: str | None = None if code == AUTO else _supported(code, info)
        self.probability: float | None = None
        if len(info.languages) == 1:
            self.language = info.languages[0]

    @property
    def is_open(self) -> bool:
        """Whether the next batch votes."""
        return self.language is None

    @property
    def vote(self) -> Vote:
        return Vote(self.language, self.probability, tuple(self.notices))

    def take(self, vote: Vote) -> None:
        """Continue with the decision of an earlier run on the same recording."""
        self.language = vote.language
        self.probability = vote.probability
        self.notices = list(vote.notices)

    def decide(self, detect: Detect, windows: Sequence[Window]) -> list[str]:
        """The language of each window. ``detect`` gives the probabilities of each, most probable
        first.
        """
        if self.language is not None and not self._multilingual:
            return [self.language] * len(windows)
        detected = detect()
        if self.language is None:
            self._vote(detected, windows)
        assert self.language is not None
        if not self._multilingual:
            return [self.language] * len(windows)
        return [_most_probable(row, otherwise=self.language) for row in detected]

    def _vote(self, detected: Sequence[Mapping[str, float]], windows: Sequence[Window]) -> None:
        speech_s = [
            sum(region.end - region.start for region in window.regions) for window in windows
        ]
        votes: dict[str, float] = defaultdict(float)
        for row, seconds in zip(detected, speech_s, strict=True):
            for language, probability in row.items():
                votes[language] += probability * seconds / (sum(speech_s) or 1.0)
        self.language = max(votes, key=votes.__getitem__)
        self.probability = votes[self.language]
        if self._multilingual:
            return
        others = {
            code
            for row in detected
            for code, p in row.items()
            if p > SURE and code != self.language
        }
        surely_other_s = sum(
            seconds
            for row, seconds in zip(detected, speech_s, strict=True)
            if any(row[c] > SURE for c in others)
        )
        if surely_other_s > MIXED_SHARE * sum(speech_s):
            names = ", ".join(sorted(others))
            message = (
                f"transcribed as {self.language}, but parts are in {names}: "
                "--multilingual decides for each window"
            )
            self.notices.append(Notice("languages_mixed", message))
        elif self.probability < UNSURE:
            message = (
                f"the language was detected as {self.language} with a probability of only "
                f"{self.probability:.2f}"
            )
            self.notices.append(Notice("language_uncertain", message))


def _most_probable(row: Mapping[str, float], otherwise: str) -> str:
    language = max(row, key=row.__getitem__)
    return language if row[language] >= UNSURE else otherwise


def _supported(code: str, info: EngineInfo) -> str:
    if code in info.languages:
        return code
    names = [LANGUAGES[known].title() for known in info.languages]
    known = ", ".join(names) if len(names) <= 8 else f"{len(names)} languages"
    raise UnsupportedTaskError(
        f"model {info.model} does not support {LANGUAGES[code].title()}, only {known}",
        hint="choose a multilingual model, for example --model small, "
        "or leave the language to auto",
    )
