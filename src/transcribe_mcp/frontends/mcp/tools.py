"""The tools. A function's parameters are the tool's schema; its docstring is the description."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, TypeVar, cast

from ...errors import TranscribeError
from ...service.models import JobOptions, JobRequest
from ..forms import Form
from . import answers, transcript_view
from . import arguments as arg
from .handlers import Handlers, ProgressReport, filter_of, format_name
from .pages import DEFAULT_CHARS, View
from .reading import Arguments, arguments_of, schema_of
from .sdk import Context, ListRoots, Resolve, Tool, types

ToolFunction = TypeVar("ToolFunction", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class ToolEntry:
    """A tool as clients see it, and the arguments that the server reads."""

    tool: Tool
    arguments: Arguments


TOOLS: dict[str, ToolEntry] = {}

READS = types.ToolAnnotations(read_only_hint=True, open_world_hint=False)
MAKES = types.ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
ENDS = types.ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)


def tool(
    title: str, annotations: types.ToolAnnotations, meta: dict[str, Any] | None = None
) -> Callable[[ToolFunction], ToolFunction]:
    """Publish the function as a tool, with one argument per option of its records."""

    def register(function: ToolFunction) -> ToolFunction:
        caller = _with_arguments(function)
        arguments = arguments_of(caller)
        made = Tool.from_function(
            caller,
            title=title,
            description=" ".join((function.__doc__ or "").split()),
            annotations=annotations,
            meta=meta,
            structured_output=False,
        )
        entry = ToolEntry(made.model_copy(update={"parameters": schema_of(arguments)}), arguments)
        TOOLS[function.__name__] = entry
        return function

    return register


def offered_tools(*, allow_voices: bool) -> list[Tool]:
    """The tools as clients see them. They see ``voices`` only if the user allows it."""
    hidden = set() if allow_voices else {"voices"}
    return [
        entry.tool.model_copy(
            update={
                "parameters": schema_of(
                    {name: each for name, each in entry.arguments.items() if name not in hidden}
                )
            }
        )
        for entry in TOOLS.values()
    ]


def _with_arguments(function: ToolFunction) -> Callable[..., Awaitable[types.CallToolResult]]:
    form = Form(function, "mcp", arg.ask)

    @wraps(function)
    async def call(**given: Any) -> types.CallToolResult:
        result: types.CallToolResult = await function(**form.gather(given))
        return result

    form.present(call)
    return call


async def answering(
    work: Awaitable[answers.Answer], *, wants_text: bool = False
) -> types.CallToolResult:
    """The answer, or one of our errors in words. The SDK reports other exceptions as bugs.

    A call that ``wants_text`` fails if the job failed without text.
    """
    try:
        answer = await work
    except TranscribeError as error:
        answer = answers.refusal(error)
    return tool_result(answer, is_error=wants_text and answers.is_failed(answer))


def tool_result(answer: answers.Answer, *, is_error: bool = False) -> types.CallToolResult:
    text = types.TextContent(type="text", text=answers.dumps(answer))
    return types.CallToolResult(
        content=[text], is_error=is_error or isinstance(answer, answers.Refusal)
    )


def _handlers(ctx: Context) -> Handlers:
    """Those of the server, see ``server.build_server``."""
    return cast(Handlers, ctx.request_context.lifespan_context)


def _reporter(ctx: Context) -> ProgressReport:
    return ProgressReport(ctx.report_progress)


async def _client_roots(sources: Sequence[str], ctx: Context) -> ListRoots | None:
    """Ask a local client for its working directories, if a source is outside the allowed ones."""
    capabilities = ctx.client_capabilities
    is_local = ctx.request_context.request is None
    if not is_local or capabilities is None or capabilities.roots is None:
        return None
    return ListRoots() if await _handlers(ctx).needs_roots(sources) else None


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
    options: JobOptions,
    formats: arg.Formats = ("txt",),
    force: arg.Force = False,
    wait_s: arg.Wait = arg.MAX_WAIT_S,
) -> types.CallToolResult:
    """Transcribe one audio or video file on this machine.

    Waits up to wait_s seconds for the text. If the status is not completed by then, the job
    continues: call get_transcription_result with its job_id, which also waits. A file that was
    already transcribed with the same options returns at once.
    """
    request = JobRequest(source, options, force=force)
    work = _handlers(ctx).transcribe(request, formats, _uris(roots), wait_s, _reporter(ctx))
    return await answering(work, wants_text=True)


@tool("Transcribe many recordings", MAKES)
async def batch_transcribe(
    sources: arg.Sources,
    ctx: Context,
    roots: Annotated[types.ListRootsResult | None, Resolve(roots_for_sources)],
    options: JobOptions,
    force: arg.Force = False,
    wait_s: arg.ShortWait = 0.0,
) -> types.CallToolResult:
    """Transcribe every recording that files, directories and patterns match.

    Returns a job_id for the batch, one for each job, and the refused sources with the reason. A bad
    file does not stop the others.
    """
    request = JobRequest("", options, force=force)
    return await answering(
        _handlers(ctx).transcribe_batch(sources, request, _uris(roots), wait_s, _reporter(ctx))
    )


@tool("Progress of a transcription", READS)
async def get_transcription_progress(
    job_id: arg.JobOrBatchId, ctx: Context, wait_s: arg.ShortWait = 0.0
) -> types.CallToolResult:
    """Status of a job or batch: percent, seconds left, position in the queue. No text."""
    return await answering(_handlers(ctx).progress(job_id, wait_s, _reporter(ctx)))


@tool("Result of a transcription", MAKES)
async def get_transcription_result(
    job_id: arg.JobId,
    ctx: Context,
    format: arg.Format = "txt",  # noqa: A002 - the word that callers look for
    start_s: arg.Start = None,
    end_s: arg.End = None,
    max_chars: arg.PageChars = DEFAULT_CHARS,
    cursor: arg.Cursor = "",
    save_as: arg.SaveAs = "",
    original: arg.Original = False,
    wait_s: arg.Wait = arg.MAX_WAIT_S,
) -> types.CallToolResult:
    """Return the transcript of a job in pages: call again with next_cursor until there is none.

    Waits for an unfinished job; wait_s 0 returns the text transcribed so far.
    """

    async def work() -> answers.Answer:
        view = View(job_id, format_name(format), start_s, end_s, 0 if original else None)
        if save_as:
            return await _handlers(ctx).write(view, save_as, wait_s, _reporter(ctx))
        return await _handlers(ctx).result(
            view, (cursor or None, max_chars), wait_s, _reporter(ctx)
        )

    return await answering(work(), wants_text=True)


@tool("Show a transcript", READS, transcript_view.SHOWN_BY_VIEW)
async def show_transcript(
    job_id: arg.JobId, ctx: Context, at_s: arg.At = 0.0
) -> types.CallToolResult:
    """Show a transcript to the user: its first lines, and the URL to read and hear it."""
    request = ctx.request_context.request
    seen_at = str(request.base_url).rstrip("/") if request is not None else None
    return await answering(_handlers(ctx).shown(job_id, at_s, seen_at))


@tool("List transcriptions", READS)
async def list_transcription_history(
    ctx: Context,
    statuses: arg.Statuses = (),
    source_contains: arg.SourceContains = "",
    batch_id: arg.BatchId = "",
    days: arg.Days = None,
    cursor: arg.Cursor = "",
    limit: arg.Limit = 20,
) -> types.CallToolResult:
    """List the jobs of all clients on this machine in pages, newest first."""

    async def work() -> answers.Answer:
        which = filter_of(statuses, source_contains, batch_id, days)
        return await _handlers(ctx).history(which, cursor or None, limit)

    return await answering(work())


@tool("Name the speakers", MAKES)
async def name_speakers(
    job_id: arg.JobId,
    ctx: Context,
    names: arg.SpeakerNames = None,
    merge: arg.Merge = (),
) -> types.CallToolResult:
    """Rename or merge the speakers of a finished transcript.

    Works at once, without the recording; merges first. Returns the speakers.
    """
    return await answering(_handlers(ctx).name_speakers(job_id, names or {}, merge))


@tool("Search transcripts", READS)
async def search_transcripts(
    query: arg.Query,
    ctx: Context,
    speaker: arg.SpeakerName = "",
    source_contains: arg.SourceContains = "",
    days: arg.Days = None,
    cursor: arg.Cursor = "",
    limit: arg.Limit = 10,
) -> types.CallToolResult:
    """Search all finished transcripts. Returns sentences with their job, times and neighbors."""

    async def work() -> answers.Answer:
        which = filter_of((), source_contains, "", days)
        return await _handlers(ctx).search(query, which, speaker, cursor or None, limit)

    return await answering(work())


@tool("Cancel a transcription", ENDS)
async def cancel_transcription(job_id: arg.JobOrBatchId, ctx: Context) -> types.CallToolResult:
    """Cancel a job or a batch. Text transcribed so far can still be read."""
    return await answering(_handlers(ctx).cancel(job_id))


@tool("Delete a transcription", ENDS)
async def delete_transcription(job_id: arg.JobOrBatchId, ctx: Context) -> types.CallToolResult:
    """Delete a job or a batch with its transcripts permanently.

    Running work stops; recordings stay.
    """
    return await answering(_handlers(ctx).delete(job_id))


@tool("List models", READS)
async def list_models(ctx: Context, cached_only: arg.CachedOnly = False) -> types.CallToolResult:
    """List Whisper models: their sizes, which are downloaded, and which fit into memory."""
    return await answering(_handlers(ctx).models(cached_only=cached_only))


@tool("Diagnose this machine", READS)
async def diagnose_system(ctx: Context, details: arg.Details = False) -> types.CallToolResult:
    """Find problems of this machine (GPU, driver, libraries, memory) and how to fix them."""
    return await answering(_handlers(ctx).diagnosis(details=details))


@tool("Text for the transcript view", READS, transcript_view.FOR_VIEW)
async def view_transcript(
    job_id: arg.JobId,
    ctx: Context,
    first: arg.FirstSegment = 0,
    revision: arg.Revision = None,
) -> types.CallToolResult:
    """Segments of a transcript with their words. The transcript view calls it."""
    return await answering(_handlers(ctx).view_transcript(job_id, first, revision))


@tool("Audio for the transcript view", READS, transcript_view.FOR_VIEW)
async def view_audio(
    job_id: arg.JobId, ctx: Context, start_s: arg.At = 0.0
) -> types.CallToolResult:
    """Half a minute of a recording. The transcript view calls it."""
    return await answering(_handlers(ctx).view_audio(job_id, start_s))
