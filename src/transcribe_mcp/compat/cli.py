"""The commands ``doctor``, ``env`` and ``compat``, built on argparse in case Typer is broken.

Exit status of ``doctor``: 0 fit, 1 degraded, 2 broken; of ``doctor --explain``: 0 if a known error
was found, else 1; of ``compat updates``: 0 nothing new, 10 new releases; 3 if a command failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from . import report
from .derived_facts import DerivedFacts
from .diagnose import diagnose_machine, exit_code
from .errors import CompatError
from .explain import explain
from .facts import Facts, load, save
from .memory import model_fits, models_text
from .output import say, say_answer, say_json
from .plan import DIARIZE, WANTS, make_plan, plan_text
from .rules import RULE_BY_CODE

USAGE = 2
FAILED = 3
EXPLAIN_MAX_BYTES = 64 * 1024 * 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. ``argv`` excludes the program's name."""
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
    except BrokenPipeError:  # for example ``| head``
        # Otherwise the interpreter reports the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; no partial files are left.\n")
        return 130


class _Parser(argparse.ArgumentParser):
    """Prints errors as other commands do; without a subcommand, it prints its help."""

    def add_actions(self, metavar: str) -> argparse._SubParsersAction[_Parser]:
        self.set_defaults(run=self._show_help)
        return self.add_subparsers(metavar=metavar)

    def _show_help(self, asked: argparse.Namespace) -> int:
        del asked
        self.print_help(sys.stderr)
        return USAGE

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what a subcommand does not know there: its hint names the subcommand."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"error: {message}\nhint: see: {self.prog} --help\n")


def _parser() -> _Parser:
    about = "Check this machine, its packages and their releases for compatibility."
    parser = _Parser(prog="transcribe-mcp compat", description=about)
    commands = parser.add_actions("COMMAND")
    added = {
        name: _add(commands, name, words, options, run=run)
        for name, (words, run, options) in _COMMANDS.items()
    }
    actions = added["env"].add_actions("ACTION")
    for name, (words, options) in _ENV_ACTIONS.items():
        _add(actions, name, words, [_JSON, *options], run=_env, action=name)
    return parser


def _add(
    commands: Any, name: str, words: str, options: Iterable[_Option], **defaults: object
) -> _Parser:
    prog = f"transcribe-mcp {name}" if name in ("doctor", "env") else None
    parser: _Parser = commands.add_parser(name, prog=prog, help=words, description=words)
    for flags, settings in options:
        parser.add_argument(*flags, **settings)
    parser.set_defaults(**defaults)
    return parser


def _doctor(asked: argparse.Namespace) -> int:
    if asked.list:
        say_answer(asked.json, report.rules_json(), report.rules_text())
        return 0
    if asked.explain is not None:
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
    unknown = [code for code in asked.only if code not in RULE_BY_CODE]
    if unknown:
        raise CompatError(f"there is no rule {unknown[0]!r}", hint="transcribe-mcp doctor --list")
    findings = diagnose_machine(facts, only=asked.only)
    if asked.json:
        say_json(report.doctor_json(facts, findings, asked.only))
    elif asked.only:
        say(report.only_text(facts, findings, asked.only, verbose=asked.verbose))
    else:
        say(report.doctor_text(facts, findings, verbose=asked.verbose))
    return exit_code(findings)


def _with_operations(facts: Facts, asked: argparse.Namespace) -> Facts:
    from .smoke_test import probe_operations

    if asked.facts:
        raise CompatError(
            "--deep cannot run on a recorded machine", hint="leave out --facts or --deep"
        )
    return facts.with_facts(probe_operations(facts))


def _explain(asked: argparse.Namespace) -> int:
    text = _text_to_explain(asked.explain)
    found = explain(text)
    # The log may be from another machine, so versions come from --facts only.
    machine = DerivedFacts(load(asked.facts) if asked.facts else Facts([]))
    say_answer(asked.json, report.explain_json(found, machine), report.explain_text(found, machine))
    return 0 if found else 1


def _text_to_explain(asked: str) -> str:
    """The text of a log, of standard input, or the message itself if it is a known one.

    Raises:
        CompatError: neither a readable file nor a known error.
    """
    try:
        if asked == "-":
            raw = sys.stdin.buffer.read(EXPLAIN_MAX_BYTES)
        else:
            with Path(asked).open("rb") as file:
                raw = file.read(EXPLAIN_MAX_BYTES)
    except OSError as error:
        if explain(asked):
            return asked
        raise CompatError(
            f"cannot read {asked!r}: {error.strerror}",
            hint="give the name of a log, or - and the error text on standard input",
        ) from error
    return raw.decode("utf-8", "replace")


