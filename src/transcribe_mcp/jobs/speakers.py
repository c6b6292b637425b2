"""Change the speakers of a finished transcript; the recording is not needed."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ..domain.options import NONE
from ..domain.speaker_labels import merged, renamed
from ..domain.transcript import Transcript
from ..errors import JobStateError
from . import transcripts
from .models import JobOptions, SpeakerChange
from .row_mapping import to_warnings
from .schema import jobs
from .store import Store
from .writer_link import RequirementError

if TYPE_CHECKING:
    from ..speakers.voices import KnownVoice


def change_speakers(store: Store, row: Any, change: SpeakerChange) -> None:
    """Replace the stored transcript of a job, also for other jobs that share it.

    Args:
        row: of a job with a transcript.

    Raises:
        JobStateError: speakers are to be found anew, but their evidence is not stored.
        UsageError: an unknown speaker or voice, or an impossible name.
        VoiceStoreError: known voices are to be named, and their file cannot be read.
    """
    known = _known_voices(store, row, change)

    def work(connection: sa.Connection) -> None:
        query = sa.select(transcripts.REVISION).where(jobs.c.job_id == row.job_id)
        revision = connection.execute(query).scalar()
        transcript = transcripts.load(connection, row.transcript_id)
        if revision is None or transcript is None:
            raise JobStateError(f"the transcript of job {row.job_id} was deleted")
        evidence = transcripts.load_evidence(connection, row.transcript_id)
        result = _changed(transcript, evidence, change, known)
        if not transcripts.replace(connection, row.transcript_id, revision, result):
            raise RequirementError  # another change was first
        if result.warnings != transcript.warnings:
            sharing = jobs.update().where(jobs.c.transcript_id == row.transcript_id)
            connection.execute(sharing.values(warnings=to_warnings(result.warnings)))

    store.transact(work)


def _known_voices(store: Store, row: Any, change: SpeakerChange) -> tuple[KnownVoice, ...]:
    """Those that the change names, or else those of the job that are still stored."""
    if change.again is None:
        return ()
    voices = JobOptions.loads(row.options).voices if change.voices is None else change.voices
    if voices == NONE:
        return ()
    from ..speakers.voice_store import VoiceStore

    found = VoiceStore(store.data_dir)
    return found.remaining(voices) if change.voices is None else found.chosen(voices)


def _changed(
    transcript: Transcript,
    evidence: bytes | None,
    change: SpeakerChange,
    known: tuple[KnownVoice, ...],
) -> Transcript:
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
        transcript = reassigned(transcript, heard, change.again, known)
    if change.merge:
        transcript = merged(transcript, change.merge)
    if change.names:
        transcript = renamed(transcript, change.names)
    return _without_doubts(transcript, {*change.names, *chain(*change.merge)})


def _without_doubts(transcript: Transcript, labels: set[str]) -> Transcript:
    """Without warnings that speakers with these labels may be known voices: the user has said."""
    doubts = tuple(f"{label} may be " for label in labels)
    warnings = tuple(
        notice
        for notice in transcript.warnings
        if notice.code != "voice_uncertain" or not notice.message.startswith(doubts)
    )
    return replace(transcript, warnings=warnings)
