"""The actions of ``transcribe-mcp env``, each as text or JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict

from . import env_build
from . import environments as store
from .environments import Environment
from .output import say_answer

_SIGNS = {store.READY: "✓", store.FAILED: "✗", store.UNFINISHED: "!", store.DAMAGED: "☠"}
_SHOWN_PACKAGES = ("transcribe-mcp", "ctranslate2", "torch", "whisperx", "pyannote-audio")


def run_action(asked: argparse.Namespace) -> int:
    return _ACTIONS[asked.action](asked)


def _report(line: str) -> None:
    sys.stderr.write(line + "\n")


def _request(asked: argparse.Namespace) -> env_build.Request:
    return env_build.Request(getattr(asked, "name", ""), asked.want, asked.source, asked.python)


def _create(asked: argparse.Namespace) -> int:
    built = env_build.create(_request(asked), _report)
    words = f"Environment {built.name} is ready and current for {built.want} ({built.took_s:g} s)."
    return _show(asked, built, words)


def _try(asked: argparse.Namespace) -> int:
    outcome = env_build.try_upgrade(_request(asked), _report)
    say_answer(asked.json, asdict(outcome), _comparison(outcome))
    return 0 if outcome.promoted else 1


def _comparison(outcome: env_build.Comparison) -> str:
    """The versions that differ, and the seconds of both environments."""
    new = store.environment(outcome.tried).packages
    old = store.environment(outcome.current).packages
    rows = [(name, old.get(name, "–"), new.get(name, "–")) for name in sorted({*new, *old})]
    lines = [f"{'package':<28}{outcome.current:<24}{outcome.tried}"]
    lines += [f"{name:<28}{before:<24}{after}" for name, before, after in rows if before != after]
    lines.append(f"{'seconds':<28}{outcome.current_s:<24.3f}{outcome.tried_s:.3f}")
    return "\n".join([*lines, outcome.reason])


def _list(asked: argparse.Namespace) -> int:
    pointers = store.pointers()
    found = store.environments()
    say_answer(
        asked.json,
        {"environments": [asdict(each) for each in found], **asdict(pointers)},
        _table(found, pointers.current.values()),
    )
    return 0


def _table(found: list[Environment], current: Collection[str]) -> str:
    lines = []
    for each in found:
        shown = [
            f"{name} {each.packages[name]}" for name in _SHOWN_PACKAGES if name in each.packages
        ]
        mark = f"current for {each.want}" if each.name in current else each.want
        words = f"{each.state}: {each.problem}" if each.problem else ", ".join(shown)
        lines.append(f"{_SIGNS.get(each.state, '?')} {each.name:<24}{mark:<22}{words}")
    for name in sorted(set(current) - {each.name for each in found}):
        lines.append(f"☠ {name:<24}current, but its folder is missing: transcribe-mcp env rollback")
    return "\n".join(lines) or "No environments. Create one: transcribe-mcp env create"


def _verify(asked: argparse.Namespace) -> int:
    checks = env_build.verify(asked.name)
    say_answer(
        asked.json,
        {"name": asked.name, "checks": checks},
        "\n".join(checks) or "Nothing to run in this environment.",
    )
    return 0


def _use(asked: argparse.Namespace) -> int:
    with store.changing():
        chosen = store.make_current(asked.name)
    return _show(asked, chosen, f"Environment {chosen.name} is current for {chosen.want}.")


def _rollback(asked: argparse.Namespace) -> int:
    with store.changing():
        chosen = store.roll_back(asked.want)
    return _show(asked, chosen, f"Environment {chosen.name} is current for {chosen.want} again.")


def _remove(asked: argparse.Namespace) -> int:
    with store.changing():
        store.remove(asked.name)
    say_answer(asked.json, {"removed": asked.name}, f"Deleted environment {asked.name}.")
    return 0


def _show(asked: argparse.Namespace, chosen: Environment, words: str) -> int:
    python = str(store.python_of(chosen.name))
    say_answer(asked.json, {**asdict(chosen), "python": python}, words)
    return 0


_ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "create": _create,
    "list": _list,
    "verify": _verify,
    "use": _use,
    "try": _try,
    "rollback": _rollback,
    "rm": _remove,
}
