"""Format scores as plain text: one line per recording or per program."""

from __future__ import annotations

from collections.abc import Sequence

from ..domain.text_breaks import columns
from .evaluation import FileScore, Score, spread, total

_FIGURES = ("words", "WER", "missed", "invented", "start ms", "<=50ms", "<=100ms")


def table(scores: Sequence[FileScore]) -> str:
    """One line per recording, and the total."""
    rows: list[tuple[str, ...]] = [("file", "lang", "found", *_FIGURES)]
    rows += [
        (s.file, s.language or "-", s.found_language or "-", *_figures(s.score)) for s in scores
    ]
    return _aligned([*rows, ("total", "", "", *_figures(total(scores)))])


def systems_table(systems: Sequence[tuple[str, Score, float]]) -> str:
    """One line per program: name, score over all recordings, seconds."""
    rows = [("program", *_FIGURES, "seconds")]
    return _aligned(
        [*rows, *((name, *_figures(judged), f"{seconds:.1f}") for name, judged, seconds in systems)]
    )


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


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
