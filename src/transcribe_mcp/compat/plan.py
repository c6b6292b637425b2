"""Plan the installation for a machine: commands with reasons, checks, and limits.

Versions depend on compute capability as well as on the driver: the driver of a GTX 1080 supports
CUDA 13, but CUDA 13 builds have no code for that GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import tables
from .errors import CompatError
from .facts import Facts
from .machine import Gpu, effective_driver, gpus_of
from .tables import Tables
from .versions import compare, is_prerelease, satisfies, version_key

WANTS: Mapping[str, str] = {
    "cpu": "transcription on the CPU",
    "gpu": "transcription on an NVIDIA GPU, without torch",
    "torch": "transcription, and torch for its engine and alignment",
    "whisperx": "WhisperX in its own environment",
}
DIARIZE = "diarize"
TORCH_INDEX = "https://download.pytorch.org/whl/"
# PyPI's torch for Linux, compared with the build of PyTorch's index for CPUs.
LARGER = (
    "the same version with CUDA, several GB instead of 0.2 GB; "
    "an environment for WhisperX then takes 7.6 GB"
)
FALLBACK_PYTHON = "3.12"
OLDEST_PYTHON = "3.11"  # of transcribe-mcp and its wheels
NEWEST_PYTHON = "3.15"
OLDEST_TORCH = "2.6"  # torch.load of older ones can run code
WHISPERX_TORCH = "2.8"
_ENVIRONMENT = "transcribe-env"


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision with its reason and source."""

    what: str
    value: str
    reason: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Install:
    """Requirements that are installed together, from the configured index or from ``index_url``."""

    requirements: tuple[str, ...]
    index_url: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    command: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """``target``: transcription runs on ``gpu`` or ``cpu``; ``none`` if it is impossible."""

    want: str
    target: str
    python: str
    choices: tuple[Choice, ...]
    installs: tuple[Install, ...]
    steps: tuple[Step, ...]
    checks: tuple[str, ...]
    limits: tuple[str, ...]
    cleanup: tuple[Step, ...]


@dataclass(slots=True)
class _Draft:
    facts: Facts
    known: Tables
    want: str
    choices: list[Choice] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)

    @property
    def system(self) -> str:
        return str(self.facts.value("os.system", "Linux"))

    @property
    def is_arm(self) -> bool:
        return self.facts.value("os.machine") in ("aarch64", "arm64")

    @property
    def driver(self) -> str:
        return effective_driver(self.facts)

    @property
    def gpu(self) -> Gpu | None:
        """The GPU with the most memory."""
        gpus = [gpu for gpu in gpus_of(self.facts) if gpu.capability]
        return max(gpus, key=lambda gpu: gpu.total_bytes, default=None)

    def driver_runs(self, cuda_major: int) -> bool:
        floor = tables.driver_floor(cuda_major, self.system)
        return bool(self.driver and floor) and (compare(self.driver, floor or "") or 0) >= 0

    def choose(self, what: str, value: str, reason: str, source: str = "") -> None:
        self.choices.append(Choice(what, value, reason, source))


def make_plan(facts: Facts, want: str = "", known: Tables | None = None) -> Plan:
    """Plan for this machine. ``want`` is a key of ``WANTS``; empty means the GPU if usable.

    ``diarize`` is the same as empty: diarization needs nothing else.

    Raises:
        CompatError: ``want`` is unknown.
    """
    if want and want not in (*WANTS, DIARIZE):
        raise CompatError(
            f"cannot plan for {want!r}", hint=f"choose one of: {', '.join(WANTS)}, {DIARIZE}"
        )
    draft = _Draft(facts, known or tables.version_tables(), want)
    if want == DIARIZE:
        want = ""
        draft.choose("speakers", "included", "transcribe-mcp has both models; no torch, no token")
    impossible = _impossible(draft)
    if impossible:
        return Plan(want or "cpu", "none", "", (), (), (), (), (impossible,), ())
    on_gpu = want != "cpu" and _transcribes_on_gpu(draft)
    draft.want = want or ("gpu" if on_gpu else "cpu")
    if draft.want == "gpu" and not on_gpu:
        return Plan(
            "gpu",
            "none",
            "",
            (),
            (),
            (),
            (),
            (*draft.limits, "for the CPU: --want cpu"),
            tuple(clean_up(facts)),
        )
    installs = _whisperx(draft) if draft.want == "whisperx" else _ours(draft, on_gpu)
    python = _python(draft)
    return Plan(
        draft.want,
        "gpu" if on_gpu else "cpu",
        python,
        tuple(draft.choices),
        tuple(installs),
        tuple(_steps(draft, python, installs)),
        _checks(draft),
        tuple(draft.limits),
        tuple(clean_up(facts)),
    )


