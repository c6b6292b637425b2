"""The command line: ``doctor``, ``env`` and ``updates``, with argparse, so that it runs where Typer is broken.

Exit status of ``doctor``: 0 fit, 1 degraded, 2 broken; of ``doctor --explain``: 0 something was named, 1 nothing
known; of ``updates``: 0 nothing new, 10 something changed; 3 for every request that could not be carried out.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .errors import CompatError
from .facts import Facts, load, save
from .output import say, say_json

FAILED = 3
EXPLAIN_MAX_BYTES = 64 * 1024 * 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; never raises for what a user can cause. ``argv`` is without the program's name."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ✓ gets a ?
    asked = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = asked.run
    try:
        return run(asked)
    except CompatError as error:
        sys.stderr.write(f"error: {error}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return FAILED
    except BrokenPipeError:  # the reader, e.g. head, has seen enough
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or the interpreter complains at exit
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was left half done\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="transcribe-mcp", description="Compatibility of this machine, as a program."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_doctor(commands)
    _add_env(commands)
    updates = commands.add_parser(
        "updates", help="ask the package index for new releases and what they would change"
    )
    updates.add_argument("--json", action="store_true")
    updates.add_argument(
        "--facts", type=Path, metavar="FILE", help="judge a recorded machine instead of this one"
    )
    updates.set_defaults(run=_updates)
    document = commands.add_parser(
        "document", help="print docs/compatibility.md, generated from the tables"
    )
    document.set_defaults(run=_document)
    return parser


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor", help="what is this machine, what is wrong with it, and what fits it"
    )
    doctor.add_argument(
        "-v", "--verbose", action="store_true", help="reasons, all commands, every fact"
    )
    doctor.add_argument("--json", action="store_true")
    doctor.add_argument(
        "--deep",
        action="store_true",
        help="also run a real operation per engine, in child processes",
    )
    doctor.add_argument("--list", action="store_true", help="list the rules")
    doctor.add_argument(
        "--only", action="append", default=[], metavar="CODE", help="judge by these rules only"
    )
    doctor.add_argument(
        "--facts", type=Path, metavar="FILE", help="judge a recorded machine instead of this one"
    )
    doctor.add_argument(
        "--save-facts", type=Path, metavar="FILE", help="write the facts, without personal parts"
    )
    doctor.add_argument(
        "--explain", metavar="FILE", help="name the known errors in a log; - reads standard input"
    )
    doctor.add_argument(
        "--plan", action="store_true", help="the stack for this machine, as commands"
    )
    doctor.add_argument(
        "--want", default="", metavar="WHAT", help="with --plan: cpu, gpu, torch or whisperx"
    )
    doctor.add_argument("--models", action="store_true", help="which model fits, with which batch")
    doctor.set_defaults(run=_doctor)


def _doctor(asked: argparse.Namespace) -> int:
    if asked.list:
        return _list(asked)
    if asked.explain:
        return _explain(asked)
    facts = _facts(asked)
    if asked.deep:
        facts = _with_operations(facts, asked)
    if asked.save_facts:
        save(facts, asked.save_facts)
    if asked.plan or asked.want:
        return _plan(facts, asked)
    if asked.models:
        return _models(facts, asked)
    return _diagnose(facts, asked)


def _facts(asked: argparse.Namespace) -> Facts:
    if asked.facts:
        return load(asked.facts)
    from .probes import gather

    return gather()


def _diagnose(facts: Facts, asked: argparse.Namespace) -> int:
    from .diagnose import diagnose_machine, exit_code
    from .report import doctor_json, doctor_text, only_text
    from .rules import RULE_BY_CODE

    unknown = [code for code in asked.only if code not in RULE_BY_CODE]
    if unknown:
        raise CompatError(f"there is no rule {unknown[0]!r}", hint="transcribe-mcp doctor --list")
    findings = diagnose_machine(facts, only=asked.only)
    if asked.json:
        say_json(doctor_json(facts, findings, asked.only))
    elif asked.only:
        say(only_text(facts, findings, asked.only, verbose=asked.verbose))
    else:
        say(doctor_text(facts, findings, verbose=asked.verbose))
    return exit_code(findings)


def _with_operations(facts: Facts, asked: argparse.Namespace) -> Facts:
    from .smoke_test import probe_operations

    if asked.facts:
        raise CompatError(
            "a recorded machine cannot run operations", hint="leave out --facts or --deep"
        )
    return facts.with_facts(probe_operations(facts))


def _list(asked: argparse.Namespace) -> int:
    from .report import rules_json, rules_text

    if asked.json:
        say_json(rules_json())
    else:
        say(rules_text())
    return 0


def _explain(asked: argparse.Namespace) -> int:
    from .derived_facts import DerivedFacts
    from .explain import explain
    from .report import explain_json, explain_text

    try:
        if asked.explain == "-":
            raw = sys.stdin.buffer.read(EXPLAIN_MAX_BYTES)
        else:
            with Path(asked.explain).open("rb") as file:
                raw = file.read(EXPLAIN_MAX_BYTES)
    except OSError as error:
        raise CompatError(f"cannot read {asked.explain}: {error.strerror}") from error
    found = explain(raw.decode("utf-8", "replace"))
    # The log may be from elsewhere: versions are filled in from a machine that was named, not from this one.
    machine = DerivedFacts(load(asked.facts) if asked.facts else Facts([]))
    if asked.json:
        say_json(explain_json(found, machine))
    else:
        say(explain_text(found, machine))
    return 0 if found else 1


def _plan(facts: Facts, asked: argparse.Namespace) -> int:
    from dataclasses import asdict

    from .plan import make_plan, plan_text

    plan = make_plan(facts, asked.want)
    if asked.json:
        say_json({"schema": "transcribe-mcp.plan/1", **asdict(plan)})
    else:
        say(plan_text(plan))
    return 0 if plan.target != "none" else 2


def _models(facts: Facts, asked: argparse.Namespace) -> int:
    from dataclasses import asdict

    from .memory import model_fits, models_text

    fits = list(model_fits(facts))
    if asked.json:
        say_json({"schema": "transcribe-mcp.models/1", "models": [asdict(fit) for fit in fits]})
    else:
        say(models_text(fits))
    return 0


def _updates(asked: argparse.Namespace) -> int:
    from .updates import find_updates, updates_json, updates_text

    found = find_updates(_facts(asked))
    if asked.json:
        say_json(updates_json(found))
    else:
        say(updates_text(found))
    return 10 if found.changed else 0


def _document(asked: argparse.Namespace) -> int:
    from .docs_page import compatibility_page

    say(compatibility_page().rstrip("\n"))
    return 0


def _add_env(commands: Any) -> None:
    env = commands.add_parser(
        "env", help="environments of their own for engines with clashing needs"
    )
    actions = env.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, words: str) -> Any:
        one = actions.add_parser(name, help=words)
        one.add_argument("--json", action="store_true")
        one.set_defaults(run=_env, action=name)
        return one

    create = action("create", "install the plan into a new environment, verify it, make it current")
    create.add_argument("name", nargs="?", default="")
    create.add_argument(
        "--want", default="", help="cpu, gpu, torch or whisperx; default: what fits"
    )
    create.add_argument(
        "--source",
        default="",
        help="where transcribe-mcp comes from: a folder, a wheel, or a requirement",
    )
    create.add_argument(
        "--python", default="", help="interpreter; default: one of the plan's version"
    )
    action("list", "environments, and which are current")
    action("verify", "run the real operations in an environment").add_argument("name")
    action("use", "make an environment current").add_argument("name")
    attempt = action(
        "try", "newest versions into a fresh environment; promoted if it works and is not slower"
    )
    attempt.add_argument("--upgrade", action="store_true", required=True)
    attempt.add_argument("--want", default="", help="which current environment to improve")
    attempt.add_argument("--source", default="")
    attempt.add_argument("--python", default="")
    action("rollback", "make the previous environment current again").add_argument(
        "--want", default=""
    )
    action("rm", "delete an environment that is not current").add_argument("name")


def _env(asked: argparse.Namespace) -> int:
    from .environment_commands import run_action

    return run_action(asked)
