"""The arguments of the tools, each described once: what the schema says of it and how its values are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from .pages import DEFAULT_CHARS, MAX_CHARS, MIN_CHARS

LONGEST_WAIT_S = 45.0  # clients give up after a minute
MAX_PAGE = 100
MAX_DAYS = 36_500.0

Kind = Literal["string", "number", "seconds", "integer", "boolean", "array"]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a tool.

    Attributes:
        kind: how a value is read; ``seconds`` is a number that may be written as ``1:02:03``, ``array`` holds texts.
        description: for the model that calls the tool.
        choices: the only values; of an array, of its items.
        least, most: a number beyond them becomes the nearest of them.
        max_chars: of a text, and of each item of an array.
        is_free_text: any text is meant as it is: ``null``, spaces around it, commas in it.
        also: other names by which callers look for it.
    """

    kind: Kind
    description: str
    choices: tuple[str, ...] = ()
    least: float = -1e9
    most: float = 1e9
    max_chars: int = 4096
    is_free_text: bool = False
    also: tuple[str, ...] = ()


FORMATS = "txt, timed ([12:34] before each sentence), srt, vtt, tsv, json or md"

Source = Annotated[
    str,
    Argument(
        "string",
        "Path of an audio or video file, or a URL if the server allows URLs.",
        is_free_text=True,
        also=(
            "path",
            "file",
            "file_path",
            "filepath",
            "filename",
            "audio",
            "audio_path",
            "url",
            "uri",
            "input",
        ),
    ),
]
Sources = Annotated[
    Sequence[str],
    Argument(
        "array",
        "Files, directories (searched for recordings) and patterns such as talks/**/*.mp3.",
        is_free_text=True,
        also=(
            "paths",
            "files",
            "file_paths",
            "directory",
            "folder",
            "pattern",
            "urls",
            "path",
            "file",
        ),
    ),
]
Model = Annotated[
    str,
    Argument("string", "Name from list_models, or a model's directory. Default: the best for this machine.",
             max_chars=1024, also=("model_name", "model_size", "engine")),
]  # fmt: skip
Language = Annotated[
    str,
    Argument("string", "Spoken language: code or name, such as de, en-US, German. Default: detected.", max_chars=64,
             also=("lang", "locale", "source_language")),
]  # fmt: skip
Task = Annotated[
    str,
    Argument(
        "string",
        "translate gives English text. Default: transcribe.",
        choices=("transcribe", "translate"),
    ),
]
Diarize = Annotated[
    bool,
    Argument(
        "boolean",
        "Name the speakers. Not available yet: only a warning.",
        also=("speakers", "diarization"),
    ),
]
Vocabulary = Annotated[
    Sequence[str],
    Argument("array", "Names and terms to expect, as they are spelled.", max_chars=200,
             also=("prompt", "initial_prompt", "words", "hotwords", "keywords")),
]  # fmt: skip
Track = Annotated[
    str,
    Argument("string", "Audio track: a number from 1, or all. Default: the first with speech.", max_chars=16,
             also=("audio_track", "stream", "track_number")),
]  # fmt: skip
Channel = Annotated[
    str,
    Argument("string", "left, right, a number from 1, mix, or split: each channel is a speaker. Default: auto.",
             max_chars=16, also=("channels", "audio_channel")),
]  # fmt: skip
Formats = Annotated[
    Sequence[str],
    Argument("array", f"{FORMATS}. The text comes in the first, a resource for each. Default: txt.", max_chars=16,
             also=("format", "output_format", "response_format")),
]  # fmt: skip
Force = Annotated[
    bool,
    Argument(
        "boolean",
        "Transcribe again although the result exists. Default: false.",
        also=("overwrite", "refresh"),
    ),
]
Wait = Annotated[
    float,
    Argument("seconds", "Seconds to wait for the end, 0 to 45. Default: 45.", least=0, most=LONGEST_WAIT_S,
             also=("wait", "timeout", "timeout_s", "wait_seconds")),
]  # fmt: skip
ShortWait = Annotated[
    float,
    Argument("seconds", "Seconds to wait for the end, 0 to 45. Default: 0.", least=0, most=LONGEST_WAIT_S,
             also=("wait", "timeout", "timeout_s", "wait_seconds")),
]  # fmt: skip
JobId = Annotated[
    str,
    Argument(
        "string",
        "The job_id of a job.",
        max_chars=100,
        also=("id", "job", "task_id", "transcription_id"),
    ),
]
JobOrBatchId = Annotated[
    str,
    Argument("string", "The job_id of a job or a batch.", max_chars=100,
             also=("id", "job", "task_id", "batch_id", "transcription_id")),
]  # fmt: skip
Format = Annotated[
    str,
    Argument("string", f"{FORMATS}; or segments: start, end and text of each sentence. Default: txt.", max_chars=16,
             also=("formats", "output_format", "response_format")),
]  # fmt: skip
Start = Annotated[
    float | None,
    Argument(
        "seconds",
        "Only what is said after this second.",
        least=0,
        also=("start", "from", "start_time"),
    ),
]
End = Annotated[
    float | None,
    Argument(
        "seconds", "Only what is said before this second.", least=0, also=("end", "to", "end_time")
    ),
]
PageChars = Annotated[
    int,
    Argument("integer", f"Characters of a page. Default: {DEFAULT_CHARS}.", least=MIN_CHARS, most=MAX_CHARS,
             also=("max_length", "limit", "page_size", "max_tokens")),
]  # fmt: skip
Cursor = Annotated[
    str,
    Argument(
        "string",
        "next_cursor of the page before.",
        max_chars=2048,
        also=("next_cursor", "page", "offset"),
    ),
]
SaveAs = Annotated[
    str,
    Argument("string", "Write the whole transcript to this new file and return only its path.",
             also=("output", "output_path", "output_file", "save_to", "path", "file")),
]  # fmt: skip
Statuses = Annotated[
    Sequence[str],
    Argument("array", "Only these.", choices=("queued", "running", "completed", "failed", "cancelled"),
             also=("status", "state", "filter")),
]  # fmt: skip
SourceContains = Annotated[
    str,
    Argument("string", "Only recordings with this in their path.", max_chars=500, is_free_text=True,
             also=("source", "path", "file", "name")),
]  # fmt: skip
BatchId = Annotated[
    str, Argument("string", "Only jobs of this batch.", max_chars=100, also=("job_id", "batch"))
]
Days = Annotated[
    float | None,
    Argument(
        "number",
        "Only jobs of the last so many days.",
        most=MAX_DAYS,
        also=("since", "last_days", "max_age"),
    ),
]
Query = Annotated[
    str,
    Argument("string", 'Words that a sentence holds, in any order; "in quotes": together.', max_chars=500,
             is_free_text=True, also=("q", "text", "search", "keywords", "words")),
]  # fmt: skip
Limit = Annotated[
    int,
    Argument("integer", f"Rows of a page, up to {MAX_PAGE}.", least=1, most=MAX_PAGE,
             also=("count", "page_size", "max_results", "n", "top_k")),
]  # fmt: skip
CachedOnly = Annotated[
    bool,
    Argument(
        "boolean",
        "Only models on this machine. Default: false.",
        also=("cached", "local", "installed"),
    ),
]
Details = Annotated[
    bool,
    Argument(
        "boolean",
        "Also the report for people. Default: false.",
        also=("verbose", "report", "explain"),
    ),
]
