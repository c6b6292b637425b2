"""CTranslate2. In predicates ``m`` is the machine."""

from __future__ import annotations

from functools import partial

from .base import Rule, any_of, either, equals, every, negated, none_of, older, present, within

_rule = partial(Rule, area="ctranslate2")
RULES = (
    _rule(
        code="TM201",
        severity="error",
        title="CTranslate2 is not installed",
        when=lambda m: negated(m.installs("ctranslate2")),
        evidence="no metadata of ctranslate2 on sys.path",
        cause="The engine's package is missing from this environment.",
        consequence="The ctranslate2 engine cannot run. Without it, Whisper models need torch.",
        fix=("pip install 'ctranslate2>=4.8.1,<5'",),
        source="https://pypi.org/project/ctranslate2/",
        patterns=(r"No module named '?ctranslate2\b",),
    ),
    _rule(
        code="TM202",
        severity="crash",
        title="CTranslate2 needs a cuDNN 8 that is not there",
        when=lambda m: every(
            either(
                every(older(m.version("ctranslate2"), "4.5"), m.ct2_gpu_code),
                equals(m.ct2_cudnn, 8),
            ),
            negated(m.cudnn8),
            m.has_libcuda,
        ),
        evidence=(
            "ctranslate2 {package.ctranslate2} opens cuDNN {ct2_cudnn} on a GPU; libcudnn_ops_infer.so.8 is nowhere"
        ),
        cause=(
            "CTranslate2 up to 4.4.0 carries a cuDNN 8 shim that opens the cuDNN 8 "
            "libraries itself. torch brings cuDNN 9 since 2.4. The message comes from "
            "CTranslate2, not from WhisperX or torch."
        ),
        consequence="The process is aborted (SIGABRT) at the first encode on the GPU: no exception, no fallback.",
        fix=(
            "pip install -U 'ctranslate2>=4.8.1,<5'",
            "# never link libcudnn*.so.9 to a .so.8 name",
        ),
        source="https://github.com/OpenNMT/CTranslate2/issues/1806",
        patterns=(
            r"(?:Could not load library|Unable to load|cannot load|Could not locate)"
            r"\W{0,3}libcudnn_(?:ops|cnn|adv)_(?:infer|train)\.so\.8",
            r"libcudnn_(?:ops|cnn|adv)_(?:infer|train)\.so\.8\W",
            r"cudnn_(?:ops|cnn|adv)_infer64_8\.dll",
            r"libcudnn\.so\.8: cannot open shared object",
        ),
    ),
    _rule(
        code="TM203",
        severity="crash",
        title="CTranslate2 needs a cuDNN 9 that is not there",
        when=lambda m: every(
            within(m.version("ctranslate2"), ">=4.5,<4.6.3"),
            m.ct2_gpu_code,
            negated(m.cudnn9),
            m.has_libcuda,
        ),
        evidence="ctranslate2 {package.ctranslate2} opens cuDNN 9 on a GPU; libcudnn_ops.so.9 is nowhere",
        cause="CTranslate2 4.5.0 to 4.6.2 carries a cuDNN 9.1.0 shim that opens the cuDNN 9 libraries itself.",
        consequence="The process is aborted (SIGABRT) at the first encode on the GPU.",
        fix=("pip install -U 'ctranslate2>=4.8.1,<5'",),
        source="https://github.com/OpenNMT/CTranslate2/issues/1826",
        patterns=(
            r"Unable to load any of \{\s*libcudnn_",
            r"Invalid handle\. Cannot load symbol cudnn",
            r"cudnn_(?:ops|cnn)64_9\.dll",
        ),
    ),
    _rule(
        code="TM204",
        severity="warn",
        title="CTranslate2 that depends on cuDNN",
        when=lambda m: every(
            m.has_gpu,
            either(
                every(within(m.version("ctranslate2"), ">=4.5,<4.6.3"), m.cudnn9),
                every(older(m.version("ctranslate2"), "4.5"), m.cudnn8),
            ),
        ),
        evidence="ctranslate2 {package.ctranslate2} opens cuDNN {ct2_cudnn} by itself",
        cause="Its cuDNN shim must meet the very cuDNN that torch loads.",
        consequence="The next upgrade of cuDNN or torch may abort the process.",
        fix=("pip install -U 'ctranslate2>=4.8.1,<5'",),
        source="https://github.com/OpenNMT/CTranslate2/releases/tag/v4.6.3",
    ),
    _rule(
        code="TM205",
        severity="error",
        title="libcublas.so.12 is nowhere",
        when=lambda m: every(equals(m.ct2_cuda, 12), m.has_gpu, negated(m.cublas12)),
        evidence=(
            "ctranslate2 {package.ctranslate2} opens libcublas.so.12 by name; CUDA 13's is "
            "there: {cublas13}; torch {package.torch} ({torch_variant})"
        ),
        cause=(
            "CTranslate2 4 is CUDA 12 only. torch from PyPI is CUDA 13 since 2.11, and "
            "CTranslate2 no longer imports torch since 4.8.2, so nothing brings "
            "libcublas.so.12."
        ),
        consequence="Loading the model works; the first encode on the GPU fails.",
        fix=(
            "pip install 'nvidia-cublas-cu12>=12.8,<13'",
            (
                "# transcribe-mcp opens it by absolute path; LD_LIBRARY_PATH set inside a running process has no effect"
            ),
        ),
        source="https://github.com/SYSTRAN/faster-whisper/issues/1431",
        patterns=(
            r"(?:Library )?(?:libcublas(?:Lt)?\.so\.1[12]|cublas(?:Lt)?64_1[12]\.dll) is not found or cannot be loaded",
            r"libcublas(?:Lt)?\.so\.1[12]: cannot open shared object file",
            r"Could not load library libcublas(?:Lt)?\.so\.1[12]",
            r"Could not locate cublas(?:Lt)?64_1[12]\.dll",
        ),
    ),
    _rule(
        code="TM206",
        severity="info",
        title="the first run compiles for this GPU",
        when=lambda m: every(any_of(m.gpus_jit), none_of(m.gpus_jit_blocked)),
        evidence="{gpus_jit}: no machine code in ctranslate2 {package.ctranslate2}, the driver compiles its PTX",
        cause="CTranslate2's wheels hold machine code up to 8.6 and PTX for everything newer.",
        consequence="The first run on this machine is slower; the result is cached in ~/.nv/ComputeCache.",
        source="https://docs.nvidia.com/cuda/cuda-compiler-driver-nvcc/index.html#just-in-time-compilation",
    ),
    _rule(
        code="TM207",
        severity="error",
        title="CTranslate2 has no code for this GPU",
        when=lambda m: any_of(m.gpus_without_ct2_code),
        evidence="{gpus_without_ct2_code}; ctranslate2 {package.ctranslate2} starts at 5.3",
        cause="CTranslate2 4 is built for compute capability 5.3 and newer, whatever its hardware page says.",
        consequence="The first kernel fails with 'no kernel image'; the CPU is the honest choice.",
        fix=("transcribe-mcp transcribe --device cpu ...",),
        source="https://github.com/OpenNMT/CTranslate2/issues/1765",
        patterns=(
            "CUDA failed with error no kernel image is available",
            (
                "RuntimeError: (?:parallel_for failed|transform): .{0,80}no kernel image is available"
            ),
        ),
    ),
    _rule(
        code="TM208",
        severity="error",
        title="driver too old to compile CTranslate2 for this GPU",
        when=lambda m: every(any_of(m.gpus_jit_blocked), negated(m.ct2_driver_too_old)),
        evidence="{gpus_jit_blocked}; driver {driver}; the wheel's PTX needs {jit_floor}",
        cause=(
            "From capability 9.0 on CTranslate2 runs from PTX, which an older driver "
            "cannot compile; minor-version compatibility does not cover that."
        ),
        consequence=(
            "The first kernel fails with 'unsupported toolchain', although the same wheel "
            "runs on RTX 30 and 40 with driver 525."
        ),
        fix=("# upgrade the NVIDIA driver to {jit_floor} or newer",),
        source="https://github.com/OpenNMT/CTranslate2/issues/1978",
        patterns=(
            "PTX was compiled with an unsupported toolchain",
            "cudaErrorUnsupportedPtxVersion",
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        ),
    ),
    _rule(
        code="TM209",
        severity="warn",
        title="a CTranslate2 without GPU code",
        when=lambda m: every(negated(m.ct2_gpu_code), m.has_gpu),
        evidence="{machine} wheel of ctranslate2 {package.ctranslate2}; GPUs: {gpus}",
        cause="CTranslate2's Linux aarch64 and macOS wheels are built for the CPU only.",
        consequence="Transcription runs on the CPU beside an idle GPU.",
        fix=(
            "# use the torch engine, or build CTranslate2 from source with CUDA",
            "transcribe-mcp doctor --plan --want torch",
        ),
        source="https://github.com/OpenNMT/CTranslate2/blob/master/python/tools/prepare_build_environment_linux.sh",
        patterns=("This CTranslate2 package was not compiled with CUDA support",),
    ),
    _rule(
        code="TM210",
        severity="warn",
        title="no int8 on Blackwell with this CTranslate2",
        when=lambda m: every(
            any_of(m.blackwell_gpus), negated(equals(m.ct2_blackwell_int8, "works"))
        ),
        evidence="{blackwell_gpus}; int8 in ctranslate2 {package.ctranslate2}: {ct2_blackwell_int8}",
        cause=(
            "cuBLAS refuses the unpadded int8 shapes on compute capability 12; 4.6.2 "
            "switches int8 off there, 4.7.0 pads."
        ),
        consequence="int8 fails at the first encode, or float16 is used instead.",
        fix=("pip install -U 'ctranslate2>=4.8.1,<5' 'nvidia-cublas-cu12>=12.8,<13'",),
        source="https://github.com/OpenNMT/CTranslate2/pull/1982",
        patterns=("CUBLAS_STATUS_NOT_SUPPORTED",),
    ),
    _rule(
        code="TM211",
        severity="error",
        title="cuBLAS older than this GPU",
        when=lambda m: every(
            any_of(m.blackwell_gpus), older(m.version("nvidia-cublas-cu12"), "12.8")
        ),
        evidence="{blackwell_gpus}; nvidia-cublas-cu12 {package.nvidia-cublas-cu12}",
        cause="Compute capability 12 needs cuBLAS 12.8.",
        consequence="The first matrix product on the GPU fails.",
        fix=("pip install -U 'nvidia-cublas-cu12>=12.8,<13'",),
        source="https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/index.html",
        patterns=("CUBLAS_STATUS_ARCH_MISMATCH",),
    ),
    _rule(
        code="TM212",
        severity="error",
        title="CTranslate2's library is damaged or missing",
        when=lambda m: present(m.ctranslate2_damaged),
        evidence="{ctranslate2_damaged}",
        cause="The installation was interrupted, or a cleaner removed files.",
        consequence="import ctranslate2 fails.",
        fix=("pip install --force-reinstall --no-deps ctranslate2",),
        source="https://pypi.org/project/ctranslate2/",
        patterns=(
            r"ImportError: libctranslate2[^\s:]*: cannot open shared object file",
            r"libctranslate2[^\s:]*: (?:invalid ELF header|file too short)",
        ),
    ),
    _rule(
        code="TM213",
        severity="warn",
        title="pkg_resources is imported and may be gone",
        when=lambda m: every(older(m.version("ctranslate2"), "4.6.2"), equals(m.system, "Windows")),
        evidence="ctranslate2 {package.ctranslate2} on Windows; setuptools {package.setuptools}",
        cause="CTranslate2 below 4.6.2 imports pkg_resources on Windows, which newest setuptools no longer brings.",
        consequence="import ctranslate2 fails with ModuleNotFoundError.",
        fix=("pip install -U 'ctranslate2>=4.8.1,<5'",),
        source="https://github.com/OpenNMT/CTranslate2/blob/v4.6.1/python/ctranslate2/__init__.py",
        patterns=("No module named '?pkg_resources",),
    ),
    _rule(
        code="TM214",
        severity="info",
        title="no float16 on this GPU",
        when=lambda m: every(any_of(m.gpus_without_fp16), m.ct2_gpu_code),
        evidence="{gpus_without_fp16}",
        cause="float16 kernels need compute capability 7.0.",
        consequence="int8 or float32 is used instead of float16.",
        source="https://opennmt.net/CTranslate2/quantization.html",
        patterns=(
            (
                "Requested (?:int8_)?(?:b?float16) compute type, but the target device or "
                "backend do(?:es)? not support efficient"
            ),
        ),
    ),
)
