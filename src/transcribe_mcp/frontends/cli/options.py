"""The command line's options, each described once, and how their texts are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import UsageError

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE", help="Files, directories, patterns, URLs, or - for standard input."
    ),
]
Engine = Annotated[str, typer.Option(help="auto, ctranslate2 or whisper (PyTorch).")]
Model = Annotated[
    str, typer.Option(help="A name from 'models list', a Hub id, a directory, or auto.")
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:N, several as cuda:0,1 or cuda:all.")
]
ComputeType = Annotated[
    str, typer.Option(help="Precision: auto, int8, float16, float32, bfloat16.")
]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 is every core.")]
Compare = Annotated[
    str,
    typer.Option(
        help="Also judge faster-whisper, faster-whisper-batched or whisperx, with the same model; by commas."
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Make no network call.")]
Language = Annotated[str, typer.Option(help="Code or name; auto lets several stretches vote.")]
Multilingual = Annotated[
    bool, typer.Option("--multilingual", help="Decide the language for every window.")
]
Task = Annotated[str, typer.Option(help="transcribe, or translate into English.")]
Formats = Annotated[
    str,
    typer.Option(
        "--format", "-f", help="txt, timed, srt, vtt, tsv, json, md; several with commas."
    ),
]
OutputDir = Annotated[
    Path | None,
    typer.Option("--output-dir", "-o", help="Write a file per format there, not to stdout."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace output files that are there.")
]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="Skip recordings whose output files are all there; go on with the rest.",
    ),
]
Words = Annotated[bool, typer.Option("--words/--no-words", help="Keep the times of words.")]
Vocabulary = Annotated[
    str, typer.Option(metavar="FILE|TEXT", help="Names and words to expect: lines or commas.")
]
Prompt = Annotated[str, typer.Option(help="Text to take style and spelling from.")]
Temperature = Annotated[
    str, typer.Option(help="Tried in turn on windows of poor quality, for example 0,0.4,0.8.")
]
BeamSize = Annotated[
    int | None,
    typer.Option(
        min=1, help="Hypotheses kept while decoding; 1 is greedy. Default: what suits the model."
    ),
]
BatchSize = Annotated[
    int, typer.Option(min=0, help="Windows decoded at once; 0 leaves it to the engine.")
]
Vad = Annotated[
    bool,
    typer.Option(
        "--vad/--no-vad", help="Look for speech first; without, everything is taken for speech."
    ),
]
Track = Annotated[
    str, typer.Option(help="Audio track: auto, a number from 1, or all (each by itself).")
]
Channel = Annotated[
    str,
    typer.Option(
        help="auto, mix, left, right, a number from 1, or split (each by itself, named as speakers)."
    ),
]
LineChars = Annotated[int, typer.Option(help="Subtitles: characters a line.")]
Lines = Annotated[int, typer.Option(help="Subtitles: lines at once.")]
LongestCue = Annotated[float, typer.Option(help="Subtitles: seconds that one stays at most.")]
ShortestCue = Annotated[
    float, typer.Option(help="Subtitles: seconds that one stays at least.", show_default="5/6")
]
ReadingSpeed = Annotated[float, typer.Option(help="Subtitles: characters a second.")]
HighlightWords = Annotated[
    bool, typer.Option("--highlight-words", help="VTT: mark words as they are said.")
]
Queue = Annotated[
    bool, typer.Option("--queue", help="Leave it to the worker and print the jobs' ids.")
]
Force = Annotated[
    bool, typer.Option("--force", help="With --queue: transcribe again what the library has.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON for programs, a line for each result.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no warnings.")]


SUBTITLES = ("max_line_chars", "max_lines", "max_cue_s", "min_cue_s", "max_chars_per_second")
_OF_OUTPUTS = {
    "formats": "--format",
    "overwrite": "--overwrite",
    "highlight_words": "--highlight-words",
} | {name: f"--{name.replace('_', '-')}" for name in SUBTITLES}


def check_outputs(given: Mapping[str, Any], context: typer.Context) -> None:
    """Options of output files that would have no effect are refused, never left out.

    Raises:
        UsageError
    """
    if given["skip_existing"] and given["output_dir"] is None:
        raise UsageError("--skip-existing looks for output files", hint="add --output-dir DIR")
    if given["skip_existing"] and given["overwrite"]:
        raise UsageError("--skip-existing contradicts --overwrite", hint="leave out one of them")
    if not given["queue"] or given["output_dir"] is not None:
        return
    for name, option in _OF_OUTPUTS.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            hint = "add --output-dir DIR, or print the transcript later: transcribe-mcp jobs show JOB --wait --format F"
            raise UsageError(f"{option} with --queue has no file to apply to", hint=hint)


def read_formats(text: str, *, to_stdout: bool) -> tuple[str, ...]:
    """``srt,json`` -> names, each once; stdout takes one."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(
            f"--format is {text!r}", hint="name one or more of txt, timed, srt, vtt, tsv, json, md"
        )
    if len(names) > 1 and to_stdout:
        raise UsageError(
            f"--format {text} names {len(names)} formats for one output",
            hint="add --output-dir DIR",
        )
    return names


def read_vocabulary(text: str) -> tuple[str, ...]:
    """A file with a word or name a line, or the words themselves with commas between.

    Raises:
        UsageError: what is called like a file is none, or cannot be read.
    """
    hint = "give a UTF-8 text file with one word or name a line, or the words with commas between"
    try:
        is_file = Path(text).is_file() if text else False
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
    """``0,0.4,0.8`` -> numbers; the pipeline's options know their range."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--temperature is {text!r}", hint="give numbers between 0 and 1, as in 0,0.4,0.8"
        ) from error
