"""The command line: each command calls one use case of ``service`` and prints its result."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ... import service
from ...domain.options import EngineSpec, FormatOptions, Options, SubtitleRules
from ...domain.progress import show_no_text
from ...service import bench as benchmark
from . import jobs, listen, voices
from . import options as arg
from .options import Shown
from .root import new_app
from .summary import Summary
from .terminal import exit_codes, progress_bars, say, show_error, write_out

app = new_app()
models = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, download and remove Whisper models."
)

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name from 'models list' or Hugging Face ID.")
]


EXAMPLES = """\b
Examples:
  transcribe-mcp transcribe talk.mp3
  transcribe-mcp transcribe talks/ 'more/*.mkv' --format srt,json --output-dir subtitles
  transcribe-mcp transcribe interview.m4a --model small --language german
"""


@app.command(epilog=EXAMPLES)
@arg.with_records
def transcribe(
    context: typer.Context,
    sources: arg.Sources,
    spec: EngineSpec,
    options: Options,
    rules: SubtitleRules,
    look: FormatOptions,
    formats: arg.Formats = "txt",
    output_dir: arg.OutputDir = None,
    overwrite: arg.Overwrite = False,
    skip_existing: arg.SkipExisting = False,
    queue: arg.Queue = False,
    force: arg.Force = False,
    no_worker: arg.NoWorker = False,
    as_json: arg.AsJson = False,
    quiet: arg.Quiet = False,
    verbose: arg.Verbose = False,
) -> None:
    """Transcribe files, directories, patterns or URLs.

    Prints the text unless --output-dir is given.
    """
    to_stdout = output_dir is None and not as_json and not queue
    request = service.TranscribeRequest(
        sources=tuple(sources),
        spec=spec,
        options=options,
        formats=arg.read_formats(formats, to_stdout=to_stdout),
        output_dir=output_dir,
        overwrite=overwrite,
        skip_existing=skip_existing,
        look=replace(look, subtitles=rules),
        use_worker=not no_worker,
    )
    arg.check_outputs(request, context, queue=queue)
    shown = Shown(as_json, quiet, verbose)
    if queue:
        jobs.queue(request, shown, force=force)
        return
    _transcribe(request, shown)


def _transcribe(request: service.TranscribeRequest, shown: Shown) -> None:
    sources = request.sources
    only = {sources[0], str(Path(sources[0]))} if len(sources) == 1 else set()
    done = Summary()
    with progress_bars(quiet=shown.quiet) as bars:
        note = say if shown.verbose else show_no_text
        for outcome in service.transcribe(request, bars, bars.show_text, note):
            bars.put_away()
            done.add(outcome)
            _show(outcome, request, shown, alone=outcome.source in only)
        if bars.shown:
            say(str(done))
    if done.n_failed:
        raise SystemExit(1)


def _show(
    outcome: service.Outcome, request: service.TranscribeRequest, shown: Shown, *, alone: bool
) -> None:
    """Print one source's result on stdout, its warnings or its error on stderr."""
    if outcome.error is not None:
        show_error(outcome.error, outcome.source)
    elif not shown.quiet:
        for notice in outcome.warnings:
            say(f"warning: {notice}" if alone else f"warning: {outcome.source}: {notice}")
    if outcome.is_skipped and not shown.quiet:
        say(f"skipped: {outcome.source}: its output files exist")
    if shown.as_json:
        write_out(json.dumps(outcome.to_json(), ensure_ascii=False) + "\n")
    elif request.output_dir is not None and not outcome.is_skipped:
        with suppress(BrokenPipeError):  # the user wants the files, not their list
            for path in outcome.outputs:
                write_out(f"{path}\n")
    elif outcome.transcript is not None:
        heading = "" if alone else f"==> {outcome.source} <==\n"
        write_out(heading + "".join(outcome.texts.values()))


@app.command()
@arg.with_records
def evaluate(
    directory: Annotated[
        Path,
        typer.Argument(help="Recordings, each with its text in a file beside it, or a truth.json."),
    ],
    spec: EngineSpec,
    options: Annotated[Options, "language", "multilingual", "beam_size", "batch_size", "vad"],
    compare: arg.Compare = "",
    as_json: arg.AsJson = False,
    quiet: arg.Quiet = False,
) -> None:
    """Measure accuracy on your own recordings.

    Counts word errors and invented words. Checks the language and word timestamps if the truth has
    them.
    """
    names = tuple(filter(None, (name.strip() for name in compare.split(","))))
    request = service.EvaluateRequest(directory, spec, options, names)
    with progress_bars(quiet=quiet) as bars:
        found = service.evaluate(request, bars)
    _print_figures(found, as_json=as_json)


@app.command()
@arg.with_records
def bench(
    spec: EngineSpec,
    options: Annotated[Options, "batch_size"],
    audio: Annotated[
        Path | None, typer.Argument(help="Your own recording; by default a sample voice.")
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(metavar="NUMBER", help="Length of the audio; shorter recordings repeat."),
    ] = 5.0,
    runs: Annotated[
        int, typer.Option(metavar="INTEGER", help="Number of runs; the median counts.")
    ] = 3,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also run other installed programs.")
    ] = False,
    language: Annotated[
        str, typer.Option(metavar="TEXT", help="Language of the recording.")
    ] = "en",
    as_json: arg.AsJson = False,
    quiet: arg.Quiet = False,
) -> None:
    """Measure the speed of this machine.

    Shows every stage, its share of the hardware's limit, and memory.
    """
    options = replace(options, language=language)
    request = benchmark.BenchRequest(audio, minutes, runs, peers, options, spec)
    with progress_bars(quiet=quiet) as bars:
        found = benchmark.bench(request, bars)
    _print_figures(found, as_json=as_json)


def _print_figures(found: service.Evaluation, *, as_json: bool) -> None:
    write_out(json.dumps(found.figures, ensure_ascii=False) + "\n" if as_json else found.table)


# ``__main__`` runs these without this file, in case a package is broken. Here they serve --help.
_FORWARDED = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=_FORWARDED, add_help_option=False)
def doctor(context: typer.Context) -> None:
    """Check this machine, recommend a setup, explain an error."""
    raise SystemExit(service.compatibility(["doctor", *context.args]))


@app.command(context_settings=_FORWARDED, add_help_option=False)
def env(context: typer.Context) -> None:
    """Manage virtual environments for conflicting engines."""
    raise SystemExit(service.compatibility(["env", *context.args]))


@app.command(context_settings=_FORWARDED, add_help_option=False)
def compat(context: typer.Context) -> None:
    """Check the package index for updates: compat updates."""
    raise SystemExit(service.compatibility(context.args))


@models.command("list")
def list_models(as_json: arg.AsJson = False) -> None:
    """List models: size, languages, and which are downloaded."""
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
    """Download a model, or resume its download, and print its directory."""
    with exit_codes():
        with progress_bars(quiet=quiet) as bars:
            directory = service.pull_model(model, bars)
        write_out(f"{directory}\n")


@models.command()
def path(model: ModelName) -> None:
    """Print the directory of a downloaded model."""
    with exit_codes():
        write_out(f"{service.model_path(model)}\n")


@models.command("rm")
def remove(model: ModelName) -> None:
    """Remove a downloaded model and its conversions."""
    with exit_codes():
        write_out(f"freed {_size(service.remove_model(model))}\n")


def _size(n_bytes: int | None) -> str:
    if not n_bytes:
        return "-"
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


listen.add_command(app)
app.add_typer(models, name="models")
app.add_typer(voices.group, name="voices")
jobs.add_commands(app)
