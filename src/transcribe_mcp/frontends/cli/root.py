"""The ``transcribe-mcp`` command without its subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

from ... import __version__
from .terminal import write_out


def new_app() -> typer.Typer:
    # Plain help: with rich, --help takes twice as long.
    app = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(main)
    return app


def _show_version(value: bool) -> None:
    if value:
        write_out(f"transcribe-mcp {__version__}\n")
        raise typer.Exit


def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Transcribe recordings on this machine: text, subtitles and word timestamps."""
