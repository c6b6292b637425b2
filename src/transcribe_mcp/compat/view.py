"""What the rules talk about: names derived from facts and tables, e.g. ``gpus_without_torch_code``.

A name that cannot be derived is absent, and a rule that needs it stays quiet: the unknown accuses nobody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import tables
from .facts import Facts
from .machine import effective_driver, gpus_of, usable_cores, usable_memory_bytes
from .versions import compare, marker_holds, minor_of, parse_requirement, parse_version, satisfies

View = Mapping[str, Any]


def view_of(facts: Facts) -> View:
    """Every derived name of one machine."""
    view: dict[str, Any] = {}
    for part in _PARTS:
        view |= {name: value for name, value in part(facts, view) if value is not None}
    return view


_Items = Iterator[tuple[str, Any]]


def _machine(facts: Facts, _: View) -> _Items:
    for name in ("system", "machine", "distribution", "wsl"):
        yield name, facts.value(f"os.{name}")
    container = facts.value("os.container")
    yield "container", None if container is None else container != "none"
    yield "container_kind", container
    libc = facts.value("os.libc")
    yield "musl", None if libc is None else "musl" in str(libc)
    yield "python", facts.value("python.version")
    yield "python_bits", facts.value("python.bits")
    yield "free_threaded", facts.value("python.free_threaded")
    yield "translated", facts.value("cpu.translated")
    flags = facts.value("cpu.flags")
    is_x86 = facts.value("os.machine") in ("x86_64", "AMD64")
    yield "avx2", ("avx2" in flags) if flags is not None and is_x86 else None
    yield "cores", usable_cores(facts)
    quota, usable = facts.value("cpu.quota"), facts.value("cpu.usable")
    yield "quota", quota
    yield "quota_binds", quota < usable if quota and usable else None
    threads = str(facts.value("environment.variables", {}).get("OMP_NUM_THREADS", ""))
    most = min(usable, quota or usable) if usable else None
    yield (
        "too_many_threads",
        int(threads) > most if re.fullmatch(r"[0-9]{1,9}", threads) and most else None,
    )
    yield "disk_gb", _gigabytes(facts.value("disk.free_bytes"))
    yield "ram_gb", _gigabytes(usable_memory_bytes(facts))
    failed = [
        name.removeprefix("probe.")
        for name, fact in facts.items()
        if name.startswith("probe.") and fact.unknown
    ]
    yield "failed_probes", [f"{name}: {facts[f'probe.{name}'].unknown}" for name in failed]


def _gigabytes(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / 1e9, 1)


def _variables(facts: Facts, _: View) -> _Items:
    variables = facts.value("environment.variables", {})
    known = "environment.variables" in facts
    for name, value in variables.items():
        yield f"env.{name}", value
        if re.fullmatch(r"[0-9]{1,9}", value):
            yield f"number.{name}", int(value)
    hidden = variables.get("CUDA_VISIBLE_DEVICES")
    yield (
        "gpus_hidden",
        (hidden is not None and hidden.strip() in ("", "-1", "none", "void")) if known else None,
    )
    yield (
        "telemetry_off",
        (variables.get("PYANNOTE_METRICS_ENABLED", "").lower() in ("0", "false", "no"))
        if known
        else None,
    )
    secrets = facts.value("environment.secrets")
    yield "token", any(secrets.values()) if isinstance(secrets, dict) else None


def _packages(facts: Facts, view: View) -> _Items:
    installed = facts.value("packages.installed")
    if installed is None:
        return
    yield from installed.items()
    for name in tables.watched_packages():
        yield f"has.{name}", name in installed
    yield "doubled", facts.value("packages.doubled")
    broken = list(_conflicts(facts, installed))
    yield "conflicts", [text for name, text in broken if not name.startswith("nvidia-")]
    yield "nvidia_conflicts", [text for name, text in broken if name.startswith("nvidia-")]


def marker_environment(facts: Facts) -> dict[str, str]:
    system, python = str(facts.value("os.system", "")), str(facts.value("python.version", ""))
    return {
        "python_version": minor_of(python),
        "python_full_version": python,
        "platform_system": system,
        "sys_platform": {"Linux": "linux", "Windows": "win32", "Darwin": "darwin"}.get(system, ""),
        "platform_machine": str(facts.value("os.machine", "")),
        "platform_python_implementation": str(facts.value("python.implementation", "CPython")),
        "implementation_name": "cpython",
        "os_name": "nt" if system == "Windows" else "posix",
        "extra": "",
    }


def _conflicts(facts: Facts, installed: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(required package, words) for every declared requirement that the installed set breaks."""
    environment = marker_environment(facts)
    looked_at = set(tables.watched_packages())
    for owner, lines in facts.value("packages.requires", {}).items():
        if not isinstance(lines, list):
            continue
        for line in lines:
            wanted = parse_requirement(str(line))
            if wanted is None or not marker_holds(wanted.marker, environment):
                continue
            has = installed.get(wanted.name)
            text = f"{owner} {installed.get(owner, '')} requires {wanted.name}{wanted.specifiers}"
            if has is None and (wanted.name in looked_at or wanted.name.startswith("nvidia-")):
                yield wanted.name, f"{text}, which is not installed"
            elif has is not None and wanted.specifiers and not satisfies(has, wanted.specifiers):
                yield wanted.name, f"{text}, installed is {has}"


