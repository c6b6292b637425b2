"""``transcribe-mcp worker``: run the jobs of the queue."""

from __future__ import annotations

import typer

from ...service import server_settings
from ...service.service import work
from .options import KeepDays
from .terminal import exit_codes

commands = typer.Typer(rich_markup_mode=None)


@commands.command()
def worker(keep_days: KeepDays = None) -> None:
    """Run queued jobs on all GPUs until the queue stays empty. Commands start it automatically."""
    with exit_codes():
        server_settings.configure({"keep_days": None if keep_days is None else str(keep_days)})
        raise SystemExit(work())
