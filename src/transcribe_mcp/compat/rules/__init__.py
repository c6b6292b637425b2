"""The rules by area. To add one, write a row in the table of its area."""

from __future__ import annotations

from collections.abc import Mapping

from . import ctranslate2, gpu, libraries, machine, memory, operations, settings, torch, whisperx
from .base import AREAS, NOTHING_KNOWN, SEVERITIES, SIGNS, Finding, Rule

__all__ = [
    "AREAS",
    "NOTHING_KNOWN",
    "RULES",
    "RULE_BY_CODE",
    "SEVERITIES",
    "SIGNS",
    "Finding",
    "Rule",
]

_TABLES = (machine, gpu, ctranslate2, torch, whisperx, libraries, settings, memory, operations)
RULES: tuple[Rule, ...] = tuple(rule for table in _TABLES for rule in table.RULES)
RULE_BY_CODE: Mapping[str, Rule] = {rule.code: rule for rule in RULES}
