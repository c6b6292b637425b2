"""``transcribe-mcp env``: every action, as text or JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict

from . import env_build
from . import environments as store
from .environments import Environment
from .output import say, say_json

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
    return _tell(
        asked,
        built,
        f"environment {built.name} is ready and current for {built.want}, made in {built.took_s:g} s",
    )


def _try(asked: argparse.Namespace) -> int:
    outcome = env_build.try_upgrade(_request(asked), _report)
    if asked.json:
        say_json(asdict(outcome))
    else:
        tried, current = store.environment(outcome.tried), store.environment(outcome.current)
        names = sorted({*tried.packages, *current.packages})
        rows = [
            (name, current.packages.get(name, "–"), tried.packages.get(name, "–")) for name in names
        ]
        say(f"{'package':<28}{outcome.current:<24}{outcome.tried}")
        for name, old, new in rows:
            if old != new:
                say(f"{name:<28}{old:<24}{new}")
        say(f"{'seconds':<28}{outcome.current_s:<24.3f}{outcome.tried_s:.3f}")
        say(outcome.reason)
    return 0 if outcome.promoted else 1


def _list(asked: argparse.Namespace) -> int:
    now, found = store.pointers(), store.environments()
    if asked.json:
        say_json(
            {
                "environments": [asdict(each) for each in found],
                "current": now.current,
                "previous": now.previous,
            }
        )
        return 0
    for each in found:
        shown = ", ".join(
            f"{name} {each.packages[name]}" for name in _SHOWN_PACKAGES if name in each.packages
        )
        mark = f"current for {each.want}" if each.name in now.current.values() else each.want
        told = f"{each.state}: {each.problem}" if each.problem else shown
        say(f"{_SIGNS.get(each.state, '?')} {each.name:<24}{mark:<22}{told}")
    lost = [name for name in now.current.values() if name not in {each.name for each in found}]
    for name in lost:
        say(f"☠ {name:<24}current, but its folder is gone: transcribe-mcp env rollback")
    if not found and not lost:
        say("no environments; make one: transcribe-mcp env create")
    return 0


def _verify(asked: argparse.Namespace) -> int:
    checks = env_build.verify(asked.name)
    if asked.json:
        say_json({"name": asked.name, "checks": checks})
    else:
        say("\n".join(checks) or "nothing to run in this environment")
    return 0


def _use(asked: argparse.Namespace) -> int:
    with store.changing():
        chosen = store.make_current(asked.name)
    return _tell(asked, chosen, f"environment {chosen.name} is current for {chosen.want}")


def _rollback(asked: argparse.Namespace) -> int:
    with store.changing():
        chosen = store.roll_back(asked.want)
    return _tell(asked, chosen, f"back to environment {chosen.name} for {chosen.want}")


def _remove(asked: argparse.Namespace) -> int:
    with store.changing():
        store.remove(asked.name)
    if asked.json:
        say_json({"removed": asked.name})
    else:
        say(f"environment {asked.name} is deleted")
    return 0


def _tell(asked: argparse.Namespace, chosen: Environment, words: str) -> int:
    if asked.json:
        say_json({**asdict(chosen), "python": str(store.python_of(chosen.name))})
    else:
        say(words)
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
