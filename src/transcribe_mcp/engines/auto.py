"""The engine of ``auto`` on this machine, and the devices of a request. Loads neither torch nor
CTranslate2.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from .. import models
from ..compat.gpu_probe import gpu_facts, gpu_trial, has_passed, operation_on, trial_key
from ..compat.machine import gpus_of
from ..errors import EngineUnavailableError, ModelFormatError, UnknownNameError, UsageError
from ..settings import settings

AUTO = "auto"
PYTORCH = "whisper"
CTRANSLATE2 = "ctranslate2"
ALL_GPUS = "cuda:all"
ONE_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?")
SEVERAL = re.compile(r"cuda:\d+(,\d+)+")


def devices_of(requested: str) -> tuple[str, ...]:
    """The devices of ``cuda:0,1`` or ``cuda:all``; anything else is one device, which its engine
    resolves.

    Raises:
        EngineUnavailableError: all GPUs are requested and there is none.
        UsageError: a GPU is named twice.
    """
    if requested == ALL_GPUS:
        count = len(gpus_of(gpu_facts()))
        if not count:
            hint = "transcribe on the CPU with --device cpu; see transcribe-mcp doctor"
            raise EngineUnavailableError(
                "device cuda:all is not available: the driver shows no GPU", hint=hint
            )
        return tuple(f"cuda:{i}" for i in range(count))
    if not SEVERAL.fullmatch(requested):
        return (requested,)
    numbers = requested.removeprefix("cuda:").split(",")
    if len(set(numbers)) < len(numbers):
        raise UsageError(
            f"device {requested!r} names a GPU twice",
            hint="name every GPU once, for example cuda:0,1",
        )
    return tuple(f"cuda:{number}" for number in numbers)


def parsed_device(requested: str, gpu: int) -> tuple[str, int]:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` -> kind and GPU number. ``gpu``: if none is named.

    Raises:
        UsageError: anything else.
    """
    if not ONE_DEVICE.fullmatch(requested):
        raise UsageError(
            f"there is no device {requested!r}",
            hint="choose one of: auto, cpu, cuda, cuda:0, cuda:1 …",
        )
    kind, _, number = requested.partition(":")
    return kind, int(number or gpu)


def require_precision(requested: str, offered: Collection[str], kind: str, engine: str) -> None:
    """
    Raises:
        UsageError: the engine lacks this precision on this kind of device.
    """
    if requested != AUTO and requested not in offered:
        raise UsageError(
            f"compute type {requested!r} is not supported on {kind}",
            hint=f"the engine {engine} has on {kind}: {', '.join(offered)}",
        )


def auto_engine(model: str, device: str, compute_type: str, gpu: int = 0) -> str:
    """The PyTorch engine if torch is installed and works on a GPU, otherwise CTranslate2.
    Arguments: a request's.

    The GPU is tried in a child process at the first start, and again when driver, GPUs or torch
    change.
    """
    torch = _version("torch")
    if torch is None or device == "cpu" or compute_type.startswith("int8") or _is_converted(model):
        return CTRANSLATE2
    if has_passed(settings().cache_dir, torch):
        # Takes seconds; the driver is queried at the same time.
        threading.Thread(target=_import_pytorch, name="import", daemon=True).start()
    facts = gpu_facts()
    if not gpus_of(facts):
        return CTRANSLATE2
    key = f"torch {trial_key(facts, torch, gpu)}"
    problem = gpu_trial(settings().cache_dir, key, operation_on("torch", gpu))
    return CTRANSLATE2 if problem else PYTORCH


def _import_pytorch() -> None:
    with suppress(ImportError):  # loading the engine raises it again
        import_module(".whisper", __package__)


def _is_converted(model: str) -> bool:
    """Whether the model is cached in CTranslate2's layout, which no other engine reads."""
    if model == AUTO:
        return False
    try:
        found = models.find_cached(model)
    except (ModelFormatError, UnknownNameError):
        return False  # the engine reports the error
    return found is not None and found.layout == "ctranslate2"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
