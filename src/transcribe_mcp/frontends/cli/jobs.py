"""``transcribe-mcp jobs``: jobs that run in the background."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ...domain.options import Options
from ...domain.transcript import Speaker
from ...errors import UsageError
from ...service import models
from ...service.acting import acting_for
from ...service.formats import render
from ...service.service import default_service
from ...service.uploads import shown_source
from . import options as arg
from .terminal import (
    confirm,
    exit_codes,
    name_on_stdout,
    printable,
    progress_bars,
    say,
    write_out,
)

if TYPE_CHECKING:
    from ...service.transcribing import TranscribeRequest

JobId = Annotated[str, typer.Argument(metavar="JOB", help="ID of a job or a batch.")]
Statuses = Annotated[
    str,
    typer.Option(
        "--status",
        metavar="TEXT",
        help=f"{', '.join(models.JobStatus)}; separate several with commas.",
    ),
]
Limit = Annotated[
    int, typer.Option(min=1, max=500, metavar="INTEGER", help="Maximum number of results.")
]
Cursor = Annotated[
    str, typer.Option(metavar="TEXT", help="Next page, as printed after the previous one.")
]
ShownFormat = Annotated[
    str,
    typer.Option(
        "--format", "-f", metavar="TEXT", help=f"Print the transcript: {arg.FORMAT_NAMES}."
    ),
]
Original = Annotated[
    bool, typer.Option("--original", help="With --format: the text before it was edited.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the job has finished.")]

Query = Annotated[
    str,
    typer.Argument(metavar="QUERY", help='Words of a sentence; "quoted words" must be adjacent.'),
]
SpeakerName = Annotated[
    str, typer.Option("--speaker", metavar="NAME", help="Only what this speaker says.")
]
Merge = Annotated[
    list[str] | None,
    typer.Option(
        "--merge", metavar="NAME...", help="Merge these speakers into one, with the first name."
    ),
]
Rename = Annotated[
    list[str] | None, typer.Option("--rename", metavar="OLD=NEW...", help="Rename speakers.")
]
Voices = Annotated[
    str | None,
    typer.Option(
        "--voices",
        metavar="TEXT",
        help="Detect the speakers again and recognize these known voices: all, none, or names "
        "separated by commas. Default: those of the job.",
    ),
]
OlderThan = Annotated[
    float | None,
    typer.Option(
        "--keep-days",
        metavar="NUMBER",
        help="Delete all jobs that finished more than this many days ago; 0 deletes none.",
    ),
]
Bounds = Annotated[Options, "speakers", "min_speakers", "max_speakers"]

OWNER = "command line"  # all shells of a user share one owner
DAY_S = 86_400.0
ABOUT_SPEAKERS = ("speaker_count_not_met", "voice_uncertain", "voices_not_compared")
JOIN = "\0"  # between the names of one option; arguments cannot contain it
FOREVER_S = 10 * 365 * DAY_S


def queue(request: TranscribeRequest, shown: arg.Shown, *, force: bool) -> None:
    """``transcribe --queue``: submit the recordings as jobs and print their IDs."""
    job_request = models.JobRequest(
        "",
        models.JobOptions(**vars(request.spec) | vars(request.options)),
        force=force,
        output=None  # otherwise files that the worker writes, even after this terminal is closed
        if request.output_dir is None
        else models.OutputRequest(
            directory=str(request.output_dir),
            formats=request.formats,
            overwrite=request.overwrite,
            skip_existing=request.skip_existing,
            look=request.look,
        ),
        from_shell=True,
    )
    if request.spec.threads:
        say(
            "warning: --threads has no effect with --queue; "
            "set TRANSCRIBE_MCP_THREADS for the worker"
        )
    with acting_for(OWNER):
        batch = default_service().submit_batch(request.sources, job_request)
    for source in () if shown.quiet else batch.skipped:
        say(f"skipped: {source}: its output files exist")
    for refused in batch.refused:
        say(f"error: {refused.source}: {refused.error.message}")
        if refused.error.hint:
            say(f"hint: {refused.error.hint}")
    for job in batch.jobs:
        line = f"{job.job_id}  {name_on_stdout(job.source)}\n"
        write_out(_json(job) if shown.as_json else line)
    if batch.refused:
        raise SystemExit(1)


group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, watch, cancel and delete background jobs.",
)
commands = typer.Typer(rich_markup_mode=None)
commands.add_typer(group, name="jobs")


@group.command("list")
def list_jobs(
    status: Statuses = "", limit: Limit = 20, cursor: Cursor = "", as_json: arg.AsJson = False
) -> None:
    """List jobs, newest first."""
    with exit_codes():
        which = models.JobFilter(statuses=_statuses(status))
        page = default_service().list_jobs(which, cursor or None, limit)
        for job in page.jobs:
            write_out(_json(job) if as_json else _line(job))
        if not page.jobs and not cursor and not as_json:
            say("no jobs" if not status else f"no jobs with status {status}")
        if page.next_cursor:
            say(f"more with --cursor {page.next_cursor}")


@group.command()
def show(
    job: JobId,
    shown_format: ShownFormat = "",
    original: Original = False,
    wait: Wait = False,
    as_json: arg.AsJson = False,
    quiet: arg.Quiet = False,
) -> None:
    """Show a job's progress; with --format its transcript.

    The transcript of an unfinished job is the text so far.
    """
    with exit_codes():
        found = _waited_for(job, quiet=quiet) if wait else default_service().get_job(job)
        if shown_format:
            _show_transcript(job, shown_format, 0 if original else None, quiet=quiet)
            return
        if original:
            raise UsageError("--original needs a format", hint="add --format, such as --format txt")
        jobs = found.jobs if isinstance(found, models.Batch) else (found,)
        for one in jobs:
            write_out(_json(one) if as_json else _facts(one))


class _NamesCommand(TyperCommand):
    """A command whose ``--merge`` and ``--rename`` take all words up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given: list[str] = []
        option = ""
        for word in args:
            if word.startswith("--"):
                option = word if word in ("--merge", "--rename") else ""
                given += [f"{option}={JOIN}"] if option else [word]
            elif option:
                given[-1] += word + JOIN
            else:
                given.append(word)
        return super().parse_args(ctx, given)


