"""Values that rules use, derived from facts and tables, e.g. ``gpus_without_torch_code``.

``None`` means unknown. A rule that depends on an unknown value does not apply.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import tables
from .facts import Facts
from .gpu_binaries import GpuCode
from .machine import Gpu, effective_driver, gpus_of, usable_cores, usable_memory_bytes
from .memory import models_too_large
from .versions import compare, marker_holds, minor_of, parse_requirement, parse_version, satisfies

_NO_GPU_CODE = GpuCode((), (), "", 0, 0)


class DerivedFacts:
    """The derived values of one machine."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.system: str | None = facts.value("os.system")
        self.machine: str | None = facts.value("os.machine")
        self.python: str | None = facts.value("python.version")
        self.variables: Mapping[str, str] = facts.value("environment.variables", {})
        self.installed: Mapping[str, str] = facts.value("packages.installed", {})
        self.gpus = gpus_of(facts)
        self._gpus_with_capability = [gpu for gpu in self.gpus if gpu.capability]
        self._derive_machine()
        self._derive_settings()
        self._derive_packages()
        self._derive_driver()
        self._derive_gpus()
        self._derive_ctranslate2()
        self._derive_torch()
        self._derive_libraries()
        self._derive_torchcodec()

    def version(self, package: str) -> str | None:
        return self.installed.get(package)

    def installs(self, package: str) -> bool | None:
        return None if self.facts.value("packages.installed") is None else package in self.installed

    def named(self, name: str) -> Any:
        """The value of ``env.X`` (variable), ``package.X`` (version) or an attribute."""
        group, _, key = name.rpartition(".")
        groups: Mapping[str, Mapping[str, Any]] = {
            "": vars(self),
            "env": self.variables,
            "package": self.installed,
        }
        return groups[group].get(key)

    def _derive_machine(self) -> None:
        value = self.facts.value
        self.distribution: str | None = value("os.distribution")
        self.wsl: bool | None = value("os.wsl")
        self.container_kind: str | None = value("os.container")
        self.is_container = None if self.container_kind is None else self.container_kind != "none"
        libc = value("os.libc")
        self.musl = None if libc is None else "musl" in libc
        self.python_bits: int | None = value("python.bits")
        self.free_threaded: bool | None = value("python.free_threaded")
        self.translated: bool | None = value("cpu.translated")
        flags = value("cpu.flags")
        is_x86 = self.machine in ("x86_64", "AMD64")
        self.avx2 = "avx2" in flags if flags is not None and is_x86 else None
        self.disk_gb = _gigabytes(value("disk.free_bytes"))
        memory = usable_memory_bytes(self.facts)
        self.ram_gb = _gigabytes(memory)
        self.ram_lacks = models_too_large("cpu", "int8", memory) if memory else None
        failed = [
            (name, fact.unknown) for name, fact in self.facts.items() if name.startswith("probe.")
        ]
        self.failed_probes = [
            f"{name.removeprefix('probe.')}: {reason}" for name, reason in failed if reason
        ]

    def _derive_settings(self) -> None:
        value = self.facts.value
        self.cores = usable_cores(self.facts)
        self.quota: float | None = value("cpu.quota")
        usable = value("cpu.usable")
        self.quota_binds = self.quota < usable if self.quota and usable else None
        threads = self.variables.get("OMP_NUM_THREADS", "")
        self.omp_threads = int(threads) if re.fullmatch(r"[0-9]{1,9}", threads) else None
        most = min(usable, self.quota or usable) if usable else None
        self.too_many_threads = (
            self.omp_threads > most if self.omp_threads is not None and most else None
        )
        known = "environment.variables" in self.facts
        hidden = self.variables.get("CUDA_VISIBLE_DEVICES", "0").strip() in (
            "",
            "-1",
            "none",
            "void",
        )
        self.gpus_hidden = hidden if known else None
        telemetry_off = self.variables.get("PYANNOTE_METRICS_ENABLED", "").lower() in (
            "0",
            "false",
            "no",
        )
        self.telemetry_off = telemetry_off if known else None
        secrets = value("environment.secrets")
        self.token = None if secrets is None else any(secrets.values())
        self.has_ffmpeg = (
            value("tools.ffmpeg") is not None if "tools.ffmpeg" in self.facts else None
        )
        for_triton = value("tools.for_triton")
        self.triton_lacks = (
            None
            if for_triton is None
            else [name for name, found in for_triton.items() if not found]
        )

    def _derive_packages(self) -> None:
        self.doubled: list[str] | None = self.facts.value("packages.doubled")
        known = self.facts.value("packages.installed") is not None
        broken = list(self._broken_requirements())
        self.conflicts = (
            [text for name, text in broken if not name.startswith("nvidia-")] if known else None
        )
        self.nvidia_conflicts = (
            [text for name, text in broken if name.startswith("nvidia-")] if known else None
        )

    def _broken_requirements(self) -> Iterator[tuple[str, str]]:
        """(package, message) for every declared requirement that is not satisfied."""
        environment = self._marker_environment()
        expected = set(tables.watched_packages())
        requires: Mapping[str, list[str]] = self.facts.value("packages.requires", {})
        for owner, line in ((owner, line) for owner, lines in requires.items() for line in lines):
            required = parse_requirement(line)
            if required is None or not marker_holds(required.marker, environment):
                continue
            name = required.name
            specifiers = required.specifiers
            installed = self.installed.get(name)
            text = f"{owner} {self.installed.get(owner, '')} requires {name}{specifiers}"
            if installed is None and (name in expected or name.startswith("nvidia-")):
                yield name, f"{text}, which is not installed"
            elif installed is not None and specifiers and not satisfies(installed, specifiers):
                yield name, f"{text}, installed is {installed}"

    def _marker_environment(self) -> dict[str, str]:
        system = self.system or ""
        python = self.python or ""
        return {
            "python_version": minor_of(python),
            "python_full_version": python,
            "platform_system": system,
            "sys_platform": {"Linux": "linux", "Windows": "win32", "Darwin": "darwin"}.get(
                system, ""
            ),
            "platform_machine": self.machine or "",
            "platform_python_implementation": self.facts.value("python.implementation", "CPython"),
            "implementation_name": "cpython",
            "os_name": "nt" if system == "Windows" else "posix",
            "extra": "",
        }

    def _derive_driver(self) -> None:
        value = self.facts.value
        kernel = value("nvidia.kernel_driver")
        self.driver: str | None = kernel or value("nvidia.nvml_driver")
        self.has_driver = self.driver is not None if "nvidia.kernel_driver" in self.facts else None
        self.user_driver: str | None = value("nvidia.user_driver")
        self.libcuda: str | None = value("nvidia.libcuda")
        self.has_libcuda = self.libcuda is not None if "nvidia.libcuda" in self.facts else None
        self.compat_libcuda = "/compat" in self.libcuda if self.libcuda else None
        self.libcuda_order = (
            compare(self.user_driver, self.driver) if self.user_driver and self.driver else None
        )
        self.wsl_driver_elsewhere = bool(
            self.wsl and self.libcuda and not self.libcuda.startswith("/usr/lib/wsl")
        )
        self.cuinit: int | None = value("nvidia.cuinit")
        self.nvml_code: int | None = value("nvidia.nvml_code")
        cuda = value("nvidia.cuda_version")
        self.driver_cuda = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
        ends = {api: value(f"nvidia.{api}_child", "") for api in ("nvml", "cuda")}
        self.killed_probes = [
            f"{api}: {end}" for api, end in ends.items() if end.startswith(("signal", "hung"))
        ]
        self._driver_of_programs = effective_driver(self.facts)

    def _is_driver_older(self, floor: str | None) -> bool | None:
        driver = self._driver_of_programs
        return (compare(driver, floor) or 0) < 0 if floor and driver else None

    def _derive_gpus(self) -> None:
        self.has_gpu = bool(self.gpus) if "nvidia.gpus" in self.facts else None
        self.pci_gpus: list[str] | None = self.facts.value("nvidia.pci")
        devices = self.facts.value("nvidia.devices")
        self.device_files = (
            None if devices is None else [d for d in devices if re.fullmatch(r"nvidia\d+|dxg", d)]
        )
        self.mig_gpus = [gpu for gpu in self.gpus if gpu.mig]
        self.full_gpus = [
            f"{gpu}: {gpu.free_bytes / 1e9:.1f} of {gpu.total_bytes / 1e9:.1f} GB free"
            for gpu in self.gpus
            if gpu.free_bytes is not None and gpu.free_bytes < 0.25 * gpu.total_bytes
        ]
        largest = max((gpu.total_bytes for gpu in self.gpus if gpu.total_bytes), default=None)
        self.gpu_lacks = (
            None if largest is None else models_too_large("ctranslate2", "float16", largest)
        )

    def _without_machine_code(self, built_for: Sequence[str]) -> list[Gpu]:
        return [
            gpu
            for gpu in self._gpus_with_capability
            if not tables.runs_machine_code(gpu.capability, built_for)
        ]

    def _ctranslate2_code(self, row: Mapping[str, Any] | None) -> GpuCode | None:
        """GPU code of the installed CTranslate2, from its library, else from the table."""
        binary = self.facts.value("ctranslate2.binary")
        if binary is not None:
            known = {
                name: binary.get(name) or getattr(_NO_GPU_CODE, name)
                for name in GpuCode.__dataclass_fields__
            }
            return GpuCode(**known)
        if row is None or "ctranslate2.binary" in self.facts:
            return None
        if self.machine != "x86_64" or self.system not in ("Linux", "Windows"):
            return _NO_GPU_CODE
        return GpuCode(
            row["sass"], row["ptx"], row["ptx_isa"], row["cuda_major"], row["cudnn_major"]
        )

    def _derive_ctranslate2(self) -> None:
        version = self.installed.get("ctranslate2")
        row = tables.row_for(tables.version_tables().ctranslate2, version) if version else None
        damaged = (
            self.facts["ctranslate2.binary"].unknown if "ctranslate2.binary" in self.facts else None
        )
        self.ctranslate2_damaged = damaged or None if version is not None else None
        known = self._ctranslate2_code(row)
        code = known or _NO_GPU_CODE
        self.ct2_gpu_code = bool(code.sass or code.ptx) if known else None
        self.ct2_cuda = code.cublas_major if known else None
        self.ct2_cudnn = code.cudnn_major if known else None
        self.ct2_blackwell_int8: str | None = row["blackwell_int8"] if known and row else None
        self.ct2_driver_floor = (
            tables.driver_floor(code.cublas_major, self.system) if code.cublas_major else None
        )
        self.ct2_driver_too_old = self._is_driver_older(self.ct2_driver_floor)
        self.jit_floor = tables.jit_driver_floor(code.ptx_isa) if code.ptx_isa else None
        without = self._without_machine_code(_dotted(code.sass))
        compiled = [gpu for gpu in without if any(map(gpu.at_least, _dotted(code.ptx)))]
        self.gpus_jit = compiled if known else None
        too_old = self._is_driver_older(self.jit_floor)
        self.gpus_jit_blocked = None if too_old is None else compiled if too_old else []
        self.gpus_without_ct2_code = (
            [gpu for gpu in without if gpu not in compiled] if self.ct2_gpu_code else None
        )
        gpus = self._gpus_with_capability if known else ()
        self.blackwell_gpus = (
            [gpu for gpu in gpus if gpu.capability.startswith("12.")] if known else None
        )
        slow = [gpu for gpu in gpus if gpu.at_least("5.3") and not gpu.at_least("7.0")]
        self.gpus_without_fp16 = slow if known else None

    def _torch_variant(self) -> str | None:
        """``cu126``, ``cpu``, ...: torch's local version, else from its version file."""
        local = (self.facts.value("torch.version") or self.installed["torch"]).partition("+")[2]
        cuda = self.facts.value("torch.cuda")
        if local or cuda is None:
            return local or None
        return "cpu" if cuda == "cpu" else "cu" + cuda.replace(".", "")

    def _torch_capabilities(self, variant: str, row: Mapping[str, Any] | None) -> list[str] | None:
        """Compute capabilities with machine code in this build of torch."""
        minor = minor_of(self.installed["torch"])
        if self.machine in ("aarch64", "arm64"):
            return tables.variant_capabilities(
                tables.version_tables().torch_variants, f"{variant}-aarch64", minor
            )
        listed = tables.variant_capabilities(tables.version_tables().torch_variants, variant, minor)
        is_default = row is not None and variant == "cu" + row["cuda"].replace(".", "")
        return row["cc"] if listed is None and row is not None and is_default else listed

    def _derive_torch(self) -> None:
        version = self.installed.get("torch")
        row = tables.torch_row(version) if version is not None else None
        damaged = self.facts["torch.cuda"].unknown if "torch.cuda" in self.facts else None
        self.torch_damaged = damaged or None if version is not None else None
        self.torch_variant = self._torch_variant() if version is not None else None
        self.torch_is_cpu = None if self.torch_variant is None else self.torch_variant == "cpu"
        cuda = re.fullmatch(r"cu(\d\d)\d", self.torch_variant or "")
        self.torch_cuda_major = int(cuda[1]) if cuda else None
        built_for = self._torch_capabilities(cuda[0], row) if cuda else None
        self.torch_built_for = None if built_for is None else ", ".join(built_for)
        self.gpus_without_torch_code = (
            None if built_for is None else self._without_machine_code(built_for)
        )
        self.torch_driver_floor = tables.driver_floor(int(cuda[1]), self.system) if cuda else None
        self.torch_driver_too_old = self._is_driver_older(self.torch_driver_floor)
        numpy = parse_version(self.installed.get("numpy", ""))
        is_old = row is not None and row["numpy2"].startswith("no")
        is_old = is_old or (self.system == "Windows" and satisfies(version or "", "<2.4.1"))
        self.numpy_clash = numpy.release[0] >= 2 and is_old if row is not None and numpy else None

    def _derive_libraries(self) -> None:
        cublas = self.facts.value("libraries.cublas")
        self.cublas12 = (
            None if cublas is None else bool(_named(cublas, "libcublas.so.12", "cublas64_12.dll"))
        )
        self.cublas13 = (
            None if cublas is None else bool(_named(cublas, "libcublas.so.13", "cublas64_13.dll"))
        )
        known = self.facts.value("libraries.cudnn")
        cudnn = known or []
        old = _named(cudnn, "libcudnn_ops_infer.so.8", "cudnn_ops_infer64_8.dll")
        new = _named(cudnn, "libcudnn_ops.so.9", "cudnn_ops64_9.dll")
        main = _named(cudnn, "libcudnn.so.9", "cudnn64_9.dll")
        self.cudnn8 = None if known is None else bool(old)
        self.cudnn9 = None if known is None else bool(new)
        self.cudnn_outside = (
            None if known is None else _paths(i for i in main if i.get("where") != "package")
        )
        self.cudnn_in_path = (
            None
            if known is None
            else _paths(i for i in main if i.get("where") == "LD_LIBRARY_PATH")
        )
        linked = [
            i
            for i in cudnn
            if str(i.get("name")).endswith(".so.8") and ".so.9" in str(i.get("real"))
        ]
        self.cudnn_faked = (
            None if known is None else [f"{i.get('path')} is {i.get('real')}" for i in linked]
        )
        folders = self.variables.get("LD_LIBRARY_PATH", "").split(":")
        in_path = [folder for folder in folders if re.search(r"cuda[^/]*/compat/?$", folder)]
        self.compat_in_path = in_path if "environment.variables" in self.facts else None

    def _derive_torchcodec(self) -> None:
        torch = self.installed.get("torch")
        torchaudio = self.installed.get("torchaudio")
        self.torchaudio_mismatch = (
            not _torchaudio_fits(torchaudio, torch) if torch and torchaudio else None
        )
        version = self.installed.get("torchcodec")
        row = tables.row_for(tables.table("torchcodec").rows, version) if version else None
        self.torchcodec_wants = row["torch"] if row and torch else None
        self.torchcodec_mismatch = (
            not satisfies(torch.partition("+")[0], row["torch"]) if row and torch else None
        )
        cuda_major = 0 if self.torch_is_cpu else self.torch_cuda_major
        needs_cuda = row["cuda_major"] if row and torch and self.system == "Linux" else 0
        is_default_build = "+" not in (version or "")
        is_wrong = is_default_build and cuda_major != needs_cuda
        self.torchcodec_wrong_cuda = is_wrong if needs_cuda and cuda_major is not None else None
        majors = self.facts.value("ffmpeg.libavutil")
        span = re.fullmatch(r"(\d+)-(\d+)", row["ffmpeg"]) if row else None
        known = majors is not None and span is not None
        by_libavutil = {each["libavutil"]: each["ffmpeg"] for each in tables.table("ffmpeg").rows}
        found = [by_libavutil[major] for major in majors or () if major in by_libavutil]
        self.torchcodec_ffmpeg = span[0] if known and span else None
        fits = any(int(span[1]) <= major <= int(span[2]) for major in found) if span else None
        self.torchcodec_no_ffmpeg = not fits if known else None


def _gigabytes(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / 1e9, 1)


def _dotted(architectures: Iterable[int]) -> list[str]:
    return [f"{architecture // 10}.{architecture % 10}" for architecture in architectures]


def _named(libraries: Sequence[Mapping[str, Any]], *names: str) -> list[Mapping[str, Any]]:
    return [library for library in libraries if library.get("name") in names]


def _paths(libraries: Iterable[Mapping[str, Any]]) -> list[str]:
    return [str(library.get("path", "")) for library in libraries]


def _torchaudio_fits(torchaudio: str, torch: str) -> bool:
    """torchaudio 2.11, the last release, works with every later torch."""
    if minor_of(torchaudio) == "2.11":
        return satisfies(torch, ">=2.11")
    return minor_of(torchaudio) == minor_of(torch)
