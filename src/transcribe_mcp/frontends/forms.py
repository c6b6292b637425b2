"""Derives a front end's form from the records in ``domain.options``: one parameter per option.

A command or tool takes whole records, such as ``options: Options``. Libraries build their forms
from a function's parameters. So a ``Form`` has a signature with one parameter per option, and
builds the records from the values of a call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, get_args, get_type_hints

from ..domain.options import Option, options_of
from ..service import engine_names


@dataclass(frozen=True, slots=True)
class Parameter:
    """A front end's parameter for an option, and how its value is read."""

    annotation: Any
    default: Any
    read: Callable[[Any], Any] = lambda value: value


class Form:
    """The parameters of ``function``, with each record replaced by its options.

    ``Annotated[Options, "language", "task"]`` is a record of which a command offers only these
    options. ``ask`` gets each option with its type.

    Attributes:
        signature: the libraries derive the form from it.
    """

    def __init__(
        self, function: Callable[..., Any], front_end: str, ask: Callable[[Option, Any], Parameter]
    ) -> None:
        own = inspect.signature(function, eval_str=True)
        self._records: dict[str, tuple[Any, dict[str, Parameter]]] = {}
        parameters = []
        for parameter in own.parameters.values():
            record, *names = get_args(parameter.annotation) or [parameter.annotation]
            if not (is_dataclass(record) and options_of(record)):
                parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
                continue
            types = get_type_hints(record)
            options = [
                each for each in options_of(record, front_end) if each.name in (names or types)
            ]
            offered = {each.name for each in options}
            options = [
                each if each.implies in offered else replace(each, implies="") for each in options
            ]
            asked = {each.name: ask(each, types[each.name]) for each in options}
            self._records[parameter.name] = record, asked
            parameters += [
                inspect.Parameter(
                    name, parameter.KEYWORD_ONLY, default=one.default, annotation=one.annotation
                )
                for name, one in asked.items()
            ]
        self.signature = own.replace(parameters=parameters)

    def present(self, caller: Callable[..., Any]) -> None:
        """Give the function ``caller`` this signature."""
        vars(caller)["__signature__"] = self.signature
        parameters = self.signature.parameters
        caller.__annotations__ = {name: each.annotation for name, each in parameters.items()}

    def gather(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The function's arguments, from one value per parameter of the signature.

        Raises:
            UsageError: an option is wrong, or two contradict each other.
        """
        arguments = dict(given)
        for name, (record, asked) in self._records.items():
            values = {option: one.read(arguments.pop(option)) for option, one in asked.items()}
            arguments[name] = record(**values)
        return arguments


def help_of(option: Option) -> str:
    """The help text with its placeholders filled in, and the switch that the option turns on."""
    help_text = option.help_text.format(engines=", ".join(engine_names()))
    return f"{help_text} Implies {option.implies}." if option.implies else help_text
