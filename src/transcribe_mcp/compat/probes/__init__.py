"""Probes read facts about this machine. Each is guarded, timed and standard library only.

To add one, write a generator of facts and a line in ``PROBES``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from ..facts import Fact, Facts, known, timed, unknown
from ..machine import gpus_of
from .binaries import probe_ctranslate2, probe_torch
from .environment import probe as probe_environment
from .hardware import probe_cpu, probe_memory
from .libraries import probe as probe_libraries
from .libraries import start_loader_cache
from .nvidia import probe as probe_nvidia
from .nvidia import start_children
from .packages import probe as probe_packages
from .system import probe as probe_system
from .system import probe_disk, probe_python
from .tools import probe as probe_tools

PROBES: Mapping[str, Callable[[], Iterable[Fact]]] = {
    "system": probe_system,
    "python": probe_python,
    "cpu": probe_cpu,
    "memory": probe_memory,
    "disk": probe_disk,
    "packages": probe_packages,
    "torch": probe_torch,
    "ctranslate2": probe_ctranslate2,
    "libraries": probe_libraries,
    "tools": probe_tools,
    "environment": probe_environment,
    "nvidia": probe_nvidia,  # last: its child processes run meanwhile
}


# Without a GPU, the workers of this machine depend on these alone.
_FOR_WORKERS = frozenset({"cpu", "environment", "nvidia"})


def gather_for_workers() -> Facts:
    """The facts behind ``choose_runtime``: all of them only if there is a GPU."""
    facts = gather(_FOR_WORKERS)
    if not gpus_of(facts):
        return facts
    return facts.with_facts(gather(PROBES.keys() - _FOR_WORKERS).values())


def gather(names: Collection[str] = PROBES) -> Facts:
    """Run the probes of these names. An unexpected error becomes a separate fact.

    All take about a quarter of a second and import nothing outside the standard library.
    """
    if "libraries" in names:
        start_loader_cache()
    if "nvidia" in names:
        start_children()
    facts: list[Fact] = []
    for name in filter(names.__contains__, PROBES):
        try:
            facts += timed(PROBES[name]())
        except Exception as error:  # noqa: BLE001 -- doctor must survive any machine
            facts.append(unknown(f"probe.{name}", f"{type(error).__name__}: {error}"))
        else:
            facts.append(known(f"probe.{name}", "looked", "doctor"))
    return Facts(facts)
