"""What a worker should use on this machine: device, precision, batch and threads, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .derived_facts import DerivedFacts
from .facts import Facts
from .machine import Gpu, gpus_of, usable_cores, usable_memory_bytes
from .memory import MemoryNeed, geometry, gpu_bytes, largest_batch, memory_need

GPU_BATCH_MAX = 32
CPU_BATCH_MAX = 8  # more windows at once gain nothing on a CPU and cost memory


@dataclass(frozen=True, slots=True)
class Runtime:
    """``environment`` is for the worker's process; set before it starts, because libraries read it once.

    Attributes:
        device: ``cpu`` or ``cuda:N``.
        reasons: why not the GPU, why this precision; in words for a result's warnings.
        gpus: numbers of those that some engine can use, as far as can be told without trying.
    """

    device: str
    compute_type: str
    batch_size: int
    threads: int
    reasons: tuple[str, ...]
    gpus: tuple[int, ...]
    environment: Mapping[str, str]


def choose_threads(facts: Facts) -> int:
    """Physical cores that this process may use, within its quota; at least 1."""
    return usable_cores(facts) or 1


def choose_device(facts: Facts) -> tuple[str, str]:
    """(``cuda:N`` or ``cpu``, why not a GPU; empty where one is used or none is built in)."""
    gpus = gpus_of(facts)
    if not gpus:
        return "cpu", ""
    problem = gpu_problem(facts)
    if problem:
        return "cpu", problem
    best = max(range(len(gpus)), key=lambda index: gpu_bytes(gpus[index]))
    return f"cuda:{best}", ""


def gpu_problem(facts: Facts) -> str:
    """Why CTranslate2 cannot use the GPU here; empty where nothing speaks against it."""
    machine = DerivedFacts(facts)
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
        found.append(
            "libcublas.so.12 is not installed (pip install 'nvidia-cublas-cu12>=12.8,<13')"
        )
    return "; ".join(found)


def _driver_problems(machine: DerivedFacts) -> Iterator[str]:
    """Why no program can use a GPU here."""
    if machine.cuinit:
        yield f"the CUDA driver answers with error {machine.cuinit}"
    if machine.gpus_hidden:
        yield "CUDA_VISIBLE_DEVICES hides the GPUs"
    if machine.has_libcuda is False:
        yield "libcuda.so.1 cannot be opened"


def usable_gpus(facts: Facts, model: str) -> tuple[int, ...]:
    """Numbers of the GPUs on which CTranslate2 or the installed torch can run the model, as far as facts tell."""
    machine = DerivedFacts(facts)
    torch_lacks = machine.gpus_without_torch_code or []
    for_torch = machine.torch_is_cpu is False and not machine.torch_driver_too_old
    for_ctranslate2 = not gpu_problem(facts)
    if any(_driver_problems(machine)):
        return ()
    return tuple(
        index
        for index, gpu in enumerate(machine.gpus)
        if (for_ctranslate2 or (for_torch and gpu not in torch_lacks)) and _has_room(gpu, model)
    )


def _has_room(gpu: Gpu, model: str) -> bool:
    """In the smallest precision that both engines have; a GPU whose memory nobody could ask for counts as large."""
    free_bytes = gpu_bytes(gpu)
    return (
        not free_bytes
        or largest_batch(geometry(model), "ctranslate2", "int8_float16", free_bytes) > 0
    )


def choose_compute_type(gpu: Gpu | None) -> tuple[str, str]:
    """(precision, reason). Source: https://opennmt.net/CTranslate2/quantization.html"""
    if gpu is None:
        return "int8", "int8 is the fast precision of CPUs"
    if gpu.at_least("7.0"):
        return "float16", f"{gpu} has fast float16"
    if gpu.capability == "6.1":
        return "int8", f"{gpu} has fast int8 and no fast float16"
    return "float32", f"{gpu} has neither fast int8 nor fast float16"


def choose_runtime(facts: Facts, model: str = "large-v3-turbo") -> Runtime:
    """Everything at once for a model of the table ``models``. Raises ``KeyError`` for a model it lacks."""
    device, problem = choose_device(facts)
    gpu = gpus_of(facts)[int(device.partition(":")[2])] if device != "cpu" else None
    compute_type, why = choose_compute_type(gpu)
    reasons = [problem, why] if problem else [why]
    shape = geometry(model)
    engine, available_bytes = (
        ("ctranslate2", gpu_bytes(gpu)) if gpu else ("cpu", usable_memory_bytes(facts) or 0)
    )
    batch = largest_batch(shape, engine, compute_type, available_bytes)
    if gpu is not None and not batch and compute_type == "float16":
        compute_type, batch = (
            "int8_float16",
            largest_batch(shape, engine, "int8_float16", available_bytes),
        )
        reasons.append(
            f"float16 needs {_gigabytes(memory_need(shape, engine, 'float16', 1))}; int8 is smaller"
        )
    if gpu is not None and not batch:
        reasons.append(f"{model} does not fit into the GPU's {available_bytes / 1e9:.1f} GB")
        device, (compute_type, _), engine = "cpu", choose_compute_type(None), "cpu"
        batch = largest_batch(shape, engine, compute_type, usable_memory_bytes(facts) or 0)
    threads = choose_threads(facts)
    limit = CPU_BATCH_MAX if device == "cpu" else GPU_BATCH_MAX
    environment = {"OMP_NUM_THREADS": str(threads), "PYANNOTE_METRICS_ENABLED": "0"}
    usable = usable_gpus(facts, model)
    if gpus_of(facts) and not usable:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # what cannot be used is not touched
    return Runtime(
        device,
        compute_type,
        max(1, min(batch, limit)),
        threads,
        tuple(reasons),
        usable,
        environment,
    )


def _gigabytes(need: MemoryNeed) -> str:
    return f"{need.total_bytes / 1e9:.1f} GB"
