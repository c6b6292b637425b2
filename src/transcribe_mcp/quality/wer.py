"""Normalise texts, so that only relevant differences count as errors."""

from __future__ import annotations

import re
import unicodedata

from ..align.words import UNSPACED_LANGUAGES

_HESITATIONS = {"hmm", "mm", "mhm", "mmm", "uh", "um"}
_CONTRACTIONS = {
    "won't": "will not",
    "can't": "can not",
    "cannot": "can not",
    "let's": "let us",
    "shan't": "shall not",
}
_SUFFIXES = {
    "n't": " not",
    "'re": " are",
    "'ll": " will",
    "'ve": " have",
    "'d": " would",
    "'m": " am",
}
# After these words, 's means "is".
_IS_PRONOUNS = {
    "it",
    "he",
    "she",
    "that",
    "what",
    "there",
    "here",
    "who",
    "where",
    "how",
}
_AMERICAN = {
    "behaviour": "behavior", "centre": "center", "cheque": "check", "colour": "color",
    "favour": "favor", "favourite": "favorite", "grey": "gray", "harbour": "harbor",
    "honour": "honor", "labour": "labor", "litre": "liter", "metre": "meter", "mum": "mom",
    "neighbour": "neighbor", "organisation": "organization", "organise": "organize",
    "programme": "program", "realise": "realize", "recognise": "recognize", "theatre": "theater",
    "travelled": "traveled", "travelling": "traveling", "tyre": "tire",
}  # fmt: skip


def normalise(text: str, language: str | None) -> list[str]:
    """The words to compare: a lighter form of Whisper's normalisation.

    NFKC and lower case. Marks, symbols and punctuation separate words; an apostrophe inside a word
    is dropped ("l'eau" is "leau"). Umlauts and accents stay. English: contractions are expanded
    ("won't" is "will not"), hesitations ("um") dropped, two dozen British spellings made American.
    Languages without spaces: one word per character. Numbers stay: "2" is not "two".
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("ʼ", "'")
    if language == "en":
        text = re.sub(r"[\w']+", lambda match: _spelled_out(match.group()), text)
    text = re.sub(r"(?<=\w)'(?=\w)", "", text)
    text = "".join(" " if unicodedata.category(c)[0] in "SPCZ" else c for c in text)
    if language in UNSPACED_LANGUAGES:
        return [c for c in text if not c.isspace()]
    words = text.split()
    if language == "en":
        words = [_AMERICAN.get(word, word) for word in words if word not in _HESITATIONS]
    return words


def _spelled_out(word: str) -> str:
    if word in _CONTRACTIONS:
        return _CONTRACTIONS[word]
    for suffix, full in _SUFFIXES.items():
        if word.endswith(suffix) and word != suffix:
            return word.removesuffix(suffix) + full
    stem = word.removesuffix("'s")
    return f"{stem} is" if stem != word and stem in _IS_PRONOUNS else word
