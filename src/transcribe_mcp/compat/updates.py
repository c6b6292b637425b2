"""``compat updates``: new releases, and how they would change plans and findings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from . import tables
from .diagnose import diagnose_machine
from .errors import PackageIndexError
from .facts import Fact, Facts
from .index import File, Index, newest, pip_configuration
from .plan import WANTS, make_plan
from .tables import Tables
from .versions import compare, minor_of, parse_requirement, version_key

_CONNECTIONS = 8
_TABLE_OF = {
    "ctranslate2": "ctranslate2",
    "torch": "torch",
    "whisperx": "whisperx",
    "faster-whisper": "faster_whisper",
    "pyannote-audio": "pyannote_audio",
    "torchaudio": "torchaudio",
    "torchcodec": "torchcodec",
}
_PLANNED = ("ctranslate2", "torch", "whisperx", "faster_whisper", "pyannote_audio")


@dataclass(frozen=True, slots=True)
class Release:
    """A release newer than the tables. ``requirements`` is None if the index lacks them."""

    package: str
    known: str
    version: str
    requires_python: str
    requirements: tuple[str, ...] | None
    changes: tuple[str, ...]  # requirements added (+) and removed (-) since the known version
    effects: tuple[str, ...]  # changes for this machine


@dataclass(frozen=True, slots=True)
class Updates:
    asked: tuple[str, ...]
    releases: tuple[Release, ...]
    problems: tuple[str, ...]

    @property
    def changed(self) -> bool:
        return bool(self.releases)


def known_version(package: str) -> str:
    """The newest release in the tables."""
    if package in _TABLE_OF:
        rows = [row for row in tables.table(_TABLE_OF[package]).rows if not row.get("yanked")]
        return max((str(row["version"]) for row in rows), key=version_key)
    rows = [row for row in tables.table("packages").rows if row["name"] == package]
    return str(rows[0]["newest_known"])


def find_updates(facts: Facts, index: Index | None = None) -> Updates:
    """Check every watched package.

    Raises:
        PackageIndexError: every request failed.
    """
    asked = tuple(tables.watched_packages(updates=True))
    source = index or Index(pip_configuration())
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        answers = list(pool.map(lambda package: _look(package, source), asked))
    problems = [answer for answer in answers if isinstance(answer, PackageIndexError)]
    if len(problems) == len(asked):
        raise problems[0]
    releases = [answer for answer in answers if isinstance(answer, Release)]
    told = [replace(release, effects=tuple(_effects(release, facts))) for release in releases]
    return Updates(asked, tuple(told), tuple(str(problem) for problem in problems))


def _look(package: str, index: Index) -> Release | PackageIndexError | None:
    known = known_version(package)
    try:
        files = index.files(package)
        file = newest(files)
        if file is None or (compare(file.version, known) or 0) <= 0:
            return None
        requirements = index.requirements(file)
        before = _requirements_of(known, files, index)
    except PackageIndexError as problem:
        return problem
    return Release(
        package,
        known,
        file.version,
        file.requires_python,
        requirements,
        _changes(before, requirements),
        (),
    )


def _requirements_of(version: str, files: Sequence[File], index: Index) -> tuple[str, ...] | None:
    same = [file for file in files if compare(file.version, version) == 0 and file.has_metadata]
    return index.requirements(same[0]) if same else None


def _changes(before: tuple[str, ...] | None, after: tuple[str, ...] | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    main = [[line for line in lines if "extra ==" not in line] for lines in (before, after)]
    gone = [f"- {line}" for line in main[0] if line not in main[1]]
    return (*gone, *(f"+ {line}" for line in main[1] if line not in main[0]))


def _effects(release: Release, facts: Facts) -> Iterator[str]:
    """Changed plans, and findings that an upgrade here would add or remove."""
    table = _TABLE_OF.get(release.package)
    if table in _PLANNED:
        extended = with_release(tables.version_tables(), release)
        for want in WANTS:
            old, new = (
                make_plan(facts, want, known) for known in (tables.version_tables(), extended)
            )
            pair = [
                {each for install in plan.installs for each in install.requirements}
                for plan in (old, new)
            ]
            if pair[0] != pair[1]:
                removed = ", ".join(sorted(pair[0] - pair[1]))
                added = ", ".join(sorted(pair[1] - pair[0]))
                yield f"plan {want}: {removed} -> {added}"
    installed = facts.value("packages.installed", {})
    if release.package in installed:
        before = {finding.code: finding.title for finding in diagnose_machine(facts)}
        after = {
            finding.code: finding.title for finding in diagnose_machine(_upgraded(facts, release))
        }
        for code in sorted(after.keys() - before.keys()):
            yield f"upgrading here would cause {code}: {after[code]}"
        for code in sorted(before.keys() - after.keys()):
            yield f"upgrading here would fix {code}: {before[code]}"


def _upgraded(facts: Facts, release: Release) -> Facts:
    installed = {**facts.value("packages.installed", {}), release.package: release.version}
    requires = {**facts.value("packages.requires", {})}
    if release.requirements is not None:
        requires[release.package] = [
            line for line in release.requirements if "extra ==" not in line
        ]
    changed = [
        Fact("packages.installed", installed, "upgraded"),
        Fact("packages.requires", requires, "upgraded"),
    ]
    gone = {"ctranslate2": "ctranslate2.binary"}.get(release.package)
    return Facts([fact for fact in facts.with_facts(changed).values() if fact.name != gone])


def with_release(known: Tables, release: Release) -> Tables:
    """The tables with a row for the release: its metadata, else the newest row's values."""
    name = _TABLE_OF[release.package]
    rows: Sequence[Mapping[str, Any]] = getattr(known, name)
    last = next(row for row in reversed(rows) if not row.get("yanked"))
    fresh: dict[str, Any] = {
        **last,
        "version": release.version,
        "requires_python": release.requires_python,
    }
    if release.package == "torch":
        fresh |= _torch_build(release, last)
        rows = [row for row in rows if row["minor"] != fresh["minor"]]
    return replace(known, **{name: (*rows, fresh)})


def _torch_build(release: Release, last: Mapping[str, Any]) -> dict[str, Any]:
    """CUDA version and cuDNN pin from torch's requirements."""
    found: dict[str, Any] = {"minor": minor_of(release.version)}
    for line in release.requirements or ():
        required = parse_requirement(line)
        if required is None:
            continue
        if required.name == "cuda-toolkit" or re.fullmatch(
            r"nvidia-cuda-runtime(-cu\d+)?", required.name
        ):
            found["cuda"] = minor_of(required.specifiers.lstrip("=~<>!"))
        if required.name.startswith("nvidia-cudnn"):
            found["cudnn_pin"] = f"{required.name}{required.specifiers}"
    default = "cu" + str(found.get("cuda", last["cuda"])).replace(".", "")
    return found | {"variants": sorted({*last["variants"], default})}


def updates_json(found: Updates) -> dict[str, Any]:
    return {"schema": "transcribe-mcp.updates/1", "changed": found.changed, **asdict(found)}


def updates_text(found: Updates) -> str:
    lines = []
    for release in found.releases:
        lines.append(f"{release.package} {release.version} is new (known: {release.known})")
        lines += [f"    {line}" for line in (*release.changes, *release.effects)]
        if not release.effects:
            lines.append("    no effect on plans and findings for this machine")
    lines += [f"! {problem}" for problem in found.problems]
    if not found.releases:
        lines.append(f"No new releases of {len(found.asked)} packages.")
    return "\n".join(lines)
