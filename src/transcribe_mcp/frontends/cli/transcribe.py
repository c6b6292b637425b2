"""``transcribe-mcp transcribe``."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import typer

from ...domain.options import EngineSpec, FormatOptions, Options, SubtitleRules
from ...domain.progress import show_no_text
from ...service import transcribing as service
from . import options as arg
from .options import Shown
from .summary import Summary
from .terminal import name_on_stdout, progress_bars, say, show_error, write_out

commands = typer.Typer(rich_markup_mode=None)

EXAMPLES = """\b
Examples:
  transcribe-mcp transcribe talk.mp3
  transcribe-mcp transcribe talks/ 'more/*.mkv' --format srt,json --output-dir subtitles
  transcribe-mcp transcribe interview.m4a --model small --language german
"""


@commands.command(epilog=EXAMPLES)
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
        output_dir=arg.read_directory(output_dir),
        overwrite=overwrite,
        skip_existing=skip_existing,
        look=replace(look, subtitles=rules),
        use_worker=not no_worker,
    )
    arg.check_outputs(request, context, queue=queue)
    shown = Shown(as_json, quiet, verbose)
    if queue:
        from . import jobs

        jobs.queue(request, shown, force=force)
        return
    _transcribe(request, shown)


def _transcribe(request: service.TranscribeRequest, shown: Shown) -> None:
    sources = request.sources
    only = service.spellings_of(sources[0]) if len(sources) == 1 else set()
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
        _say_notices(outcome, alone=alone)
    if shown.as_json:
        write_out(json.dumps(outcome.to_json(), ensure_ascii=False) + "\n")
    elif request.output_dir is not None and not outcome.is_skipped:
        with suppress(BrokenPipeError):  # the user wants the files, not their list
            for path in outcome.outputs:
                write_out(f"{name_on_stdout(path)}\n")
    elif outcome.transcript is not None:
        heading = "" if alone else f"==> {name_on_stdout(outcome.source)} <==\n"
        write_out(heading + "".join(outcome.texts.values()))


def _say_notices(outcome: service.Outcome, *, alone: bool) -> None:
    for notice in outcome.warnings:
        say(f"warning: {notice}" if alone else f"warning: {outcome.source}: {notice}")
    if outcome.is_skipped:
        say(f"skipped: {outcome.source}: its output files exist")
