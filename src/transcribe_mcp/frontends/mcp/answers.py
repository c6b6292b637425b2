"""The answers of the tools: a record for each kind, sent as one JSON object in one block of text.

An answer has no ``structuredContent``: beside it, some clients show the model only that, some only
the text, and some both. Texts from outside, such as file names and speech, are values of fields.
They never become part of our sentences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from ...domain.text_breaks import head
from ...domain.transcript import Notice, Transcript
from ...errors import TranscribeError
from ...service.model_fit import CachedModel, Machine
from ...service.models import Batch, Diagnosis, Hit, Job, JobFailure
from ...service.uploads import shown_source
from ..times import iso
from .hints import for_assistant, next_step

MAX_LINES = 50  # jobs of a batch in one answer


@dataclass(frozen=True, slots=True)
class Failure:
    code: str
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class JobLine:
    job_id: str
    status: str
    source: str
    submitted: str
    percent: float | None = None
    duration_s: float | None = None
    language: str | None = None
    model: str | None = None
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class RefusedLine:
    source: str
    error: Failure


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused call. It has no status, because only jobs have one."""

    error: Failure


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """The state of a job and a part of its transcript. Facts come first, because clients may
    truncate texts.

    Attributes:
        percent: transcribed share of the recording, 0 to 100; absent if the job is final.
        eta_s: seconds left at the measured speed; ``None`` if unknown.
        submitted: time of submission; of a saved transcript, that of the job that made it.
        page: URL of the transcript with its audio, for the user's browser.
        partial: the text is the part finished so far.
        resources: format -> URI of the whole transcript.
    """

    job_id: str
    status: str
    source: str
    error: Failure | None = None
    stage: str | None = None
    percent: float | None = None
    eta_s: float | None = None
    queue_position: int | None = None
    waiting_for: str | None = None
    submitted: str | None = None
    duration_s: float | None = None
    language: str | None = None
    model: str | None = None
    device: str | None = None
    warnings: Sequence[Notice] | None = None
    next_cursor: str | None = None
    next_step: str | None = None
    written: str | None = None
    resources: Mapping[str, str] | None = None
    format: str | None = None
    page: str | None = None
    partial: bool | None = None
    speakers: Sequence[SpeakerLine] | None = None
    segments: Sequence[Mapping[str, Any]] | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class SpeakerLine:
    """``share``: fraction of the time of all speakers."""

    id: str
    share: float


@dataclass(frozen=True, slots=True)
class SpeakersAnswer:
    job_id: str
    speakers: Sequence[SpeakerLine]


@dataclass(frozen=True, slots=True)
class ViewAnswer:
    """A transcript for the transcript view: segments as in ``schema.json``, their words as lists.

    Attributes:
        title: name of the recording.
        revision: 0 is the original; each edit makes another one.
        next_first: number of the first segment of the next answer; absent in the last one.
    """

    job_id: str
    status: str
    title: str
    revision: int
    duration: float
    language: str | None
    segments: Sequence[Mapping[str, Any]]
    next_first: int | None = None


@dataclass(frozen=True, slots=True)
class ClipAnswer:
    """Audio for the transcript view. ``base64`` is a file of the type ``mime``."""

    mime: str
    start_s: float
    base64: str


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """The state of a batch: at most ``MAX_LINES`` jobs, failed ones first; refused sources."""

    job_id: str
    status: str
    percent: float
    counts: Mapping[str, int]
    next_step: str | None
    refused: Sequence[RefusedLine] | None
    jobs: Sequence[JobLine]


@dataclass(frozen=True, slots=True)
class DeletedAnswer:
    job_id: str
    jobs: int  # that the batch had
    deleted: bool = True
    note: str = "The transcripts are gone; the recordings are still there."


@dataclass(frozen=True, slots=True)
class HistoryAnswer:
    jobs: Sequence[JobLine]
    next_cursor: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    hits: Sequence[Hit]
    next_cursor: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class ModelLine:
    """``needs_gb``: memory of a default run here. ``fits``: yes, no, or unknown."""

    name: str
    languages: str
    cached: bool
    fits: str
    needs_gb: float | None = None
    download_mb: int | None = None
    parameters_millions: int | None = None


@dataclass(frozen=True, slots=True)
class ModelsAnswer:
    default_model: str
    runs_on: str
    note: str
    models: Sequence[ModelLine]


@dataclass(frozen=True, slots=True)
class DiagnosisAnswer:
    """``fit``: no finding blocks transcription. ``plan``: commands for the user, in order."""

    fit: bool
    findings: Sequence[Mapping[str, Any]]
    plan: Sequence[Mapping[str, str]] | None = None
    report: str | None = None


Answer = (
    Refusal
    | JobAnswer
    | ViewAnswer
    | ClipAnswer
    | BatchAnswer
    | SpeakersAnswer
    | DeletedAnswer
    | HistoryAnswer
    | SearchAnswer
    | ModelsAnswer
    | DiagnosisAnswer
)


def is_failed(answer: Answer) -> bool:
    """Whether it is a failed job without text."""
    if not isinstance(answer, JobAnswer) or answer.status != "failed":
        return False
    return answer.text is None and answer.segments is None and answer.written is None


