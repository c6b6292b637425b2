"""Arguments of a client -> values for the tool; and the tool's published schema.

Clients differ: some send ``null`` or an empty text for a missing argument, numbers as text, or
their own bookkeeping. Unambiguous values are accepted, and all others are refused with a hint.
Schemas use only ``type``, ``description``, ``enum``, ``items``, ``properties`` and ``required``,
because some clients refuse a whole server for any other keyword.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from ...errors import UnknownNameError, UsageError
from .arguments import Argument

Arguments = Mapping[str, tuple[Argument, bool]]
"""Name -> the argument and whether it is required."""

MAX_ITEMS = 1_000
TYPES = {"seconds": "number", "pairs": "array", "groups": "array"}
# n8n: tool, toolCallId, sessionId, action, chatInput (n8n issues 21500, 21716, 22787, 37308);
# Letta: request_heartbeat; OpenHands: security_risk; Cline: task_progress; Gemini CLI:
# wait_for_previous.
BOOKKEEPING = frozenset(
    {"tool", "toolcallid", "sessionid", "action", "chatinput", "requestheartbeat",
     "securityrisk", "taskprogress", "waitforprevious"}
)  # fmt: skip
_NOTHING = frozenset({"null", "none", "undefined"})
_BOOLEANS = {
    "true": True,
    "yes": True,
    "1": True,
    "on": True,
    "false": False,
    "no": False,
    "0": False,
    "off": False,
}
_CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,4}):([0-5]?\d(?:[.,]\d{1,6})?)")  # SRT has commas
_SECONDS = re.compile(r"([+-]?\d{1,12}(?:\.\d{1,9})?) ?(?:s|sec|seconds?)?")


def arguments_of(function: Callable[..., Any]) -> Arguments:
    """The described parameters of a tool's function, in order."""
    hints = get_type_hints(function, include_extras=True)
    found: dict[str, tuple[Argument, bool]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if get_origin(hints[name]) is Annotated:
            described = next(
                (each for each in get_args(hints[name]) if isinstance(each, Argument)), None
            )
            if described is not None:
                found[name] = described, parameter.default is inspect.Parameter.empty
    return found


def schema_of(arguments: Arguments) -> dict[str, Any]:
    """The tool's input schema."""
    properties = {name: _property(argument) for name, (argument, _) in arguments.items()}
    required = [name for name, (_, is_required) in arguments.items() if is_required]
    return {"type": "object", "properties": properties} | (
        {"required": required} if required else {}
    )


def _property(argument: Argument) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "type": TYPES.get(argument.kind, argument.kind),
        "description": argument.description,
    }
    values = {"enum": list(argument.choices)} if argument.choices else {}
    return shape | ({"items": {"type": "string"} | values} if shape["type"] == "array" else values)


def read_arguments(tool: str, given: Mapping[str, Any], arguments: Arguments) -> dict[str, Any]:
    """The values by name, without missing arguments.

    Raises:
        UsageError: an unknown argument, a bad value, or a missing required argument.
    """
    known = {_squeezed(name): name for name in arguments}
    values: dict[str, Any] = {}
    for written, value in given.items():
        name = written if written in arguments else known.get(_squeezed(written))
        if name is None:
            if not (
                written.startswith("_") or _squeezed(written) in BOOKKEEPING or _is_nothing(value)
            ):
                raise _unknown(tool, written, arguments)
            continue
        argument, _ = arguments[name]
        if not _is_not_given(value, argument):
            values[name] = _read(value, name, argument)
    for name, (argument, is_required) in arguments.items():
        if is_required and name not in values:
            raise UsageError(f"{tool} needs {name}", hint=f"{name}: {argument.description}")
    return values


def read_object(given: Any) -> dict[str, Any]:
    """The arguments of a call that are not an object: one as JSON, or nothing.

    Raises:
        UsageError: anything else.
    """
    found = _from_json(given, given) if isinstance(given, str) else given
    if _is_nothing(found):
        return {}
    if not isinstance(found, dict):
        raise _refused(given, "arguments", 'an object, such as {"source": "/talks/monday.mp3"}')
    return found


def _squeezed(name: str) -> str:
    """``jobId``, ``job-id`` and ``job_id`` are one."""
    return re.sub("[^a-z0-9]", "", name.lower())


def _is_nothing(value: Any) -> bool:
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def _is_not_given(value: Any, argument: Argument) -> bool:
    if isinstance(value, str) and not argument.is_free_text:
        return value.strip().lower() in _NOTHING | {""}
    return _is_nothing(value)


