"""``transcribe-mcp jobs`` and ``worker``: durable jobs from the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..service import jobs as service
from ..service import serving
from ..text_breaks import JOINERS
from . import arguments as arg
from .console import Bars, exit_codes, progress_bars, say, write_out

JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or a batch's.")]
Statuses = Annotated[str, typer.Option("--status", help="queued, running, completed, failed, cancelled; with commas.")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="How many at most.")]
Cursor = Annotated[str, typer.Option(help="Go on after this job, as the page before says.")]
KeepDays = Annotated[
    float | None, typer.Option("--keep-days", min=0, help="Days that finished jobs are kept. [0: for good]")
]
ShownFormat = Annotated[
    str, typer.Option("--format", "-f", help="Print the transcript: txt, timed, srt, vtt, tsv, json, md.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")]

DAY_S = 86_400.0
FOREVER_S = 10 * 365 * DAY_S

_OF_JOBS = (
    "engine", "model", "device", "compute_type", "offline", "language", "multilingual", "task", "words", "vad",
    "prompt", "beam_size", "batch_size", "track", "channel",
)  # fmt: skip


def queue(given: Mapping[str, Any]) -> None:
    """``transcribe --queue``: leave the recordings to the worker and print the ids of their jobs."""
    if given["output_dir"] is not None:
        hint = "print a transcript with transcribe-mcp jobs show JOB --format srt"
        raise UsageError("--queue writes no files: results go into the library", hint=hint)
    options: dict[str, Any] = {name: given[name] for name in _OF_JOBS}
    options["vocabulary"] = arg.read_vocabulary(given["vocabulary"])
    if given["temperature"]:
        options["temperatures"] = arg.read_temperatures(given["temperature"])
    request = service.JobRequest("", service.JobOptions(**options), force=given["force"])
    batch = service.submit_batch(given["sources"], request)
    for refused in batch.refused:
        say(f"error: {refused.source}: {refused.error.message}")
        if refused.error.hint:
            say(f"hint: {refused.error.hint}")
    for job in batch.jobs:
        write_out(_json(job) if given["as_json"] else f"{job.job_id}  {job.source}\n")
    if batch.refused:
        raise SystemExit(1)


group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, follow and end durable jobs.")


def add_commands(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(group, name="jobs")
    app.command()(worker)


def worker(keep_days: KeepDays = None) -> None:
    """Work on queued jobs, on every GPU, until none come any more. Front ends start this by themselves."""
    with exit_codes():
        serving.configure({"keep_days": None if keep_days is None else str(keep_days)})
        raise SystemExit(service.work())


@group.command("list")
def list_jobs(status: Statuses = "", limit: Limit = 20, cursor: Cursor = "", as_json: arg.AsJson = False) -> None:
    """Jobs, newest first."""
    with exit_codes():
        which = service.JobFilter(statuses=_statuses(status))
        page = service.list_jobs(which, cursor or None, limit)
        for job in page.jobs:
            write_out(_json(job) if as_json else _line(job))
        if page.next_cursor:
            say(f"more with --cursor {page.next_cursor}")


@group.command()
def show(
    job: JobId,
    shown_format: ShownFormat = "",
    wait: Wait = False,
    as_json: arg.AsJson = False,
    quiet: arg.Quiet = False,
) -> None:
    """How far a job is; with --format its transcript, or what there is of it."""
    with exit_codes():
        found = _waited_for(job, quiet=quiet) if wait else service.get_job(job)
        if shown_format:
            _show_transcript(job, shown_format, quiet=quiet)
            return
        jobs = found.jobs if isinstance(found, service.Batch) else (found,)
        for one in jobs:
            write_out(_json(one) if as_json else _facts(one))


@group.command()
def cancel(job: JobId) -> None:
    """Stop a job or a batch; what is finished of it stays readable."""
    with exit_codes():
        found = service.cancel(job)
        write_out(f"{job}  {found.status}\n")


@group.command()
def retry(job: JobId) -> None:
    """Queue a failed or cancelled job again; it goes on where it was."""
    with exit_codes():
        write_out(_line(service.retry(job)))


@group.command("rm")
def remove(
    jobs: Annotated[list[str] | None, typer.Argument(metavar="JOB", help="Ids of jobs or batches.")] = None,
    keep_days: KeepDays = None,
) -> None:
    """Forget jobs and their transcripts: those named, or with --keep-days all that ended before."""
    with exit_codes():
        if not jobs and keep_days is None:
            raise UsageError("no job was named", hint="name jobs, or give --keep-days")
        for job in jobs or ():
            service.delete(job)
        if keep_days is not None:
            say(f"{service.forget_old(keep_days)} jobs are forgotten")


def _statuses(text: str) -> tuple[service.JobStatus, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        return tuple(service.JobStatus(name) for name in names)
    except ValueError as error:
        hint = f"choose among {', '.join(service.JobStatus)}"
        raise UsageError(f"--status is {text!r}", hint=hint) from error


def _waited_for(job_id: str, *, quiet: bool) -> service.Job | service.Batch:
    with progress_bars(quiet=quiet) as bars:
        return service.wait_for(job_id, FOREVER_S, lambda found: _draw(bars, found))


def _draw(bars: Bars, found: service.Job | service.Batch) -> None:
    bars("windows", found.percent, 100.0)


def _show_transcript(job_id: str, name: str, *, quiet: bool) -> None:
    transcript = service.get_transcript(job_id)
    write_out(service.render(transcript, name))
    for notice in () if quiet else transcript.warnings:
        say(f"warning: {notice.message}")


def _json(job: service.Job) -> str:
    return json.dumps(asdict(job), ensure_ascii=False) + "\n"


def _line(job: service.Job) -> str:
    return f"{job.job_id}  {job.status:<9} {job.percent:>3.0f} %  {_shown(job.source)}\n"


def _facts(job: service.Job) -> str:
    facts = {
        "job": job.job_id,
        "source": _shown(job.source),
        "status": job.status,
        "stage": job.stage,
        "done": f"{job.percent:.0f} %",
        "place in the queue": job.queue_position,
        "still takes": _duration(job.eta_s),
        "recording": _duration(job.duration_s),
        "submitted": _clock(job.created_at),
        "begun": _clock(job.started_at),
        "ended": _clock(job.finished_at),
        "language": job.language,
        "model": job.model,
        "device": job.device,
        "attempts": job.attempts or None,
        "answered by": job.from_job_id,
        "error": job.error.message if job.error else None,
        "hint": job.error.hint if job.error else None,
    }
    lines = [f"{name + ':':<20}{value}\n" for name, value in facts.items() if value not in (None, "")]
    return "".join([*lines, *(f"{'warning:':<20}{notice.message}\n" for notice in job.warnings), "\n"])


def _shown(source: str) -> str:
    """A file's name is data: what moves the cursor of a terminal is written as an escape."""
    return "".join(c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode() for c in source)


def _clock(moment: float | None) -> str | None:
    return None if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
