"""The languages of Whisper's models, and which one a recording or a window is in."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ..domain.languages import OF_COUNTRY, OTHER_NAMES
from ..domain.transcript import Notice
from ..engines import AUTO, Engine, EngineInfo
from ..errors import UnknownNameError, UnsupportedTaskError

if TYPE_CHECKING:
    from ..speech.regions import Window

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


_AUTOMATIC = frozenset(
    {"auto", "autodetect", "auto-detect", "auto detect", "automatic", "detect", "und"}
)
_REGION = re.compile(
    r"-[a-z0-9 -]+| ([a-z]{2}|[a-z]{4})"
)  # -us, -hans-cn, - united states; after a space a code alone


def requested_language(wanted: str) -> str:
    """``auto``, or the code of a language as the models have it.

    Accepts Whisper's codes, ISO 639-1, 639-2 and 639-3, English names and own names, in any letter case, with or
    without a region or script: ``de``, ``deu``, ``de_AT.UTF-8``, ``German``, ``Deutsch``, ``Portuguese (Brazil)``.

    Raises:
        UnknownNameError: the models know no such language; the hint suggests the nearest.
    """
    name, _, inside = unicodedata.normalize("NFKC", wanted).partition("(")
    name, inside = _folded(re.split("[.@]", name, maxsplit=1)[0]), _folded(inside.rstrip(") "))
    if name in _AUTOMATIC:
        return AUTO
    codes = _codes()
    if inside in codes and len(inside) > 3:  # Chinese (Cantonese), Norwegian (Nynorsk)
        return codes[inside]
    if name in codes:
        return codes[name]
    first, *_ = re.split("[- ]", name, maxsplit=1)
    region = name[len(first) :]
    names_another = any(len(part) > 3 and part in codes for part in re.split("[- ]", region))
    if first in codes and _REGION.fullmatch(region) and not names_another:
        return codes[first]
    raise UnknownNameError(
        f"there is no language {wanted[:64]!r} that the models know",
        hint=_language_hint(first, name, codes),
    )


def _language_hint(first: str, name: str, codes: Mapping[str, str]) -> str:
    if first in OF_COUNTRY:
        near = [OF_COUNTRY[first]]
    else:
        names = [each for each in codes if len(each) > 3]  # short codes are all alike
        near = list(
            dict.fromkeys(
                codes[each] for each in difflib.get_close_matches(name, names, n=3, cutoff=0.7)
            )
        )
    if near:
        return f"did you mean {' or '.join(f'{code} ({LANGUAGES[code]})' for code in near)}?"
    return "use auto, or one language: a code such as de, or a name such as german"


def _folded(name: str) -> str:
    """Letter case, accents, apostrophes, quotes and kinds of spaces and dashes make no difference."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    kept = "".join(c for c in letters if unicodedata.category(c) != "Mn" and c not in _MARKS)
    return " ".join(re.sub(r"\s*[_\-‐‑–]\s*", "-", kept).split())


_MARKS = frozenset("'\"`´ʻʼ‘’“”«»„")


@cache
def _codes() -> dict[str, str]:
    """Every code and name, folded -> the models' code. A model's own code wins over all others."""
    others = {
        _folded(name): code for code, names in OTHER_NAMES.items() for name in names.split(",")
    }
    named = {_folded(name): code for code, name in LANGUAGES.items()}
    found = others | named | {code: code for code in LANGUAGES}
    return {name.replace(" ", "-"): code for name, code in found.items()} | found


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
        code = requested_language(wanted)
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
        """Go on from what was decided when the same recording was begun before."""
        self.language, self.probability, self.notices = (
            vote.language,
            vote.probability,
            list(vote.notices),
        )

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
            message = f"transcribed as {self.language}, but parts are in {names}: --multilingual decides for each window"
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
    names = [LANGUAGES[known].title() for known in info.languages]
    known = ", ".join(names) if len(names) <= 8 else f"{len(names)} languages"
    hint = "choose a multilingual model, for example --model small, or leave the language to auto"
    raise UnsupportedTaskError(
        f"model {info.model} does not support {LANGUAGES[code].title()}, only {known}", hint=hint
    )
