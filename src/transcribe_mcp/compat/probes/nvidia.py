"""NVIDIA driver and GPUs: the kernel module from /sys and /proc, the rest by child processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..facts import Fact, known, known_or, unknown
from .files import entries_of, text_of

TIMEOUT_S = 15.0
_CHILD = Path(__file__).with_name("nvidia_child.py")
_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"
_children: dict[str, subprocess.Popen[bytes] | str] = {}


def start_children() -> None:
    """Start the NVML and CUDA queries; ``probe`` collects the answers."""
    for api in ("nvml", "cuda"):
        command = [sys.executable, "-S", "-I", str(_CHILD), api]
        try:
            _children[api] = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            _children[api] = f"no child process: {error.strerror}"


def probe() -> Iterator[Fact]:
    yield _kernel_driver()
    files = [path.name for path in entries_of("/dev")]
    devices = [name for name in files if re.fullmatch(r"nvidia(\d+|ctl|-uvm)|dxg", name)]
    yield known("nvidia.devices", devices, "/dev")
    yield _pci()
    answers = {}
    for api in ("nvml", "cuda"):
        answers[api], end = _answer(api)
        yield known(f"nvidia.{api}_child", end, "child process")
    nvml = answers["nvml"]
    cuda = answers["cuda"]
    yield from _driver_facts(nvml, cuda)
    yield _gpus(nvml.get("gpus", []), cuda.get("gpus", []))


def _gpus(by_nvml: list[dict[str, Any]], by_cuda: list[dict[str, Any]]) -> Fact:
    """CUDA's list, which defines ``cuda:N``, completed by NVML's values."""
    if by_cuda:
        by_uuid = {gpu.get("uuid"): gpu for gpu in by_nvml}
        alone = by_nvml[0] if len(by_nvml) == len(by_cuda) == 1 else {}
        joined = [{**by_uuid.get(gpu["uuid"], alone), **gpu} for gpu in by_cuda]
        return known("nvidia.gpus", joined, "CUDA driver, NVML" if by_nvml else "CUDA driver")
    source = "NVML" if by_nvml else "neither NVML nor the CUDA driver shows one"
    return known("nvidia.gpus", by_nvml, source)


def _kernel_driver() -> Fact:
    version = text_of("/sys/module/nvidia/version")
    if version:
        return known("nvidia.kernel_driver", version, "/sys/module/nvidia/version")
    match = re.search(
        r"Kernel Module\D*?\s(\d+\.\d+(?:\.\d+)?)\s", text_of("/proc/driver/nvidia/version") or ""
    )
    if match:
        return known("nvidia.kernel_driver", match[1], "/proc/driver/nvidia/version")
    return unknown("nvidia.kernel_driver", "no nvidia kernel module is loaded")


def _pci() -> Fact:
    if sys.platform != "linux":
        return unknown("nvidia.pci", "read on Linux only")
    folder = "/sys/bus/pci/devices"
    cards = [path for path in entries_of(folder) if text_of(path / "vendor") == _VENDOR]
    gpus = [path for path in cards if (text_of(path / "class") or "").startswith(_DISPLAY_CLASS)]
    return known("nvidia.pci", [text_of(path / "device") or "?" for path in gpus], folder)


def _answer(api: str) -> tuple[dict[str, Any], str]:
    """A child's answer and how it ended: ``answered``, ``no library``, ``signal N``, ``hung``."""
    child = _children.pop(api, "not started")
    if isinstance(child, str):
        return {}, child
    try:
        out, _ = child.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return {}, f"hung: no answer in {TIMEOUT_S:g} s"
    if child.returncode < 0:
        return {}, f"signal {-child.returncode}"
    try:
        answer = json.loads(out)
    except ValueError:
        return {}, f"exit {child.returncode}"
    if "missing" in answer:
        return {}, f"no library: {answer['missing']}"
    return answer, "answered"


def _driver_facts(nvml: dict[str, Any], cuda: dict[str, Any]) -> Iterator[Fact]:
    reported = nvml.get("driver")
    yield known_or("nvidia.nvml_driver", reported or None, "NVML", "not reported by NVML")
    yield known_or("nvidia.nvml_code", nvml.get("nvml_code"), "nvmlInit_v2", "no NVML")
    path = cuda.get("libcuda")
    if path:
        yield known("nvidia.libcuda", path, "mapped in the child")
        real = re.search(r"libcuda\.so\.(\d+\.\d+(?:\.\d+)?)", os.path.realpath(path))
        version = real[1] if real else None
        reason = "libcuda's name has no version"
        yield known_or("nvidia.user_driver", version, "name of libcuda", reason)
    else:
        yield unknown("nvidia.libcuda", "libcuda.so.1 cannot be opened")
    for name, key in (("nvidia.cuinit", "cuinit"), ("nvidia.cuda_version", "cuda_version")):
        yield known_or(name, cuda.get(key, nvml.get(key)), "CUDA driver", "no CUDA driver library")
