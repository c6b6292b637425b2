"""``transcribe-mcp doctor``, ``env`` and ``compat``."""

from __future__ import annotations

import typer

from ... import service

commands = typer.Typer(rich_markup_mode=None)

# The checks of compatibility read their arguments themselves; they use the standard library alone.
_FORWARDED = {"allow_extra_args": True, "ignore_unknown_options": True}


@commands.command(context_settings=_FORWARDED, add_help_option=False)
def doctor(context: typer.Context) -> None:
    """Check this machine, recommend a setup, explain an error."""
    raise SystemExit(service.compatibility(["doctor", *context.args]))


@commands.command(context_settings=_FORWARDED, add_help_option=False)
def env(context: typer.Context) -> None:
    """Manage virtual environments for conflicting engines."""
    raise SystemExit(service.compatibility(["env", *context.args]))


@commands.command(context_settings=_FORWARDED, add_help_option=False)
def compat(context: typer.Context) -> None:
    """Check the package index for updates: compat updates."""
    raise SystemExit(service.compatibility(context.args))
