"""Facts in, findings out: every rule's conditions, and what the real operations showed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .explain import explain
from .facts import Facts
from .memory import memory_view
from .rules import SEVERITIES, Finding, applies, fire, rule_of, rules
from .view import view_of


def judge(facts: Facts, *, only: Sequence[str] = ()) -> list[Finding]:
    """The findings about a machine, worst first. ``only`` names the codes to look for; empty means all."""
    view = {**view_of(facts), **memory_view(facts)}
    found = [fire(rule, view) for rule in rules() if applies(rule, view)]
    found += _judge_operations(facts, view)
    unique = {finding.code: finding for finding in found if not only or finding.code in only}
    return sorted(
        unique.values(), key=lambda finding: (-SEVERITIES.index(finding.severity), finding.code)
    )


def not_judged(facts: Facts, codes: Sequence[str]) -> list[str]:
    """Of these rules, those whose answer depends on something that is unknown here, or that know logs only."""
    view = {**view_of(facts), **memory_view(facts)}
    found = {finding.code for finding in judge(facts)}
    tried = any(name.startswith("deep.") for name in facts)
    asked = [rule for rule in rules() if rule.code in codes and rule.code not in found]
    return [
        rule.code
        for rule in asked
        if applies(rule, view) is None and not (tried and rule.area == "operations")
    ]


def worst(findings: Sequence[Finding]) -> str:
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")


def exit_code(findings: Sequence[Finding]) -> int:
    """0 fit, 1 degraded, 2 broken."""
    return {"ok": 0, "info": 0, "warn": 1}.get(worst(findings), 2)


def _judge_operations(facts: Facts, view: Mapping[str, Any]) -> Iterator[Finding]:
    """A failed operation is named by the known error in its last words, else by the way it ended."""
    failed = {}
    worked = set()
    for name, fact in facts.items():
        if name.startswith("deep.") and isinstance(fact.value, dict):
            _, engine, device = (*name.split("."), "", "")[:3]
            if fact.value.get("end") == "ok":
                worked.add((engine, device))
            else:
                failed[engine, device] = fact.value
    for (engine, device), result in failed.items():
        tail, end = str(result.get("tail", "")), str(result.get("end", ""))
        words = f"{engine} on {device}: {end}"
        known = [item.rule.code for item in explain(tail)]
        for code in known or [_code_of(end)]:
            yield from _operation_finding(
                code, f"{words}; {_last_line(tail)}" if tail else words, view
            )
        if device == "cuda" and (engine, "cpu") in worked:
            yield from _operation_finding("TM804", f"{words}; on cpu: ok", view)


def _code_of(end: str) -> str:
    if end.startswith("signal 9"):
        return "TM701"
    if end.startswith("signal"):
        return "TM802"
    return "TM803" if end.startswith("hung") else "TM801"


def _operation_finding(code: str, evidence: str, view: Mapping[str, Any]) -> Iterator[Finding]:
    rule = rule_of(code)
    if rule is not None:
        yield replace(fire(rule, view), evidence=evidence)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
