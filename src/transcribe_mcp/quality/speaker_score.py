"""Score the speakers of a transcript against reference turns."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..domain.transcript import Turn, Word
from ..errors import SourceError, SourceUnreadableError
from .der import COLLAR_S, DiarizationErrors, assigned_total, diarization_errors

NEAR_S = 0.5  # a word this far from all reference turns has no true speaker
TURN_FILES = (".rttm", ".json")  # extensions of files with turns


@dataclass(frozen=True, slots=True)
class SpeakerScore:
    """Additive figures.

    Attributes:
        recordings: those whose reference has speakers.
        counts_right: recordings with the right number of speakers.
        errors: with overlap and without a collar.
        collar_errors: without ``COLLAR_S`` on each side of reference boundaries.
        words: words with a true speaker.
        words_right: words with the right speaker; speakers are matched one to one.
    """

    recordings: int = 0
    counts_right: int = 0
    speakers: int = 0
    found_speakers: int = 0
    errors: DiarizationErrors = field(default_factory=DiarizationErrors)
    collar_errors: DiarizationErrors = field(default_factory=DiarizationErrors)
    words: int = 0
    words_right: int = 0

    def __add__(self, other: SpeakerScore) -> SpeakerScore:
        return SpeakerScore(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def word_accuracy(self) -> float | None:
        return self.words_right / self.words if self.words else None

    def to_json(self) -> dict[str, Any]:
        seconds = {f.name: getattr(self.errors, f.name) for f in fields(self.errors)}
        row = {
            "recordings": self.recordings,
            "counts_right": self.counts_right,
            "speakers": self.speakers,
            "found_speakers": self.found_speakers,
            "diarization_error_rate": self.errors.rate,
            "diarization_error_rate_collar": self.collar_errors.rate,
            **seconds,
            "words": self.words,
            "words_right": self.words_right,
            "word_accuracy": self.word_accuracy,
        }
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in row.items()
        }


def score_speakers(
    reference: Sequence[Turn], found: Sequence[Turn], words: Sequence[Word] = ()
) -> SpeakerScore:
    """Score turns and words of one recording. ``reference`` has at least one turn."""
    n_true = len({turn.speaker for turn in reference})
    n_found = len({turn.speaker for turn in found})
    n_judged, n_right = _words_right(reference, words)
    return SpeakerScore(
        recordings=1,
        counts_right=int(n_true == n_found),
        speakers=n_true,
        found_speakers=n_found,
        errors=diarization_errors(reference, found),
        collar_errors=diarization_errors(reference, found, COLLAR_S),
        words=n_judged,
        words_right=n_right,
    )


def _words_right(reference: Sequence[Turn], words: Sequence[Word]) -> tuple[int, int]:
    """The number of words with a true speaker, and of those with the right one.

    The speaker who shares most of a word's time is its true one. If several share the whole
    word, each of them is.
    """
    rows = {name: i for i, name in enumerate(sorted({turn.speaker for turn in reference}))}
    names = sorted({word.speaker for word in words if word.speaker is not None})
    columns = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(rows), len(columns)))
    speakers = np.array([rows[turn.speaker] for turn in reference], np.intp)
    starts = np.array([turn.start for turn in reference])
    ends = np.array([turn.end for turn in reference])
    n_judged = 0
    for word in words:
        shared = np.minimum(ends, word.end) - np.maximum(starts, word.start)
        if shared.max() < -NEAR_S:
            continue
        n_judged += 1
        if word.speaker is not None:
            true = np.unique(speakers[shared >= shared.max() - 1e-6])
            counts[true, columns[word.speaker]] += 1
    return n_judged, round(assigned_total(counts))


# -- references ------------------------------------------------------------------------------------


def read_turns(path: Path, recording: str = "") -> tuple[Turn, ...]:
    """The turns of an RTTM file, or of a transcript in our JSON.

    Args:
        recording: name without extension; needed if the RTTM file describes several.

    Raises:
        SourceError: the file is missing or damaged.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        turns = _from_json(text) if path.suffix.lower() == ".json" else _from_rttm(text, recording)
    except OSError as error:
        raise SourceUnreadableError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise SourceError(
            f"{path} has no speaker turns: {error}",
            hint="use RTTM, or the JSON of a transcript with --diarize",
        ) from error
    return tuple(sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker)))


def turn_of(row: dict[str, Any]) -> Turn:
    """A turn from its JSON form."""
    start = float(row["start"])
    end = float(row["end"])
    speaker = row["speaker"]
    if not isinstance(speaker, str) or not start <= end < math.inf:
        raise ValueError(f"not a turn: {row!r}")
    return Turn(start, end, speaker)


def _from_json(text: str) -> list[Turn]:
    data = json.loads(text)
    return [turn_of(row) for row in (data["turns"] if isinstance(data, dict) else data)]


def _from_rttm(text: str, recording: str) -> list[Turn]:
    rows = [cells for cells in map(str.split, text.splitlines()) if cells[:1] == ["SPEAKER"]]
    names = {cells[1] for cells in rows}
    if len(names) > 1:
        rows = [cells for cells in rows if cells[1] == recording]
    if not rows and text.strip():
        raise ValueError(f"no line starts with SPEAKER {recording}".rstrip())
    times = [(float(cells[3]), float(cells[4]), cells[7]) for cells in rows]
    return [turn_of({"start": a, "end": a + length, "speaker": name}) for a, length, name in times]
