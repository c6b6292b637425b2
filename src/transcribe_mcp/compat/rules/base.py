"""A rule and the parts of its predicate, each true, false or unknown (``None``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..derived_facts import DerivedFacts
from ..facts import Facts
from ..versions import compare, satisfies

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
NOTHING_KNOWN = DerivedFacts(Facts([]))
_PLACEHOLDERS: Mapping[str, str] = {
    "compat_in_path": "CUDA's compat folder",
    "doubled": "PACKAGES",
    "jit_floor": "the version that this GPU needs",
    "package.torch": "TORCH_VERSION",
    "torch_variant": "CUDA_VARIANT",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule that applies to a machine, with the evidence filled in."""

    code: str
    area: str
    severity: str
    title: str
    evidence: str
    cause: str
    consequence: str
    fix: tuple[str, ...] = ()
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Finding):
    """A possible finding. ``{name}`` in ``evidence`` and ``fix`` is a derived fact.

    Attributes:
        when: whether it applies; None if only logs or operations can show it.
        patterns: regular expressions for the error texts of this problem in logs.
    """

    when: Callable[[DerivedFacts], bool | None] | None = None
    patterns: tuple[str, ...] = ()

    def applies(self, machine: DerivedFacts) -> bool | None:
        return None if self.when is None else self.when(machine)

    def finding(self, machine: DerivedFacts | None = None) -> Finding:
        """The finding for a machine; without one, names in capitals stand for its values."""
        texts = {field.name: getattr(self, field.name) for field in fields(Finding)}
        evidence = _filled(
            self.evidence,
            lambda name: (
                name.rpartition(".")[2].upper()
                if machine is None
                else _in_words(machine.named(name), "; ")
            ),
        )
        return Finding(
            **texts | {"evidence": evidence, "fix": self.commands(machine or NOTHING_KNOWN)}
        )

    def commands(self, machine: DerivedFacts = NOTHING_KNOWN) -> tuple[str, ...]:
        """The fix for a machine; words in capitals stand for unknown values."""
        return tuple(
            _filled(command, lambda name: _argument(name, machine)) for command in self.fix
        )


def _argument(name: str, machine: DerivedFacts) -> str:
    value = machine.named(name)
    return _PLACEHOLDERS[name] if value in (None, []) else _in_words(value, " ")


def _in_words(item: Any, separator: str) -> str:
    if item is None or isinstance(item, bool):
        return {None: "unknown", True: "yes", False: "no"}[item]
    return separator.join(map(str, item)) if isinstance(item, list) else str(item)


def _filled(template: str, value: Callable[[str], str]) -> str:
    return re.sub(r"\{([A-Za-z0-9_.-]+)\}", lambda match: value(match[1]), template)


def every(*parts: bool | None) -> bool | None:
    """False if one part is false, else unknown if one is unknown."""
    return False if False in parts else None if None in parts else True


def either(*parts: bool | None) -> bool | None:
    """True if one part is true, else unknown if one is unknown."""
    return True if True in parts else None if None in parts else False


def negated(part: bool | None) -> bool | None:
    return None if part is None else not part


def any_of(items: Collection[object] | None) -> bool | None:
    """Whether there are any items."""
    return None if items is None else bool(items)


def none_of(items: Collection[object] | None) -> bool | None:
    return negated(any_of(items))


def present(value: object) -> bool | None:
    return None if value is None else True


def equals(value: object, *expected: object) -> bool | None:
    """Whether the value is one of those expected."""
    return None if value is None else value in expected


def below(value: float | None, limit: float) -> bool | None:
    return None if value is None else value < limit


def older(version: str | None, limit: str) -> bool | None:
    """Whether a version is below ``limit``; false for a text that is not a version."""
    return None if version is None else compare(version, limit) == -1


def newer(version: str | None, limit: str) -> bool | None:
    """Whether a version is ``limit`` or above; false for a text that is not a version."""
    return None if version is None else compare(version, limit) in (0, 1)


def within(version: str | None, specifiers: str) -> bool | None:
    return None if version is None else satisfies(version, specifiers)
