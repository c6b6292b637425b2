"""The probes: each looks at one thing, is guarded and timed, and imports nothing outside the standard library.

To add one: a generator of facts, and a line in ``PROBES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..facts import Fact, Facts, seen, timed, unseen
from . import binaries, environment, hardware, libraries, nvidia, packages, system, tools

PROBES: Mapping[str, Callable[[], Iterable[Fact]]] = {
    "system": system.probe,
    "python": system.probe_python,
    "cpu": hardware.probe_cpu,
    "memory": hardware.probe_memory,
    "disk": system.probe_disk,
    "packages": packages.probe,
    "torch": binaries.probe_torch,
    "ctranslate2": binaries.probe_ctranslate2,
    "libraries": libraries.probe,
    "tools": tools.probe,
    "environment": environment.probe,
    "nvidia": nvidia.probe,  # last: its child processes run while the others look
}


def run_probes() -> Facts:
    """Run every probe; one that fails in a way nobody foresaw is itself a fact."""
    nvidia.start_children()
    facts: list[Fact] = []
    for name, probe in PROBES.items():
        try:
            facts += timed(probe())
        except Exception as error:  # noqa: BLE001 -- guarded probe: doctor must survive any broken machine
            facts.append(unseen(f"probe.{name}", f"{type(error).__name__}: {error}"))
        else:
            facts.append(seen(f"probe.{name}", "looked", "doctor"))
    return Facts(facts)
