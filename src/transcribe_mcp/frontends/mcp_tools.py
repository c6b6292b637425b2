"""The tools: functions whose parameters are the schema, whose docstring is what the model reads. Each makes a call."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar

from ..errors import TranscribeError
from ..service import allowed
from ..service.jobs import JobOptions, JobRequest
from . import mcp_answers as answers
from . import mcp_arguments as arg
from . import mcp_calls as calls
from .mcp_pages import DEFAULT_CHARS, View
from .mcp_sdk import Context, ListRoots, Resolve, types

ToolFunction = TypeVar("ToolFunction", bound=Callable[..., Any])
JobResult = Annotated[types.CallToolResult, answers.JobAnswer]

TOOLS: dict[str, tuple[Callable[..., Any], str, types.ToolAnnotations]] = {}

READS = types.ToolAnnotations(read_only_hint=True, open_world_hint=False)
MAKES = types.ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
ENDS = types.ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


def tool(title: str, annotations: types.ToolAnnotations) -> Callable[[ToolFunction], ToolFunction]:
    def register(function: ToolFunction) -> ToolFunction:
        TOOLS[function.__name__] = (function, title, annotations)
        return function

    return register


async def answering(work: Awaitable[answers.Answer], job_id: str | None = None) -> types.CallToolResult:
    """An answer, or in its place the error in words; any other exception is a defect and the SDK's to report."""
    try:
        return tool_result(await work)
    except TranscribeError as error:
        return tool_result(answers.refusal(error, job_id), is_error=True)


def tool_result(answer: answers.Answer, *, is_error: bool = False) -> types.CallToolResult:
    data = answer.to_json()
    text = types.TextContent(type="text", text=json.dumps(data, ensure_ascii=False))
    return types.CallToolResult(content=[text], structured_content=data, is_error=is_error)


def _reporter(ctx: Context) -> calls.Report:
    async def report(percent: float, words: str) -> None:
        await ctx.report_progress(percent, 100, words)

    return report


async def _client_roots(sources: Sequence[str], ctx: Context) -> ListRoots | None:
    """Ask a client of this user, which works in directories of its own, where those are; only where that matters."""
    capabilities = ctx.client_capabilities
    is_local = ctx.request_context.request is None
    if not is_local or capabilities is None or capabilities.roots is None:
        return None
    outside = await calls.call(lambda: allowed.is_refused(sources, allowed.access()))
    return ListRoots() if outside else None


async def roots_for_source(source: str, ctx: Context) -> ListRoots | None:
    return await _client_roots([source], ctx)


async def roots_for_sources(sources: list[str], ctx: Context) -> ListRoots | None:
    return await _client_roots(sources, ctx)


def _uris(roots: types.ListRootsResult | None) -> list[str]:
    return [str(root.uri) for root in roots.roots] if roots else []


@tool("Transcribe a recording", MAKES)
async def transcribe_audio(
    source: arg.Source,
    ctx: Context,
    roots: Annotated[types.ListRootsResult | None, Resolve(roots_for_source)],
    model: arg.Model = "auto",
    language: arg.Language = "auto",
    task: arg.Task = "transcribe",
    diarize: arg.Diarize = False,
    vocabulary: arg.Vocabulary = [],  # noqa: B006 - read only; the schema shows it
    track: arg.Track = "auto",
    channel: arg.Channel = "auto",
    formats: arg.Formats = ["txt"],  # noqa: B006
    force: arg.Force = False,
    wait_s: arg.Wait = arg.DEFAULT_WAIT_S,
) -> JobResult:
    """Transcribe an audio or video file on this machine, in its language or into English.

    Waits up to wait_s seconds. Then either status is completed and text is the transcript (long ones in pages: see
    next_cursor and get_transcription_result), or the work goes on: ask get_transcription_progress with the job_id.
    A file that was transcribed before with the same options is answered at once.
    """
    options = JobOptions(
        model=model,
        language=language,
        task=task,
        diarize=diarize,
        vocabulary=tuple(vocabulary),
        track=track,
        channel=channel,
    )
    request = JobRequest(source, options, force=force)
    done = await answering(calls.transcribe(request, formats, _uris(roots), wait_s, _reporter(ctx)))
    failed = (done.structured_content or {}).get("status") == "failed"
    return done.model_copy(update={"is_error": True}) if failed else done


