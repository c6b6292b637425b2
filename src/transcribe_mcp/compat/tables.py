"""Version tables: one JSON file per table with its source, read when first used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from .errors import TableError
from .versions import compare, minor_of, parse_version, version_key

DATA = Path(__file__).with_name("data")
_SPAN = re.compile(r"(\d+\.\d+)-(\d+\.\d+)")


@dataclass(frozen=True, slots=True)
class Table:
    """``rows``: the newest last. ``source``: the page to check them against."""

    name: str
    about: str
    source: str
    as_of: str
    rows: tuple[Mapping[str, Any], ...]


def read_json(path: Path) -> Any:
    """Read one of our data files. Raises ``TableError`` if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableError(
            f"data file {path.name} cannot be read: {error}", hint="reinstall transcribe-mcp"
        ) from error


@cache
def table(name: str) -> Table:
    return parse_table(name, read_json(DATA / "tables" / f"{name}.json"))


def parse_table(name: str, record: Any) -> Table:
    if not isinstance(record, dict) or not isinstance(record.get("rows"), list):
        raise TableError(f"table {name} has no rows")
    missing = [key for key in ("about", "source", "as_of") if not isinstance(record.get(key), str)]
    if missing:
        raise TableError(f"table {name} has no {missing[0]}")
    return Table(name, record["about"], record["source"], record["as_of"], tuple(record["rows"]))


def watched_packages(*, updates: bool = False) -> list[str]:
    return [row["name"] for row in table("packages").rows if row["updates"] or not updates]


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables behind plans; ``updates`` makes a copy with rows for new releases."""

    torch: Sequence[Mapping[str, Any]]
    torch_variants: Sequence[Mapping[str, Any]]
    ctranslate2: Sequence[Mapping[str, Any]]
    whisperx: Sequence[Mapping[str, Any]]
    faster_whisper: Sequence[Mapping[str, Any]]
    pyannote_audio: Sequence[Mapping[str, Any]]


@lru_cache(maxsize=1)
def version_tables() -> Tables:
    return Tables(**{name: table(name).rows for name in Tables.__dataclass_fields__})


def row_for(rows: Sequence[Mapping[str, Any]], version: str) -> Mapping[str, Any] | None:
    """The row of this version, else of the nearest older one; None before the first."""
    below = [
        row
        for row in rows
        if (order := compare(row["version"], version)) is not None and order <= 0
    ]
    return max(below, key=lambda row: version_key(row["version"]), default=None)


def torch_row(version: str) -> Mapping[str, Any] | None:
    return next((row for row in version_tables().torch if row["minor"] == minor_of(version)), None)


def python_in(span: str, python: str) -> bool:
    """Whether Python ``3.12.4`` is in ``3.9-3.14 (+3.14t)``; true for an empty span."""
    match = _SPAN.search(span)
    version = parse_version(python)
    if match is None or version is None:
        return True
    low, high = (parse_version(part) for part in match.groups())
    minor = version.release[:2]
    return low is not None and high is not None and low.release <= minor <= high.release


def variant_capabilities(
    rows: Sequence[Mapping[str, Any]], variant: str, minor: str
) -> list[str] | None:
    """Compute capabilities with machine code in torch's wheels of ``variant`` (``cu126``)."""
    for row in rows:
        if row["variant"] == variant and (compare(row["from"], minor) or 0) <= 0 <= (
            compare(row["to"], minor) or 0
        ):
            return list(row["cc"])
    return None


def driver_floor(cuda_major: int, system: str | None) -> str | None:
    """Oldest driver for programs of CUDA ``cuda_major`` on ``Linux`` or ``Windows``."""
    key = "windows" if system == "Windows" else "linux"
    return next(
        (row[key] for row in table("drivers").rows if row["cuda_major"] == cuda_major), None
    )


def jit_driver_floor(ptx_isa: str) -> str | None:
    """Oldest driver that compiles this PTX version: that of its first toolkit."""
    measured = next(
        (row["driver_jit"] for row in version_tables().ctranslate2 if row["ptx_isa"] == ptx_isa),
        None,
    )
    if measured:
        return str(measured)
    rows = [
        row
        for row in table("toolkits").rows
        if row["ptx_isa"] and (compare(row["ptx_isa"], ptx_isa) or 0) >= 0
    ]
    return rows[0]["driver"] if rows else None


def runs_machine_code(capability: str, built_for: Sequence[str]) -> bool:
    """Machine code for X.Y runs on X.Z with Z >= Y (CUDA programming guide)."""
    major, _, minor = capability.partition(".")
    pairs = [each.partition(".") for each in built_for]
    return any(
        m == major and minor.isdecimal() and n.isdecimal() and int(n) <= int(minor)
        for m, _, n in pairs
    )