def _driver(facts: Facts, _: View) -> _Items:
    gpus = gpus_of(facts)
    yield "gpus", [gpu.label for gpu in gpus]
    yield "gpu_count", len(gpus) if "nvidia.gpus" in facts else None
    kernel = facts.value("nvidia.kernel_driver") or facts.value("nvidia.nvml_driver")
    user = facts.value("nvidia.user_driver")
    yield "driver", kernel
    yield "user_driver", user
    yield "cuinit", facts.value("nvidia.cuinit")
    yield "nvml_code", facts.value("nvidia.nvml_code")
    cuda = facts.value("nvidia.cuda_version")
    yield "driver_cuda", f"{cuda // 1000}.{cuda % 1000 // 10}" if isinstance(cuda, int) else None
    libcuda = facts.value("nvidia.libcuda")
    yield "libcuda", libcuda
    yield "has_libcuda", libcuda is not None if "nvidia.libcuda" in facts else None
    yield "has_driver", kernel is not None if "nvidia.kernel_driver" in facts else None
    yield "compat_libcuda", "/compat" in str(libcuda) if libcuda else None
    order = compare(user, kernel) if user and kernel else None
    yield "libcuda_newer", None if order is None else order > 0
    yield "libcuda_differs", None if order is None else order != 0
    devices = facts.value("nvidia.devices")
    yield (
        "device_files",
        None if devices is None else [d for d in devices if re.fullmatch(r"nvidia\d+|dxg", d)],
    )
    yield "pci_gpus", facts.value("nvidia.pci")
    yield (
        "wsl_driver_elsewhere",
        bool(facts.value("os.wsl") and libcuda and not str(libcuda).startswith("/usr/lib/wsl")),
    )
    ends = {api: str(facts.value(f"nvidia.{api}_child", "")) for api in ("nvml", "cuda")}
    yield (
        "killed_probes",
        [f"{api}: {end}" for api, end in ends.items() if end.startswith(("signal", "hung"))],
    )
    yield "mig_gpus", [gpu.label for gpu in gpus if gpu.mig]
    full = [
        gpu
        for gpu in gpus
        if gpu.free_bytes is not None
        and gpu.total_bytes
        and gpu.free_bytes < 0.25 * gpu.total_bytes
    ]
    yield (
        "full_gpus",
        [
            f"{g.label}: {(g.free_bytes or 0) / 1e9:.1f} of {g.total_bytes / 1e9:.1f} GB free"
            for g in full
        ],
    )
    yield (
        "small_gpus",
        [
            f"{g.label}: {g.total_bytes / 1e9:.1f} GB"
            for g in gpus
            if 0 < g.total_bytes < 5_000_000_000
        ],
    )


def ctranslate2_build(facts: Facts) -> Mapping[str, Any] | None:
    """What the installed CTranslate2 was built with: from its library, else from the table by version and machine."""
    version = facts.value("packages.installed", {}).get("ctranslate2")
    binary = facts.value("ctranslate2.binary")
    row = tables.row_for(tables.known().ctranslate2, version) if version else None
    if binary is not None:
        return {
            "sass": binary.get("sass") or [],
            "ptx": binary.get("ptx") or [],
            "ptx_isa": str(binary.get("ptx_isa") or ""),
            "cudnn_major": binary.get("cudnn_major") or 0,
            "cublas_major": binary.get("cublas_major") or 0,
        }
    if row is None or "ctranslate2.binary" in facts:
        return None
    has_gpu_code = facts.value("os.machine") == "x86_64" and facts.value("os.system") in (
        "Linux",
        "Windows",
    )
    return {
        "sass": row["sass"] if has_gpu_code else [],
        "ptx": row["ptx"] if has_gpu_code else [],
        "ptx_isa": row["ptx_isa"] if has_gpu_code else "",
        "cudnn_major": row["cudnn_major"] if has_gpu_code else 0,
        "cublas_major": row["cuda_major"] if has_gpu_code else 0,
    }