def _plan(facts: Facts, asked: argparse.Namespace) -> int:
    plan = make_plan(facts, asked.want)
    say_answer(asked.json, {"schema": "transcribe-mcp.plan/1", **asdict(plan)}, plan_text(plan))
    return 0 if plan.target != "none" else 2


def _models(facts: Facts, asked: argparse.Namespace) -> int:
    fits = list(model_fits(facts))
    say_answer(
        asked.json,
        {"schema": "transcribe-mcp.models/1", "models": [asdict(fit) for fit in fits]},
        models_text(fits),
    )
    return 0


def _updates(asked: argparse.Namespace) -> int:
    from .updates import find_updates, updates_json, updates_text

    found = find_updates(_facts(asked))
    say_answer(asked.json, updates_json(found), updates_text(found))
    return 10 if found.changed else 0


def _document(asked: argparse.Namespace) -> int:
    from .docs_page import compatibility_page

    say(compatibility_page().rstrip("\n"))
    return 0


def _env(asked: argparse.Namespace) -> int:
    from .environment_commands import run_action

    return run_action(asked)


_Option = tuple[tuple[str, ...], Mapping[str, Any]]


def _option(*flags: str, **settings: Any) -> _Option:
    """The arguments of ``add_argument``."""
    return flags, settings


_JSON = _option("--json", action="store_true", help="print JSON")
_FACTS = _option(
    "--facts", type=Path, metavar="FILE", help="use a recorded machine instead of this one"
)
_WANT_HELP = f"{', '.join(WANTS)}, {DIARIZE} (default: the best for this machine)"
_NAME = _option("name", help="name of the environment")
_SOURCE = _option(
    "--source", default="", help="install transcribe-mcp from this directory, wheel or requirement"
)
_PYTHON = _option(
    "--python", default="", help="Python interpreter (default: one of the planned version)"
)
_Run = Callable[[argparse.Namespace], int]
_COMMANDS: Mapping[str, tuple[str, _Run, Sequence[_Option]]] = {
    "doctor": (
        "Check this machine for problems and recommend a setup.",
        _doctor,
        (
            _option(
                "-v",
                "--verbose",
                action="store_true",
                help="show causes, all commands and all facts",
            ),
            _JSON,
            _option(
                "--deep", action="store_true", help="also run each engine once, in child processes"
            ),
            _option("--list", action="store_true", help="list the rules"),
            _option(
                "--only", action="append", default=[], metavar="CODE", help="check only these rules"
            ),
            _FACTS,
            _option(
                "--save-facts",
                type=Path,
                metavar="FILE",
                help="save the facts, without personal data",
            ),
            _option(
                "--explain",
                metavar="FILE|TEXT",
                help="find known errors in a log or in a message; - reads standard input",
            ),
            _option(
                "--plan", action="store_true", help="print the install commands for this machine"
            ),
            _option("--want", default="", metavar="WHAT", help=f"with --plan: {_WANT_HELP}"),
            _option(
                "--models", action="store_true", help="list the models that fit, with batch sizes"
            ),
        ),
    ),
    "env": (
        "Manage virtual environments for engines with conflicting dependencies.",
        _env,
        (),
    ),
    "updates": (
        "Check the package index for new releases that affect this machine.",
        _updates,
        (_JSON, _FACTS),
    ),
    "document": ("Print docs/compatibility.md, generated from the tables.", _document, ()),
}
_ENV_ACTIONS: Mapping[str, tuple[str, Sequence[_Option]]] = {
    "create": (
        "Install the plan into a new environment, verify it, make it current.",
        (
            _option("name", nargs="?", default="", help="name of the environment"),
            _option("--want", default="", help=_WANT_HELP),
            _SOURCE,
            _PYTHON,
        ),
    ),
    "list": ("List the environments and mark the current ones.", ()),
    "verify": ("Run the real operations in an environment.", (_NAME,)),
    "use": ("Make an environment current.", (_NAME,)),
    "try": (
        "Install the newest versions into a new environment; keep it if it works as fast.",
        (
            _option(
                "--upgrade",
                action="store_true",
                required=True,
                help="required: confirms the upgrade",
            ),
            _option("--want", default="", help="the current environment to upgrade"),
            _SOURCE,
            _PYTHON,
        ),
    ),
    "rollback": (
        "Make the previous environment current again.",
        (_option("--want", default="", help="the kind of environment to roll back"),),
    ),
    "rm": ("Delete an environment that is not current.", (_NAME,)),
}
