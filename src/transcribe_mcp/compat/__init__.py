"""Compatibility as a program: facts about a machine, findings, plans, environments, updates.

Only the standard library, and nothing of ours outside this package: it works where everything else is broken.

    gather() ->       judge.judge(facts) -> findings        doctor
                   -> plan.make_plan(facts) -> commands     doctor --plan, env create
    preload.preload_cublas(), choose.choose_runtime(facts)  for engines and workers

``main(argv)`` is the whole command line. Names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "CompatError": "errors",
    "Facts": "facts",
    "Finding": "rules",
    "Plan": "plan",
    "Preload": "preload",
    "Runtime": "choose",
    "choose_compute_type": "choose",
    "choose_device": "choose",
    "choose_runtime": "choose",
    "choose_threads": "choose",
    "gather": "probes",
    "main": "cli",
    "make_plan": "plan",
    "preload_cublas": "preload",
}
__all__ = [
    "CompatError",
    "Facts",
    "Finding",
    "Plan",
    "Preload",
    "Runtime",
    "choose_compute_type",
    "choose_device",
    "choose_runtime",
    "choose_threads",
    "gather",
    "main",
    "make_plan",
    "preload_cublas",
]

if TYPE_CHECKING:
    from .choose import Runtime, choose_compute_type, choose_device, choose_runtime, choose_threads
    from .cli import main
    from .errors import CompatError
    from .facts import Facts
    from .plan import Plan, make_plan
    from .preload import Preload, preload_cublas
    from .probes import gather
    from .rules import Finding


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
