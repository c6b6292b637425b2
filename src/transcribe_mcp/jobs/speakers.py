"""Change the speakers of a finished transcript; the recording is not needed."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..domain.options import NONE
from ..domain.speaker_labels import checked_name, composed, merged, renamed, without_doubts
from ..domain.transcript import Transcript
from ..errors import JobStateError
from . import transcripts
from .models import JobOptions, SpeakerChange
from .revisions import Edited, Outcome, Revisions, origins_in
from .store import Store

if TYPE_CHECKING:
    from ..speakers.voices import KnownVoice


def change_speakers(store: Store, revisions: Revisions, row: Any, change: SpeakerChange) -> None:
    """Make a revision of the transcript of a job, also for other jobs that share it.

    Args:
        row: of a job with a transcript.

    Raises:
        JobStateError: the change detects speakers again, but their evidence is not stored.
        UsageError: an unknown speaker or voice, or an impossible name.
        VoiceStoreError: the change names known voices, and their file cannot be read.
    """
    known = _known_voices(store, row, change)
    evidence = None
    if change.again is not None:
        with store.begin() as connection:
            evidence = transcripts.load_evidence(connection, row.transcript_id)

    def changed(original: Transcript, base: Edited) -> Outcome:
        cut = base
        if change.again is not None or change.merge:
            cut = origins_in(original, _cut_anew(base.transcript, evidence, change, known))
        names = {old: checked_name(new) for old, new in change.names.items()}
        transcript = renamed(cut.transcript, names) if names else cut.transcript
        labels = {*change.names, *chain(*change.merge)}
        warnings = without_doubts(transcript.warnings, labels)
        result = replace(
            cut,
            transcript=replace(transcript, warnings=warnings),
            names=composed(cut.names, names),
        )
        return Outcome(result, renamed=names if cut is base else {})

    revisions.add(row.transcript_id, None, changed)


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


def _cut_anew(
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
    return merged(transcript, change.merge) if change.merge else transcript