def speakers(
    job: JobId,
    bounds: Bounds,
    voices: Voices = None,
    merge: Merge = None,
    rename: Rename = None,
    as_json: arg.AsJson = False,
) -> None:
    """List, rename or merge speakers, or detect them again.

    The job must have finished; its recording is not needed. --speakers, --min-speakers,
    --max-speakers and --voices detect the speakers again. Then --merge and --rename apply.
    """
    change = models.SpeakerChange(
        again=bounds if bounds.diarize or voices is not None else None,
        merge=tuple(tuple(_words(group)) for group in merge or ()),
        names=dict(_renaming(word) for group in rename or () for word in _words(group)),
        voices=voices,
    )
    is_change = change != models.SpeakerChange()
    service = default_service()
    found = service.change_speakers(job, change) if is_change else service.get_transcript(job)
    _show_speakers(found.speakers, as_json=as_json)
    for notice in found.warnings if is_change else ():
        if notice.code in ABOUT_SPEAKERS:
            say(f"warning: {notice.message}")


group.command(cls=_NamesCommand)(arg.with_records(speakers))


def _words(group: str) -> list[str]:
    return group.removeprefix(JOIN).removesuffix(JOIN).split(JOIN)


def _renaming(word: str) -> tuple[str, str]:
    old, equals, new = word.partition("=")
    if not equals:
        raise UsageError(f"--rename is {word!r}", hint='write --rename "Speaker 1=Anna"')
    return old, new


def _show_speakers(found: Sequence[Speaker], *, as_json: bool) -> None:
    if not found:
        say("no speakers: transcribe with --diarize to tell them apart")
    width = max((len(printable(speaker.id)) for speaker in found), default=0)
    for one in found:
        seconds = {"seconds": round(one.seconds, 3), "share": round(one.share, 4)}
        facts = f"{_duration(one.seconds)}  {one.share:>4.0%}  from {_duration(one.first)}"
        line = f"{printable(one.id):<{width}}  {facts}\n"
        write_out(json.dumps(asdict(one) | seconds, ensure_ascii=False) + "\n" if as_json else line)


@group.command()
def search(
    query: Query,
    speaker: SpeakerName = "",
    limit: Limit = 20,
    cursor: Cursor = "",
    as_json: arg.AsJson = False,
) -> None:
    """Find sentences with all these words in finished transcripts."""
    with exit_codes():
        page = default_service().search(query, cursor or None, limit, speaker=speaker)
        for hit in page.hits:
            said_by = f"{hit.speaker}: " if hit.speaker else ""
            place = f"{hit.job_id}  {_duration(hit.start)}  {printable(shown_source(hit.source))}"
            line = f"{place}  {printable(said_by + hit.text)}\n"
            write_out(json.dumps(asdict(hit), ensure_ascii=False) + "\n" if as_json else line)
        if not page.hits and not cursor and not as_json:
            say("no sentence of a finished transcript has all these words")
        if page.next_cursor:
            say(f"more with --cursor {page.next_cursor}")


@group.command()
def cancel(
    job: JobId,
    for_all: Annotated[
        bool, typer.Option("--all", help="Cancel even if another client waits for the job.")
    ] = False,
) -> None:
    """Cancel a job or a batch. Text transcribed so far can still be read.

    If another client or batch waits for the job, it continues, unless --all is given.
    """
    with exit_codes():
        with acting_for(OWNER):
            found = default_service().cancel(job, for_all=for_all)
        write_out(f"{job}  {found.status}\n")
        if goes_on := _going_on(found):
            jobs = "1 job continues" if goes_on == 1 else f"{goes_on} jobs continue"
            say(f"{jobs}: others wait for the same recording; --all cancels it for them too")