def _dotted(architectures: Sequence[int]) -> list[str]:
    return [f"{arch // 10}.{arch % 10}" for arch in architectures]


def _ctranslate2(facts: Facts, view: View) -> _Items:
    installed = facts.value("packages.installed", {})
    if "ctranslate2" in installed and "ctranslate2.binary" in facts:
        yield "ctranslate2_damaged", facts["ctranslate2.binary"].unknown or None
    build = ctranslate2_build(facts)
    if build is None:
        return
    native, portable = _dotted(build["sass"]), _dotted(build["ptx"])
    yield "ct2_gpu_code", bool(native or portable)
    yield "ct2_cudnn", build["cudnn_major"]
    yield "ct2_cuda", build["cublas_major"]
    gpus = [gpu for gpu in gpus_of(facts) if gpu.capability]
    jit = [gpu for gpu in gpus if not tables.runs_machine_code(gpu.capability, native)]
    reachable = [gpu for gpu in jit if any(gpu.at_least(arch) for arch in portable)]
    if native or portable:
        yield "gpus_without_ct2_code", [gpu.label for gpu in jit if gpu not in reachable]
    floor = tables.jit_driver_floor(build["ptx_isa"]) if build["ptx_isa"] else None
    driver = effective_driver(facts)
    yield "jit_floor", floor
    if floor and driver:
        too_old = (compare(driver, floor) or 0) < 0
        yield "gpus_jit_blocked", [gpu.label for gpu in reachable] if too_old else []
    yield "gpus_jit", [gpu.label for gpu in reachable]
    yield "blackwell_gpus", [gpu.label for gpu in gpus if gpu.capability.startswith("12.")]
    yield (
        "gpus_without_fp16",
        [gpu.label for gpu in gpus if gpu.at_least("5.3") and not gpu.at_least("7.0")],
    )
    row = tables.row_for(tables.known().ctranslate2, installed.get("ctranslate2", "0"))
    yield "ct2_blackwell_int8", row["blackwell_int8"] if row else None
    system = str(facts.value("os.system", ""))
    wanted = tables.driver_floor(build["cublas_major"], system) if build["cublas_major"] else None
    yield "ct2_driver_floor", wanted
    if wanted and driver:
        yield "ct2_driver_too_old", (compare(driver, wanted) or 0) < 0


def torch_variant(facts: Facts) -> str | None:
    """``cu126``, ``cpu``, ... of the installed torch: its local version, else its version file."""
    version = str(
        facts.value("torch.version") or facts.value("packages.installed", {}).get("torch") or ""
    )
    local = version.partition("+")[2]
    if local:
        return local
    cuda = facts.value("torch.cuda")
    if cuda is None:
        return None
    return "cpu" if cuda == "cpu" else "cu" + str(cuda).replace(".", "")


def _torch(facts: Facts, view: View) -> _Items:
    version = facts.value("packages.installed", {}).get("torch")
    if version is None:
        return
    yield "torch_damaged", facts["torch.cuda"].unknown or None if "torch.cuda" in facts else None
    minor = minor_of(version)
    yield "torch_minor", minor
    variant = torch_variant(facts)
    yield "torch_variant", variant
    yield "torch_is_cpu", None if variant is None else variant == "cpu"
    row = tables.torch_row(version)
    if variant and re.fullmatch(r"cu\d{3}", variant):
        major = int(variant[2:4])
        yield "torch_cuda_major", major
        arm = "-aarch64" if facts.value("os.machine") in ("aarch64", "arm64") else ""
        built_for = tables.variant_capabilities(tables.known().torch_variants, variant + arm, minor)
        if (
            built_for is None
            and row is not None
            and not arm
            and variant == "cu" + row["cuda"].replace(".", "")
        ):
            built_for = row["cc"]
        if built_for is not None:
            gpus = [gpu for gpu in gpus_of(facts) if gpu.capability]
            lacking = [
                gpu.label for gpu in gpus if not tables.runs_machine_code(gpu.capability, built_for)
            ]
            yield "gpus_without_torch_code", lacking
            yield "torch_built_for", ", ".join(built_for)
        floor = tables.driver_floor(major, str(facts.value("os.system", "")))
        yield "torch_driver_floor", floor
        driver = effective_driver(facts)
        if floor and driver:
            yield "torch_driver_too_old", (compare(driver, floor) or 0) < 0
    numpy = parse_version(str(view.get("numpy", "")))
    if row is not None and numpy is not None:
        windows_floor = facts.value("os.system") == "Windows" and satisfies(version, "<2.4.1")
        too_old = row["numpy2"].startswith("no") or windows_floor
        yield "numpy_clash", numpy.release[0] >= 2 and too_old


