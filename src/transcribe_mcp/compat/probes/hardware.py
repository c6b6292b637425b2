"""CPU and memory available to this process, within affinity and control groups."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ..facts import Fact, known, known_or, unknown
from .files import text_of

# Instruction sets by which CTranslate2, oneDNN or onnxruntime select kernels.
FLAGS = (
    "sse4_1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx_vnni", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
_UNLIMITED_BYTES = 1 << 60  # control groups v1 report a huge number for no limit
_SYSCTL_TIMEOUT_S = 3


def probe_cpu() -> Iterator[Fact]:
    yield known("cpu.logical", os.cpu_count() or 1, "os.cpu_count")
    yield _quota()
    if sys.platform == "linux":
        yield known("cpu.usable", len(os.sched_getaffinity(0)), "sched_getaffinity")
        yield from _linux_cpu(text_of("/proc/cpuinfo") or "")
        return
    yield known("cpu.usable", os.cpu_count() or 1, "os.cpu_count")
    if sys.platform == "darwin":
        yield from _mac_cpu()
    else:
        yield known("cpu.model", platform.processor(), "platform.processor")
        yield unknown("cpu.physical", "not read on this system")
        yield unknown("cpu.flags", "not read on this system")


def _linux_cpu(text: str) -> Iterator[Fact]:
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    name = model[1].strip() if model else None
    yield known_or("cpu.model", name, "/proc/cpuinfo", "not in /proc/cpuinfo")
    line = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = [flag for flag in FLAGS if flag in line[1].split()] if line else None
    yield known_or("cpu.flags", flags, "/proc/cpuinfo", "not in /proc/cpuinfo")
    cores = set(
        re.findall(r"^physical id\s*:\s*(\d+)$(?:.*\n)*?^core id\s*:\s*(\d+)$", text, re.MULTILINE)
    )
    siblings = {
        text_of(folder / "topology" / "thread_siblings_list") or str(folder)
        for folder in Path("/sys/devices/system/cpu").glob("cpu[0-9]*")
        if (folder / "topology").is_dir()
    }
    if siblings:
        yield known("cpu.physical", len(siblings), "/sys/devices/system/cpu/*/topology")
    elif cores:
        yield known("cpu.physical", len(cores), "/proc/cpuinfo")
    else:
        yield unknown("cpu.physical", "not in /sys or /proc/cpuinfo")


def _mac_cpu() -> Iterator[Fact]:
    brand, physical, translated = map(
        _sysctl, ("machdep.cpu.brand_string", "hw.physicalcpu", "sysctl.proc_translated")
    )
    yield known_or("cpu.model", brand or None, "sysctl", "not reported by sysctl")
    cores = int(physical) if physical else None
    yield known_or("cpu.physical", cores, "sysctl", "not reported by sysctl")
    yield known("cpu.translated", translated == "1", "sysctl.proc_translated")


def _sysctl(name: str) -> str:
    try:
        command = ["/usr/sbin/sysctl", "-n", name]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_SYSCTL_TIMEOUT_S
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _group_folders(controller: str) -> Iterator[Path]:
    """Control-group folders of this process and their parents; each can set a limit."""
    for line in (text_of("/proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            root = Path("/sys/fs/cgroup")
        elif controller in controllers.split(","):
            root = Path("/sys/fs/cgroup") / controllers
        else:
            continue
        inside = root / path.lstrip("/")
        yield from (
            folder
            for folder in (inside, *inside.parents)
            if folder == root or root in folder.parents
        )


def _quota() -> Fact:
    if sys.platform != "linux":
        return unknown("cpu.quota", "control groups exist on Linux only")
    quotas = []
    for folder in _group_folders("cpu"):
        limit, _, period = (text_of(folder / "cpu.max") or "").partition(" ")
        if not limit:
            limit = text_of(folder / "cpu.cfs_quota_us") or ""
            period = text_of(folder / "cpu.cfs_period_us") or ""
        if limit.isdigit() and period.isdigit() and int(period):
            quotas.append((int(limit) / int(period), str(folder)))
    if not quotas:
        return unknown("cpu.quota", "no limit is set")
    quota, folder_name = min(quotas)
    return known("cpu.quota", round(quota, 3), folder_name)


def probe_memory() -> Iterator[Fact]:
    if sys.platform == "linux":
        sizes = dict(
            re.findall(r"^(\w+):\s+(\d+) kB", text_of("/proc/meminfo") or "", re.MULTILINE)
        )
        for name, key in (
            ("memory.total_bytes", "MemTotal"),
            ("memory.available_bytes", "MemAvailable"),
        ):
            size_bytes = int(sizes[key]) * 1024 if key in sizes else None
            yield known_or(name, size_bytes, "/proc/meminfo", "not in /proc/meminfo")
        yield _memory_limit()
    else:
        yield _total_memory()
        yield unknown("memory.available_bytes", "not read on this system")


def _memory_limit() -> Fact:
    limits = []
    for folder in _group_folders("memory"):
        text = text_of(folder / "memory.max") or text_of(folder / "memory.limit_in_bytes") or ""
        if text.isdigit() and int(text) < _UNLIMITED_BYTES:
            limits.append((int(text), str(folder)))
    if not limits:
        return unknown("memory.limit_bytes", "no limit is set")
    return known("memory.limit_bytes", *min(limits))


def _total_memory() -> Fact:
    name = "memory.total_bytes"
    if sys.platform == "darwin":
        text = _sysctl("hw.memsize")
        size_bytes = int(text) if text.isdigit() else None
        return known_or(name, size_bytes, "sysctl hw.memsize", "not reported by sysctl")
    if sys.platform == "win32":
        return _windows_memory(name)
    return unknown(name, "not read on this system")


def _windows_memory(name: str) -> Fact:
    import ctypes

    kilobytes = ctypes.c_ulonglong(0)
    answered = ctypes.CDLL("kernel32").GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))
    if not answered:
        return unknown(name, "not reported by GetPhysicallyInstalledSystemMemory")
    return known(name, kilobytes.value * 1024, "GetPhysicallyInstalledSystemMemory")
