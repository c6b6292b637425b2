"""The models that fit this machine, and the doctor's findings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ..jobs.models import Diagnosis
from . import list_models

if TYPE_CHECKING:
    from ..compat.device_choice import Hardware

__all__ = [
    "CachedModel",
    "Diagnosis",
    "Machine",
    "diagnose",
    "models_here",
    "this_machine",
]


@dataclass(frozen=True, slots=True)
class Machine:
    """The default device."""

    engine: str
    hardware: Hardware
    compute_type: str


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model of the catalogue.

    Attributes:
        need_bytes: memory of a default run here; ``None`` if the model's size is unknown.
        fits: whether that much is free; ``None`` if unknown.
    """

    name: str
    languages: str
    parameters_millions: int | None
    download_bytes: int | None
    is_here: bool
    need_bytes: int | None
    fits: bool | None


def models_here() -> tuple[CachedModel, ...]:
    """The models of the catalogue and the cache. Loads none; makes no network call."""
    from ..compat.memory import USABLE_SHARE

    machine = this_machine()
    free_bytes = machine.hardware.free_bytes
    rows = []
    for row in list_models():
        need_bytes = _need_bytes(row.name, machine)
        known = need_bytes is not None and free_bytes is not None
        rows.append(
            CachedModel(
                name=row.name,
                languages=row.languages,
                parameters_millions=row.parameters_millions,
                download_bytes=row.download_bytes,
                is_here=row.path is not None,
                need_bytes=need_bytes,
                fits=(need_bytes or 0) <= USABLE_SHARE * (free_bytes or 0) if known else None,
            )
        )
    return tuple(rows)


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """The first usable GPU, else the CPU, and the precision that ``auto`` chooses."""
    from ..compat import gather
    from ..compat.device_choice import precisions
    from ..compat.runtime_choice import usable_hardware

    engine, hardware = usable_hardware(gather())[0]
    return Machine(engine, hardware, precisions(engine, hardware)[0])


def _need_bytes(model: str, machine: Machine) -> int | None:
    from ..compat.device_choice import choose
    from ..compat.memory import geometry

    try:
        shape = geometry(model.removesuffix(".en"))
    except KeyError:
        return None
    return choose(machine.engine, machine.hardware, shape).need_bytes


def diagnose() -> Diagnosis:
    """The doctor's findings; if there is a problem, also the plan of a matching environment."""
    from dataclasses import asdict

    from ..compat import gather, make_plan
    from ..compat.diagnose import diagnose_machine, exit_code
    from ..compat.env_build import with_source
    from ..compat.plan import plan_text
    from ..compat.report import doctor_json, doctor_text

    facts = gather()
    findings = diagnose_machine(facts)
    text = f"{doctor_text(facts, findings)}\n"
    report = doctor_json(facts, findings)
    if not exit_code(findings):
        return Diagnosis(text, report)
    plan = with_source(make_plan(facts))
    return Diagnosis(f"{text}\n{plan_text(plan)}\n", {**report, "plan": asdict(plan)})
