"""Change the speakers of a finished transcript; the recording is not needed."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ..domain.speaker_labels import merged, renamed
from ..domain.transcript import Transcript
from ..errors import JobStateError
from . import transcripts
from .models import SpeakerChange
from .row_mapping import to_warnings
from .schema import jobs
from .store import Store
from .writer_link import RequirementError


def change_speakers(store: Store, row: Any, change: SpeakerChange) -> None:
    """Replace the stored transcript of a job, also for other jobs that share it.

    Args:
        row: of a job with a transcript.

    Raises:
        JobStateError: speakers are to be found anew, but their evidence is not stored.
        UsageError: an unknown speaker, or an impossible name.
    """

    def work(connection: sa.Connection) -> None:
        query = sa.select(transcripts.REVISION).where(jobs.c.job_id == row.job_id)
        revision = connection.execute(query).scalar()
        transcript = transcripts.load(connection, row.transcript_id)
        if revision is None or transcript is None:
            raise JobStateError(f"the transcript of job {row.job_id} was deleted")
        evidence = transcripts.load_evidence(connection, row.transcript_id)
        result = _changed(transcript, evidence, change)
        if not transcripts.replace(connection, row.transcript_id, revision, result):
            raise RequirementError  # another change was first
        if result.warnings != transcript.warnings:
            sharing = jobs.update().where(jobs.c.transcript_id == row.transcript_id)
            connection.execute(sharing.values(warnings=to_warnings(result.warnings)))

    store.transact(work)


def _changed(transcript: Transcript, evidence: bytes | None, change: SpeakerChange) -> Transcript:
    if change.again is not None:
        from ..pipeline.speaker_names import reassigned
        from ..speakers.evidence import Evidence

        hint = "transcribe the recording again with --queue --diarize --force"
        if evidence is None:
            raise JobStateError("the voices of this transcript are not stored", hint=hint)
        try:
            heard = Evidence.loads(evidence)
        except ValueError as error:
            raise JobStateError(str(error), hint=hint) from error
        transcript = reassigned(transcript, heard, change.again)
    if change.merge:
        transcript = merged(transcript, change.merge)
    return renamed(transcript, change.names) if change.names else transcript
