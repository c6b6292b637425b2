"""Environments on disk, the current one for each purpose, and the previous ones.

environments/
  current.json          {"current": {want: name}, "previous": {want: [name, ...]}}
  .lock                 held while a process changes something; freed when that process exits
  NAME/record.json      written last, after verification; without it NAME is unfinished
  NAME/requirements.txt all versions, pinned
  NAME/log.txt          output of pip and of the checks
  NAME/venv/
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import EnvironmentBuildError
from .paths import environments_dir

SCHEMA = "transcribe-mcp.environment/1"
READY = "ready"
FAILED = "failed"
UNFINISHED = "unfinished"
DAMAGED = "damaged"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Environment:
    """The record of an environment. If its venv is missing, ``state`` is ``damaged``."""

    name: str
    state: str
    want: str = ""
    target: str = ""
    created: str = ""
    took_s: float = 0.0
    source: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    problem: str = ""


def folder_of(name: str) -> Path:
    """Raises ``EnvironmentBuildError`` for a name that is not a plain folder name."""
    if not _NAME.fullmatch(name):
        raise EnvironmentBuildError(
            f"{name!r} is not a valid environment name",
            hint="use a-z, 0-9, dot, dash and underscore, at most 64, with a letter or digit first",
        )
    return environments_dir() / name


def python_of(name: str) -> Path:
    """The interpreter of an environment; it may be missing."""
    inner = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    return folder_of(name) / "venv" / inner


def site_packages_of(name: str) -> Path | None:
    found = [
        *(folder_of(name) / "venv").glob("lib/python*/site-packages"),
        *(folder_of(name) / "venv").glob("Lib/site-packages"),
    ]
    return found[0] if found else None


def packages_of(name: str) -> dict[str, str]:
    """All installed versions, from the names of the metadata folders."""
    site = site_packages_of(name)
    folders = sorted(site.glob("*.dist-info")) if site else []
    pairs = [folder.stem.partition("-") for folder in folders]
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, _, version in pairs}


@contextmanager
def changing() -> Iterator[None]:
    """Hold the lock. Raises ``EnvironmentBuildError`` if another process holds it."""
    environments_dir().mkdir(parents=True, exist_ok=True)
    with (environments_dir() / ".lock").open("a+b") as file:
        try:
            _lock(file.fileno())
        except OSError as error:
            raise EnvironmentBuildError(
                "another process is changing the environments",
                hint="wait until it ends, then try again",
            ) from error
        yield


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_json(path: Path, record: Any) -> None:
    """Replace the file atomically: readers see the old or the new one."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_record(environment: Environment) -> None:
    write_json(
        folder_of(environment.name) / "record.json", {"schema": SCHEMA, **asdict(environment)}
    )


def environment(name: str) -> Environment:
    """Raises ``EnvironmentBuildError`` if no environment has this name."""
    folder = folder_of(name)
    if not folder.is_dir():
        known = ", ".join(each.name for each in environments()) or "none"
        raise EnvironmentBuildError(
            f"there is no environment {name!r}", hint=f"environments here: {known}"
        )
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        known_fields = {
            key: record[key] for key in Environment.__dataclass_fields__ if key in record
        }
        found = Environment(
            **known_fields | {"name": name, "checks": tuple(record.get("checks", ()))}
        )
    except FileNotFoundError:
        return Environment(name, UNFINISHED, problem="its creation was interrupted")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return Environment(name, DAMAGED, problem=f"record.json cannot be read: {error}")
    if found.state == READY and not python_of(name).exists():
        problem = f"its interpreter {python_of(name)} is gone"
        return Environment(
            **asdict(found) | {"state": DAMAGED, "problem": problem, "checks": found.checks}
        )
    return found


def environments() -> list[Environment]:
    """All environments, sorted by name."""
    if not environments_dir().is_dir():
        return []
    names = sorted(
        path.name
        for path in environments_dir().iterdir()
        if path.is_dir() and _NAME.fullmatch(path.name)
    )
    return [environment(name) for name in names]


@dataclass(frozen=True, slots=True)
class Pointers:
    """``current``: want -> name. ``previous``: want -> names, the latest last."""

    current: Mapping[str, str] = field(default_factory=dict)
    previous: Mapping[str, list[str]] = field(default_factory=dict)


def pointers() -> Pointers:
    """Empty before the first environment. Raises ``EnvironmentBuildError`` if damaged."""
    path = environments_dir() / "current.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Pointers(
            dict(record["current"]),
            {want: list(names) for want, names in record["previous"].items()},
        )
    except FileNotFoundError:
        return Pointers()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnvironmentBuildError(
            f"{path} is damaged: {error}",
            hint="delete it, then choose the current one: transcribe-mcp env use NAME",
        ) from error


def current_environment(want: str) -> Environment | None:
    """The current environment, or None. ``python_of`` gives its interpreter."""
    name = pointers().current.get(want)
    return environment(name) if name else None


def make_current(name: str) -> Environment:
    """Make a ready environment current; the previous one stays for ``rollback``. Needs the lock."""
    chosen = environment(name)
    if chosen.state != READY:
        hint = f"see {folder_of(name) / 'log.txt'}, or rebuild it: transcribe-mcp env create {name}"
        raise EnvironmentBuildError(
            f"environment {name} is {chosen.state}: {chosen.problem or 'see its log'}", hint=hint
        )
    now = pointers()
    before = now.current.get(chosen.want)
    if before == name:
        return chosen
    history = [each for each in now.previous.get(chosen.want, []) if each != name] + (
        [before] if before else []
    )
    _point({**now.current, chosen.want: name}, {**now.previous, chosen.want: history})
    return chosen


def roll_back(want: str) -> Environment:
    """Make the latest earlier environment that is still ready current. Needs the lock."""
    now = pointers()
    wants = [want] if want else list(now.current)
    if len(wants) != 1:
        raise EnvironmentBuildError(
            "more than one kind of environment is in use", hint=f"--want {'|'.join(wants) or 'cpu'}"
        )
    history = list(now.previous.get(wants[0], []))
    while history:
        name = history.pop()
        if folder_of(name).is_dir() and environment(name).state == READY:
            _point({**now.current, wants[0]: name}, {**now.previous, wants[0]: history})
            return environment(name)
    raise EnvironmentBuildError(
        f"there is no earlier environment for {wants[0]}", hint="transcribe-mcp env list"
    )


def _point(current: Mapping[str, str], previous: Mapping[str, list[str]]) -> None:
    write_json(environments_dir() / "current.json", {"current": current, "previous": previous})


def remove(name: str) -> None:
    """Delete an environment that is not current. Needs the lock."""
    now = pointers()
    environment(name)
    if name in now.current.values():
        raise EnvironmentBuildError(
            f"environment {name} is current",
            hint="make another one current first: transcribe-mcp env use NAME",
        )
    trash = environments_dir() / f".trash-{name}-{os.getpid()}"
    folder_of(name).replace(trash)  # atomic for readers; deleting takes time
    _point(
        now.current,
        {want: [each for each in names if each != name] for want, names in now.previous.items()},
    )
    shutil.rmtree(trash, ignore_errors=True)


def sweep() -> None:
    """Delete the remains of interrupted removals. Needs the lock."""
    for path in environments_dir().glob(".trash-*"):
        shutil.rmtree(path, ignore_errors=True)
