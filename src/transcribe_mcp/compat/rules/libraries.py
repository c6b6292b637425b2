"""CUDA libraries. In predicates ``m`` is the machine."""

from __future__ import annotations

from functools import partial

from .base import Rule, any_of, equals, every, negated

_rule = partial(Rule, area="libraries")
RULES = (
    _rule(
        code="TM501",
        severity="error",
        title="two cuDNN 9 in one process",
        when=lambda m: every(m.installs("torch"), any_of(m.cudnn_in_path), negated(m.torch_is_cpu)),
        evidence="LD_LIBRARY_PATH brings {cudnn_in_path}; torch {package.torch} brings its own",
        cause="torch finds its libcudnn by a path of its own, but cuDNN's sub-libraries follow LD_LIBRARY_PATH.",
        consequence="Convolutions fail with a version mismatch.",
        fix=("# take the folders with libcudnn* out of LD_LIBRARY_PATH",),
        source="https://github.com/pytorch/pytorch/issues/187824",
        patterns=(
            "cuDNN version incompatibility: PyTorch was compiled",
            "CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH",
            "CUDNN_STATUS_VERSION_MISMATCH",
        ),
    ),
    _rule(
        code="TM502",
        severity="info",
        title="cuda-compat in LD_LIBRARY_PATH",
        when=lambda m: every(any_of(m.compat_in_path), negated(equals(m.cuinit, 804))),
        evidence="{compat_in_path}",
        cause="Forward-compatibility libraries come before the driver's own.",
        consequence="Right on data-centre GPUs with an older driver; on GeForce boards CUDA fails with 804.",
        fix=("# take {compat_in_path} out of LD_LIBRARY_PATH",),
        source="https://docs.nvidia.com/deploy/cuda-compatibility/forward-compatibility.html",
    ),
    _rule(
        code="TM503",
        severity="crash",
        title="a cuDNN 9 linked to a cuDNN 8 name",
        when=lambda m: any_of(m.cudnn_faked),
        evidence="{cudnn_faked}",
        cause="Somebody made a symbolic link to silence an error.",
        consequence="The interfaces differ: the process crashes or computes nonsense.",
        fix=(
            "# remove the link",
            "pip install -U 'ctranslate2>=4.8.1,<5'",
        ),
        source="https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/overview.html",
    ),
)
