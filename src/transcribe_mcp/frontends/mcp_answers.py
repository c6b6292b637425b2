"""What the tools answer: one record for each kind, from which the published schemas are made.

Every answer carries ``job_id`` and ``status``. Texts that came from outside (file names, what was said) are values of
fields and nothing else: they are cleaned of what is no text and never become part of a sentence of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..errors import TranscribeError
from ..service.jobs import Batch, Diagnosis, Hit, Job, JobFailure
from ..service.machine import ModelHere
from ..text_breaks import head

MAX_LINES = 50  # jobs of a batch in one answer

Status = Literal["queued", "running", "completed", "failed", "cancelled"]


def clean(value: object) -> object:
    """A name of a file may hold bytes that are no text (lone surrogates); they are shown as escapes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(clean)]


class Record(BaseModel):
    # What was said never reaches a log, not even in a message about a field of the wrong type.
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class Failure(Record):
    code: str = Field(description="Stable code of the error.")
    message: Text
    hint: Text = Field(description="The way out.")


class Warning(Record):  # noqa: A001 - the field's name for it
    code: str
    message: Text


class JobLine(Record):
    job_id: str
    status: Status
    source: Text
    percent: float | None = None
    duration_s: float | None = None
    language: str | None = None
    model: Text | None = None
    submitted: str | None = None
    error: Failure | None = None


class RefusedLine(Record):
    source: Text
    error: Failure


class Answer(Record):
    job_id: str | None = Field(description="Id of the job or batch; null where the answer is about no single one.")
    status: Status
    error: Failure | None = Field(default=None, description="Why it failed or was refused.")

    def to_json(self) -> dict[str, Any]:
        """What is known; ``job_id`` even where there is none."""
        return {"job_id": self.job_id, **self.model_dump(mode="json", exclude_none=True)}


class JobAnswer(Answer):
    source: Text | None = None
    stage: str | None = None
    percent: float | None = Field(default=None, description="Share of the recording that is transcribed, 0 to 100.")
    eta_s: float | None = Field(default=None, description="Seconds left by measured speed; absent while unknown.")
    queue_position: int | None = None
    waiting_for: Text | None = Field(default=None, description="Why no worker can start it now.")
    duration_s: float | None = Field(default=None, description="Length of the recording.")
    language: str | None = None
    model: Text | None = None
    device: str | None = None
    attempts: int | None = None
    from_job_id: str | None = Field(default=None, description="The earlier job whose transcript answers this one.")
    warnings: list[Warning] | None = None
    text: Text | None = Field(default=None, description="The transcript, or its first page.")
    next_cursor: str | None = Field(default=None, description="For get_transcription_result: the next page.")
    resources: dict[str, str] | None = Field(default=None, description="Format -> address of the whole transcript.")
    jobs: list[JobLine] | None = Field(default=None, description="Of a batch: its jobs, failed ones first, at most 50.")
    counts: dict[str, int] | None = Field(default=None, description="Of a batch: status -> number of jobs.")
    refused: list[RefusedLine] | None = Field(default=None, description="Of a batch: sources that became no job.")
    next_step: str | None = None


class Segment(Record):
    start: float
    end: float
    text: Text
    speaker: Text | None = None


class ResultAnswer(Answer):
    text: Text | None = None
    segments: list[Segment] | None = None
    format: str | None = None
    next_cursor: str | None = Field(default=None, description="Give it back for the next page; absent on the last.")
    written: Text | None = Field(default=None, description="The file that was written.")
    partial: bool | None = Field(default=None, description="True while more is to come.")
    source: Text | None = None
    duration_s: float | None = None
    language: str | None = None
    warnings: list[Warning] | None = None


class HistoryAnswer(Answer):
    jobs: list[JobLine]
    next_cursor: str | None = None


class HitLine(Record):
    job_id: str
    source: Text
    start: float
    end: float
    text: Text
    before: Text
    after: Text


class SearchAnswer(Answer):
    hits: list[HitLine]
    next_cursor: str | None = None


class FitLine(Record):
    where: Text
    compute_type: str
    batch: int = Field(description="Windows of 30 s at once; 0 where it does not fit.")
    need_gb: float


class ModelLine(Record):
    name: Text
    languages: str
    parameters_millions: int | None = None
    download_mb: int | None = None
    cached: bool = Field(description="On this machine; others are fetched when first used.")
    fits: list[FitLine]


class ModelsAnswer(Answer):
    default_model: Text
    models: list[ModelLine]


class Finding(Record):
    code: str
    severity: str
    title: Text
    evidence: Text = ""
    consequence: Text = ""
    fix: list[Text] = []


class Step(Record):
    command: Text
    why: Text


class DiagnosisAnswer(Answer):
    fit: bool = Field(description="Nothing was found that keeps this machine from working.")
    findings: list[Finding]
    plan: list[Step] = Field(description="Commands that make an environment that fits this machine, in order.")
    report: Text = Field(description="The doctor's page for people.")


def failure_of(error: TranscribeError | JobFailure) -> Failure:
    message = error.message if isinstance(error, JobFailure) else str(error)
    return Failure(code=error.code, message=message, hint=error.hint)


