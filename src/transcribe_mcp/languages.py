"""The languages of Whisper's models, and which one a recording or a window is in."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .engines import AUTO, Engine, EngineInfo
from .errors import UnknownNameError, UnsupportedTaskError
from .regions import Window
from .transcript import Notice

SURE = 0.8  # a language probability that counts as certain
UNSURE = 0.5  # below this another language is more likely than not
MIXED_SHARE = 0.2  # of the speech that is surely in another language: worth a word

# As in openai-whisper's tokenizer.py: 99 languages of the first models, Cantonese since large-v3.
LANGUAGES = {
    "af": "afrikaans", "am": "amharic", "ar": "arabic", "as": "assamese", "az": "azerbaijani", "ba": "bashkir",
    "be": "belarusian", "bg": "bulgarian", "bn": "bengali", "bo": "tibetan", "br": "breton", "bs": "bosnian",
    "ca": "catalan", "cs": "czech", "cy": "welsh", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish", "fo": "faroese",
    "fr": "french", "gl": "galician", "gu": "gujarati", "ha": "hausa", "haw": "hawaiian", "he": "hebrew",
    "hi": "hindi", "hr": "croatian", "ht": "haitian creole", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "is": "icelandic", "it": "italian", "ja": "japanese", "jw": "javanese", "ka": "georgian", "kk": "kazakh",
    "km": "khmer", "kn": "kannada", "ko": "korean", "la": "latin", "lb": "luxembourgish", "ln": "lingala", "lo": "lao",
    "lt": "lithuanian", "lv": "latvian", "mg": "malagasy", "mi": "maori", "mk": "macedonian", "ml": "malayalam",
    "mn": "mongolian", "mr": "marathi", "ms": "malay", "mt": "maltese", "my": "myanmar", "ne": "nepali", "nl": "dutch",
    "nn": "nynorsk", "no": "norwegian", "oc": "occitan", "pa": "punjabi", "pl": "polish", "ps": "pashto",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sa": "sanskrit", "sd": "sindhi", "si": "sinhala",
    "sk": "slovak", "sl": "slovenian", "sn": "shona", "so": "somali", "sq": "albanian", "sr": "serbian",
    "su": "sundanese", "sv": "swedish", "sw": "swahili", "ta": "tamil", "te": "telugu", "tg": "tajik", "th": "thai",
    "tk": "turkmen", "tl": "tagalog", "tr": "turkish", "tt": "tatar", "uk": "ukrainian", "ur": "urdu", "uz": "uzbek",
    "vi": "vietnamese", "yi": "yiddish", "yo": "yoruba", "yue": "cantonese", "zh": "chinese",
}  # fmt: skip


def language_code(wanted: str) -> str:
    """The code of a language given by code or English name.

    Raises:
        UnknownNameError: it is neither; the hint suggests the nearest.
    """
    name = wanted.strip().lower()
    if name in LANGUAGES:
        return name
    codes = {english: code for code, english in LANGUAGES.items()}
    if name in codes:
        return codes[name]
    near = difflib.get_close_matches(name, [*codes, *LANGUAGES], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "use auto, a code such as de, or a name such as german"
    raise UnknownNameError(f"there is no language {wanted!r}", hint=hint)


@dataclass(frozen=True, slots=True)
class Vote:
    """What was decided about a recording's language so far: ``None`` while nothing was, or nothing had to be."""

    language: str | None
    probability: float | None
    notices: tuple[Notice, ...] = ()


class LanguageDecider:
    """Says for each batch which language its windows are in.

    A fixed language is taken as it is. Otherwise the windows of the first batch vote, each with the probabilities
    that the engine gives it times its speech; ``multilingual`` asks for every window by itself.
    """

    def __init__(self, wanted: str, info: EngineInfo, *, multilingual: bool) -> None:
        self._multilingual = multilingual
        self.notices: list[Notice] = []
        self.language: str | None = None if wanted == AUTO else _supported(language_code(wanted), info)
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
        """Go on from what was decided when the same recording was begun before."""
        self.language, self.probability, self.notices = vote.language, vote.probability, list(vote.notices)

    def decide(self, engine: Engine, encoded: Any, windows: Sequence[Window]) -> list[str]:
        """The language of each window of a batch."""
        if self.language is not None and not self._multilingual:
            return [self.language] * len(windows)
        detected = engine.detect_language(encoded)
        if self.language is None:
            self._vote(detected, windows)
        assert self.language is not None
        if not self._multilingual:
            return [self.language] * len(windows)
        return [_most_probable(row, otherwise=self.language) for row in detected]

    def _vote(self, detected: Sequence[Mapping[str, float]], windows: Sequence[Window]) -> None:
        speech_s = [sum(region.end - region.start for region in window.regions) for window in windows]
        votes: dict[str, float] = defaultdict(float)
        for row, seconds in zip(detected, speech_s, strict=True):
            for language, probability in row.items():
                votes[language] += probability * seconds / (sum(speech_s) or 1.0)
        self.language = max(votes, key=votes.__getitem__)
        self.probability = votes[self.language]
        if self._multilingual:
            return
        others = {code for row in detected for code, p in row.items() if p > SURE and code != self.language}
        surely_other_s = sum(
            seconds for row, seconds in zip(detected, speech_s, strict=True) if any(row[c] > SURE for c in others)
        )
        if surely_other_s > MIXED_SHARE * sum(speech_s):
            names = ", ".join(sorted(others))
            message = (
                f"transcribed as {self.language}, but parts are in {names}: --multilingual decides for each window"
            )
            self.notices.append(Notice("languages_mixed", message))
        elif self.probability < UNSURE:
            message = f"the language is taken for {self.language} with a probability of only {self.probability:.2f}"
            self.notices.append(Notice("language_uncertain", message))


def _most_probable(row: Mapping[str, float], otherwise: str) -> str:
    language = max(row, key=row.__getitem__)
    return language if row[language] >= UNSURE else otherwise


def _supported(code: str, info: EngineInfo) -> str:
    if code in info.languages:
        return code
    known = ", ".join(info.languages) if len(info.languages) <= 8 else f"{len(info.languages)} languages"
    hint = "choose a multilingual model, for example --model small, or leave the language to auto"
    raise UnsupportedTaskError(f"model {info.model} does not know {LANGUAGES[code]}; it knows {known}", hint=hint)