def _impossible(draft: _Draft) -> str:
    if draft.system not in ("Linux", "Windows", "Darwin"):
        return f"no wheels for the system {draft.system!r}"
    if "musl" in str(draft.facts.value("os.libc", "")):
        return "no wheels for musl; use an image with glibc (python:3.12-slim)"
    if draft.facts.value("python.bits", 64) < 64:
        return "no wheels for 32-bit Python; install a 64-bit Python"
    return ""


def _transcribes_on_gpu(draft: _Draft) -> bool:
    """Whether the newest CTranslate2 runs on the GPU; if not, add the reason to the limits."""
    gpu = draft.gpu
    row = draft.known.ctranslate2[-1]
    problem = _why_no_gpu(draft, gpu, row)
    if problem:
        draft.limits.append(f"transcription on the GPU: {problem}")
    elif gpu is not None:
        reason = f"driver {draft.driver} runs CTranslate2 {row['version']} on it"
        draft.choose("device", str(gpu), reason, tables.table("drivers").source)
        if not gpu.at_least("7.0"):
            draft.limits.append(f"{gpu} has no fast float16; int8 (6.1) or float32 is used")
    return not problem


def _why_no_gpu(draft: _Draft, gpu: Gpu | None, row: Mapping[str, Any]) -> str:
    if draft.system == "Darwin":
        return "CTranslate2 has no Metal build; the CPU is used"
    if gpu is None:
        hidden = draft.facts.value("nvidia.pci") or draft.driver
        return (
            "the GPU is not usable; see transcribe-mcp doctor"
            if hidden
            else "no NVIDIA GPU is visible"
        )
    if draft.is_arm:
        return (
            "CTranslate2's aarch64 wheels have no GPU code; use --want torch, or build from source"
        )
    native = [f"{arch // 10}.{arch % 10}" for arch in row["sass"]]
    portable = f"{row['ptx'][0] // 10}.{row['ptx'][0] % 10}"
    is_native = tables.runs_machine_code(gpu.capability, native)
    if not is_native and not gpu.at_least(portable):
        return f"CTranslate2 {row['version']} has no code for {gpu}; it starts at {native[0]}"
    if not draft.driver_runs(row["cuda_major"]):
        floor = tables.driver_floor(row["cuda_major"], draft.system)
        return (
            f"driver {draft.driver or 'unknown'} is older than {floor}; upgrade it to 570 or newer"
        )
    if not is_native and (compare(draft.driver, row["driver_jit"]) or 0) < 0:
        floor = row["driver_jit"]
        return f"{gpu} needs driver {floor} for CTranslate2's code; installed is {draft.driver}"
    return ""


def _ours(draft: _Draft, on_gpu: bool) -> list[Install]:
    """transcribe-mcp with its engine, after torch if requested."""
    installs = []
    packages = ["transcribe-mcp", _newest(draft, "ctranslate2", draft.known.ctranslate2)]
    packages.append(_newest(draft, "faster-whisper", draft.known.faster_whisper))
    if draft.want == "torch":
        version, index_url = _torch(draft)
        installs.append(Install((f"torch=={version}",), index_url))
    if on_gpu:
        version = _pin(draft, "nvidia-cublas-cu12")
        packages.append(f"nvidia-cublas-cu12=={version}")
        reason = "CTranslate2 opens libcublas.so.12, which no other package provides"
        source = "https://github.com/SYSTRAN/faster-whisper/issues/1431"
        draft.choose("nvidia-cublas-cu12", version, reason, source)
    installs.append(Install(tuple(packages)))
    return installs


