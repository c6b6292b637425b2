"""The arguments of the tools: schemas, and reading of values.

Options of a transcription are derived from their records, see ``ask``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ...domain.options import Option
from ...service.formats import FORMATS
from ...service.models import JobStatus
from ..forms import Parameter, help_of
from .pages import DEFAULT_CHARS, MAX_CHARS, MIN_CHARS

MAX_WAIT_S = 45.0  # clients time out after a minute
MAX_PAGE = 100
MAX_DAYS = 36_500.0

Kind = Literal["string", "number", "seconds", "integer", "boolean", "array", "pairs", "groups"]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a tool.

    Attributes:
        kind: type of the value. ``seconds`` accepts numbers and ``1:02:03``; ``array`` holds texts.
            ``pairs`` holds texts such as ``old=new``, ``groups`` the texts of one group; objects
            and lists of lists are read too.
        description: for the model that calls the tool.
        choices: the only values, or the only items of an array.
        least, most: a number beyond them is replaced by the nearer of the two. Options of a
            transcription have none: their record refuses what would change the transcript.
        max_chars: limit of a text, and of each item of an array.
        is_free_text: accept any text unchanged, including ``null``, outer spaces and commas.
        also: other names that callers use.
    """

    kind: Kind
    description: str
    choices: tuple[str, ...] = ()
    least: float = -1e9
    most: float = 1e9
    max_chars: int = 4096
    is_free_text: bool = False
    also: tuple[str, ...] = ()


_KINDS: dict[Any, tuple[Kind, Any]] = {
    str: ("string", str),
    bool: ("boolean", bool),
    int: ("integer", int),
    int | None: ("integer", int | None),
    float: ("number", float),
    tuple[str, ...]: ("array", Sequence[str]),
}


def ask(option: Option, type_: Any) -> Parameter:
    """The argument for an option of a record."""
    kind, annotation = _KINDS[type_]
    default = (
        "" if option.default in ("", (), None) else f" Default: {str(option.default).lower()}."
    )
    argument = Argument(
        kind,
        help_of(option) + default,
        choices=() if option.or_number else option.choices,
        max_chars=option.max_chars,
        also=option.aliases,
    )
    read: Any = tuple if kind == "array" else annotation
    if option.default is None:
        read = _none_for_zero
    return Parameter(Annotated[annotation, argument], option.default, read)


def _none_for_zero(value: int | None) -> int | None:
    """Some clients fill in every argument, unknown numbers with 0."""
    return value or None


_SUMMARIES = "; ".join(f"{name}: {form.summary}" for name, form in FORMATS.items())

