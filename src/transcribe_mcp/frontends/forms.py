"""Derives a front end's form from the records in ``domain.options``: one parameter per option.

A command or tool takes whole records, such as ``options: Options``. Libraries build their forms
from a function's parameters. So a ``Form`` has a signature with one parameter per option, and
builds the records from the values of a call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from ..domain.options import Declared, declared_in
from ..service import engine_names


@dataclass(frozen=True, slots=True)
class Only:
    """Annotation of a record: the command offers only these options of it."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Option:
    """An option as a front end sees it, with the placeholders of ``help_text`` filled in."""

    name: str
    type: Any
    default: Any
    help_text: str
    declared: Declared


@dataclass(frozen=True, slots=True)
class Parameter:
    """How a front end asks for an option, and how it reads the answer."""

    annotation: Any
    default: Any
    read: Callable[[Any], Any] = lambda value: value


def offered(record: type, front_end: str) -> Iterator[Option]:
    """Options of a record that a front end offers, in order."""
    types = get_type_hints(record)
    for name, default, declared in declared_in(record):
        if front_end not in declared.hidden_in:
            help_text = declared.help_text.format(engines=", ".join(engine_names()))
            yield Option(name, types[name], default, help_text, declared)


class Form:
    """The parameters of ``function``, with each record replaced by its options.

    Attributes:
        signature: the libraries derive the form from it.
    """

    def __init__(
        self, function: Callable[..., Any], front_end: str, ask: Callable[[Option], Parameter]
    ) -> None:
        own = inspect.signature(function, eval_str=True)
        self._records: dict[str, tuple[type, dict[str, Parameter]]] = {}
        parameters = []
        for parameter in own.parameters.values():
            record, names = _record_in(parameter.annotation)
            if record is None:
                parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
                continue
            options = offered(record, front_end)
            asked = {each.name: ask(each) for each in options if not names or each.name in names}
            self._records[parameter.name] = record, asked
            parameters += [
                inspect.Parameter(
                    name, parameter.KEYWORD_ONLY, default=one.default, annotation=one.annotation
                )
                for name, one in asked.items()
            ]
        self.signature = own.replace(parameters=parameters)

    def present(self, caller: Callable[..., Any]) -> None:
        """Give ``caller``, the function that takes the values, this signature."""
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


def _record_in(annotation: Any) -> tuple[type | None, tuple[str, ...]]:
    names: tuple[str, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *details = get_args(annotation)
        names = next((each.names for each in details if isinstance(each, Only)), ())
    is_record = is_dataclass(annotation) and next(declared_in(annotation), None) is not None
    return (annotation if is_record else None), names
