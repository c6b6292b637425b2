"""Probes read facts about this machine. Each is guarded, timed and standard library only.

To add one, write a generator of facts and a line in ``PROBES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..facts import Fact, Facts, known, timed, unknown
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


def gather() -> Facts:
    """Run every probe. An unexpected error becomes a fact of its own.

    Takes about a quarter of a second and imports nothing outside the standard library.
    """
    start_loader_cache()
    start_children()
    facts: list[Fact] = []
    for name, probe in PROBES.items():
        try:
            facts += timed(probe())
        except Exception as error:  # noqa: BLE001 -- doctor must survive any machine
            facts.append(unknown(f"probe.{name}", f"{type(error).__name__}: {error}"))
        else:
            facts.append(known(f"probe.{name}", "looked", "doctor"))
    return Facts(facts)
