"""``transcribe-mcp listen``: transcribe a microphone or standard input."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ...domain.options import EngineSpec, Options
from ...service import live as service
from ...service.models import JobOptions
from ...service.service import Service
from . import options as arg
from .terminal import say, write_out

commands = typer.Typer(rich_markup_mode=None)

EXAMPLES = """\b
Examples:
  transcribe-mcp listen
  transcribe-mcp listen --model small --language german --save
  ffmpeg -i URL -f s16le -ac 1 -ar 16000 - | transcribe-mcp listen -
"""

Source = Annotated[
    str,
    typer.Argument(
        metavar="-",
        help="- reads a WAV file or raw samples from standard input. Default: a microphone.",
    ),
]
MicrophoneName = Annotated[
    str, typer.Option("--microphone", metavar="TEXT", help="Part of the microphone's name.")
]
Rate = Annotated[
    int,
    typer.Option(
        metavar="INTEGER",
        min=8000,
        max=192_000,
        help="Samples per second on standard input without a header: 16 bits, one channel.",
    ),
]
Pause = Annotated[
    float,
    typer.Option(
        metavar="NUMBER", min=0.1, max=10.0, help="Seconds of silence that end an utterance."
    ),
]
Save = Annotated[bool, typer.Option("--save", help="Save the audio and its transcript as a job.")]


class Printer:
    """Prints the text of each utterance."""

    def __init__(self, name: str, shown: arg.Shown) -> None:
        self._name = name
        self._shown = shown
        self._starts: dict[int, float] = {}

    def take(self, found: service.LiveEvent) -> None:
        if found.kind == "configured" and not self._shown.quiet and self._name:
            say(f"listening to {self._name}; Ctrl-C stops")
        elif found.kind == "started":
            self._starts[found.item] = found.at_s
        elif found.kind == "completed" and found.text:
            write_out(self._line(found))
        elif found.kind == "failed":
            say(f"error: an utterance was lost: {found.message}")

    def _line(self, found: service.LiveEvent) -> str:
        if not self._shown.as_json:
            return f"{found.text}\n"
        start = self._starts.pop(found.item, 0.0)
        row = {"start": round(start, 3), "end": round(start + found.seconds, 3)}
        return json.dumps(row | {"text": found.text}, ensure_ascii=False) + "\n"


@commands.command(epilog=EXAMPLES)
@arg.with_records
def listen(
    spec: Annotated[EngineSpec, "engine", "model", "device", "compute_type"],
    options: Annotated[Options, "language", "task", "prompt", "vocabulary", "beam_size"],
    source: Source = "",
    microphone: MicrophoneName = "",
    rate: Rate = 16_000,
    pause: Pause = 0.5,
    save: Save = False,
    as_json: arg.AsJson = False,
    quiet: arg.Quiet = False,
) -> None:
    """Transcribe a microphone, utterance by utterance. Ctrl-C stops.

    The microphone needs: pip install 'transcribe-mcp[live]'
    """
    jobs = Service()
    with service.open_sound(source, microphone, rate) as sound:
        setup = service.LiveSetup(
            JobOptions(**vars(options) | vars(spec)),
            rate_hz=sound.rate_hz,
            channels=sound.channels,
            silence_s=pause,
            is_limited=False,
        )
        printer = Printer(sound.name, arg.Shown(as_json, quiet))
        job = service.listen(jobs, setup, sound.blocks, printer.take, stores=save)
    if job is not None and not quiet:
        say(f"saved as job {job.job_id}; see: transcribe-mcp jobs show {job.job_id}")
    jobs.close()
