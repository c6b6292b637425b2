"""``transcribe-mcp voices``: add, list, remove and export known voices."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ...domain.options import Options
from ...service import voices as service
from . import options as arg
from .terminal import confirm, exit_codes, progress_bars, say, write_out

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the person.")]
Clip = Annotated[
    Path,
    typer.Argument(metavar="CLIP", help="Recording with at least 10 s of this person alone."),
]
Agreed = Annotated[bool, typer.Option("--yes", "-y", help="The person has agreed; do not ask.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this new file.")
]
OfChannel = Annotated[Options, "track", "channel"]

group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Add, list, remove and export known voices.",
)
commands = typer.Typer(rich_markup_mode=None)
commands.add_typer(group, name="voices")


def add(
    name: Name, clip: Clip, options: OfChannel, yes: Agreed = False, quiet: arg.Quiet = False
) -> None:
    """Add a voice print from a clip of one person.

    Nobody else may speak in the clip. Add clips from other microphones, and one from a telephone
    call, under the same name. A voice print is biometric data, so the person must agree. It stays
    on this machine.
    """
    person = service.check_addable(name)
    question = (
        f"A voice print is biometric data. Has {person} agreed that this machine stores one and "
        "recognizes the voice with it?"
    )
    confirm(question, yes=yes)
    with progress_bars(quiet=quiet) as bars:
        added = service.add_voice(person, clip, options, bars)
    voice = added.voice
    kept = f"{voice.name} has {_prints(voice)}"
    write_out(f"added {added.seconds:.1f} s of speech, {added.kind}; {kept}\n")
    if added.is_replacing:
        say(f"the oldest {added.kind} print was deleted, to make room for the new one")


group.command()(arg.with_records(add))


@group.command("list")
def list_voices(as_json: arg.AsJson = False) -> None:
    """List known voices and how many prints each has."""
    with exit_codes():
        rows = service.list_voices()
        if not rows and not as_json:
            say("no known voices: add one with transcribe-mcp voices add NAME CLIP")
        width = max((len(row.name) for row in rows), default=0)
        for row in rows:
            line = f"{row.name:<{width}}  {row.added}  {row.seconds:>6.1f} s  {_prints(row)}\n"
            write_out(json.dumps(asdict(row), ensure_ascii=False) + "\n" if as_json else line)
        for row in rows:
            if row.old:
                say(
                    f"warning: {row.name}: old prints belong to another model and are not used; "
                    "add clips again"
                )


@group.command()
def remove(name: Name) -> None:
    """Delete a voice with all its prints. Finished transcripts keep the name."""
    with exit_codes():
        row = service.remove_voice(name)
        say(f"{row.name} deleted with {_prints(row)}; existing transcripts keep the name")


@group.command()
def export(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Only this voice. Default: all.")
    ] = "",
    output: Output = None,
) -> None:
    """Print stored voice prints as JSON."""
    with exit_codes():
        text = service.export_voices(name, output)
        write_out(text if output is None else f"{output}\n")


def _prints(row: service.VoiceRow) -> str:
    counts = {"wideband": row.wideband, "telephone": row.telephone, "old": row.old}
    parts = [f"{n} {kind}" for kind, n in counts.items() if n]
    total = sum(counts.values())
    return f"{total} print{'' if total == 1 else 's'} ({', '.join(parts)})"