def _is_main_cudnn9(item: Mapping[str, Any]) -> bool:
    return item.get("name") in ("libcudnn.so.9", "cudnn64_9.dll")


def _libraries(facts: Facts, view: View) -> _Items:
    cublas, cudnn = facts.value("libraries.cublas"), facts.value("libraries.cudnn")
    if cublas is not None:
        for major in (12, 13):
            libraries = (f"libcublas.so.{major}", f"cublas64_{major}.dll")
            yield f"cublas{major}", any(item.get("name") in libraries for item in cublas)
        yield "cublas12_package", view.get("nvidia-cublas-cu12")
    if cudnn is None:
        return
    names = {str(item.get("name", "")) for item in cudnn}
    yield "cudnn8", "libcudnn_ops_infer.so.8" in names or "cudnn_ops_infer64_8.dll" in names
    yield "cudnn9", "libcudnn_ops.so.9" in names or "cudnn_ops64_9.dll" in names
    outside = [item for item in cudnn if item.get("where") != "package"]
    yield "cudnn_outside", [str(item.get("path", "")) for item in outside if _is_main_cudnn9(item)]
    in_path = [
        item for item in outside if item.get("where") == "LD_LIBRARY_PATH" and _is_main_cudnn9(item)
    ]
    yield "cudnn_in_path", [str(item.get("path", "")) for item in in_path]
    faked = [
        i
        for i in cudnn
        if str(i.get("name", "")).endswith(".so.8") and ".so.9" in str(i.get("real", ""))
    ]
    yield "cudnn_faked", [f"{item.get('path')} is {item.get('real')}" for item in faked]
    path = str(facts.value("environment.variables", {}).get("LD_LIBRARY_PATH", ""))
    yield (
        "compat_in_path",
        [part for part in path.split(":") if re.search(r"cuda[^/]*/compat/?$", part)],
    )


def _codecs(facts: Facts, view: View) -> _Items:
    torch, audio, codec = (view.get(name) for name in ("torch", "torchaudio", "torchcodec"))
    if torch and audio:
        fits = (
            satisfies(torch, ">=2.11")
            if minor_of(audio) == "2.11"
            else minor_of(audio) == minor_of(torch)
        )
        yield "torchaudio_mismatch", not fits
    row = tables.row_for(tables.table("torchcodec").rows, codec) if codec else None
    if row is None:
        return
    if torch:
        yield "torchcodec_wants", row["torch"]
        yield "torchcodec_mismatch", not satisfies(torch.partition("+")[0], row["torch"])
        cuda_major = view.get("torch_cuda_major", 0 if view.get("torch_is_cpu") else None)
        if row["cuda_major"] and cuda_major is not None and facts.value("os.system") == "Linux":
            plain = "+" not in str(codec)
            yield "torchcodec_wrong_cuda", plain and cuda_major != row["cuda_major"]
    majors = facts.value("ffmpeg.libavutil")
    span = re.fullmatch(r"(\d+)-(\d+)", row["ffmpeg"])
    if majors is not None and span:
        by_libavutil = {each["libavutil"]: each["ffmpeg"] for each in tables.table("ffmpeg").rows}
        found = [by_libavutil[major] for major in majors if major in by_libavutil]
        yield "torchcodec_ffmpeg", row["ffmpeg"]
        yield (
            "torchcodec_no_ffmpeg",
            not any(int(span[1]) <= major <= int(span[2]) for major in found),
        )


def _tools(facts: Facts, view: View) -> _Items:
    yield "has_ffmpeg", facts.value("tools.ffmpeg") is not None if "tools.ffmpeg" in facts else None
    for_triton = facts.value("tools.for_triton")
    if isinstance(for_triton, dict):
        yield "triton_lacks", [name for name, is_there in for_triton.items() if not is_there]


_PARTS: tuple[Callable[[Facts, View], _Items], ...] = (
    _machine,
    _variables,
    _packages,
    _driver,
    _ctranslate2,
    _torch,
    _libraries,
    _codecs,
    _tools,
)
