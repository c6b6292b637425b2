"""PyTorch. ``m`` is the machine."""

from __future__ import annotations

from functools import partial

from .base import Rule, any_of, equals, every, negated, newer, none_of, older, within

_rule = partial(Rule, area="torch")
RULES = (
    _rule(
        code="TM301",
        severity="warn",
        title="torch without CUDA, but with an NVIDIA GPU",
        when=lambda m: every(m.torch_is_cpu, m.has_gpu),
        evidence="torch {package.torch} is a CPU build; GPUs: {gpus}",
        cause="PyPI's Windows wheels and all wheels of the cpu index are built without CUDA.",
        consequence="Alignment and diarization run on the CPU.",
        fix=("transcribe-mcp doctor --plan --want torch",),
        source="https://docs.astral.sh/uv/guides/integration/pytorch/",
        patterns=(
            "Torch not compiled with CUDA enabled",
            (
                r"Attempting to deserialize object on a CUDA device but "
                r"torch\.cuda\.is_available\(\)"
                " is False"
            ),
        ),
    ),
    _rule(
        code="TM302",
        severity="error",
        title="torch has no code for this GPU",
        when=lambda m: any_of(m.gpus_without_torch_code),
        evidence=(
            "{gpus_without_torch_code}; torch {package.torch} ({torch_variant}) is built "
            "for {torch_built_for}"
        ),
        cause=(
            "torch from PyPI dropped 5.0 to 6.1 in 2.8 and 7.0 in 2.11; capability 12 "
            "needs torch 2.7 with CUDA 12.8."
        ),
        consequence="The first kernel fails, although torch.cuda.is_available() is True.",
        fix=("transcribe-mcp doctor --plan --want torch",),
        source="https://github.com/pytorch/pytorch/issues/157517",
        patterns=(
            "(?<!failed with error )no kernel image is available for execution",
            "cudaErrorNoKernelImageForDevice",
            "is not compatible with the current PyTorch installation",
            r"which is too old\W+PyTorch no longer supports this GPU",
        ),
    ),
    _rule(
        code="TM303",
        severity="error",
        title="torch built for NumPy 1 with NumPy 2 installed",
        when=lambda m: m.numpy_clash,
        evidence="torch {package.torch}, numpy {package.numpy}",
        cause="torch below 2.3 (Windows: 2.4.1) was compiled against NumPy 1's binary interface.",
        consequence="import torch warns, and torch.from_numpy fails.",
        fix=(
            "pip install -U 'torch>=2.8'",
            "# only for a frozen stack: pip install 'numpy<2'",
        ),
        source="https://github.com/pytorch/pytorch/issues/107302",
        patterns=(
            r"compiled using NumPy 1\.x cannot be run in",
            "_ARRAY_API not found",
            r"\bNumpy is not available",
            r"numpy\.core\.multiarray failed to import",
            r"numpy\.dtype size changed, may indicate binary incompatibility",
        ),
    ),
    _rule(
        code="TM304",
        severity="error",
        title="torch's CUDA libraries are missing or replaced",
        when=lambda m: every(m.installs("torch"), any_of(m.nvidia_conflicts)),
        evidence="{nvidia_conflicts}",
        cause=(
            "torch pins the exact CUDA and cuDNN packages of its build. One was removed or "
            "overwritten, for example by 'pip install nvidia-cudnn-cu11==8.7.0.84 "
            "--force-reinstall'."
        ),
        consequence=(
            "import torch fails with 'libcudnn.so.9: cannot open shared object file' or a "
            "similar error."
        ),
        fix=(
            "pip install --force-reinstall torch=={package.torch}",
            "# or better, a fresh environment: transcribe-mcp doctor --plan",
        ),
        source="https://pypi.org/project/torch/#files",
        patterns=(
            r"libcudnn\.so\.9: cannot open shared object file",
            (
                r"(?:ImportError|OSError): libcublas(?:Lt)?\.so\.13: cannot open"
                " shared object file"
            ),
            (
                "(?<!torchcodec)(?:ImportError|OSError): lib(?:cudart|cufft|curand"
                "|cusparse|cusparseLt|cusolver|nccl|nvrtc|nvJitLink|nvshmem_host"
                r"|cupti)\.so\.\d+: cannot open shared object file"
            ),
            r"Error loading \S*(?:torch_cuda|c10_cuda|cudnn64_9)\.dll",
        ),
    ),
    _rule(
        code="TM305",
        severity="warn",
        title="torch.load can run code",
        when=lambda m: older(m.version("torch"), "2.6"),
        evidence="torch {package.torch}",
        cause="CVE-2025-32434: before 2.6, torch.load(weights_only=True) can run code.",
        consequence="An untrusted model file can take over the process.",
        fix=("transcribe-mcp doctor --plan --want torch",),
        source="https://nvd.nist.gov/vuln/detail/CVE-2025-32434",
    ),
    _rule(
        code="TM306",
        severity="info",
        title="torch lacks part of cuDNN",
        when=lambda m: every(
            within(m.version("torch"), ">=2.12,<2.14"),
            equals(m.torch_cuda_major, 13),
            none_of(m.cudnn_outside),
        ),
        evidence=(
            "torch {package.torch} pins nvidia-cudnn-cu13 9.20.0.48, which omits "
            "libcudnn_engines_tensor_ir.so.9"
        ),
        cause="The package lacks one library, so the loader looks for a system copy.",
        consequence="It works as long as the system has no cuDNN.",
        fix=("pip install -U 'torch>=2.14'",),
        source="https://github.com/pytorch/pytorch/issues/188892",
    ),
    _rule(
        code="TM307",
        severity="error",
        title="torch loads the system's cuDNN",
        when=lambda m: every(
            within(m.version("torch"), ">=2.12,<2.14"),
            equals(m.torch_cuda_major, 13),
            any_of(m.cudnn_outside),
        ),
        evidence="torch {package.torch}; system cuDNN: {cudnn_outside}",
        cause=(
            "nvidia-cudnn-cu13 9.20.0.48 lacks one library; the loader takes the system's, "
            "which has another version."
        ),
        consequence="Convolutions fail with a cuDNN version mismatch.",
        fix=(
            "pip install -U 'torch>=2.14'",
            "# or uninstall the system's cuDNN",
        ),
        source="https://github.com/pytorch/pytorch/issues/188892",
        patterns=("CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED",),
    ),
    _rule(
        code="TM308",
        severity="error",
        title="torch refuses to load checkpoints",
        when=lambda m: every(
            older(m.version("pyannote-audio"), "4.0.3"),
            newer(m.version("lightning"), "2.6"),
            newer(m.version("torch"), "2.6"),
        ),
        evidence=(
            "pyannote.audio {package.pyannote-audio}, lightning {package.lightning}, torch "
            "{package.torch}"
        ),
        cause=(
            "torch 2.6 loads weights only by default, and lightning 2.6 no longer "
            "overrides that for pyannote."
        ),
        consequence="Loading the voice detection or speaker model fails with UnpicklingError.",
        fix=(
            "pip install -U 'pyannote.audio>=4.0.7'",
            "# only for a frozen stack: pip install 'lightning>=2.4,<2.6'",
        ),
        source="https://github.com/m-bain/whisperX/issues/1304",
        patterns=(
            "Weights only load failed",
            "Unsupported (?:global: GLOBAL|class) (?:omegaconf|pyannote)",
            "weights_only=True.{0,200}WeightsUnpickler error",
        ),
    ),
    _rule(
        code="TM309",
        severity="error",
        title="installed versions break declared requirements",
        when=lambda m: any_of(m.conflicts),
        evidence="{conflicts}",
        cause=(
            "A requirement is a hard constraint: the package was neither built nor tested "
            "with other versions. It is not 'safe to ignore'."
        ),
        consequence="Imports, binary interfaces or calls fail, immediately or later.",
        fix=(
            "pip check",
            "transcribe-mcp doctor --plan",
        ),
        source="https://packaging.python.org/en/latest/specifications/dependency-specifiers/",
        patterns=(
            r"but you(?:'ll)? have \S+ \S+ which is incompatible",
            r" \d[\w.]* requires [^\s,]+, but you have",
            "pip's dependency resolver does not currently take into account all the packages",
            ("Cannot install .{0,200}because these package versions have conflicting dependencies"),
            "ResolutionImpossible",
            "No solution found when resolving dependencies",
        ),
    ),
    _rule(
        code="TM310",
        severity="error",
        title="torch's installation is damaged",
        when=lambda m: equals(m.torch_damaged, "torch/version.py is missing"),
        evidence="{torch_damaged}",
        cause="The installation was interrupted, or a cleanup removed files.",
        consequence="import torch fails.",
        fix=("pip install --force-reinstall torch=={package.torch}",),
        source="https://pypi.org/project/torch/",
        patterns=(
            "module 'torch' has no attribute '(?:__version__|tensor|cuda)'",
            r"No module named '?torch\.version",
        ),
    ),
    _rule(
        code="TM311",
        severity="warn",
        title="Triton cannot compile its launchers",
        when=lambda m: every(
            m.installs("triton"), any_of(m.triton_lacks), negated(m.torch_is_cpu), m.has_gpu
        ),
        evidence="triton {package.triton}; missing: {triton_lacks}",
        cause=(
            "Before it launches a kernel, Triton compiles a small extension module with "
            "the system's C compiler and Python headers. Slim images have neither."
        ),
        consequence=(
            "The whisper engine works, but slower, with PyTorch's own kernels "
            "(kernels_unused). torch.compile fails."
        ),
        fix=(
            "sudo apt-get install gcc libc6-dev python3-dev",
            "# other distributions: the equivalent packages; another compiler: export CC=PATH",
        ),
        source="https://github.com/triton-lang/triton/blob/main/python/triton/runtime/build.py",
        patterns=(
            r"Failed to find C compiler\. Please specify",
            r"Python\.h'?: No such file or directory",
        ),
    ),
)
