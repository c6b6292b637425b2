"""Rules: rows of data that turn what is known about a machine into findings, each with a code of its own.

A row fires when all conditions of one of its alternatives hold. A condition is ``[name, operator, value]`` over the
names of ``view.py``; where the name is unknown it does not hold. A row without ``when`` is known from logs only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from .errors import TableError
from .tables import DATA, read_json
from .versions import compare, satisfies

SEVERITIES = (
    "ok",
    "info",
    "warn",
    "error",
    "crash",
)  # from fit to "ends the process that meets it"
SIGNS: Mapping[str, str] = {"ok": "✓", "info": "✓", "warn": "!", "error": "✗", "crash": "☠"}
AREAS: Mapping[str, str] = {
    "machine": "Machine",
    "gpu": "GPU and driver",
    "ctranslate2": "CTranslate2",
    "torch": "PyTorch",
    "whisperx": "WhisperX and pyannote",
    "libraries": "CUDA libraries",
    "settings": "Settings",
    "memory": "Memory",
    "operations": "Real operations",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. ``patterns`` are the texts that this trouble leaves in logs, as regular expressions."""

    code: str
    area: str
    severity: str
    title: str
    when: tuple[tuple[tuple[str, str, Any], ...], ...]
    evidence: str
    cause: str
    consequence: str
    fix: tuple[str, ...]
    source: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that fired, with the facts that made it fire in words."""

    code: str
    area: str
    severity: str
    title: str
    evidence: str
    cause: str
    consequence: str
    fix: tuple[str, ...]
    source: str


def _ordered(wanted: Callable[[int], bool]) -> Callable[[Any, Any], bool]:
    def holds(value: Any, literal: Any) -> bool:
        if isinstance(literal, str):
            order = compare(str(value), literal)
            return order is not None and wanted(order)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return wanted((value > literal) - (value < literal))
        return False

    return holds


_UNKNOWN = "unknown"
# Versions compare as versions where the literal is text, as numbers where it is a number.
OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": _ordered(lambda order: order < 0),
    "<=": _ordered(lambda order: order <= 0),
    ">": _ordered(lambda order: order > 0),
    ">=": _ordered(lambda order: order >= 0),
    "within": lambda value, literal: any(
        satisfies(str(value), part) for part in literal.split("|")
    ),
    "is": lambda value, literal: bool(value == literal),
    "is not": lambda value, literal: bool(value != literal),
    "one of": lambda value, literal: value in literal,
    "any": lambda value, literal: bool(value) is literal,
    "known": lambda value, literal: literal is True,
    _UNKNOWN: lambda value, literal: False,
}


def holds(condition: tuple[str, str, Any], view: Mapping[str, Any]) -> bool:
    name, operator, literal = condition
    value = view.get(name)
    if value is None:
        return operator == _UNKNOWN and literal is True
    return OPERATORS[operator](value, literal)


def applies(rule: Rule, view: Mapping[str, Any]) -> bool | None:
    """Whether the rule fires; ``None`` where that depends on a name that is unknown, or the rule has no conditions."""
    if any(all(holds(condition, view) for condition in parts) for parts in rule.when):
        return True

    def fails(condition: tuple[str, str, Any]) -> bool:
        return not holds(condition, view) and (
            view.get(condition[0]) is not None or condition[1] == _UNKNOWN
        )

    return False if rule.when and all(any(map(fails, parts)) for parts in rule.when) else None


@lru_cache(maxsize=1)
def rules() -> tuple[Rule, ...]:
    """Every rule, ordered by code. Raises ``TableError`` where a row contradicts itself."""
    rows = [row for path in sorted((DATA / "rules").glob("*.json")) for row in read_json(path)]
    return parse_rules(rows)


def parse_rules(rows: Sequence[Any]) -> tuple[Rule, ...]:
    parsed = sorted((_parse_rule(row) for row in rows), key=lambda rule: rule.code)
    codes = [rule.code for rule in parsed]
    twice = [code for code, following in pairwise(codes) if code == following]
    if twice:
        raise TableError(f"rule {twice[0]} is there twice")
    return tuple(parsed)


_TEXT_KEYS = ("code", "area", "severity", "title", "evidence", "cause", "consequence", "source")


def _parse_rule(row: Any) -> Rule:
    code = str(row.get("code", "?")) if isinstance(row, dict) else "?"
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in _TEXT_KEYS):
        raise TableError(f"rule {code} lacks one of: {', '.join(_TEXT_KEYS)}")
    if row["severity"] not in SEVERITIES or row["area"] not in AREAS:
        raise TableError(
            f"rule {code} has severity {row['severity']!r} in area {row['area']!r}; one is unknown"
        )
    try:
        when = tuple(
            tuple((str(n), str(op), value) for n, op, value in parts)
            for parts in row.get("when", [])
        )
    except (TypeError, ValueError) as error:
        raise TableError(f"rule {code} has a damaged condition: {error}") from error
    unknown = [operator for parts in when for _, operator, _ in parts if operator not in OPERATORS]
    if unknown:
        raise TableError(
            f"rule {code} has the unknown operator {unknown[0]!r}",
            hint=f"known: {', '.join(OPERATORS)}",
        )
    texts = {key: row[key] for key in _TEXT_KEYS}
    return Rule(
        **texts, when=when, fix=tuple(row.get("fix", [])), patterns=tuple(row.get("patterns", []))
    )


def rule_of(code: str) -> Rule | None:
    return next((rule for rule in rules() if rule.code == code), None)


def fire(rule: Rule, view: Mapping[str, Any]) -> Finding:
    """The finding of a rule: its evidence filled with what the machine says."""
    return Finding(
        rule.code,
        rule.area,
        rule.severity,
        rule.title,
        _evidence(rule.evidence, view),
        rule.cause,
        rule.consequence,
        commands(rule, view),
        rule.source,
    )


def commands(rule: Rule, view: Mapping[str, Any]) -> tuple[str, ...]:
    """The way out, filled with what the machine says; what is unknown stands as a word in capitals to replace."""

    def value(name: str) -> str:
        item = view.get(name)
        if item is None or item == []:
            return _PLACEHOLDERS.get(name) or re.sub(r"[^A-Z0-9]", "_", name.upper())
        return " ".join(map(str, item)) if isinstance(item, (list, tuple)) else str(item)

    return tuple(_filled(command, value) for command in rule.fix)


def without_machine(rule: Rule) -> Rule:
    """The rule for people: no braces where a machine's values would stand."""
    return replace(rule, evidence=_filled(rule.evidence, str.upper), fix=commands(rule, {}))


_PLACEHOLDERS: Mapping[str, str] = {
    "compat_in_path": "CUDA's compat folder",
    "doubled": "PACKAGES",
    "jit_floor": "the version that this GPU needs",
    "torch": "TORCH_VERSION",
    "torch_variant": "CUDA_VARIANT",
}


def _evidence(template: str, view: Mapping[str, Any]) -> str:
    def value(name: str) -> str:
        item = view.get(name, "unknown")
        if isinstance(item, bool):
            return "yes" if item else "no"
        return (
            "; ".join(str(each) for each in item) if isinstance(item, (list, tuple)) else str(item)
        )

    return _filled(template, value)


def _filled(template: str, value: Callable[[str], str]) -> str:
    return re.sub(r"\{([A-Za-z0-9_.-]+)\}", lambda match: value(match[1]), template)