def refusal(error: TranscribeError, job_id: str | None) -> Answer:
    return Answer(job_id=job_id, status="failed", error=failure_of(error))


def job_answer(job: Job | Batch, **more: Any) -> JobAnswer:
    """The state of a job or a batch; ``more`` are fields that the caller knows better."""
    if isinstance(job, Batch):
        return _batch_answer(job, more)
    fields: dict[str, Any] = {
        "job_id": job.job_id,
        "status": job.status.value,
        "error": failure_of(job.error) if job.error else None,
        "source": job.source,
        "stage": job.stage or None,
        "percent": round(job.percent, 1),
        "eta_s": None if job.eta_s is None else round(job.eta_s, 1),
        "queue_position": job.queue_position,
        "waiting_for": job.waiting_for,
        "duration_s": job.duration_s,
        "language": job.language,
        "model": job.model,
        "device": job.device,
        "attempts": job.attempts,
        "from_job_id": job.from_job_id,
        "warnings": [Warning(code=notice.code, message=notice.message) for notice in job.warnings] or None,
        "next_step": _next_step(job),
    }
    return JobAnswer(**fields | more)


def _batch_answer(batch: Batch, more: dict[str, Any]) -> JobAnswer:
    order = {"failed": 0, "cancelled": 1, "running": 2, "queued": 3, "completed": 4}
    jobs = sorted(batch.jobs, key=lambda job: order[job.status.value])
    counts = {status: sum(job.status == status for job in jobs) for status in order}
    refused = [RefusedLine(source=each.source, error=failure_of(each.error)) for each in batch.refused]
    fields: dict[str, Any] = {
        "job_id": batch.job_id,
        "status": batch.status.value,
        "percent": round(batch.percent, 1),
        "jobs": [job_line(job) for job in jobs[:MAX_LINES]],
        "counts": {status: number for status, number in counts.items() if number} | {"refused": len(refused)},
        "refused": refused[:MAX_LINES],
        "next_step": _next_step_of_batch(batch),
    }
    return JobAnswer(**fields | more)


def _next_step(job: Job) -> str:
    if job.status == "completed":
        return "get_transcription_result gives the text in pages, segments with times, or writes a file"
    if job.status.is_final:
        return "get_transcription_result gives what was finished; transcribe_audio with force begins again"
    return "ask get_transcription_progress with this job_id and wait_s, until status is completed"


def _next_step_of_batch(batch: Batch) -> str:
    if batch.status.is_final:
        return "get_transcription_result takes the job_id of one of the jobs"
    return "ask get_transcription_progress with this job_id and wait_s, until status is completed"


def job_line(job: Job) -> JobLine:
    return JobLine(
        job_id=job.job_id,
        status=job.status.value,
        source=job.source,
        percent=None if job.status.is_final else round(job.percent, 1),
        duration_s=job.duration_s,
        language=job.language,
        model=job.model,
        submitted=iso(job.created_at),
        error=failure_of(job.error) if job.error else None,
    )


def history_answer(jobs: Sequence[Job], next_cursor: str | None) -> HistoryAnswer:
    return HistoryAnswer(job_id=None, status="completed", jobs=[job_line(job) for job in jobs], next_cursor=next_cursor)


def search_answer(hits: Sequence[Hit], next_cursor: str | None) -> SearchAnswer:
    names = ("job_id", "source", "start", "end", "text", "before", "after")
    lines = [HitLine(**{name: getattr(hit, name) for name in names}) for hit in hits]
    return SearchAnswer(job_id=None, status="completed", hits=lines, next_cursor=next_cursor)


def models_answer(models: Sequence[ModelHere], default: str) -> ModelsAnswer:
    lines = [
        ModelLine(
            name=model.name,
            languages=model.languages,
            parameters_millions=model.parameters_millions,
            download_mb=None if model.download_bytes is None else round(model.download_bytes / 1e6),
            cached=model.is_here,
            fits=[
                FitLine(
                    where=fit.where,
                    compute_type=fit.compute_type,
                    batch=fit.batch,
                    need_gb=round(fit.need_bytes / 1e9, 1),
                )
                for fit in model.fits
            ],
        )
        for model in models
    ]
    return ModelsAnswer(job_id=None, status="completed", default_model=default, models=lines)


def diagnosis_answer(diagnosis: Diagnosis, max_chars: int) -> DiagnosisAnswer:
    report = diagnosis.report
    steps = (report.get("plan") or {}).get("steps", ())
    findings = [
        Finding(**{name: found.get(name) or "" for name in ("code", "severity", "title", "evidence", "consequence")},
                fix=list(found.get("fix") or ()))
        for found in report.get("findings", ())
    ]  # fmt: skip
    return DiagnosisAnswer(
        job_id=None,
        status="completed",
        fit=report.get("result", "") == "fit",
        findings=findings,
        plan=[Step(command=step["command"], why=step["why"]) for step in steps],
        report=head(diagnosis.text, max_chars),
    )


def iso(seconds: float) -> str:
    """Seconds since the epoch -> ``2026-11-24T14:30:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
