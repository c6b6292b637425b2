"""The judge: transcripts against known truth.

Truth is a ``truth.json`` in the directory of the recordings, a list of ``{file, language, duration, segments: [{start,
end, text, speaker, words: [{word, start, end}]}]}`` of which only ``file`` and ``text`` have to be there; or a ``.txt``
beside a recording, with its words and no times. Figures whose truth is not known are ``None``.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from ..domain.transcript import CLOCK_TOLERANCE_S, Transcript, Word
from ..errors import SourceError, SourceNotFoundError, SourceUnreadableError, UsageError
from .wer import align, normalise

TRUTH_NAME = "truth.json"
OUTSIDE_SPEECH_S = 0.5  # a word this far from all speech was invented, not merely timed badly
NEAR_S, FAR_S = 0.05, 0.1  # the field's two limits of a good word start

_NOT_MEDIA = {".txt", ".json", ".srt", ".vtt", ".tsv", ".md"}  # what transcripts are written as

# -- truth ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TruthSegment:
    """A sentence that was said. ``words`` may lack some of the text's words."""

    text: str
    start: float | None = None
    end: float | None = None
    language: str | None = None
    speaker: str | None = None
    words: tuple[TruthWord, ...] = ()


@dataclass(frozen=True, slots=True)
class TruthWord:
    """A word whose start is known, and its end where the source of the truth tells."""

    text: str
    start: float
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """What one recording says. ``language`` is ``None`` where unknown or where there are several."""

    path: Path
    segments: tuple[TruthSegment, ...]
    language: str | None = None
    duration: float | None = None


