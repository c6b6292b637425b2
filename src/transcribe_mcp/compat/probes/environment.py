"""Relevant environment variables. Of secrets, only whether they are set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..facts import Fact, known

VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_HOME",
    "CUDA_PATH", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "LD_LIBRARY_PATH",
    "LD_PRELOAD", "PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS", "CT2_FORCE_CPU_ISA", "CT2_USE_MKL", "CT2_CUDA_ALLOCATOR",
    "CT2_VERBOSE", "PYANNOTE_METRICS_ENABLED", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "PYTORCH_CUDA_ALLOC_CONF", "HF_HUB_OFFLINE", "HF_HOME",
    "HF_HUB_DISABLE_TELEMETRY", "TRANSCRIBE_MCP_MODEL", "TRANSCRIBE_MCP_OFFLINE",
    "TRANSCRIBE_MCP_THREADS", "PIP_INDEX_URL", "UV_TORCH_BACKEND",
)  # fmt: skip
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")


def probe() -> Iterator[Fact]:
    found = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    yield known("environment.variables", found, "environment of this process")
    secrets = {name: bool(os.environ.get(name)) for name in SECRETS}
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    secrets["token file"] = (home / "token").is_file()
    yield known(
        "environment.secrets", secrets, "environment of this process; only whether they are set"
    )
