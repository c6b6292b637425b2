"""Score transcripts against reference transcripts.

The reference is a ``truth.json`` beside the recordings, a list of ``{file, language, duration,
segments: [{start, end, text, speaker, words: [{word, start, end}]}]}``; only ``file`` and ``text``
are required. Or it is a ``.txt`` beside each recording, with its words. Figures without a reference
are ``None``.

Speakers come from an ``.rttm`` beside a recording, or else from its entry: ``turns`` names a file
with turns (RTTM or our JSON) or lists them; without it, the segments with times and a speaker are
the turns.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..align.edit_distance import align
from ..domain.transcript import CLOCK_TOLERANCE_S, Transcript, Turn, Word
from ..errors import SourceError, SourceNotFoundError, SourceUnreadableError, UsageError
from .speaker_score import SpeakerScore, read_turns, score_speakers, turn_of
from .wer import normalise

TRUTH_NAME = "truth.json"
OUTSIDE_SPEECH_S = 0.5  # a word this far from all speech was hallucinated
# Two usual limits for an accurate word start.
NEAR_S = 0.05
FAR_S = 0.1

_NOT_MEDIA = {".txt", ".json", ".srt", ".vtt", ".tsv", ".md", ".rttm"}  # extensions of transcripts

# -- truth -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TruthSegment:
    """A reference sentence. ``words`` may be incomplete."""

    text: str
    start: float | None = None
    end: float | None = None
    language: str | None = None
    speaker: str | None = None
    words: tuple[TruthWord, ...] = ()


@dataclass(frozen=True, slots=True)
class TruthWord:
    """A reference word with its start, and its end if known."""

    text: str
    start: float
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """The reference of one recording. ``language`` is ``None`` if unknown or mixed.

    ``turns`` are those of the speakers. With turns and without segments, the words are unknown.
    """

    path: Path
    segments: tuple[TruthSegment, ...]
    language: str | None = None
    duration: float | None = None
    turns: tuple[Turn, ...] = ()


def load_truth(directory: Path) -> list[Truth]:
    """Load the references of a directory, in order of names.

    Raises:
        SourceNotFoundError: no such directory, or a listed recording is missing.
        SourceError: a damaged reference file.
        UsageError: no reference at all.
    """
    if not directory.is_dir():
        raise SourceNotFoundError(
            f"{directory} is not a directory", hint="name the directory of the recordings"
        )
    listed = directory / TRUTH_NAME
    truths = _read_list(listed) if listed.exists() else []
    known = {truth.path for truth in truths}
    truths += [_beside(path) for path in _judged(directory) if path not in known]
    if not truths:
        raise UsageError(
            f"{directory} has no reference",
            hint=(
                f"put a {TRUTH_NAME} there, or beside each recording a .txt of the same name "
                "with the words said, or an .rttm with the speakers"
            ),
        )
    for truth in truths:
        if not truth.path.is_file():
            raise SourceNotFoundError(f"{listed} names {truth.path.name!r}, which does not exist")
    return sorted(map(_with_turns_beside, truths), key=lambda truth: truth.path)


def _judged(directory: Path) -> Iterator[Path]:
    """The recordings with a reference beside them."""
    for path in directory.iterdir():
        has_reference = any(path.with_suffix(suffix).exists() for suffix in (".txt", ".rttm"))
        if has_reference and path.is_file() and path.suffix.lower() not in _NOT_MEDIA:
            yield path


def _beside(path: Path) -> Truth:
    text_path = path.with_suffix(".txt")
    text = _read_text(text_path) if text_path.exists() else ""
    return Truth(path, (TruthSegment(text),) if text.strip() else ())


def _with_turns_beside(truth: Truth) -> Truth:
    beside = truth.path.with_suffix(".rttm")
    return replace(truth, turns=read_turns(beside, beside.stem)) if beside.exists() else truth


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
        raise SourceError(f"{path} is not JSON: {error}", hint="write the file again") from error
    if not isinstance(rows, list):
        raise SourceError(
            f"{path} holds a {type(rows).__name__}",
            hint="it must be a list with one object per recording",
        )
    truths = []
    for number, row in enumerate(rows):
        try:
            truths.append(_truth(row, path.parent))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"lacks {error}" if isinstance(error, KeyError) else f"is damaged: {error}"
            raise SourceError(
                f"{path}, entry {number}, {problem}", hint="correct the entry"
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
        _turns(row, segments, directory),
    )


def _turns(
    row: Mapping[str, Any], segments: Sequence[TruthSegment], directory: Path
) -> tuple[Turn, ...]:
    named = row.get("turns")
    if isinstance(named, str):
        return read_turns(directory / named, Path(row["file"]).stem)
    if isinstance(named, list):
        return tuple(turn_of(each) for each in named)
    turns = [
        Turn(s.start, s.end, s.speaker)
        for s in segments
        if s.start is not None and s.end is not None and s.speaker is not None
    ]
    return tuple(turns) if len(turns) == len(segments) else ()


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


# -- scores ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """Additive figures. Times in seconds; errors are found minus true, so late is positive.

    Attributes:
        untimed_words: words without times.
        disordered_words: words that start before the previous one ends.
        invented_words: words in files without speech; these do not enter the word error rate.
        outside_speech_words: words more than ``OUTSIDE_SPEECH_S`` from all speech.
        missed_speech_s: duration of reference segments without a single word.
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
    speakers: SpeakerScore = field(default_factory=SpeakerScore)

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
        """Share of reference words without a counterpart."""
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
            "speakers": self.speakers.to_json() if self.speakers.recordings else None,
        }
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in row.items()
        }


