"""Compatibility checks: facts about a machine, findings, plans, environments, updates.

It needs the standard library only, so that it works where other packages are broken.

    gather() -> diagnose.diagnose_machine(facts) -> findings    doctor
             -> make_plan(facts) -> commands                    doctor --plan, env create
    gather_for_workers() -> choose_runtime(facts) -> settings of workers

``main(argv)`` is the whole command line. Names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_MODULE_OF = {
    "Facts": "facts",
    "choose_runtime": "runtime_choice",
    "gather": "probes",
    "gather_for_workers": "probes",
    "main": "cli",
    "make_plan": "plan",
}
__all__ = ["Facts", "choose_runtime", "gather", "gather_for_workers", "main", "make_plan"]

if TYPE_CHECKING:
    from .cli import main
    from .facts import Facts
    from .plan import make_plan
    from .probes import gather, gather_for_workers
    from .runtime_choice import choose_runtime


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
