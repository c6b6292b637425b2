"""Messages and hints for assistants: they name arguments and tools instead of CLI options."""

from __future__ import annotations

from ...service.models import Batch, Job
from ..wording import Wording

for_assistant = Wording((
    (r"extract its audio track, or raise (TRANSCRIBE_MCP_\w+)",
     r"extract its audio track; the user can raise \1"),
    (r"roots are set with --allowed-root or (TRANSCRIBE_MCP_\w+)",
     r"the user can allow more directories with \1"),
    (r"where the server was started with --allow-urls",
     "if the user sets TRANSCRIBE_MCP_ALLOW_URLS=1"),
    (r"where the server was started with --allowed-source (\S+)",
     r"if the user sets TRANSCRIBE_MCP_ALLOWED_SOURCES=\1"),
    (r"they work where the server was started with --allow-voices",
     "they work if the user sets TRANSCRIBE_MCP_ALLOW_VOICES=1"),
    (r"if so: transcribe-mcp jobs speakers JOB --rename",
     "if the user agrees, call name_speakers with names"),
    (r"if so: transcribe-mcp jobs speakers JOB --merge",
     "if the user agrees, call name_speakers with merge"),
    (r":? --multilingual decides for each window", ""),
    (r"(with a connection: )?transcribe-mcp models pull \S+?(?=[;,]|\.?(?:\s|$))",
     "with a connection it is downloaded when used"),
    (r"or give --model the directory of a model", "or give model the directory of one"),
    (r"(?:see all names: )?transcribe-mcp models list", "list_models has all names"),
    (r"(?:see )?transcribe-mcp doctor\b[^;,.]*", "see diagnose_system"),
    (r"transcribe on the CPU with --device cpu(; see transcribe-mcp doctor)?",
     "see diagnose_system"),
    (r"pip install --force-reinstall ([\w-]+)", r"ask the user to reinstall the package \1"),
    (r"use a smaller model,? or --device cpu", "use a smaller model; see list_models"),
    (r"(?:,? or )?choose (?:a|another) directory[^;,.]*with --output-dir",
     "give save_as in another directory"),
    (r"choose another --output-dir", "give save_as in another directory"),
    (r"add --overwrite to replace it, or choose another directory", "give save_as another name"),
    (r"(?:then )?retry the job(?:: transcribe-mcp jobs retry \w+)?",
     "then call transcribe_audio again"),
    (r"to try again: transcribe-mcp jobs retry \w+", "to try again, call transcribe_audio"),
    (r"list the jobs that there are", "list_transcription_history has the jobs that there are"),
    (r"rename it; transcribe-mcp transcribe takes it as it is", "ask the user to rename it"),
    (r"submit the recording again with force", "call transcribe_audio with force: true"),
    (r"transcribe the recording again with force", "call transcribe_audio with force: true"),
    (r"transcribe the recording again with --queue --diarize --force",
     "call transcribe_audio with diarize: true and force: true"),
    (r"(directories|patterns) go in a batch", r"\1 go to batch_transcribe"),
    (r"list its jobs with: transcribe-mcp jobs show \w+",
     "get_transcription_progress lists its jobs: give the job_id of one"),
    (r"submit it when some are done", "call again when some are done"),
    (r"wait until some are done, cancel some, or raise (TRANSCRIBE_MCP_\w+)",
     r"call again when some are done, or cancel_transcription; the user can raise \1"),
    (r"--(model|task|language) ([\w.-]+)", r"\1: \2"),
    (r"--(model|task|language|force|diarize|vocabulary|track|channel)\b", r"\1"),
))  # fmt: skip

# The same call would fail again.
_LASTING = frozenset(
    {"source", "source_not_found", "source_refused", "source_too_large", "source_unreadable",
     "not_media", "no_audio",
     "usage", "unknown_name", "unsupported_task", "model_format"}
)  # fmt: skip


def next_step(job: Job | Batch, *, has_more: bool = False) -> str | None:
    """The next call for the assistant."""
    if isinstance(job, Batch):
        if job.status.is_final:
            has_text = any(each.percent for each in job.jobs)
            step = "For a text call get_transcription_result with the job_id of one of the jobs."
            return step if has_text else None
        return "Call get_transcription_progress with this job_id and wait_s: 45."
    if job.status == "completed":
        return (
            "There is more text: call get_transcription_result with cursor: next_cursor."
            if has_more
            else None
        )
    if job.waiting_for:
        return (
            "It stays queued until a worker can start. waiting_for has the reason; "
            "diagnose_system shows how to fix it."
        )
    if not job.status.is_final:
        return (
            "Not finished yet. Call get_transcription_result with this job_id; "
            "it waits for the text."
        )
    again = "transcribe_audio with the same source starts again."
    if job.error is not None and job.error.code in _LASTING:
        again = ""
    finished = "get_transcription_result gives what was finished." if job.percent else ""
    return " ".join(filter(None, (finished, again))) or None