def load_truth(directory: Path) -> list[Truth]:
    """Every recording in ``directory`` whose words are known, in order of names.

    Raises:
        SourceNotFoundError: no such directory, or truth about a recording that is not there.
        SourceError: a damaged truth file.
        UsageError: no truth at all.
    """
    if not directory.is_dir():
        raise SourceNotFoundError(
            f"{directory} is not a directory", hint="name the directory of the recordings"
        )
    listed = directory / TRUTH_NAME
    truths = _read_list(listed) if listed.exists() else []
    known = {truth.path for truth in truths}
    for text_path in directory.glob("*.txt"):
        text = _read_text(text_path)
        beside = (
            path
            for path in directory.iterdir()
            if path.stem == text_path.stem and path not in known
        )
        media = (
            path for path in beside if path.is_file() and path.suffix.lower() not in _NOT_MEDIA
        )
        truths += [Truth(path, (TruthSegment(text),) if text.strip() else ()) for path in media]
    if not truths:
        hint = f"put a {TRUTH_NAME} there, or beside each recording a .txt of the same name with the words said"
        raise UsageError(f"{directory} holds no truth to judge by", hint=hint)
    for truth in truths:
        if not truth.path.is_file():
            raise SourceNotFoundError(f"{listed} names {truth.path.name!r}, which is not there")
    return sorted(truths, key=lambda truth: truth.path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceUnreadableError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from error


def _read_list(path: Path) -> list[Truth]:
    try:
        rows = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not JSON: {error}", hint="write the file anew") from error
    if not isinstance(rows, list):
        raise SourceError(
            f"{path} holds a {type(rows).__name__}",
            hint="it has to be a list, one object a recording",
        )
    truths = []
    for number, row in enumerate(rows):
        try:
            truths.append(_truth(row, path.parent))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"lacks {error}" if isinstance(error, KeyError) else f"is damaged: {error}"
            raise SourceError(
                f"{path}, entry {number}, {problem}", hint="write the entry anew"
            ) from error
    return truths


def _truth(row: Mapping[str, Any], directory: Path) -> Truth:
    segments = tuple(
        TruthSegment(
            text=_string(segment["text"]),
            start=_maybe_seconds(segment.get("start")),
            end=_maybe_seconds(segment.get("end")),
            language=_name(segment.get("language", row.get("language"))),
            speaker=_name(segment.get("speaker")),
            words=tuple(
                TruthWord(
                    _string(word["word"]), _seconds(word["start"]), _maybe_seconds(word.get("end"))
                )
                for word in segment.get("words", ())
            ),
        )
        for segment in row.get("segments", ())
    )
    return Truth(
        directory / _string(row["file"]),
        segments,
        _name(row.get("language")),
        _maybe_seconds(row.get("duration")),
    )


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _name(value: object) -> str | None:
    return None if value is None else _string(value)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise TypeError(f"{value!r} is not a number of seconds")
    return float(value)


def _maybe_seconds(value: object) -> float | None:
    return None if value is None else _seconds(value)


# -- scores ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """Figures that add up over files. Times in seconds; errors are found minus true, so a late start is positive.

    Attributes:
        untimed_words: words of the text without times.
        disordered_words: words that start before the one before them ends.
        invented_words: words found where the truth has none at all; such files do not enter the word error rate.
        outside_speech_words: words in files with speech, more than ``OUTSIDE_SPEECH_S`` from all of it.
        missed_speech_s: true segments during which not one word was found.
    """

    files: int = 0
    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    languages: int = 0
    languages_right: int = 0
    start_errors: tuple[float, ...] = field(default=(), repr=False)
    end_errors: tuple[float, ...] = field(default=(), repr=False)
    words: int = 0
    untimed_words: int = 0
    disordered_words: int = 0
    non_speech_s: float = 0.0
    invented_words: int = 0
    outside_speech_words: int = 0
    speech_s: float = 0.0
    missed_speech_s: float = 0.0

    def __add__(self, other: Score) -> Score:
        return Score(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Score)))

    @property
    def reference_words(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def word_error_rate(self) -> float | None:
        return _share(self.substitutions + self.deletions + self.insertions, self.reference_words)

    @property
    def language_accuracy(self) -> float | None:
        return _share(self.languages_right, self.languages)

    @property
    def missing_words(self) -> float | None:
        """Share of the words said that have no counterpart at all."""
        return _share(self.deletions, self.reference_words)

    def to_json(self) -> dict[str, Any]:
        row = {
            f.name: getattr(self, f.name) for f in fields(self) if not f.name.endswith("_errors")
        }
        row |= {
            "reference_words": self.reference_words,
            "word_error_rate": self.word_error_rate,
            "language_accuracy": self.language_accuracy,
            "missing_words": self.missing_words,
            "word_starts": spread(self.start_errors),
            "word_ends": spread(self.end_errors),
        }
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in row.items()
        }


@dataclass(frozen=True, slots=True)
class FileScore:
    """One recording's figures; ``language`` is the true one, ``found_language`` the transcript's."""

    file: str
    language: str | None
    found_language: str | None
    score: Score

    def to_json(self) -> dict[str, Any]:
        names = {
            "file": self.file,
            "language": self.language,
            "found_language": self.found_language,
        }
        return names | self.score.to_json()


def score(truth: Truth, transcript: Transcript) -> FileScore:
    """Judge one transcript."""
    language = truth.language or transcript.language
    said = list(
        chain.from_iterable(
            _tokens(s.text, s.words, s.language or language) for s in truth.segments
        )
    )
    heard = list(
        chain.from_iterable(
            _tokens(s.text, s.words, s.language or language) for s in transcript.segments
        )
    )
    words = transcript.words
    judged = Score(
        files=1,
        languages=int(truth.language is not None and bool(said)),
        languages_right=int(
            truth.language is not None and bool(said) and truth.language == transcript.language
        ),
        words=len(heard),
        untimed_words=sum(not token.timed for token in heard),
        disordered_words=sum(b.start < a.end - CLOCK_TOLERANCE_S for a, b in pairwise(words)),
    )
    if said:
        judged += _word_score(said, heard) + _speech_score(truth, words)
    else:
        judged += Score(
            invented_words=len(heard), non_speech_s=truth.duration or transcript.duration
        )
    return FileScore(truth.path.name, truth.language, transcript.language, judged)


def total(scores: Iterable[FileScore]) -> Score:
    """All files as one: words are pooled, so a long file weighs more than a short one."""
    return sum((entry.score for entry in scores), Score())


@dataclass(frozen=True, slots=True)
class _Token:
    """A normalised word; ``timed`` where it is part of a word with times, with a start where it begins that word."""

    text: str
    timed: bool = False
    start: float | None = None
    end: float | None = None


def _tokens(
    text: str, words: Sequence[Word] | Sequence[TruthWord], language: str | None
) -> list[_Token]:
    """The text's normalised words, with times where ``words`` has the same word in the same place."""
    tokens = normalise(text, language)
    timed = [token for word in _spaced(words) for token in _parts(word, language)]
    if [token.text for token in timed] == tokens:
        return timed
    forward = set(align(tokens, [token.text for token in timed]))
    backward = align(tokens[::-1], [token.text for token in timed[::-1]])
    found = [_Token(token) for token in tokens]
    for (
        i,
        j,
    ) in (
        backward
    ):  # a word that could stand in two places is in different ones read forward and backward
        if i is None or j is None:
            continue
        i, j = len(tokens) - 1 - i, len(timed) - 1 - j
        if (i, j) in forward and tokens[i].startswith(
            timed[j].text
        ):  # a truth event "drama" is "drama's"
            found[i] = _Token(
                tokens[i],
                True,
                timed[j].start,
                timed[j].end if tokens[i] == timed[j].text else None,
            )
    return found


def _spaced(words: Sequence[Word] | Sequence[TruthWord]) -> list[TruthWord]:
    """Words as they are parted by spaces, where their texts carry them ("well" and "-cut" are one)."""
    carried = any(word.text[:1].isspace() for word in words)
    spaced: list[TruthWord] = []
    for word in words:
        if carried and spaced and not word.text[:1].isspace():
            spaced[-1] = TruthWord(spaced[-1].text + word.text, spaced[-1].start, word.end)
        else:
            spaced.append(TruthWord(word.text, word.start, word.end))
    return spaced


def _parts(word: TruthWord, language: str | None) -> list[_Token]:
    texts = normalise(word.text, language)
    last = len(texts) - 1
    return [
        _Token(text, True, word.start if i == 0 else None, word.end if i == last else None)
        for i, text in enumerate(texts)
    ]


def _word_score(said: Sequence[_Token], heard: Sequence[_Token]) -> Score:
    hits, starts, ends = 0, [], []
    pairs = align([token.text for token in said], [token.text for token in heard])
    for i, j in pairs:
        if i is None or j is None or said[i].text != heard[j].text:
            continue
        hits += 1
        if (true_start := said[i].start) is not None and (start := heard[j].start) is not None:
            starts.append(start - true_start)
        if (true_end := said[i].end) is not None and (end := heard[j].end) is not None:
            ends.append(end - true_end)
    return Score(
        hits=hits,
        substitutions=sum(i is not None and j is not None for i, j in pairs) - hits,
        deletions=sum(j is None for _, j in pairs),
        insertions=sum(i is None for i, _ in pairs),
        start_errors=tuple(starts),
        end_errors=tuple(ends),
    )


def _speech_score(truth: Truth, words: Sequence[Word]) -> Score:
    spans = [(s.start, s.end) for s in truth.segments if s.start is not None and s.end is not None]
    if len(spans) < len(truth.segments):
        return Score()
    margin = OUTSIDE_SPEECH_S
    return Score(
        outside_speech_words=sum(
            not any(
                start - margin <= word.end and word.start <= end + margin for start, end in spans
            )
            for word in words
        ),
        speech_s=sum(end - start for start, end in spans),
        missed_speech_s=sum(
            end - start
            for start, end in spans
            if not any(w.start < end and w.end > start for w in words)
        ),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def spread(errors: Sequence[float]) -> dict[str, Any] | None:
    if not errors:
        return None
    sizes = [abs(error) for error in errors]
    return {
        "words": len(sizes),
        "median_s": round(statistics.median(sizes), 4),
        "median_signed_s": round(statistics.median(errors), 4),
        "within_50_ms": round(sum(size <= NEAR_S for size in sizes) / len(sizes), 4),
        "within_100_ms": round(sum(size <= FAR_S for size in sizes) / len(sizes), 4),
    }
