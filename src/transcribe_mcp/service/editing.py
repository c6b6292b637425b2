"""Edits of finished transcripts, with their history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .models import Revision
from .service import Service

if TYPE_CHECKING:
    from ..jobs.revisions import Change, Outcome


@dataclass(frozen=True, slots=True)
class Saved:
    """An edit that is on disk.

    Attributes:
        revision: the newest one now.
        n_segments: of the transcript now.
        segments: those that the edit created, as in ``domain/schema.json``. Others have only moved.
        renamed: speakers before -> their names now, in all other segments.
        speakers: as in ``domain/schema.json``; empty without turns.
    """

    revision: int
    n_segments: int
    segments: tuple[dict[str, Any], ...]
    renamed: dict[str, str]
    speakers: tuple[dict[str, Any], ...]


class Editing:
    """Changes the transcripts of one service. All methods block; threads may share it."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def prepare(self) -> None:
        """Load modules before the first edit needs them."""
        import_module("..jobs.editing", __package__)

    def edit(self, job_id: str, ops: Sequence[Any], revision: int) -> Saved:
        """Apply ops, all or none, and save the result before returning it.

        Args:
            ops: objects as in ``docs/web.md``.
            revision: the newest one known to the caller.

        Raises:
            JobNotFoundError, JobStateError: see ``Service.finished_row``.
            EditConflictError: there is a newer revision.
            UsageError: an invalid op.
        """
        from ..jobs.editing import apply

        saved, outcome = self._save(
            job_id, revision, lambda original, base: apply(original, base, ops)
        )
        transcript = outcome.edited.transcript
        return Saved(
            revision=saved,
            n_segments=len(transcript.segments),
            segments=tuple(transcript.segment_rows(outcome.changed)),
            renamed=dict(outcome.renamed),
            speakers=tuple(transcript.speaker_rows() if transcript.turns else ()),
        )

    def history(self, job_id: str) -> tuple[Revision, ...]:
        """The revisions that are kept, newest first; the last is the original.

        Raises:
            JobNotFoundError, JobStateError: see ``Service.finished_row``.
        """
        row = self._service.finished_row(job_id)
        return self._service.revisions().list_of(row.transcript_id)

    def restore(self, job_id: str, revision: int, expected: int | None = None) -> int:
        """Make an earlier revision the newest again, as a new one; returns its number.

        Args:
            expected: the newest one known to the caller; ``None``: any.

        Raises:
            JobNotFoundError, JobStateError: see ``Service.finished_row``.
            RevisionNotFoundError: there is none of this number.
            EditConflictError: there is a newer revision than expected.
        """
        row = self._service.finished_row(job_id)
        return self._service.revisions().restore(row.transcript_id, revision, expected)

    def _save(self, job_id: str, expected: int, change: Change) -> tuple[int, Outcome]:
        transcript_id = self._service.finished_row(job_id).transcript_id
        revisions = self._service.revisions()
        revision, outcome = revisions.add(transcript_id, expected, change)
        revisions.keep(transcript_id, revision, outcome.edited)
        return revision, outcome
