"""Query NVML or the CUDA driver in a child process and print one JSON line.

A half-installed driver can hang or abort in these calls, so they run in a separate process.
Usage: ``python nvidia_child.py nvml|cuda``. It reads no environment and imports nothing of ours.
Names and numbers: https://docs.nvidia.com/deploy/nvml-api/ and
https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

from __future__ import annotations

import ctypes
import json
import sys
import uuid
from pathlib import Path
from typing import Any

_CAPABILITY_MAJOR = 75  # CUdevice_attribute
_CAPABILITY_MINOR = 76
_TEXT_BYTES = 96


class _Memory(ctypes.Structure):
    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


def _open(linux: str, windows: str) -> Any:
    return ctypes.CDLL(windows if sys.platform == "win32" else linux)


def nvml() -> dict[str, Any]:
    lib = _open("libnvidia-ml.so.1", "nvml.dll")
    code = lib.nvmlInit_v2()
    if code:
        return {"nvml_code": code}
    found: dict[str, Any] = {"nvml_code": 0, "gpus": []}
    text = ctypes.create_string_buffer(_TEXT_BYTES)
    if lib.nvmlSystemGetDriverVersion(text, _TEXT_BYTES) == 0:
        found["driver"] = text.value.decode()
    number = ctypes.c_int()
    if lib.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(number)) == 0:
        found["cuda_version"] = number.value
    count = ctypes.c_uint()
    lib.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if lib.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
            found["gpus"].append(_nvml_gpu(lib, handle))
    lib.nvmlShutdown()
    return found


def _nvml_gpu(lib: Any, handle: Any) -> dict[str, Any]:
    gpu: dict[str, Any] = {}
    text = ctypes.create_string_buffer(_TEXT_BYTES)
    a = ctypes.c_int()
    b = ctypes.c_int()
    if lib.nvmlDeviceGetName(handle, text, _TEXT_BYTES) == 0:
        gpu["name"] = text.value.decode()
    if lib.nvmlDeviceGetUUID(handle, text, _TEXT_BYTES) == 0:
        gpu["uuid"] = text.value.decode()
    if lib.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(a), ctypes.byref(b)) == 0:
        gpu["compute_capability"] = f"{a.value}.{b.value}"
    memory = _Memory()
    if lib.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0:
        gpu["memory_total_bytes"] = memory.total
        gpu["memory_free_bytes"] = memory.free
    if lib.nvmlDeviceGetEccMode(handle, ctypes.byref(a), ctypes.byref(b)) == 0:
        gpu["ecc"] = bool(a.value)
    if lib.nvmlDeviceGetMigMode(handle, ctypes.byref(a), ctypes.byref(b)) == 0:
        gpu["mig"] = bool(a.value)
    return gpu


def _mapped(word: str) -> str:
    """Path of the opened library; Linux only."""
    try:
        with Path("/proc/self/maps").open() as maps:
            return next((line.split(None, 5)[5].strip() for line in maps if word in line), "")
    except OSError:
        return ""


def cuda() -> dict[str, Any]:
    lib = _open("libcuda.so.1", "nvcuda.dll")
    number = ctypes.c_int()
    found: dict[str, Any] = {"libcuda": _mapped("libcuda.so"), "gpus": []}
    if lib.cuDriverGetVersion(ctypes.byref(number)) == 0:
        found["cuda_version"] = number.value
    found["cuinit"] = lib.cuInit(0)
    if found["cuinit"]:
        return found
    count = ctypes.c_int()
    lib.cuDeviceGetCount(ctypes.byref(count))
    for index in range(count.value):
        device = ctypes.c_int()
        major = ctypes.c_int()
        minor = ctypes.c_int()
        total = ctypes.c_size_t()
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        lib.cuDeviceGet(ctypes.byref(device), index)
        lib.cuDeviceGetName(text, _TEXT_BYTES, device)
        lib.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        lib.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        lib.cuDeviceTotalMem_v2(ctypes.byref(total), device)
        found["gpus"].append(
            {
                "name": text.value.decode(),
                "compute_capability": f"{major.value}.{minor.value}",
                "memory_total_bytes": total.value,
                "uuid": _cuda_uuid(lib, device),
            }
        )
    return found


def _cuda_uuid(lib: Any, device: Any) -> str:
    """The UUID as NVML writes it; empty if this driver lacks the call."""
    raw = (ctypes.c_ubyte * 16)()
    if not hasattr(lib, "cuDeviceGetUuid") or lib.cuDeviceGetUuid(ctypes.byref(raw), device):
        return ""
    return f"GPU-{uuid.UUID(bytes=bytes(raw))}"


if __name__ == "__main__":
    try:
        answer = {"nvml": nvml, "cuda": cuda}[sys.argv[1]]()
    except (
        OSError,
        AttributeError,
    ) as error:  # no such library, or too old for the function
        answer = {"missing": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
