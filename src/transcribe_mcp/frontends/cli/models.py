"""``transcribe-mcp models``: list, download and remove models."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ... import service
from . import options as arg
from .terminal import exit_codes, progress_bars, write_out

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name from 'models list' or Hugging Face ID.")
]

commands = typer.Typer(rich_markup_mode=None)
group = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, download and remove Whisper models."
)
commands.add_typer(group, name="models")


@group.command("list")
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


@group.command()
def pull(model: ModelName, quiet: arg.Quiet = False) -> None:
    """Download a model, or resume its download, and print its directory."""
    with exit_codes():
        with progress_bars(quiet=quiet) as bars:
            directory = service.pull_model(model, bars)
        write_out(f"{directory}\n")


@group.command()
def path(model: ModelName) -> None:
    """Print the directory of a downloaded model."""
    with exit_codes():
        write_out(f"{service.model_path(model)}\n")


@group.command("rm")
def remove(model: ModelName) -> None:
    """Remove a downloaded model and its conversions."""
    with exit_codes():
        write_out(f"freed {_size(service.remove_model(model))}\n")


def _size(n_bytes: int | None) -> str:
    if not n_bytes:
        return "-"
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
