"""The ``transcribe-mcp`` command. Its subcommands are loaded when they are used: each is declared
in a module of this package, calls one use case of ``service`` and prints the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ... import __version__
from ...errors import UsageError
from .parameters import PLAIN_SWITCHES, make_plain
from .terminal import show_error, write_out

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

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            module = import_module(f".{MODULES[name]}", __package__)
            group = typer.main.get_group(module.commands)
            make_plain(group)
            self._loaded |= group.commands
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


# Base class of errors in the command line: click's, or that of the copy in newer releases of typer.
COMMAND_LINE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]


class _Program(TyperGroup):
    def __init__(self, **declared: Any) -> None:
        super().__init__(**declared | {"commands": _Subcommands()})

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run a command and exit. Errors in the command line look like all other errors."""
        _require_directory()
        try:
            code = super().main(*args, **settings | {"standalone_mode": False})
        except COMMAND_LINE_ERROR as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()  # type: ignore[attr-defined]
            else:
                show_error(usage_error(error))
            raise SystemExit(UsageError.exit_code) from None
        raise SystemExit(code or 0)


def _require_directory() -> None:
    """In a deleted working directory, libraries abort the process without giving the reason.

    Raises:
        SystemExit: it was deleted, or is out of reach.
    """
    try:
        Path.cwd()
    except OSError as error:
        hint = "change to another directory and run the command again"
        show_error(UsageError(f"cannot use the working directory: {error.strerror}", hint=hint))
        raise SystemExit(UsageError.exit_code) from None


def usage_error(error: Any) -> UsageError:
    """The error that typer found in the command line, in the words of this program."""
    command = error.ctx.command_path if error.ctx else "transcribe-mcp"
    hint = f"see: {command} --help"
    if possibilities := getattr(error, "possibilities", None):
        hint = f"did you mean {possibilities[0]}? {hint}"
    message = error.message.partition(", unable to parse")[0].removesuffix(".")
    message = message[:1].lower() + message[1:]
    parameter = getattr(error, "param", None)
    if parameter is not None:
        is_argument = parameter.param_type_name == "argument"
        name = parameter.metavar if is_argument else parameter.opts[0]
        message = f"{name}{_refused_value(error)}: {message}" if message else f"{name} is missing"
    return UsageError(message, hint=hint)


def _refused_value(error: Any) -> str:
    """The value, where the message lacks it, as in newer releases of typer."""
    found = error.__cause__.errors() if hasattr(error.__cause__, "errors") else []
    return f" is {found[0]['input']!r}" if found else ""


# Plain help: with rich, --help takes twice as long.
app = typer.Typer(
    cls=_Program,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=PLAIN_SWITCHES | {"help_option_names": ["-h", "--help"]},
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
