"""The NVIDIA probes against driver libraries compiled here: it works, aborts, hangs, or fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None or Path("/proc/driver/nvidia").exists(),
    reason="needs Linux, a C compiler and no real NVIDIA driver",
)
LIBCUDA = r"""
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int cuDriverGetVersion(int *v) { *v = 12080; return 0; }
int cuInit(unsigned flags) { %s; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, "Paper GPU", n); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : 6; return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = 12000000000; return 0; }
int cuDeviceGetUuid(unsigned char *u, int d) { memset(u, 0x11, 16); return 0; }
"""
LIBNVML = r"""
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *s, unsigned n) { strncpy(s, "570.133.07", n); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = 12080; return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = (void *)1; return 0; }
int nvmlDeviceGetName(void *h, char *s, unsigned n) { strncpy(s, "Paper GPU", n); return 0; }
int nvmlDeviceGetUUID(void *h, char *s, unsigned n)
{ strncpy(s, "GPU-11111111-1111-1111-1111-111111111111", n); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *h, int *a, int *b) { *a = 8; *b = 6; return 0; }
int nvmlDeviceGetMemoryInfo(void *h, memory *m)
{ m->total = 12000000000; m->free = 11000000000; return 0; }
int nvmlDeviceGetEccMode(void *h, int *a, int *b) { return 3; }
int nvmlDeviceGetMigMode(void *h, int *a, int *b) { *a = 0; return 0; }
"""


def compiled(folder: Path, name: str, source: str) -> None:
    code = folder / f"{name}.c"
    code.write_text(source, encoding="utf-8")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", str(folder / name), str(code)],
        check=True,
        timeout=PATIENCE_S,
    )


def doctor(folder: Path, cuinit: str, cuda_limit_s: float = PATIENCE_S) -> dict[str, Any]:
    compiled(folder, "libcuda.so.1", LIBCUDA % cuinit)
    compiled(folder, "libnvidia-ml.so.1", LIBNVML)
    script = (
        "import sys\nfrom transcribe_mcp.compat.probes import nvidia\n"
        "from transcribe_mcp.compat.cli import main\n"
    )
    script += f"ask, limits = nvidia._answer, {{'nvml': {PATIENCE_S}, 'cuda': {cuda_limit_s}}}\n"
    script += "def answer(api):\n    nvidia.TIMEOUT_S = limits[api]\n    return ask(api)\n"
    script += "nvidia._answer = answer\nsys.exit(main(['doctor', '--json']))\n"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == answer["exit_code"]
    return answer


def codes(answer: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in answer["findings"]}


def test_a_working_driver_shows_its_gpu_with_free_memory_joined_from_both_libraries(
    tmp_path: Path,
) -> None:
    answer = doctor(tmp_path, "return 0")
    assert answer["facts"]["nvidia.gpus"]["value"] == [
        {
            "name": "Paper GPU",
            "uuid": "GPU-<uuid>",
            "compute_capability": "8.6",
            "memory_total_bytes": 12000000000,
            "memory_free_bytes": 11000000000,
            "mig": False,
        }
    ]
    assert answer["facts"]["nvidia.cuinit"]["value"] == 0
    assert answer["facts"]["nvidia.cuda_version"]["value"] == 12080
    # The environment of these tests may lack CUDA 12's cuBLAS, and its torch may be built for the
    # CPU.
    assert codes(answer) <= {"TM205", "TM301"}


@pytest.mark.parametrize(
    ("cuinit", "limit_s", "end"),
    [("abort()", PATIENCE_S, "signal 6"), ("for (;;) pause();", 0.5, "hung: no answer in 0.5 s")],
)
def test_a_driver_that_aborts_or_hangs_is_a_finding_and_not_the_end(
    cuinit: str, limit_s: float, end: str, tmp_path: Path
) -> None:
    answer = doctor(tmp_path, cuinit, limit_s)
    assert answer["facts"]["nvidia.cuda_child"]["value"] == end
    assert "TM109" in codes(answer) and answer["exit_code"] == 2
    assert (
        answer["facts"]["nvidia.gpus"]["value"][0]["memory_free_bytes"] == 11000000000
    )  # NVML still answered


@pytest.mark.parametrize(
    ("code", "expected"), [(804, "TM105"), (803, "TM106"), (802, "TM107"), (999, "TM108")]
)
def test_an_error_of_the_driver_is_named(code: int, expected: str, tmp_path: Path) -> None:
    assert expected in codes(doctor(tmp_path, f"return {code}"))
