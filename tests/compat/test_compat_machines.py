"""Recorded machines, healthy and broken. To add one: one JSON file in ``machines`` with what is
expected inside.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from transcribe_mcp.compat.cli import main
from transcribe_mcp.compat.derived_facts import DerivedFacts
from transcribe_mcp.compat.diagnose import diagnose_machine, exit_code
from transcribe_mcp.compat.facts import Facts, parse
from transcribe_mcp.compat.plan import make_plan
from transcribe_mcp.compat.rules import RULES
from transcribe_mcp.compat.runtime_choice import choose_runtime, ctranslate2_gpu_problem

TEMPLATE = re.compile(r"\{[A-Za-z][A-Za-z0-9_.-]*\}")
MACHINES = sorted(Path(__file__).with_name("machines").glob("*.json"))
DAMAGING = ("warn", "error", "crash")


@cache
def recorded(path: Path) -> tuple[Facts, dict[str, Any]]:
    raw = path.read_bytes()
    return parse(raw, path.name), json.loads(raw)["expect"]


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_a_recorded_machine_is_judged_as_expected(path: Path) -> None:
    facts, expected = recorded(path)
    findings = diagnose_machine(facts)
    assert sorted(finding.code for finding in findings) == expected["codes"]
    assert exit_code(findings) == expected["exit"]


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_a_recorded_machine_gets_the_expected_plans(path: Path) -> None:
    facts, expected = recorded(path)
    for want, plan in expected["plans"].items():
        made = make_plan(facts, want)
        installs = [
            " ".join(
                [*each.requirements, *(["--index-url", each.index_url] if each.index_url else [])]
            )
            for each in made.installs
        ]
        assert {"target": made.target, "python": made.python, "installs": installs} == plan, want


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_every_finding_says_what_why_and_how_to_go_on(path: Path) -> None:
    facts, _ = recorded(path)
    for finding in diagnose_machine(facts):
        assert (
            finding.evidence
            and "{" not in finding.evidence
            and "unknown;" not in finding.evidence[:8]
        )
        assert finding.cause and finding.consequence and finding.source.startswith("https://")
        assert finding.fix or finding.severity == "info"


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_no_command_on_any_machine_holds_a_template_or_an_unknown(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["-v"], ["--json"], ["--plan"], ["--plan", "--json"], ["--models"]):
        main(["doctor", "--facts", str(path), *arguments])
        said = capsys.readouterr().out
        assert TEMPLATE.findall(said) == [], arguments
        assert "==unknown" not in said, arguments


def test_what_was_not_judged_gets_no_check_mark(capsys: pytest.CaptureFixture[str]) -> None:
    asked = [argument for rule in RULES for argument in ("--only", rule.code)]
    main(["doctor", *asked, "--facts", str(MACHINES[0].with_name("compat-804.json"))])
    words = [
        line.split()
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("    ") and " TM" in line
    ]
    signs = {line[1]: line[0] for line in words if line[1].startswith("TM")}
    assert set(signs) == {rule.code for rule in RULES}
    assert all(signs[rule.code] == "?" for rule in RULES if not rule.when)
    assert {"?", "✓", "✗"} <= set(signs.values())
    main(["doctor", "--only", "TM802", "--facts", str(MACHINES[0].with_name("deep-aborts.json"))])
    assert "not checked" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "want", "exit_code"),
    [
        ("h100", "gpu", 0),
        ("cpu-bare", "gpu", 2),
        ("h100", "cpu", 0),
        ("driver-470", "gpu", 2),
        ("apple-m3", "gpu", 2),
        ("cpu-bare", "torch", 0),
        ("alpine", "cpu", 2),
        ("cpu-bare", "diarize", 0),
        ("h100", "diarize", 0),
        ("cpu-bare", "kaldi", 3),
        ("cpu-bare", "", 0),
    ],
)
def test_a_plan_exits_as_documented(
    name: str, want: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = str(MACHINES[0].with_name(f"{name}.json"))

    assert main(["doctor", "--plan", "--want", want, "--facts", machine]) == exit_code

    assert ("pip install" in capsys.readouterr().out) == (exit_code == 0)


def test_there_are_at_least_thirty_machines_healthy_and_broken() -> None:
    healthy = [path for path in MACHINES if recorded(path)[1]["healthy"]]
    assert len(MACHINES) >= 30
    assert 10 <= len(healthy) <= len(MACHINES) - 20


def test_every_rule_fires_on_some_machine_and_stays_quiet_on_the_healthy_ones() -> None:
    fired = {finding.code for path in MACHINES for finding in diagnose_machine(recorded(path)[0])}
    known_from_logs_only = {rule.code for rule in RULES if not rule.when and rule.patterns}
    assert {rule.code for rule in RULES} - fired <= known_from_logs_only
    for path in MACHINES:
        facts, expected = recorded(path)
        if expected["healthy"]:
            loud = [
                finding.code for finding in diagnose_machine(facts) if finding.severity in DAMAGING
            ]
            assert not loud, path.stem


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_the_gpu_is_chosen_only_where_nothing_speaks_against_it(path: Path) -> None:
    facts, expected = recorded(path)
    machine = DerivedFacts(facts)
    if machine.gpus and not ctranslate2_gpu_problem(machine):
        stopping = {"TM103", "TM105", "TM107", "TM108", "TM110", "TM205", "TM207", "TM208", "TM209"}
        assert not stopping & set(expected["codes"])
    runtime = choose_runtime(facts)
    assert runtime.threads >= 1
    assert runtime.environment["OMP_NUM_THREADS"] == str(runtime.threads)


def test_a_quota_and_not_the_visible_cores_decide_about_threads() -> None:
    facts, _ = recorded(Path(__file__).with_name("machines") / "kubernetes-quota.json")
    assert choose_runtime(facts).threads == 2