@tool("Transcribe many recordings", MAKES)
async def batch_transcribe(
    sources: arg.Sources,
    ctx: Context,
    roots: Annotated[types.ListRootsResult | None, Resolve(roots_for_sources)],
    model: arg.Model = "auto",
    language: arg.Language = "auto",
    task: arg.Task = "transcribe",
    diarize: arg.Diarize = False,
    vocabulary: arg.Vocabulary = [],  # noqa: B006
    track: arg.Track = "auto",
    channel: arg.Channel = "auto",
    force: arg.Force = False,
    wait_s: arg.Wait = 0,
) -> JobResult:
    """Transcribe every recording that files, directories and patterns name. A bad file costs no other its result.

    Gives one job_id for the whole batch, the jobs in it with ids of their own, and what was refused with the reason.
    """
    options = JobOptions(
        model=model,
        language=language,
        task=task,
        diarize=diarize,
        vocabulary=tuple(vocabulary),
        track=track,
        channel=channel,
    )
    request = JobRequest("", options, force=force)
    return await answering(calls.transcribe_batch(sources, request, _uris(roots), wait_s, _reporter(ctx)))


@tool("Progress of a transcription", READS)
async def get_transcription_progress(job_id: arg.JobOrBatchId, ctx: Context, wait_s: arg.Wait = 0) -> JobResult:
    """Where a job or batch is: status, stage, percent of work done, seconds left, place in the queue.

    With wait_s it answers as soon as the job is done, at the latest after that time.
    """
    return await answering(calls.progress(job_id, wait_s, _reporter(ctx)), job_id)


@tool("Result of a transcription", MAKES)
async def get_transcription_result(
    job_id: arg.JobId,
    ctx: Context,
    format: arg.Format = "txt",  # noqa: A002 - the word that callers look for
    start_s: arg.Start = None,
    end_s: arg.End = None,
    max_chars: arg.MaxChars = DEFAULT_CHARS,
    cursor: arg.Cursor = None,
    save_as: arg.SaveAs = None,
) -> Annotated[types.CallToolResult, answers.ResultAnswer]:
    """The transcript of a job: as text in any format, or as segments with times; whole or a stretch of time; in pages.

    While next_cursor is there, call again with it for more. Of a running or stopped job it gives what is finished.
    With save_as nothing comes back but the path: the whole is written to a new file, never over an old one.
    """

    async def work() -> answers.Answer:
        view = View(job_id, format, start_s, end_s)
        if save_as is not None:
            return await calls.write(view, save_as)
        return await calls.result(view, cursor, max_chars)

    return await answering(work(), job_id)


@tool("List transcriptions", READS)
async def list_transcription_history(
    statuses: arg.Statuses = [],  # noqa: B006
    source_contains: arg.SourceContains = "",
    batch_id: arg.BatchId = "",
    days: arg.Days = None,
    cursor: arg.Cursor = None,
    limit: arg.Limit = 20,
) -> Annotated[types.CallToolResult, answers.HistoryAnswer]:
    """Jobs of every client of this machine, newest first, in pages."""
    which = calls.filter_of(statuses, source_contains, batch_id, days)
    return await answering(calls.history(which, cursor, limit))


@tool("Search transcripts", READS)
async def search_transcripts(
    query: arg.Query,
    source_contains: arg.SourceContains = "",
    days: arg.Days = None,
    cursor: arg.Cursor = None,
    limit: arg.Limit = 10,
) -> Annotated[types.CallToolResult, answers.SearchAnswer]:
    """Find sentences in all finished transcripts: each with its job, its time, and what was said before and after."""
    return await answering(calls.search(query, calls.filter_of([], source_contains, "", days), cursor, limit))


@tool("Cancel a transcription", ENDS)
async def cancel_transcription(job_id: arg.JobOrBatchId) -> JobResult:
    """Stop a job or a whole batch within two seconds. What is finished of it can still be read."""
    return await answering(calls.cancel(job_id), job_id)


@tool("Delete a transcription", ENDS)
async def delete_transcription(job_id: arg.JobOrBatchId) -> Annotated[types.CallToolResult, answers.Answer]:
    """Forget a job or a batch and its transcripts for good; running work is stopped. The recordings stay."""
    return await answering(calls.delete(job_id), job_id)


@tool("List models", READS)
async def list_models() -> Annotated[types.CallToolResult, answers.ModelsAnswer]:
    """Whisper models: which are on this machine, how large the others are, and what fits into its memory."""
    return await answering(calls.models())


@tool("Diagnose this machine", READS)
async def diagnose_system() -> Annotated[types.CallToolResult, answers.DiagnosisAnswer]:
    """What keeps this machine from transcribing well (GPU, driver, libraries, memory), and commands that mend it."""
    return await answering(calls.diagnosis())
