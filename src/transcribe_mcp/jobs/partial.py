"""The transcript of an unfinished job, from its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..domain.transcript import Notice, Transcript
from ..pipeline.checkpoint import Restored, to_segments
from .models import JobOptions, JobStatus


def partial_transcript(row: Any, steps: Sequence[str], *, settled_only: bool = False) -> Transcript:
    """All results so far in order, with a warning that they are incomplete.

    Args:
        row: of the job.
        steps: results of its finished steps.
        settled_only: only the beginning that later steps do not change.
    """
    options = JobOptions.loads(row.options)
    restored = Restored(steps)
    heard = restored.settled if settled_only else restored.heard
    segments = tuple(to_segments(heard, keep_words=options.words))
    vote = restored.last_vote
    end_s = max((segment.end for segment in segments), default=0.0)
    of = f" of {row.duration_s:.0f} s" if row.duration_s else ""
    going_on = (
        "more is to come" if row.status == JobStatus.RUNNING.value else f"the job is {row.status}"
    )
    notice = Notice("partial", f"only {row.done_s:.0f}{of} are transcribed: {going_on}")
    return Transcript(
        segments=segments,
        duration=max(row.duration_s or 0.0, end_s),
        language=vote.language if segments else None,
        language_probability=vote.probability if segments else None,
        engine=row.engine or "",
        model=row.model or "",
        device=row.device or "",
        compute_type=options.compute_type,
        task=options.task,
        source=row.source,
        warnings=(notice, *vote.notices),
        versions={"transcribe-mcp": __version__},
    )
