"""CUDA libraries. ``m`` is the machine."""

from __future__ import annotations

from functools import partial

from .base import Rule, any_of, equals, every, negated

_rule = partial(Rule, area="libraries")
RULES = (
    _rule(
        code="TM501",
        severity="error",
        title="two copies of cuDNN 9 in one process",
        when=lambda m: every(m.installs("torch"), any_of(m.cudnn_in_path), negated(m.torch_is_cpu)),
        evidence="LD_LIBRARY_PATH contains {cudnn_in_path}; torch {package.torch} ships its own",
        cause=(
            "torch finds its libcudnn by its own path, but cuDNN's sub-libraries follow "
            "LD_LIBRARY_PATH."
        ),
        consequence="Convolutions fail with a version mismatch.",
        fix=("# remove the folders with libcudnn* from LD_LIBRARY_PATH",),
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
        cause="The forward-compatibility libraries take precedence over the driver's own.",
        consequence=(
            "Correct on data-centre GPUs with an older driver; on GeForce boards CUDA "
            "fails with error 804."
        ),
        fix=("# remove {compat_in_path} from LD_LIBRARY_PATH",),
        source="https://docs.nvidia.com/deploy/cuda-compatibility/forward-compatibility.html",
    ),
    _rule(
        code="TM503",
        severity="crash",
        title="cuDNN 9 linked to a cuDNN 8 name",
        when=lambda m: any_of(m.cudnn_faked),
        evidence="{cudnn_faked}",
        cause="A symbolic link was made to silence an error.",
        consequence="The interfaces differ: the process crashes or computes wrong results.",
        fix=(
            "# remove the link",
            "pip install -U 'ctranslate2>=4.8.1,<5'",
        ),
        source="https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/overview.html",
    ),
)
