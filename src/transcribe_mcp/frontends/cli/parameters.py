"""Parameters of commands that convert strings and numbers themselves.

typer converts every value with pydantic, even those of options that are not given. Importing
pydantic would take a third of the start of a command.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from typer.core import TyperArgument, TyperOption

# typer's own switches have no defaults, and it would convert their ``None``.
PLAIN_SWITCHES = {
    "default_map": dict.fromkeys(("help", "install_completion", "show_completion"), False)
}


class _Plain:
    """A parameter as typer declared it. typer converts other values, and explains wrong ones."""

    callback: Any
    required: bool
    type_descriptor: Any  # older releases of typer have none, and do not load pydantic

    def __init__(self, declared: Any) -> None:
        vars(self).update(vars(declared))

    def process_value(self, ctx: Any, value: Any) -> Any:
        is_missing = self.required and value in (None, ())
        if self.callback is None and not is_missing and hasattr(self, "type_descriptor"):
            with suppress(ValueError):
                return _converted(self.type_descriptor, value)
        return super().process_value(ctx, value)  # type: ignore[misc]


class _Option(_Plain, TyperOption):
    pass


class _Argument(_Plain, TyperArgument):
    pass


def _converted(declared: Any, value: Any) -> Any:
    """
    Raises:
        ValueError: not a string or a number, or an invalid one.
    """
    kind = declared.annotation
    info = declared.parameter_info
    if value is None:
        return None
    if kind in (str, list[str]) and info.parser is None:
        return value
    if kind in (int, float) and info.parser is None:
        number = kind(value)
        if (info.min is None or number >= info.min) and (info.max is None or number <= info.max):
            return number
    raise ValueError(f"{value!r} is not a plain {kind}")


def make_plain(command: Any) -> None:
    """Make the parameters of a command, or of a group of commands, plain ones.

    Parameters of other types, which later releases of typer may add, stay as they are.
    """
    kinds: dict[type, Any] = {TyperOption: _Option, TyperArgument: _Argument}
    command.params = [kinds.get(type(each), lambda it: it)(each) for each in command.params]
    command.context_settings = PLAIN_SWITCHES | command.context_settings
    for each in getattr(command, "commands", {}).values():
        make_plain(each)
