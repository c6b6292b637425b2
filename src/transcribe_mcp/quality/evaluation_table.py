"""Format scores as plain text: one line per recording or per program."""

from __future__ import annotations

from collections.abc import Sequence

from ..domain.text_breaks import columns
from .evaluation import FileScore, Score, spread, total
from .speaker_score import SpeakerScore

_FIGURES = ("words", "WER", "missed", "invented", "start ms", "<=50ms", "<=100ms")
# Only where the reference has speakers; "DER+" has a collar.
_SPEAKER_FIGURES = ("DER", "DER+", "speakers", "right words")


def table(scores: Sequence[FileScore]) -> str:
    """One line per recording, and the total."""
    whole = total(scores)
    names = [("file", "lang", "found")]
    names += [(s.file, s.language or "-", s.found_language or "-") for s in scores]
    names.append(("total", "", ""))
    figures = _columns([*(s.score for s in scores), whole])
    return _aligned([(*name, *row) for name, row in zip(names, figures, strict=True)])


def systems_table(systems: Sequence[tuple[str, Score, float]]) -> str:
    """One line per program: name, score over all recordings, seconds."""
    names = ["program", *(name for name, _, _ in systems)]
    seconds = ["seconds", *(f"{seconds:.1f}" for _, _, seconds in systems)]
    figures = _columns([judged for _, judged, _ in systems])
    rows = zip(names, figures, seconds, strict=True)
    return _aligned([(name, *row, taken) for name, row, taken in rows])


def _columns(scores: Sequence[Score]) -> list[tuple[str, ...]]:
    """The head of the columns of figures, and a row per score."""
    if not any(judged.speakers.recordings for judged in scores):
        return [_FIGURES, *map(_figures, scores)]
    rows = [(*_figures(judged), *_speaker_figures(judged.speakers)) for judged in scores]
    return [(*_FIGURES, *_SPEAKER_FIGURES), *rows]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Align the first column left and the others right."""
    widths = [max(columns(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell + " " * (w - columns(cell)) if column == 0 else cell.rjust(w)
            for column, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _figures(judged: Score) -> tuple[str, ...]:
    starts = spread(judged.start_errors) or {}
    invented = judged.invented_words + judged.outside_speech_words
    median = starts.get("median_s")
    return (
        str(judged.reference_words),
        _percent(judged.word_error_rate),
        _percent(judged.missing_words),
        str(invented),
        "-" if median is None else f"{median * 1000:.0f}",
        _percent(starts.get("within_50_ms")),
        _percent(starts.get("within_100_ms")),
    )


def _speaker_figures(judged: SpeakerScore) -> tuple[str, ...]:
    if not judged.recordings:
        return ("-",) * len(_SPEAKER_FIGURES)
    return (
        _percent(judged.errors.rate),
        _percent(judged.collar_errors.rate),
        f"{judged.found_speakers}/{judged.speakers}",
        _percent(judged.word_accuracy),
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
