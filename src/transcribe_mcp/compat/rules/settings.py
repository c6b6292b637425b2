"""Environment variables and limits. ``m`` is the machine."""

from __future__ import annotations

from functools import partial

from .base import Rule, below, equals, every, negated

_rule = partial(Rule, area="settings")
RULES = (
    _rule(
        code="TM601",
        severity="warn",
        title="more threads than cores",
        when=lambda m: m.too_many_threads,
        evidence="OMP_NUM_THREADS={env.OMP_NUM_THREADS}, usable cores {cores}",
        cause="The value was copied from another machine.",
        consequence=(
            "Threads wait for each other, and CPU transcription slows down several times."
        ),
        fix=("unset OMP_NUM_THREADS",),
        source="https://www.openmp.org/spec-html/5.0/openmpse50.html",
    ),
    _rule(
        code="TM602",
        severity="warn",
        title="a single thread on many cores",
        when=lambda m: every(equals(m.omp_threads, 1), negated(below(m.cores, 4))),
        evidence="OMP_NUM_THREADS=1, usable cores {cores}",
        cause="The variable was set for another program.",
        consequence="CPU transcription uses one core.",
        fix=("unset OMP_NUM_THREADS",),
        source="https://www.openmp.org/spec-html/5.0/openmpse50.html",
    ),
    _rule(
        code="TM603",
        severity="info",
        title="CPU quota is below the visible cores",
        when=lambda m: m.quota_binds,
        evidence="quota of {quota} cores",
        cause="A control group limits CPU time.",
        consequence="The number of threads follows the quota, not the visible cores.",
        source="https://docs.kernel.org/admin-guide/cgroup-v2.html",
    ),
    _rule(
        code="TM604",
        severity="warn",
        title="safe loading is disabled",
        when=lambda m: equals(
            m.variables.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"), "1", "true", "y", "yes"
        ),
        evidence="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD={env.TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD}",
        cause="The variable was set to avoid 'Weights only load failed'.",
        consequence="Any model file can run code in this process.",
        fix=(
            "unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
            "pip install -U 'pyannote.audio>=4.0.7'",
        ),
        source="https://pytorch.org/docs/stable/notes/serialization.html",
    ),
    _rule(
        code="TM605",
        severity="warn",
        title="CUDA calls are synchronous",
        when=lambda m: equals(m.variables.get("CUDA_LAUNCH_BLOCKING"), "1"),
        evidence="CUDA_LAUNCH_BLOCKING=1",
        cause="The variable was set for debugging and left on.",
        consequence="The GPU runs at a fraction of its speed.",
        fix=("unset CUDA_LAUNCH_BLOCKING",),
        source="https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars",
    ),
    _rule(
        code="TM606",
        severity="warn",
        title="two OpenMP runtimes",
        evidence="",
        cause="Two packages ship an OpenMP library each (MKL's libiomp5 and another one).",
        consequence="The process aborts, or threads compete.",
        fix=(
            (
                "# find the second copy: find $(python -c 'import sys; print(sys.prefix)') "
                "-name 'libiomp5*'"
            ),
        ),
        source="https://github.com/pytorch/pytorch/issues/37377",
        patterns=("OMP: Error #15: Initializing lib[gi]omp",),
    ),
)
