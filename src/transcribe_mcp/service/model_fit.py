"""The models that fit this machine, and the doctor's findings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..jobs.models import Diagnosis
from . import list_models

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
    """The device of a run that names none. ``free_bytes`` is ``None`` if unknown."""

    where: str
    engine: str
    compute_type: str
    free_bytes: int | None


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

    place = this_machine()
    rows = []
    for row in list_models():
        need_bytes = _need_bytes(row.name, place)
        known = need_bytes is not None and place.free_bytes is not None
        rows.append(
            CachedModel(
                name=row.name,
                languages=row.languages,
                parameters_millions=row.parameters_millions,
                download_bytes=row.download_bytes,
                is_here=row.path is not None,
                need_bytes=need_bytes,
                fits=(need_bytes or 0) <= USABLE_SHARE * (place.free_bytes or 0) if known else None,
            )
        )
    return tuple(rows)


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """The GPU if one is usable, else the CPU, and the precision that ``auto`` picks."""
    from importlib.util import find_spec

    from ..compat import gather
    from ..compat.machine import gpus_of, usable_memory_bytes
    from ..compat.memory import WHISPER, gpu_bytes
    from ..compat.runtime_choice import usable_gpus

    facts = gather()
    usable = usable_gpus(facts, "tiny")
    if usable:
        gpu = gpus_of(facts)[usable[0]]
        if find_spec("torch") is not None:
            return Machine(gpu.name, WHISPER, "bfloat16+int8", gpu_bytes(gpu) or None)
        return Machine(gpu.name, "ctranslate2", "float16", gpu_bytes(gpu) or None)
    memory = usable_memory_bytes(facts)
    return Machine(
        "CPU",
        "cpu",
        "int8",
        min(memory, facts.value("memory.available_bytes", memory)) if memory else None,
    )


def _need_bytes(model: str, place: Machine) -> int | None:
    from ..compat.memory import geometry
    from ..engines.batch_size import default_need_bytes
    from ..settings import usable_cores

    try:
        shape = geometry(model.removesuffix(".en"))
    except KeyError:
        return None
    return default_need_bytes(
        shape, place.engine, place.compute_type, (place.free_bytes, usable_cores())
    )


def diagnose() -> Diagnosis:
    """The doctor's findings; if something is wrong, also the plan of a matching environment."""
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
