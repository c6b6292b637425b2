"""``transcribe-mcp evaluate`` and ``bench``: the accuracy and the speed on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ...domain.options import EngineSpec, Options
from ...service import bench as benchmark
from ...service import evaluating as service
from . import options as arg
from .terminal import progress_bars, write_out

commands = typer.Typer(rich_markup_mode=None)


@commands.command()
@arg.with_records
def evaluate(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Recordings, each with its text in a file beside it, or with a truth.json.",
        ),
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


@commands.command()
@arg.with_records
def bench(
    spec: EngineSpec,
    options: Annotated[Options, "batch_size"],
    audio: Annotated[
        Path | None,
        typer.Argument(metavar="AUDIO", help="Your own recording. Default: a sample voice."),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(metavar="NUMBER", help="Minutes of audio; shorter recordings are repeated."),
    ] = 5.0,
    runs: Annotated[
        int, typer.Option(metavar="INTEGER", help="Number of runs; the median is reported.")
    ] = 3,
    peers: Annotated[
        bool,
        typer.Option("--peers", help="Also measure faster-whisper and transformers, if installed."),
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
