"""Records about jobs, shared by front ends, database and workers. Imports nothing heavy.

Times of day are seconds since the epoch. Times in a recording are seconds on its own clock.
``None`` means not measured or not yet known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from ..domain.options import (
    TEMPERATURES,
    EngineSpec,
    FormatOptions,
    Options,
    options_of,
)
from ..domain.transcript import Notice
from ..errors import UsageError

# Version 0.1.0 stored these whatever their value. Rows leave out any other option that is the
# default, so that their text and key stay equal when an option is added.
_ALWAYS_STORED = frozenset(
    {
        "engine", "model", "device", "compute_type", "offline", "language", "multilingual", "task",
        "words", "vad", "prompt", "vocabulary", "temperatures", "beam_size", "batch_size",
        "diarize",
    }
)  # fmt: skip


class JobStatus(StrEnum):
    """Status of a job. The last three are final, unless the job is retried."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


@dataclass(frozen=True)
class JobOptions(Options, EngineSpec):
    """How a job transcribes: equal options on equal content give the same transcript.

    Values are not checked here, so that rows of every version can be listed. Submission checks
    them: see ``job_options.normalized_options``.
    """

    def __post_init__(self) -> None:
        pass

    def to_json(self) -> dict[str, Any]:
        """The options of a job by name. ``None`` stands for the default temperatures."""
        values = {each.name: getattr(self, each.name) for each in options_of(self, "jobs")}
        is_default = self.temperatures == TEMPERATURES
        return values | {"temperatures": None if is_default else self.temperatures}

    def dumps(self) -> str:
        """Canonical JSON: equal options are equal texts."""
        defaults = {each.name: each.default for each in options_of(self)}
        stored = {
            name: value
            for name, value in self.to_json().items()
            if name in _ALWAYS_STORED or value != defaults[name]
        }
        return json.dumps(stored, sort_keys=True, ensure_ascii=False)

    @classmethod
    def loads(cls, text: str) -> JobOptions:
        """
        Raises:
            UsageError: an option of another version.
        """
        data: dict[str, Any] = json.loads(text)
        if unknown := set(data) - {each.name for each in fields(cls)}:
            hint = "update this installation to the version that made the job"
            raise UsageError(
                f"the job has options that this version does not support: {sorted(unknown)}",
                hint=hint,
            )
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in data.items()
            if value is not None
        }
        return cls(**values)


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """Files to write for each recording; same fields as in ``TranscribeRequest``."""

    directory: str
    formats: tuple[str, ...]
    overwrite: bool = False
    skip_existing: bool = False
    look: FormatOptions = field(default_factory=FormatOptions)


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One recording to transcribe.

    Attributes:
        source: path of a file on this machine. The caller has checked that it may be read.
        force: transcribe again even if a saved transcript has the same content and options.
        roots: resolved directories. The file must lie inside one of them whenever it is opened.
            ``None`` for a user's own jobs, which may read any file.
        output: files to write when the job is completed.
        from_shell: submitted at a shell: ``-`` is standard input, and URLs may name local hosts.
    """

    source: str
    options: JobOptions = JobOptions()
    force: bool = False
    roots: tuple[str, ...] | None = None
    output: OutputRequest | None = None
    from_shell: bool = False


@dataclass(frozen=True, slots=True)
class SpeakerChange:
    """Changes to the speakers of a transcript, made in this order.

    Attributes:
        again: detect them again from their stored evidence, within the bounds of these options.
        merge: groups of names. Each group becomes one speaker with its first name.
        names: old name -> new name.
        voices: known voices to recognize ``again``, as in ``Options``; ``None``: those of the job.
    """

    again: Options | None = None
    merge: tuple[tuple[str, ...], ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    voices: str | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of a transcript; 0 is the original."""

    revision: int
    created_at: float


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Code, message and hint of an error in ``errors.py``, as stored."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """The present state of a job in the database.

    Attributes:
        job_id: 26 characters; sorts by submission.
        batch_id: the batch of its submission.
        stage: ``queued``, ``load``, ``download``, ``waiting`` (for a job on the same content),
            ``windows`` or ``write``; empty once final.
        percent: transcribed share of the recording, 0 to 100; measured, not estimated.
        eta_s: seconds left at the measured speed; ``None`` before any was measured.
        queue_position: jobs that start before this one, plus one; ``None`` unless queued.
        waiting_for: "no worker: REASON; next try in N s"; ``None`` while a worker runs.
        duration_s: length of the recording.
        attempts: number of starts; more than 1 after a crash or a retry.
        from_job_id: the earlier job from which the transcript was copied.
        language, model, device: of the transcript.
        outputs: paths of the requested files written so far.
    """

    job_id: str
    source: str
    status: JobStatus
    options: JobOptions = JobOptions()
    batch_id: str | None = None
    stage: str = ""
    percent: float = 0.0
    eta_s: float | None = None
    queue_position: int | None = None
    waiting_for: str | None = None
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    duration_s: float | None = None
    error: JobFailure | None = None
    warnings: tuple[Notice, ...] = ()
    attempts: int = 0
    from_job_id: str | None = None
    language: str | None = None
    model: str | None = None
    device: str | None = None
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outline:
    """What a list shows of a transcript: its first words, the number of speakers if known, and its
    newest revision; ``None`` for a part of a transcript.
    """

    preview: str
    n_speakers: int | None = None
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A refused source of a batch, with the reason."""

    source: str
    error: JobFailure


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs of one submission. Functions that take a job's ID also take the ``job_id`` of a batch.

    ``status`` is the common status of all jobs. Otherwise it is ``running`` until all are final,
    and then ``completed``, even if some failed. ``skipped``: sources whose output files all existed
    at submission; only the answer to the submission has them.
    """

    job_id: str
    jobs: tuple[Job, ...]
    refused: tuple[Refused, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def status(self) -> JobStatus:
        states = {job.status for job in self.jobs}
        if len(states) == 1:
            return states.pop()
        if not states:
            return JobStatus.FAILED
        if all(state.is_final for state in states):
            return JobStatus.COMPLETED
        return JobStatus.RUNNING

    @property
    def percent(self) -> float:
        done = [100.0 if job.status.is_final else job.percent for job in self.jobs]
        return sum(done) / len(done) if done else 100.0


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Filter for the list of jobs. Empty fields match all.

    Attributes:
        statuses: any of these.
        source_contains: part of the path, in any letter case.
        or_sources: paths that match too, whatever ``source_contains`` is.
        since: submitted at or after this time, seconds since the epoch.
    """

    statuses: tuple[JobStatus, ...] = ()
    source_contains: str = ""
    or_sources: tuple[str, ...] = ()
    batch_id: str = ""
    since: float | None = None


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first. ``next_cursor`` requests the next page; ``None`` on the last one."""

    jobs: tuple[Job, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A sentence that matches a search, with the sentences before and after it."""

    job_id: str
    source: str
    start: float
    end: float
    text: str
    before: str = ""
    after: str = ""
    language: str | None = None
    speaker: str | None = None
    created_at: float | None = None


@dataclass(frozen=True, slots=True)
class HitPage:
    """Hits, best first. ``next_cursor`` as in ``JobPage``."""

    hits: tuple[Hit, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The doctor's findings, as text for people and as data for programs."""

    text: str
    report: dict[str, Any] = field(default_factory=dict)
