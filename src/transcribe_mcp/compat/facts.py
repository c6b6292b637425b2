"""Facts about a machine: a value with its source, or the reason why it is unknown.

``probes.gather()`` reads this machine with guarded probes; ``load()`` reads a recorded machine.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import FactsError
from .validation import fits_shape

SCHEMA = "transcribe-mcp.facts/1"
_RECORD_AGAIN = "record the machine again with: transcribe-mcp doctor --save-facts FILE"
MAX_FILE_BYTES = 4 * 1024 * 1024  # a real machine's facts take about 20 kB


@dataclass(frozen=True, slots=True)
class Fact:
    """``value`` is plain JSON, or None with the reason in ``unknown``. ``took_s``: probe time."""

    name: str
    value: Any
    source: str = ""
    unknown: str = ""
    took_s: float = 0.0


def known(name: str, value: Any, source: str) -> Fact:
    return Fact(name, value, source)


def unknown(name: str, reason: str) -> Fact:
    return Fact(name, None, "", reason)


def known_or(name: str, value: Any, source: str, reason: str) -> Fact:
    """The fact, or why it is unknown if ``value`` is None."""
    return unknown(name, reason) if value is None else known(name, value, source)


class Facts(Mapping[str, Fact]):
    """All facts of one machine by name. ``value(name)`` is None for unknown and missing facts."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self._by_name = {fact.name: fact for fact in facts}

    def __getitem__(self, name: str) -> Fact:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def value(self, name: str, default: Any = None) -> Any:
        fact = self._by_name.get(name)
        return default if fact is None or fact.value is None else fact.value

    def with_facts(self, more: Iterable[Fact]) -> Facts:
        return Facts([*self.values(), *more])


def timed(facts: Iterable[Fact]) -> list[Fact]:
    """Run one probe; each of its facts gets the time that the probe took."""
    started = time.perf_counter()
    found = list(facts)
    took_s = round(time.perf_counter() - started, 6)
    return [replace(fact, took_s=took_s) for fact in found]


def save(facts: Facts, path: Path) -> None:
    """Write the facts without home, user and host name, GPU serials, credentials in URLs."""
    record = {"schema": SCHEMA, "facts": to_json(facts, scrub=True)}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(
            json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True) + "\n",
            encoding="utf-8",
        )
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FactsError(
            f"cannot write {path}: {error.strerror}", hint="choose a writable folder"
        ) from error


def to_json(facts: Facts, *, scrub: bool = False) -> dict[str, dict[str, Any]]:
    clean = _scrubber() if scrub else lambda value: value
    return {fact.name: _fact_json(fact, clean) for fact in facts.values()}


def _fact_json(fact: Fact, clean: Any) -> dict[str, Any]:
    record: dict[str, Any] = {"value": clean(fact.value), "took_s": fact.took_s}
    record |= {"unknown": clean(fact.unknown)} if fact.unknown else {"source": clean(fact.source)}
    return record


def _scrubber() -> Any:
    """A function that removes personal names and host names from any JSON value."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without this user
        user = ""
    swaps = [(str(Path.home()), "~"), (socket.gethostname(), "<host>"), (user, "<user>")]
    swaps = [(text, sign) for text, sign in swaps if len(text) > 2 and text != "root"]

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            for text, sign in swaps:
                value = re.sub(rf"(?<![A-Za-z0-9]){re.escape(text)}(?![A-Za-z0-9])", sign, value)
            value = re.sub(r"//[^/@\s]+@", "//<credentials>@", value)
            return re.sub(r"\b(GPU|MIG)-[0-9a-f]{8}-[0-9a-f-]{27}", r"\1-<uuid>", value)
        if isinstance(value, list):
            return [clean(item) for item in value]
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        return value

    return clean


def load(path: Path) -> Facts:
    """Read a recorded machine.

    Raises:
        FactsError: the file is missing, damaged, too large, of another schema or type.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise FactsError(
            f"cannot read {path}: {error.strerror}",
            hint="create one with: transcribe-mcp doctor --save-facts FILE",
        ) from error
    if len(raw) > MAX_FILE_BYTES:
        raise FactsError(f"{path} is larger than {MAX_FILE_BYTES} bytes; a facts file is not")
    return parse(raw, str(path))


def parse(raw: bytes, name: str) -> Facts:
    """Facts from the bytes of the file ``name``. Raises ``FactsError``."""
    try:
        record = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FactsError(f"{name} is damaged: {error}", hint=_RECORD_AGAIN) from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise FactsError(
            f"{name} has schema {str(schema)[:80]!r}; this program reads {SCHEMA!r}",
            hint=_RECORD_AGAIN,
        )
    entries = record.get("facts")
    if not isinstance(entries, dict):
        raise FactsError(f"{name} has no facts", hint=_RECORD_AGAIN)
    return Facts([_checked(key, entry, name) for key, entry in entries.items()])


def _checked(key: str, entry: Any, name: str) -> Fact:
    if not isinstance(entry, dict):
        raise FactsError(f"{name}: fact {key[:80]!r} is not a record", hint=_RECORD_AGAIN)
    value = entry.get("value")
    if value is not None and not fits_shape(key, value):
        raise FactsError(
            f"{name}: fact {key[:80]!r} has a value of the wrong kind", hint=_RECORD_AGAIN
        )
    took_s = entry.get("took_s", 0.0)
    return Fact(
        key,
        value,
        str(entry.get("source", ""))[:500],
        str(entry.get("unknown", ""))[:500],
        float(took_s) if isinstance(took_s, float) else 0.0,
    )