Source = Annotated[
    str,
    Argument(
        "string",
        "Path of an audio or video file, or a URL if the server allows URLs.",
        is_free_text=True,
        also=(
            "path", "file", "file_path", "filepath", "filename", "audio", "audio_path", "url",
            "uri", "input",
        ),
    ),
]  # fmt: skip
Sources = Annotated[
    Sequence[str],
    Argument(
        "array",
        "Files, directories (searched for recordings) and patterns such as talks/**/*.mp3.",
        is_free_text=True,
        also=(
            "paths", "files", "file_paths", "directory", "folder", "pattern", "urls", "path",
            "file",
        ),
    ),
]  # fmt: skip
Formats = Annotated[
    Sequence[str],
    Argument(
        "array",
        f"{', '.join(tuple(FORMATS))}. The text is returned in the first format; "
        "resource links are returned for all of them. Default: txt.",
        max_chars=16,
        also=("format", "output_format", "response_format"),
    ),
]
Force = Annotated[
    bool,
    Argument(
        "boolean",
        "Run again even if this file was already transcribed with the same options. "
        "Default: false.",
        also=("overwrite", "refresh"),
    ),
]
_WAIT_NAMES = ("wait", "timeout", "timeout_s", "wait_seconds")
Wait = Annotated[
    float,
    Argument(
        "seconds",
        "Maximum seconds to wait for the result, 0 to 45. Default: 45.",
        least=0,
        most=MAX_WAIT_S,
        also=_WAIT_NAMES,
    ),
]
ShortWait = Annotated[
    float,
    Argument(
        "seconds",
        "Maximum seconds to wait for the result, 0 to 45. Default: 0.",
        least=0,
        most=MAX_WAIT_S,
        also=_WAIT_NAMES,
    ),
]
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
    Argument(
        "string",
        "The job_id of a job or a batch.",
        max_chars=100,
        also=("id", "job", "task_id", "batch_id", "transcription_id"),
    ),
]
Format = Annotated[
    str,
    Argument(
        "string",
        f"{_SUMMARIES}; segments: start, end and text of each sentence. Default: txt.",
        max_chars=16,
        also=("formats", "output_format", "response_format"),
    ),
]
Start = Annotated[
    float | None,
    Argument(
        "seconds", "Only text after this second.", least=0, also=("start", "from", "start_time")
    ),
]
End = Annotated[
    float | None,
    Argument("seconds", "Only text before this second.", least=0, also=("end", "to", "end_time")),
]
At = Annotated[
    float,
    Argument("seconds", "Start at this second.", least=0, also=("at", "start_s", "start", "time")),
]
FirstSegment = Annotated[int, Argument("integer", "Number of the first segment.", least=0)]
Revision = Annotated[
    int | None, Argument("integer", "Revision of the answer with the segments before.", least=0)
]
PageChars = Annotated[
    int,
    Argument(
        "integer",
        f"Characters per page. Default: {DEFAULT_CHARS}.",
        least=MIN_CHARS,
        most=MAX_CHARS,
        also=("max_length", "limit", "page_size", "max_tokens"),
    ),
]
Cursor = Annotated[
    str,
    Argument(
        "string",
        "next_cursor of the previous page.",
        max_chars=2048,
        also=("next_cursor", "page", "offset"),
    ),
]
SaveAs = Annotated[
    str,
    Argument(
        "string",
        "Write the whole transcript to this new file and return only its path.",
        also=("output", "output_path", "output_file", "save_to", "path", "file"),
    ),
]
Original = Annotated[
    bool, Argument("boolean", "The text before people edited it.", also=("unedited", "raw"))
]
Statuses = Annotated[
    Sequence[str],
    Argument(
        "array",
        "Only jobs in one of these states.",
        choices=tuple(JobStatus),
        also=("status", "state", "filter"),
    ),
]
SourceContains = Annotated[
    str,
    Argument(
        "string",
        "Only recordings with this text in their path.",
        max_chars=500,
        is_free_text=True,
        also=("source", "path", "file", "name"),
    ),
]
BatchId = Annotated[
    str, Argument("string", "Only jobs of this batch.", max_chars=100, also=("job_id", "batch"))
]
Days = Annotated[
    float | None,
    Argument(
        "number",
        "Only jobs of the last N days.",
        most=MAX_DAYS,
        also=("since", "last_days", "max_age"),
    ),
]
Query = Annotated[
    str,
    Argument(
        "string",
        'Words of a sentence, in any order; "quoted words" must follow each other.',
        max_chars=500,
        is_free_text=True,
        also=("q", "text", "search", "keywords", "words"),
    ),
]
SpeakerNames = Annotated[
    Mapping[str, str] | None,
    Argument(
        "pairs",
        'New names, each as "Speaker 1=Anna".',
        max_chars=200,
        also=("name", "rename", "speakers", "mapping"),
    ),
]
Merge = Annotated[
    Sequence[Sequence[str]],
    Argument(
        "groups",
        'Speakers who are one person, such as ["Speaker 2", "Speaker 4"]; the first name stays.',
        max_chars=200,
        also=("join", "same"),
    ),
]
SpeakerName = Annotated[
    str,
    Argument(
        "string",
        "Only what this speaker says.",
        max_chars=200,
        is_free_text=True,
        also=("name", "who", "speakers", "said_by"),
    ),
]
Limit = Annotated[
    int,
    Argument(
        "integer",
        f"Rows per page, up to {MAX_PAGE}.",
        least=1,
        most=MAX_PAGE,
        also=("count", "page_size", "max_results", "n", "top_k"),
    ),
]
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
        "Also return the full report as text. Default: false.",
        also=("verbose", "report", "explain"),
    ),
]
