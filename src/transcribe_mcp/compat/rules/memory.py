"""Memory. ``m`` is the machine."""

from __future__ import annotations

from functools import partial

from .base import Rule, any_of

_rule = partial(Rule, area="memory")
RULES = (
    _rule(
        code="TM701",
        severity="warn",
        title="not enough memory for some models",
        when=lambda m: any_of(m.ram_lacks),
        evidence="{ram_gb} GB of memory; too little on the CPU for: {ram_lacks}",
        cause="A model's weights, caches and activations must fit at once.",
        consequence="The operating system kills the process.",
        fix=("transcribe-mcp doctor --models",),
        source="https://github.com/openai/whisper#available-models-and-languages",
        patterns=(
            "^Killed$",
            r"(?<![A-Za-z.])MemoryError\b",
            "std::bad_alloc",
            "Cannot allocate memory",
        ),
    ),
    _rule(
        code="TM702",
        severity="info",
        title="not enough GPU memory for some models",
        when=lambda m: any_of(m.gpu_lacks),
        evidence="too little in float16 for: {gpu_lacks}",
        cause="A model's weights, caches and activations must fit at once.",
        consequence="These models run in int8, or on the CPU.",
        fix=("transcribe-mcp doctor --models",),
        source="https://github.com/SYSTRAN/faster-whisper#benchmark",
    ),
    _rule(
        code="TM703",
        severity="warn",
        title="GPU memory is in use",
        when=lambda m: any_of(m.full_gpus),
        evidence="{full_gpus}",
        cause="Other processes use it.",
        consequence="Models that fit into an idle GPU may not fit.",
        fix=("nvidia-smi",),
        source="https://docs.nvidia.com/deploy/nvml-api/",
    ),
    _rule(
        code="TM704",
        severity="error",
        title="GPU is out of memory",
        evidence="",
        cause="Model, batch and beam together need more than the free memory.",
        consequence="The batch fails unless it is split and tried again.",
        fix=(
            "transcribe-mcp doctor --models",
            "# use a smaller batch, int8, or a smaller model",
        ),
        source="https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html",
        patterns=(
            "CUDA out of memory",
            "CUDA failed with error out of memory",
            "cudaErrorMemoryAllocation",
            "CUDA error: out of memory",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "CUDNN_STATUS_ALLOC_FAILED",
            r"CUDNN_STATUS_INTERNAL_ERROR_\w+_ALLOCATION_FAILED",
            "CUDA_ERROR_OUT_OF_MEMORY",
            "HIP out of memory",
        ),
    ),
)
