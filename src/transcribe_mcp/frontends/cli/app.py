"""The ``transcribe-mcp`` command. Its subcommands are loaded when they are used: each is declared
in a module of this package, calls one use case of ``service`` and prints the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ... import __version__
from .terminal import write_out

MODULES = {
    "transcribe": "transcribe",
    "listen": "listen",
    "jobs": "jobs",
    "worker": "worker",
    "models": "models",
    "voices": "voices",
    "serve": "serve",
    "mcp-config": "serve",
    "evaluate": "measure",
    "bench": "measure",
    "doctor": "compatibility",
    "env": "compatibility",
    "compat": "compatibility",
}


class _Subcommands(Mapping[str, Any]):
    """Subcommands by name, in the order of ``--help``."""

    def __getitem__(self, name: str) -> Any:
        module = import_module(f".{MODULES[name]}", __package__)
        return typer.main.get_group(module.commands).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


class _Program(TyperGroup):
    def __init__(self, **declared: Any) -> None:
        super().__init__(**declared | {"commands": _Subcommands()})


# Plain help: with rich, --help takes twice as long.
app = typer.Typer(
    cls=_Program,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
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
    """Transcribe recordings on this machine: text, subtitles and word timestamps."""
