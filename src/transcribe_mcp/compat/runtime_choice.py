"""GPUs, threads and environment variables for the workers of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .derived_facts import DerivedFacts
from .facts import Facts
from .machine import Gpu
from .memory import geometry, gpu_bytes, largest_batch


@dataclass(frozen=True, slots=True)
class Runtime:
    """Settings of a worker.

    Attributes:
        threads: physical cores that this process may use, within its quota; at least 1.
        gpus: numbers of the GPUs that an engine can probably use; nothing was run on them.
        environment: variables to set before the worker starts; libraries read them once.
    """

    threads: int
    gpus: tuple[int, ...]
    environment: Mapping[str, str]


def choose_runtime(facts: Facts, model: str = "large-v3-turbo") -> Runtime:
    """The settings for a model of the table ``models``. Raises ``KeyError`` for other models."""
    machine = DerivedFacts(facts)
    threads = machine.cores or 1
    environment = {"OMP_NUM_THREADS": str(threads), "PYANNOTE_METRICS_ENABLED": "0"}
    usable = usable_gpus(facts, model)
    if machine.gpus and not usable:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # an unusable GPU must not be touched
    return Runtime(threads, usable, environment)


def usable_gpus(facts: Facts, model: str) -> tuple[int, ...]:
    """Numbers of the GPUs on which CTranslate2 or torch can run the model, judged by facts."""
    machine = DerivedFacts(facts)
    if any(_driver_problems(machine)):
        return ()
    for_torch = machine.torch_is_cpu is False and not machine.torch_driver_too_old
    for_ctranslate2 = not ctranslate2_gpu_problem(machine)
    lacks_torch_code = machine.gpus_without_torch_code or []
    return tuple(
        index
        for index, gpu in enumerate(machine.gpus)
        if (for_ctranslate2 or (for_torch and gpu not in lacks_torch_code))
        and _has_room(gpu, model)
    )


def ctranslate2_gpu_problem(machine: DerivedFacts) -> str:
    """Why CTranslate2 cannot use the GPU; empty if nothing is known against it."""
    found = list(_driver_problems(machine))
    if machine.ct2_driver_too_old:
        found.append(f"driver {machine.driver} is older than {machine.ct2_driver_floor}")
    if machine.gpus_without_ct2_code:
        found.append("CTranslate2 has no code for this GPU")
    if machine.gpus_jit_blocked:
        found.append(f"driver {machine.driver} cannot compile CTranslate2 for this GPU")
    if machine.ct2_gpu_code is False:
        found.append("this CTranslate2 was built without CUDA")
    elif machine.cublas12 is False:
        found.append("libcublas.so.12 is missing")
    return "; ".join(found)


def _driver_problems(machine: DerivedFacts) -> Iterator[str]:
    """Why no program can use a GPU."""
    if machine.cuinit:
        yield f"the CUDA driver reports error {machine.cuinit}"
    if machine.gpus_hidden:
        yield "CUDA_VISIBLE_DEVICES hides the GPUs"
    if machine.has_libcuda is False:
        yield "libcuda.so.1 cannot be opened"


def _has_room(gpu: Gpu, model: str) -> bool:
    """Whether one window fits in int8_float16; true if the free memory is unknown."""
    free_bytes = gpu_bytes(gpu)
    shape = geometry(model)
    return not free_bytes or largest_batch(shape, "ctranslate2", "int8_float16", free_bytes) > 0