def _going_on(found: models.Job | models.Batch) -> int:
    """Number of cancelled jobs that still run for other clients."""
    jobs = found.jobs if isinstance(found, models.Batch) else (found,)
    cancelled = [job.job_id for job in jobs if job.status is models.JobStatus.CANCELLED]
    return sum(not default_service().get_job(job_id).status.is_final for job_id in cancelled)


@group.command()
def retry(job: JobId) -> None:
    """Queue a failed or cancelled job again.

    It resumes at its last checkpoint.
    """
    with exit_codes(), acting_for(OWNER):
        write_out(_line(default_service().retry(job)))


@group.command("rm")
def remove(
    jobs: Annotated[
        list[str] | None, typer.Argument(metavar="JOB", help="IDs of jobs or batches.")
    ] = None,
    keep_days: OlderThan = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Delete several jobs without asking.")
    ] = False,
) -> None:
    """Delete jobs and their transcripts.

    Asks before deleting more than one. Output files stay.
    """
    with exit_codes(), acting_for(OWNER):
        if not jobs and keep_days is None:
            raise UsageError("no job was named", hint="name jobs, or give --keep-days")
        named = list(dict.fromkeys(jobs or ()))
        found = [
            default_service().get_job(job) for job in named
        ]  # check that all exist before deleting the first
        n_jobs = sum(len(one.jobs) if isinstance(one, models.Batch) else 1 for one in found)
        n_jobs += default_service().count_old(keep_days) if keep_days is not None else 0
        if n_jobs > 1 or (n_jobs and not named):
            confirm(f"delete {_count(n_jobs)} with their transcripts?", yes=yes)
        n_deleted = 0
        for job in named:
            n_gone = default_service().delete(job)
            n_deleted += n_gone
            if not n_gone:
                say(f"{job}: other clients or batches use its recordings; they are kept")
        n_deleted += default_service().delete_old(keep_days) if keep_days is not None else 0
        say(f"{_count(n_deleted)} deleted")
        if keep_days == 0:
            say("--keep-days 0 never deletes jobs")


def _count(n_jobs: int) -> str:
    return "1 job" if n_jobs == 1 else f"{n_jobs} jobs"


def _statuses(text: str) -> tuple[models.JobStatus, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        return tuple(models.JobStatus(name) for name in names)
    except ValueError as error:
        hint = f"choose among {', '.join(models.JobStatus)}"
        raise UsageError(f"--status is {text!r}", hint=hint) from error


def _waited_for(job_id: str, *, quiet: bool) -> models.Job | models.Batch:
    with progress_bars(quiet=quiet) as bars:
        return default_service().wait_for(
            job_id, FOREVER_S, lambda found: bars("windows", found.percent, 100.0)
        )


def _show_transcript(job_id: str, name: str, revision: int | None, *, quiet: bool) -> None:
    transcript = default_service().get_transcript(job_id, revision)
    write_out(render(transcript, name))
    for notice in () if quiet else transcript.warnings:
        say(f"warning: {notice.message}")


def _json(job: models.Job) -> str:
    return json.dumps(asdict(job) | {"options": job.options.to_json()}, ensure_ascii=False) + "\n"


def _line(job: models.Job) -> str:
    waiting = f"  ({job.waiting_for})" if job.waiting_for else ""
    source = printable(shown_source(job.source))
    return f"{job.job_id}  {job.status:<9} {job.percent:>3.0f} %  {source}{waiting}\n"


def _facts(job: models.Job) -> str:
    facts = {
        "job": job.job_id,
        "source": printable(shown_source(job.source)),
        "status": job.status,
        "stage": job.stage,
        "progress": f"{job.percent:.0f} %",
        "queue position": job.queue_position,
        "waiting for": job.waiting_for,
        "time left": _duration(job.eta_s),
        "duration": _duration(job.duration_s),
        "submitted": _clock(job.created_at),
        "started": _clock(job.started_at),
        "finished": _clock(job.finished_at),
        "language": job.language,
        "model": job.model,
        "device": job.device,
        "attempts": job.attempts or None,
        "copied from": job.from_job_id,
        "files": ", ".join(map(printable, job.outputs)),
        "error": job.error.message if job.error else None,
        "hint": job.error.hint if job.error else None,
    }
    lines = [
        f"{name + ':':<20}{value}\n" for name, value in facts.items() if value not in (None, "")
    ]
    return "".join(
        [*lines, *(f"{'warning:':<20}{notice.message}\n" for notice in job.warnings), "\n"]
    )


def _clock(moment: float | None) -> str | None:
    return None if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