def _unknown(tool: str, written: str, arguments: Arguments) -> UsageError:
    squeezed = _squeezed(written)
    synonyms = (
        name for name, (each, _) in arguments.items() if squeezed in map(_squeezed, each.also)
    )
    message = f"{tool} has no argument {written[:64]!r}"
    return UsageError.unknown(message, next(synonyms, written), arguments, "arguments")


# --- values -------------------------------------------------------------------------------------


def _read(value: Any, name: str, argument: Argument) -> Any:
    read = {
        "string": _text, "number": _number, "seconds": _number, "integer": _integer,
        "boolean": _boolean,
        "array": _texts, "pairs": _pairs, "groups": _groups,
    }[argument.kind]  # fmt: skip
    return read(value, name, argument)


def _refused(value: Any, name: str, expected: str) -> UsageError:
    shown = json.dumps(value, ensure_ascii=True, default=str)
    return UsageError(
        f"{name} is {shown if len(shown) <= 80 else shown[:80] + '…'}", hint=f"give {expected}"
    )


def _text(value: Any, name: str, argument: Argument) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:.15g}"
    if not isinstance(value, str):
        raise _refused(value, name, "one text")
    if len(value) > argument.max_chars:
        raise UsageError(
            f"{name} has {len(value)} characters", hint=f"give at most {argument.max_chars}"
        )
    value = value if argument.is_free_text else value.strip()
    return _chosen(value, name, argument) if argument.choices else value


def _chosen(value: str, name: str, argument: Argument) -> str:
    name_of_choice = value.lower()
    if name_of_choice in argument.choices:
        return name_of_choice
    raise UnknownNameError.unknown(
        f"{name} is {value[:64]!r}", value, argument.choices, "choose one of"
    )


def _number(value: Any, name: str, argument: Argument) -> float:
    expected = (
        "a number of seconds, such as 90, or 1:30" if argument.kind == "seconds" else "a number"
    )
    if isinstance(value, str):
        value = _number_in(value.strip().lower(), is_time=argument.kind == "seconds")
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise _refused(value, name, expected)
    return float(min(max(value, argument.least), argument.most))


def _number_in(text: str, *, is_time: bool) -> Any:
    """The number, or the text if it is not a number."""
    if is_time and (match := _CLOCK.fullmatch(text)):
        hours, minutes, seconds = match.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
    match = _SECONDS.fullmatch(text)
    if match is None or not (is_time or match[0] == match[1]):
        return text
    return float(match[1])


def _integer(value: Any, name: str, argument: Argument) -> int:
    number = _number(value, name, argument)
    if number != int(number):
        raise _refused(value, name, "a whole number")
    return int(number)


def _boolean(value: Any, name: str, _: Argument) -> bool:
    known = (
        _BOOLEANS.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None
    )
    if known is None:
        raise _refused(value, name, "true or false")
    return known


def _texts(value: Any, name: str, argument: Argument) -> list[str]:
    """A list, a list as JSON, or one text: a path, or words separated by commas."""
    if isinstance(value, str):
        value = _listed(value, is_path=argument.is_free_text)
    if not isinstance(value, list):
        raise _refused(value, name, "a list of texts")
    if len(value) > MAX_ITEMS:
        raise UsageError(
            f"{name} has {len(value)} entries", hint=f"give at most {MAX_ITEMS} in one call"
        )
    items = [_text(each, name, argument) for each in value if each is not None]
    return items if argument.is_free_text else [each for each in items if each.strip()]


def _pairs(value: Any, name: str, argument: Argument) -> dict[str, str]:
    """An object, or a list of ``old=new``; either also as JSON."""
    if isinstance(value, str):
        value = _from_json(value, value)
    if isinstance(value, dict):
        texts = [f"{old}={new}" for old, new in value.items()]
    else:
        texts = _texts(value, name, argument)
    pairs = {}
    for text in texts:
        old, equals, new = _text(text, name, argument).partition("=")
        if not equals:
            raise _refused(text, name, 'pairs such as "Speaker 1=Anna"')
        pairs[old.strip()] = new.strip()
    return pairs


def _groups(value: Any, name: str, argument: Argument) -> list[list[str]]:
    """The texts of one group, or a list of groups; either also as JSON."""
    if isinstance(value, str):
        value = _from_json(value, value)
    has_groups = isinstance(value, list) and any(isinstance(each, list) for each in value)
    return [_texts(each, name, argument) for each in (value if has_groups else [value])]


def _from_json(text: str, otherwise: Any) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return otherwise


def _listed(text: str, *, is_path: bool) -> list[Any]:
    if text.lstrip().startswith("["):
        found = _from_json(text, None)
        if isinstance(found, list):
            return found
    return [text] if is_path else [part.strip() for part in re.split(r"[,\n]", text)]