def _newest(draft: _Draft, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """``name==version`` of the newest final release that was not yanked."""
    usable = [row for row in rows if not row.get("yanked") and not is_prerelease(row["version"])]
    best = max(usable, key=lambda row: version_key(row["version"]))
    table = tables.table(name.replace("-", "_").replace(".", "_"))
    draft.choose(name, best["version"], "newest release known to work", table.source)
    return f"{name}=={best['version']}"


def _pin(draft: _Draft, package: str) -> str:
    rows = [row for row in tables.table("pins").rows if row["package"] == package]
    return str(next(row["version"] for row in rows if row["system"] in (draft.system, "any")))


def _torch(draft: _Draft) -> tuple[str, str]:
    """(version, index URL) of the newest torch for this GPU and driver, else the CPU build."""
    gpu = draft.gpu
    if gpu is not None and draft.driver:
        for row in reversed(draft.known.torch):
            if row.get("avoid") or (compare(row["minor"], OLDEST_TORCH) or 0) < 0:
                continue
            variant = _variant_for(draft, row, gpu)
            if variant is not None:
                index_url = TORCH_INDEX + variant if variant else ""
                cuda = variant or f"CUDA {row['cuda']} from PyPI"
                reason = f"newest with code for {gpu} that driver {draft.driver} runs ({cuda})"
                draft.choose("torch", row["version"], reason, tables.table("torch_variants").source)
                return row["version"], index_url
        draft.limits.append(
            f"torch on the GPU: no build has code for {gpu} and runs on driver {draft.driver}"
        )
    row = next(row for row in reversed(draft.known.torch) if not row.get("avoid"))
    draft.choose(
        "torch",
        row["version"],
        "CPU build: no GPU for a CUDA build",
        tables.table("torch").source,
    )
    return row["version"], TORCH_INDEX + "cpu" if draft.system == "Linux" else ""


def _variant_for(draft: _Draft, row: Mapping[str, Any], gpu: Gpu) -> str | None:
    """``""`` for PyPI's wheel, ``cu126`` etc. for another index, None if no variant fits."""
    default = "cu" + row["cuda"].replace(".", "")
    on_pypi = draft.system == "Linux"
    variants = ([default] if on_pypi else []) + sorted(row["variants"], reverse=True)
    for variant in variants if not draft.is_arm else [default]:
        suffix = "-aarch64" if draft.is_arm else ""
        built_for = tables.variant_capabilities(
            draft.known.torch_variants, variant + suffix, row["minor"]
        )
        if built_for is None and variant == default and not draft.is_arm:
            built_for = row["cc"]
        fits = built_for is not None and tables.runs_machine_code(gpu.capability, built_for)
        if fits and draft.driver_runs(int(variant[2:4])):
            return "" if variant == default and on_pypi else variant
    return None


def _whisperx(draft: _Draft) -> list[Install]:
    """WhisperX alone: it pins torch 2.8 and huggingface-hub<1, which exclude transcribe-mcp."""
    whisperx = _newest(draft, "whisperx", draft.known.whisperx)
    gpu = draft.gpu
    row = next(row for row in draft.known.torch if row["minor"] == WHISPERX_TORCH)
    variant = None if gpu is None or not draft.driver else _variant_for(draft, row, gpu)
    torch_index = TORCH_INDEX + variant if variant else ""
    if variant is None:
        draft.limits.append("alignment and speakers run on the CPU")
        torch_index = TORCH_INDEX + "cpu" if draft.system == "Linux" and not draft.is_arm else ""
    why = "WhisperX pins torch 2.8" + (
        "" if variant else f"; this build is {variant}" if variant else ""
    )
    draft.choose("torch", row["version"], why, tables.table("whisperx").source)
    draft.limits.append(
        "transcribe-mcp itself: it needs huggingface-hub>=1, WhisperX pins huggingface-hub<1; "
        "keep two environments"
    )
    version = row["version"]
    with_it = (f"torchvision=={_pin(draft, 'torchvision')}", f"torchaudio=={version}")
    return [Install((f"torch=={version}", *with_it), torch_index), Install((whisperx,))]


def _python(draft: _Draft) -> str:
    """The running Python if all packages have wheels for it, else a version that has."""
    current = str(draft.facts.value("python.version", ""))
    spans = [f"{OLDEST_PYTHON}-{NEWEST_PYTHON}"]
    chosen = {choice.what: choice.value for choice in draft.choices}
    if "torch" in chosen:
        spans += [row["python"] for row in draft.known.torch if row["version"] == chosen["torch"]]
    fits = all(tables.python_in(span, current) for span in spans)
    if draft.want == "whisperx":
        row = next(row for row in draft.known.whisperx if row["version"] == chosen["whisperx"])
        fits = fits and satisfies(current, row["requires_python"])
    if current and fits and not draft.facts.value("python.free_threaded"):
        return ".".join(current.split(".")[:2])
    draft.choose(
        "python", FALLBACK_PYTHON, f"the packages have no wheels for Python {current or 'unknown'}"
    )
    return FALLBACK_PYTHON


def _steps(draft: _Draft, python: str, installs: Sequence[Install]) -> list[Step]:
    windows = draft.system == "Windows"
    uv = draft.facts.value("tools.uv") is not None
    inside = f"{_ENVIRONMENT}\\Scripts\\python" if windows else f"{_ENVIRONMENT}/bin/python"
    interpreter = f"py -{python}" if windows else f"python{python}"
    venv = f"uv venv --python {python}" if uv else f"{interpreter} -m venv"
    steps = [Step(f"{venv} {_ENVIRONMENT}", "a new environment; the old one is not changed")]
    for install in installs:
        tool = f"uv pip install --python {inside}" if uv else f"{inside} -m pip install"
        index = f" --index-url {install.index_url}" if install.index_url else ""
        names = " ".join(
            f'"{name}"' if any(sign in name for sign in "<>") else name
            for name in install.requirements
        )
        why = (
            "torch first, from the index with the right build"
            if install.index_url
            else "exact versions"
        )
        if install.index_url == TORCH_INDEX + "cpu":
            why += f"; if it is unreachable, leave out --index-url: {LARGER}"
        steps.append(Step(f"{tool}{index} {names}", why))
    return steps


def _checks(draft: _Draft) -> tuple[str, ...]:
    if draft.want == "whisperx":
        return ("python -c 'import whisperx, torch; print(torch.cuda.is_available())'", "pip check")
    return ("transcribe-mcp doctor --deep", "transcribe-mcp transcribe samples/welcome.flac")


_GPU_STACK = (
    "torch", "torchvision", "torchaudio", "torchcodec", "triton", "ctranslate2", "faster-whisper",
    "whisperx", "pyannote-audio", "onnxruntime-gpu",
)  # fmt: skip


def clean_up(facts: Facts) -> list[Step]:
    """Commands that empty a broken environment; none if no package is at fault."""
    from .diagnose import diagnose_machine

    blamed = [
        f.code
        for f in diagnose_machine(facts)
        if f.severity in ("error", "crash") and f.area in _PACKAGE_AREAS
    ]
    installed = facts.value("packages.installed", {})
    names = [
        name
        for name in installed
        if name in _GPU_STACK or (name.startswith("nvidia-") and name != "nvidia-ml-py")
    ]
    if not blamed or not names:
        return []
    why = f"only to reuse this environment ({', '.join(blamed)}); a new one, as above, is safer"
    return [
        Step(f"pip uninstall -y {' '.join(sorted(names))}", why),
        Step(
            "pip cache remove 'nvidia_*'", "do not reinstall wheels that were overwritten by hand"
        ),
        Step("pip check", "shows the remaining problems"),
    ]


_PACKAGE_AREAS = ("ctranslate2", "torch", "whisperx", "libraries")


def plan_text(plan: Plan) -> str:
    """The plan as text: reasons, commands, limits."""
    lines = [f"Plan: {WANTS[plan.want]}; transcription on: {plan.target}"]
    lines += [f"  {c.what} {c.value}: {c.reason}" for c in plan.choices]
    for title, steps in (("Install", plan.steps), ("Clean up a broken environment", plan.cleanup)):
        if steps:
            lines += ["", f"{title}:"] + [
                line for s in steps for line in (f"  {s.command}", f"      # {s.why}")
            ]
    for title, items in (("Check", plan.checks), ("Limits", plan.limits)):
        if items:
            lines += ["", f"{title}:"] + [f"  {item}" for item in items]
    return "\n".join(lines)
