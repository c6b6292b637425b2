"""What front ends, the store and the worker say to each other about jobs. Imports nothing heavy.

Times of day are seconds since the epoch; times in a recording are seconds on its own clock. ``None`` means not
measured or not yet known.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from ..domain.options import (
    TEMPERATURES,
    EngineSpec,
    FormatOptions,
    Options,
    declared_in,
)
from ..domain.transcript import Notice
from ..errors import UsageError

# Rows have always held these, whatever their value. Every other option is left out while it is the default, so that
# the text of a row and its key do not change when an option is added.
_ALWAYS_STORED = frozenset(
    {
        "engine", "model", "device", "compute_type", "offline", "language", "multilingual", "task", "words", "vad",
        "prompt", "vocabulary", "temperatures", "beam_size", "batch_size", "diarize",
    }
)  # fmt: skip


class JobStatus(StrEnum):
    """Where a job is. The last three are final, until it is retried."""

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
    """How a job transcribes its recording: two jobs with equal options on equal content have the same transcript.

    Nothing is checked before the job is submitted (``job_options.checked``): rows of any version can be listed.
    """

    def __post_init__(self) -> None:
        pass

    def to_json(self) -> dict[str, Any]:
        """The options that a job has, by name. ``None`` stands for the default temperatures."""
        values = {
            name: getattr(self, name)
            for name, _, declared in declared_in(self)
            if "jobs" not in declared.hidden_in
        }
        is_default = self.temperatures == TEMPERATURES
        return values | {"temperatures": None if is_default else self.temperatures}

    def dumps(self) -> str:
        """Canonical JSON: equal options are equal texts."""
        defaults = {name: default for name, default, _ in declared_in(self)}
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
            UsageError: an option that this version does not know.
        """
        data: dict[str, Any] = json.loads(text)
        if unknown := set(data) - {each.name for each in fields(cls)}:
            hint = "update this installation to the version that made the job"
            raise UsageError(
                f"the job has options that this version does not know: {sorted(unknown)}", hint=hint
            )
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in data.items()
            if value is not None
        }
        return cls(**values)


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """Files to write of each recording; fields as those of ``service.TranscribeRequest``."""

    directory: str
    formats: tuple[str, ...]
    overwrite: bool = False
    skip_existing: bool = False
    look: FormatOptions = field(default_factory=FormatOptions)


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One recording to transcribe.

    Attributes:
        source: path of a file on this machine. Whether the caller may read it has been decided before.
        force: transcribe again, though the library has the same content with the same options.
        roots: directories without links in their paths. Whenever the file is opened it must lie inside one of them.
            ``None`` for a user's own jobs, which may read any file.
        output: files to write when the job is done.
        from_shell: a person at a shell asks: ``-`` is standard input, and URLs may name hosts of their own network.
    """

    source: str
    options: JobOptions = JobOptions()
    force: bool = False
    roots: tuple[str, ...] | None = None
    output: OutputRequest | None = None
    from_shell: bool = False


@dataclass(frozen=True, slots=True)
class JobFailure:
    """An error of the tree in ``errors.py``, kept: its code, message and way out."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One job as the store knows it now.

    Attributes:
        job_id: 26 characters, in order of submission.
        batch_id: the batch that it was submitted with.
        stage: what is being done: ``queued``, ``load``, ``download``, ``waiting`` (for a job on the same content),
            ``windows``, ``write``; empty once final.
        percent: share of the recording that is transcribed, 0 to 100; from work done, never guessed.
        eta_s: seconds until it is done by measured speed; ``None`` where none was measured yet.
        queue_position: jobs that start before this one, plus one; ``None`` unless queued.
        waiting_for: why nobody works on it: "no worker: REASON; next try in N s". ``None`` where a worker runs.
        duration_s: length of the recording.
        attempts: how often its work was begun; more than 1 after a crash or a retry.
        from_job_id: the earlier job whose transcript answers this one.
        language, model, device: what made the transcript.
        outputs: paths of the files that were asked for and are written.
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
class Refused:
    """A source of a batch that became no job, and why."""

    source: str
    error: JobFailure


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that were submitted together. ``job_id`` names the batch wherever a job is asked for.

    ``status`` is ``queued`` before any began, ``running`` until all are final, then ``completed``: the batch is done,
    whatever became of each; ``cancelled`` or ``failed`` where that became of every one. ``skipped`` are sources whose
    files were all there when it was submitted; only the answer to the submission has them.
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
    """Which jobs to list. Every field narrows; empty means all.

    Attributes:
        statuses: any of these.
        source_contains: part of the path, letter case ignored.
        since: submitted at or after this time, seconds since the epoch.
    """

    statuses: tuple[JobStatus, ...] = ()
    source_contains: str = ""
    batch_id: str = ""
    since: float | None = None


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first; ``next_cursor`` asks for the following page and is ``None`` on the last."""

    jobs: tuple[Job, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A sentence that was found, with what was said before and after it."""

    job_id: str
    source: str
    start: float
    end: float
    text: str
    before: str = ""
    after: str = ""
    language: str | None = None


@dataclass(frozen=True, slots=True)
class HitPage:
    """Hits, best first. ``next_cursor`` as in ``JobPage``."""

    hits: tuple[Hit, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor finds on this machine, for people and for programs."""

    text: str
    report: dict[str, Any] = field(default_factory=dict)
