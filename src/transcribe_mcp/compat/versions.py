"""Versions, requirements and markers of Python packages.

The rules are those of https://packaging.python.org/en/latest/specifications/version-specifiers/ and
.../dependency-specifiers/. Not the library ``packaging``: compat uses
the standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_VERSION = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<pre>a|b|c|rc|alpha|beta|pre|preview)[-_.]?(?P<pre_n>\d*))?"
    r"(?P<post>-\d+|[-_.]?(?:post|rev|r)[-_.]?\d*)?"
    r"(?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_n>\d*))?"
    r"(?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?",
    re.IGNORECASE,
)
_PRE_ORDER = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}
_FINAL = 3
_SPECIFIER = re.compile(r"\s*(===|==|~=|!=|<=|>=|<|>)\s*([^\s,;]+)\s*")
_REQUIREMENT = re.compile(
    r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?\s*\(?([^;()]*)\)?\s*(?:;(.*))?$"
)
_MARKER_TOKEN = re.compile(r"\s*(\(|\)|'[^']*'|\"[^\"]*\"|[<>=!~]=?=?|[A-Za-z_][A-Za-z0-9_.]*)")
_VERSION_MARKERS = {"python_version", "python_full_version", "implementation_version"}


@dataclass(frozen=True, slots=True)
class Version:
    """A version and its sort key; compare keys, print ``text``."""

    text: str
    release: tuple[int, ...]
    key: tuple[Any, ...]
    local: str = ""
    is_prerelease: bool = False


@lru_cache(maxsize=4096)
def parse_version(text: str) -> Version | None:
    """The version in ``text``, or None if it is not a version."""
    match = _VERSION.fullmatch(text.strip()[:200])
    if match is None:
        return None
    release = tuple(int(part) for part in match["release"].split("."))
    trimmed = release
    while len(trimmed) > 1 and trimmed[-1] == 0:
        trimmed = trimmed[:-1]
    pre = (_PRE_ORDER[match["pre"].lower()], int(match["pre_n"] or 0)) if match["pre"] else None
    post = int(re.sub(r"\D", "", match["post"]) or 0) if match["post"] else -1
    dev = int(match["dev_n"] or 0) if match["dev"] else None
    if pre is None:
        pre = (
            (-1, 0) if dev is not None and post < 0 else (_FINAL, 0)
        )  # 1.0.dev1 comes before 1.0a1
    key = (int(match["epoch"] or 0), trimmed, pre, post, (1, 0) if dev is None else (0, dev))
    is_pre = pre[0] != _FINAL or dev is not None
    return Version(text, release, key, (match["local"] or "").lower(), is_pre)


def version_key(text: str) -> tuple[Any, ...]:
    """Sort key of a version; a text that is not a version comes first."""
    version = parse_version(text)
    return version.key if version else ()


def is_prerelease(text: str) -> bool:
    """Also true for a text that is not a version."""
    version = parse_version(text)
    return version is None or version.is_prerelease


def compare(left: str, right: str) -> int | None:
    """-1, 0 or 1, local parts ignored; None if either is not a version."""
    a = parse_version(left)
    b = parse_version(right)
    if a is None or b is None:
        return None
    return (a.key > b.key) - (a.key < b.key)


def minor_of(text: str) -> str:
    """``2.8.0+cu128`` -> ``2.8``; the text itself if it is not a version."""
    version = parse_version(text)
    return ".".join(str(part) for part in (*version.release, 0)[:2]) if version else text


def satisfies(version: str, specifiers: str) -> bool:
    """Whether ``version`` satisfies ``>=2,<3``; false for an invalid specifier."""
    candidate = parse_version(version)
    if candidate is None:
        return False
    parts = [part for part in specifiers.split(",") if part.strip()]
    return all(_meets(candidate, part) for part in parts)


def _meets(candidate: Version, specifier: str) -> bool:
    match = _SPECIFIER.fullmatch(specifier)
    if match is None:
        return False
    operator, target = match.groups()
    if operator == "===":
        return candidate.text == target
    if target.endswith(".*"):
        inside = _has_prefix(candidate, target[:-2])
        return inside if operator == "==" else operator == "!=" and not inside
    bound = parse_version(target)
    if bound is None:
        return False
    if operator == "~=":
        prefix = ".".join(str(part) for part in bound.release[:-1])
        return candidate.key >= bound.key and _has_prefix(candidate, prefix)
    same = candidate.key == bound.key and (not bound.local or bound.local == candidate.local)
    return {
        "==": same,
        "!=": not same,
        "<": candidate.key < bound.key,
        "<=": candidate.key <= bound.key,
        ">": candidate.key > bound.key,
        ">=": candidate.key >= bound.key,
    }[operator]


def _has_prefix(candidate: Version, prefix: str) -> bool:
    parsed = parse_version(prefix)
    if parsed is None:
        return False
    padded = candidate.release + (0,) * len(parsed.release)
    return padded[: len(parsed.release)] == parsed.release


def normalised(name: str) -> str:
    """``Faster_Whisper`` -> ``faster-whisper``."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, slots=True)
class Requirement:
    """One ``Requires-Dist`` line: ``torch<3,>=2.8 ; python_version < "3.14"``."""

    name: str
    specifiers: str
    marker: str


def parse_requirement(line: str) -> Requirement | None:
    match = _REQUIREMENT.match(line[:2000])
    if match is None or "@" in match[3]:
        return None
    return Requirement(normalised(match[1]), match[3].replace(" ", ""), (match[4] or "").strip())


def marker_holds(marker: str, environment: Mapping[str, str]) -> bool:
    """Evaluate ``python_version < "3.14" and sys_platform == "linux"``; missing names are empty."""
    tokens = _MARKER_TOKEN.findall(marker[:2000])
    if not tokens:
        return True
    value, rest = _either(tokens, environment)
    return value and not rest


def _either(tokens: list[str], env: Mapping[str, str]) -> tuple[bool, list[str]]:
    value, tokens = _both(tokens, env)
    while tokens and tokens[0] == "or":
        right, tokens = _both(tokens[1:], env)
        value = value or right
    return value, tokens


def _both(tokens: list[str], env: Mapping[str, str]) -> tuple[bool, list[str]]:
    value, tokens = _one(tokens, env)
    while tokens and tokens[0] == "and":
        right, tokens = _one(tokens[1:], env)
        value = value and right
    return value, tokens


def _one(tokens: list[str], env: Mapping[str, str]) -> tuple[bool, list[str]]:
    if tokens and tokens[0] == "(":
        value, rest = _either(tokens[1:], env)
        return value, rest[1:]
    negated = len(tokens) > 3 and tokens[1] == "not"
    if negated:
        tokens = [tokens[0], *tokens[2:]]
    if len(tokens) < 3:
        return False, []
    left, operator, right = tokens[:3]
    return _marker_compare(left, operator, right, env) is not negated, tokens[3:]


def _marker_compare(left: str, operator: str, right: str, env: Mapping[str, str]) -> bool:
    a, b = (term[1:-1] if term[0] in "'\"" else env.get(term, "") for term in (left, right))
    if operator == "in":
        return a in b
    if left in _VERSION_MARKERS or right in _VERSION_MARKERS:
        return satisfies(a, operator + b)
    return {"==": a == b, "!=": a != b}.get(operator, False)
