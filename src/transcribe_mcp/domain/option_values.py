"""Values of options as Python programs give them: converted to the declared type, or refused."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable
from functools import cache
from numbers import Real
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import UsageError


def convert_values(record: Any, names: Iterable[str]) -> None:
    """Give the fields of a frozen record the types that they declare: a list becomes a tuple, a
    path or a track's number a text, and a number of NumPy one of Python.

    Raises:
        UsageError: a value has another type.
    """
    kinds = _kinds(type(record))  # type: ignore[arg-type]
    for name in names:
        value = getattr(record, name)
        reader, is_optional, expected = kinds[name]
        if value is None and is_optional:
            continue
        try:
            read = reader(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name} is {value!r}", hint=f"give {expected}") from error
        if read is not value:
            object.__setattr__(record, name, read)


@cache
def _kinds(cls: Any) -> dict[str, tuple[Callable[[Any], Any], bool, str]]:
    """For each field its reader, whether it takes ``None``, and its type in words."""
    return {name: _kind_of(hint) for name, hint in get_type_hints(cls).items()}


def _kind_of(hint: Any) -> tuple[Callable[[Any], Any], bool, str]:
    is_optional = type(None) in get_args(hint)
    base = next((kind for kind in get_args(hint) if kind is not type(None)), hint)
    base = base if is_optional else hint
    if get_origin(base) is tuple:
        item = _number if get_args(base)[0] is float else _text
        words = "a list of numbers" if item is _number else "a list of texts"
        return (lambda values: _items(values, item)), is_optional, words
    reader, words = _READERS.get(base, (_same, "another value"))
    return reader, is_optional, words


def _same(value: Any) -> Any:
    return value


def _bool(value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # also NumPy's
        raise TypeError
    return bool(value)


def _integer(value: Any) -> int:
    return operator.index(value)


def _number(value: Any) -> float:
    if not isinstance(value, Real):
        raise TypeError
    return value if isinstance(value, int | float) else float(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return os.fspath(value) if isinstance(value, os.PathLike) else str(operator.index(value))


def _items(values: Any, item: Callable[[Any], Any]) -> tuple[Any, ...]:
    if isinstance(values, str | bytes):
        raise TypeError
    read = tuple(map(item, values))
    return values if isinstance(values, tuple) and read == values else read


_READERS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    bool: (_bool, "True or False"),
    int: (_integer, "a whole number"),
    float: (_number, "a number"),
    str: (_text, "a text"),
}
