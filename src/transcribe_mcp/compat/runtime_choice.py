"""GPUs, engines, threads and environment variables for this machine, derived from its facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .derived_facts import DerivedFacts
from .device_choice import CPU, CTRANSLATE2, DeviceChoice, Hardware, choose
from .facts import Facts
from .machine import Gpu, gpu_name, gpus_of, usable_cores, usable_memory_bytes
from .memory import WHISPER, geometry, gpu_bytes, largest_batch

USUAL_MODEL = "large-v3-turbo"
PAIR_BYTES = 40 << 30  # of a GPU that may have two workers; each needs 8 GB with the usual model
PAIR_CORES = 6  # for each of these GPUs


@dataclass(frozen=True, slots=True)
class Runtime:
    """Settings of a worker.

    Attributes:
        threads: physical cores that this process may use, within its quota; at least 1.
        gpus: numbers of the GPUs that an engine can probably use; nothing was run on them.
        paired_gpus: those that get two workers if many jobs wait.
        environment: variables to set before the worker starts; libraries read them once.
    """

    threads: int
    gpus: tuple[int, ...]
    paired_gpus: tuple[int, ...]
    environment: Mapping[str, str]


def choose_runtime(facts: Facts, model: str = USUAL_MODEL) -> Runtime:
    """The settings for a model of the table ``models``. Raises ``KeyError`` for other models."""
    threads = usable_cores(facts) or 1
    environment = {"OMP_NUM_THREADS": str(threads), "PYANNOTE_METRICS_ENABLED": "0"}
    has_gpu = bool(gpus_of(facts))
    usable = usable_gpus(facts, model) if has_gpu else ()
    if has_gpu and not usable:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # an unusable GPU must not be touched
    return Runtime(threads, usable, _paired(facts, usable, threads), environment)


def _paired(facts: Facts, usable: Sequence[int], threads: int) -> tuple[int, ...]:
    """The GIL stops one process from filling a GPU as fast as an H200. Slower ones have no memory
    for two models, or gain little.
    """
    if threads < PAIR_CORES * len(usable):
        return ()
    gpus = gpus_of(facts)
    return tuple(number for number in usable if gpus[number].total_bytes >= PAIR_BYTES)


def usable_gpus(facts: Facts, model: str) -> tuple[int, ...]:
    """Numbers of the GPUs on which CTranslate2 or torch can run the model, by the facts."""
    machine = DerivedFacts(facts)
    return tuple(
        index
        for index, gpu in enumerate(machine.gpus)
        if _gpu_engine(machine, gpu) and _has_room(gpu, model)
    )


def usable_hardware(facts: Facts) -> list[tuple[str, Hardware]]:
    """The GPUs that an engine can probably use, each with its engine; the CPU if there are none."""
    machine = DerivedFacts(facts)
    threads = facts.value("cpu.usable") or 1
    found = []
    for index in usable_gpus(facts, "tiny"):
        gpu = machine.gpus[index]
        hardware = Hardware(
            gpu_name(index), gpu.name, gpu.capability, gpu_bytes(gpu) or None, threads
        )
        found.append((_gpu_engine(machine, gpu), hardware))
    if found:
        return found
    memory = usable_memory_bytes(facts)
    free_bytes = min(memory, facts.value("memory.available_bytes", memory)) if memory else None
    return [(CTRANSLATE2, Hardware(CPU, "CPU", free_bytes=free_bytes, threads=threads))]


def usual_choices(facts: Facts) -> list[DeviceChoice]:
    """Settings of the usual model on each usable device."""
    shape = geometry(USUAL_MODEL)
    return [choose(engine, hardware, shape) for engine, hardware in usable_hardware(facts)]


def usual_text(facts: Facts) -> list[str]:
    """One line of ``doctor`` per usable device."""
    return [
        f"{USUAL_MODEL} runs on {choice.device}: engine {choice.engine}, {choice.compute_type}, "
        f"batches of {choice.batch_size} windows, {(choice.need_bytes or 0) / 1e9:.1f} GB"
        for choice in usual_choices(facts)
    ]


def _gpu_engine(machine: DerivedFacts, gpu: Gpu) -> str:
    """The engine that ``auto`` uses on this GPU; empty if none can use it."""
    if any(_driver_problems(machine)):
        return ""
    for_torch = machine.torch_is_cpu is False and not machine.torch_driver_too_old
    if for_torch and gpu not in (machine.gpus_without_torch_code or []):
        return WHISPER
    return "" if ctranslate2_gpu_problem(machine) else CTRANSLATE2


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
