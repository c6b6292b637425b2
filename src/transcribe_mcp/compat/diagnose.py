"""Apply the rules to the facts of a machine, and turn failed operations into findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .derived_facts import DerivedFacts
from .explain import explain
from .facts import Facts
from .rules import RULE_BY_CODE, RULES, SEVERITIES, Finding


def diagnose_machine(facts: Facts, *, only: Sequence[str] = ()) -> list[Finding]:
    """The findings about a machine, worst first. ``only`` selects codes; empty means all."""
    machine = DerivedFacts(facts)
    found = [rule.finding(machine) for rule in RULES if rule.applies(machine)]
    found += _operation_findings(machine)
    unique = {finding.code: finding for finding in found if not only or finding.code in only}
    return sorted(
        unique.values(), key=lambda finding: (-SEVERITIES.index(finding.severity), finding.code)
    )


def not_judged(facts: Facts, codes: Sequence[str]) -> list[str]:
    """Of these rules, those with unknown facts here, and those that only logs can show."""
    machine = DerivedFacts(facts)
    found = {finding.code for finding in diagnose_machine(facts)}
    tried = any(name.startswith("deep.") for name in facts)
    asked = [rule for rule in RULES if rule.code in codes and rule.code not in found]
    return [
        rule.code
        for rule in asked
        if rule.applies(machine) is None and not (tried and rule.area == "operations")
    ]


def worst(findings: Sequence[Finding]) -> str:
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")


def exit_code(findings: Sequence[Finding]) -> int:
    """0 fit, 1 degraded, 2 broken."""
    return {"ok": 0, "info": 0, "warn": 1}.get(worst(findings), 2)


def _operation_findings(machine: DerivedFacts) -> Iterator[Finding]:
    """Known errors in the output of failed operations, else the way the operation ended."""
    failed = {}
    worked = set()
    for name, fact in machine.facts.items():
        if name.startswith("deep.") and isinstance(fact.value, dict):
            _, engine, device = (*name.split("."), "", "")[:3]
            if fact.value.get("end") == "ok":
                worked.add((engine, device))
            else:
                failed[engine, device] = fact.value
    for (engine, device), result in failed.items():
        tail = str(result.get("tail", ""))
        end = str(result.get("end", ""))
        words = f"{engine} on {device}: {end}"
        evidence = f"{words}; {_last_line(tail)}" if tail else words
        for rule in [item.rule for item in explain(tail)] or [RULE_BY_CODE[_code_of(end)]]:
            yield replace(rule.finding(machine), evidence=evidence)
        if device == "cuda" and (engine, "cpu") in worked:
            yield replace(RULE_BY_CODE["TM804"].finding(machine), evidence=f"{words}; on cpu: ok")


def _code_of(end: str) -> str:
    if end.startswith("signal 9"):
        return "TM701"
    if end.startswith("signal"):
        return "TM802"
    return "TM803" if end.startswith("hung") else "TM801"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