def dumps(answer: Answer) -> str:
    """The answer as JSON, without unknown values."""
    return json.dumps(_plain(answer), ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items() if each is not None}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def clean(value: str) -> str:
    """Escape lone surrogates, which stand for bytes that are not UTF-8 in file names."""
    return value.encode("utf-8", "backslashreplace").decode()


def refusal(error: TranscribeError) -> Refusal:
    return Refusal(failure_of(error))


def failure_of(error: TranscribeError | JobFailure) -> Failure:
    message = error.message if isinstance(error, JobFailure) else str(error)
    return Failure(error.code, for_assistant(message) or message, for_assistant(error.hint) or None)


def job_answer(job: Job, **more: Any) -> JobAnswer:
    """The state of a job; ``more`` overrides fields."""
    is_over = job.status.is_final
    warnings = [Notice(notice.code, for_assistant(notice.message)) for notice in job.warnings]
    state: dict[str, Any] = {
        "job_id": job.job_id,
        "status": job.status.value,
        "source": shown_source(job.source),
        "error": failure_of(job.error) if job.error else None,
        "stage": job.stage if job.status == "running" else None,
        "percent": None
        if job.status == "completed" or (is_over and not job.percent)
        else round(job.percent, 1),
        "eta_s": None if is_over or job.eta_s is None else round(job.eta_s, 1),
        "queue_position": job.queue_position,
        "waiting_for": for_assistant(job.waiting_for or "") or None,
        "submitted": iso(job.created_at),
        "duration_s": job.duration_s,
        "language": job.language,
        "model": job.model,
        "device": job.device if is_over else None,
        "warnings": warnings or None,
        "next_step": next_step(job, has_more=bool(more.get("next_cursor"))),
    }
    return JobAnswer(**state | more)


def speaker_lines(transcript: Transcript) -> list[SpeakerLine]:
    return [SpeakerLine(one.id, round(one.share, 2)) for one in transcript.speakers]


def batch_answer(batch: Batch) -> BatchAnswer:
    order = {"failed": 0, "cancelled": 1, "running": 2, "queued": 3, "completed": 4}
    jobs = sorted(batch.jobs, key=lambda job: order[job.status.value])
    counts = {status: sum(job.status == status for job in jobs) for status in order}
    refused = [RefusedLine(each.source, failure_of(each.error)) for each in batch.refused]
    return BatchAnswer(
        job_id=batch.job_id,
        status=batch.status.value,
        percent=round(batch.percent, 1),
        counts={status: number for status, number in counts.items() if number}
        | {"refused": len(refused)},
        next_step=next_step(batch),
        refused=refused[:MAX_LINES] or None,
        jobs=[job_line(job) for job in jobs[:MAX_LINES]],
    )


def job_line(job: Job) -> JobLine:
    return JobLine(
        job_id=job.job_id,
        status=job.status.value,
        source=shown_source(job.source),
        submitted=iso(job.created_at),
        percent=None if job.status.is_final else round(job.percent, 1),
        duration_s=job.duration_s,
        language=job.language,
        model=job.model,
        error=failure_of(job.error) if job.error else None,
    )


def history_answer(jobs: Sequence[Job], next_cursor: str | None) -> HistoryAnswer:
    note = None if jobs else "No job matches. Without arguments the tool lists every job."
    return HistoryAnswer([job_line(job) for job in jobs], next_cursor, note)


def search_answer(
    hits: Sequence[Hit], next_cursor: str | None, *, is_filtered: bool = False
) -> SearchAnswer:
    note = None
    if not hits:
        note = "No sentence has all these words. Try fewer words, or words as people say them."
    if not hits and is_filtered:
        note = f"{note} Or leave out speaker, source_contains and days."
    shown = [replace(hit, source=shown_source(hit.source)) for hit in hits]
    return SearchAnswer(shown, next_cursor, note)


def models_answer(models: Sequence[CachedModel], default: str, machine: Machine) -> ModelsAnswer:
    note = (
        "auto uses the best cached model that fits this machine. "
        "needs_gb: memory of a default run here."
    )
    lines = [
        ModelLine(
            name=model.name,
            languages=model.languages,
            cached=model.is_here,
            fits={True: "yes", False: "no", None: "unknown"}[model.fits],
            needs_gb=None if model.need_bytes is None else round(model.need_bytes / 1e9, 1),
            download_mb=None if model.download_bytes is None else round(model.download_bytes / 1e6),
            parameters_millions=model.parameters_millions,
        )
        for model in models
    ]
    free = (
        "memory unknown"
        if machine.hardware.free_bytes is None
        else f"{machine.hardware.free_bytes / 1e9:.1f} GB free"
    )
    here = f"{machine.hardware.label}, {machine.compute_type}, {free}"
    return ModelsAnswer(default, here, note, lines)


def diagnosis_answer(diagnosis: Diagnosis, max_chars: int, *, details: bool) -> DiagnosisAnswer:
    names = ("code", "severity", "title", "evidence", "consequence", "fix")
    found = [
        {name: each.get(name) or None for name in names}
        for each in diagnosis.report.get("findings", ())
    ]
    steps = (diagnosis.report.get("plan") or {}).get("steps", ())
    plan = [{"command": step["command"], "why": step["why"]} for step in steps]
    report = head(diagnosis.text, max_chars) if details else None
    return DiagnosisAnswer(diagnosis.report.get("result") == "fit", found, plan or None, report)