@dataclass(frozen=True, slots=True)
class FileScore:
    """One recording's figures, with the reference and the detected language."""

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
    """Score one transcript."""
    language = truth.language or transcript.language
    said, heard = (
        [token for s in segments for token in _tokens(s.text, s.words, s.language or language)]
        for segments in (truth.segments, transcript.segments)
    )
    words = transcript.words
    has_language = truth.language is not None and bool(said)
    judged = Score(
        files=1,
        languages=int(has_language),
        languages_right=int(has_language and truth.language == transcript.language),
        words=len(heard),
        untimed_words=sum(not token.timed for token in heard),
        disordered_words=sum(b.start < a.end - CLOCK_TOLERANCE_S for a, b in pairwise(words)),
    )
    if truth.turns:
        judged += Score(speakers=score_speakers(truth.turns, transcript.turns, words))
    if said:
        judged += _word_score(said, heard) + _speech_score(truth, words)
    elif not truth.turns:
        judged += Score(
            invented_words=len(heard), non_speech_s=truth.duration or transcript.duration
        )
    return FileScore(truth.path.name, truth.language, transcript.language, judged)


def score_turns(truth: Truth, transcript: Transcript) -> FileScore:
    """Score the speakers alone, if the reference has any."""
    judged = Score(files=1)
    if truth.turns:
        judged += Score(speakers=score_speakers(truth.turns, transcript.turns))
    return FileScore(truth.path.name, truth.language, None, judged)


def total(scores: Iterable[FileScore]) -> Score:
    """Sum over files: words are pooled, so long files weigh more."""
    return sum((entry.score for entry in scores), Score())


@dataclass(frozen=True, slots=True)
class _Token:
    """A normalised word. ``timed`` if part of a timed word; the start is set on its first token."""

    text: str
    timed: bool = False
    start: float | None = None
    end: float | None = None


def _tokens(
    text: str, words: Sequence[Word] | Sequence[TruthWord], language: str | None
) -> list[_Token]:
    """Normalise a text; words take times from the same word at the same place in ``words``."""
    tokens = normalise(text, language)
    timed = [token for word in _spaced(words) for token in _parts(word, language)]
    if [token.text for token in timed] == tokens:
        return timed
    forward = set(align(tokens, [token.text for token in timed]))
    backward = align(tokens[::-1], [token.text for token in timed[::-1]])
    found = [_Token(token) for token in tokens]
    # Forward and backward alignments agree only on unambiguous words.
    for from_last_i, from_last_j in backward:
        if from_last_i is None or from_last_j is None:
            continue
        i = len(tokens) - 1 - from_last_i
        j = len(timed) - 1 - from_last_j
        word = timed[j]
        if (i, j) in forward and tokens[i].startswith(word.text):  # "drama" starts "drama's"
            end = word.end if tokens[i] == word.text else None
            found[i] = _Token(tokens[i], True, word.start, end)
    return found


def _spaced(words: Sequence[Word] | Sequence[TruthWord]) -> list[TruthWord]:
    """Join word parts that have no space between them ("well" and "-cut")."""
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
    pairs = align([token.text for token in said], [token.text for token in heard])
    paired = [(said[i], heard[j]) for i, j in pairs if i is not None and j is not None]
    hits = [(true, found) for true, found in paired if true.text == found.text]
    return Score(
        hits=len(hits),
        substitutions=len(paired) - len(hits),
        deletions=sum(j is None for _, j in pairs),
        insertions=sum(i is None for i, _ in pairs),
        start_errors=_errors((true.start, found.start) for true, found in hits),
        end_errors=_errors((true.end, found.end) for true, found in hits),
    )


def _errors(times: Iterable[tuple[float | None, float | None]]) -> tuple[float, ...]:
    """Found minus true, for the pairs with both."""
    return tuple(found - true for true, found in times if true is not None and found is not None)


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
