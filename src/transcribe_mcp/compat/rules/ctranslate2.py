"""CTranslate2. ``m`` is the machine."""

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
        evidence="no ctranslate2 metadata on sys.path",
        cause="This environment lacks the engine's package.",
        consequence="The ctranslate2 engine cannot run. Without it, Whisper models need torch.",
        fix=("pip install 'ctranslate2>=4.8.1,<5'",),
        source="https://pypi.org/project/ctranslate2/",
        patterns=(r"No module named '?ctranslate2\b",),
    ),
    _rule(
        code="TM202",
        severity="crash",
        title="CTranslate2 needs cuDNN 8, which is missing",
        when=lambda m: every(
            either(
                every(older(m.version("ctranslate2"), "4.5"), m.ct2_gpu_code),
                equals(m.ct2_cudnn, 8),
            ),
            negated(m.cudnn8),
            m.has_libcuda,
        ),
        evidence=(
            "ctranslate2 {package.ctranslate2} opens cuDNN {ct2_cudnn} on a GPU; "
            "libcudnn_ops_infer.so.8 is missing"
        ),
        cause=(
            "CTranslate2 up to 4.4.0 contains a cuDNN 8 shim that opens the cuDNN 8 "
            "libraries itself. torch ships cuDNN 9 since 2.4. The message comes from "
            "CTranslate2, not from WhisperX or torch."
        ),
        consequence=(
            "The first encode on the GPU aborts the process (SIGABRT): no exception, no fallback."
        ),
        fix=(
            "pip install -U 'ctranslate2>=4.8.1,<5'",
            "# never link libcudnn*.so.9 to a .so.8 name",
        ),
        source="https://github.com/OpenNMT/CTranslate2/issues/1806",
        patterns=(
            (
                "(?:Could not load library|Unable to load|cannot load|Could not"
                r" locate)\W{0,3}libcudnn_(?:ops|cnn|adv)_(?:infer|train)\.so\.8"
            ),
            r"libcudnn_(?:ops|cnn|adv)_(?:infer|train)\.so\.8\W",
            r"cudnn_(?:ops|cnn|adv)_infer64_8\.dll",
            r"libcudnn\.so\.8: cannot open shared object",
        ),
    ),
    _rule(
        code="TM203",
        severity="crash",
        title="CTranslate2 needs cuDNN 9, which is missing",
        when=lambda m: every(
            within(m.version("ctranslate2"), ">=4.5,<4.6.3"),
            m.ct2_gpu_code,
            negated(m.cudnn9),
            m.has_libcuda,
        ),
        evidence=(
            "ctranslate2 {package.ctranslate2} opens cuDNN 9 on a GPU; libcudnn_ops.so.9 is missing"
        ),
        cause=(
            "CTranslate2 4.5.0 to 4.6.2 contains a cuDNN 9.1.0 shim that opens the cuDNN 9 "
            "libraries itself."
        ),
        consequence="The first encode on the GPU aborts the process (SIGABRT).",
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
        title="CTranslate2 depends on cuDNN",
        when=lambda m: every(
            m.has_gpu,
            either(
                every(within(m.version("ctranslate2"), ">=4.5,<4.6.3"), m.cudnn9),
                every(older(m.version("ctranslate2"), "4.5"), m.cudnn8),
            ),
        ),
        evidence="ctranslate2 {package.ctranslate2} opens cuDNN {ct2_cudnn} by itself",
        cause="Its cuDNN shim must match exactly the cuDNN that torch loads.",
        consequence="The next upgrade of cuDNN or torch may abort the process.",
        fix=("pip install -U 'ctranslate2>=4.8.1,<5'",),
        source="https://github.com/OpenNMT/CTranslate2/releases/tag/v4.6.3",
    ),
    _rule(
        code="TM205",
        severity="error",
        title="libcublas.so.12 is missing",
        when=lambda m: every(equals(m.ct2_cuda, 12), m.has_gpu, negated(m.cublas12)),
        evidence=(
            "ctranslate2 {package.ctranslate2} opens libcublas.so.12 by name; "
            "libcublas.so.13 is installed: {cublas13}; torch {package.torch} "
            "({torch_variant})"
        ),
        cause=(
            "CTranslate2 4 supports CUDA 12 only. Since 2.11 torch from PyPI is a CUDA 13 "
            "build, and since 4.8.2 CTranslate2 does not import torch, so nothing loads "
            "libcublas.so.12."
        ),
        consequence="The model loads, but the first encode on the GPU fails.",
        fix=(
            "pip install 'nvidia-cublas-cu12>=12.8,<13'",
            (
                "# transcribe-mcp opens it by absolute path; changing LD_LIBRARY_PATH in a "
                "running process has no effect"
            ),
        ),
        source="https://github.com/SYSTRAN/faster-whisper/issues/1431",
        patterns=(
            (
                r"(?:Library )?(?:libcublas(?:Lt)?\.so\.1[12]|cublas(?:Lt)?64_1[12]\.dll)"
                " is not found or cannot be loaded"
            ),
            r"libcublas(?:Lt)?\.so\.1[12]: cannot open shared object file",
            r"Could not load library libcublas(?:Lt)?\.so\.1[12]",
            r"Could not locate cublas(?:Lt)?64_1[12]\.dll",
        ),
    ),
    _rule(
        code="TM206",
        severity="info",
        title="first run compiles kernels for this GPU",
        when=lambda m: every(any_of(m.gpus_jit), none_of(m.gpus_jit_blocked)),
        evidence=(
            "{gpus_jit}: no machine code in ctranslate2 {package.ctranslate2}; the driver "
            "compiles its PTX"
        ),
        cause="CTranslate2's wheels contain machine code up to 8.6 and PTX for newer GPUs.",
        consequence=(
            "The first run on this machine is slower; the result is cached in ~/.nv/ComputeCache."
        ),
        source="https://docs.nvidia.com/cuda/cuda-compiler-driver-nvcc/index.html#just-in-time-compilation",
    ),
    _rule(
        code="TM207",
        severity="error",
        title="CTranslate2 has no code for this GPU",
        when=lambda m: any_of(m.gpus_without_ct2_code),
        evidence=(
            "{gpus_without_ct2_code}; ctranslate2 {package.ctranslate2} supports 5.3 and newer"
        ),
        cause=(
            "CTranslate2 4 is built for compute capability 5.3 and newer; its hardware "
            "page is wrong about that."
        ),
        consequence="The first kernel fails with 'no kernel image'. Use the CPU.",
        fix=("transcribe-mcp transcribe --device cpu ...",),
        source="https://github.com/OpenNMT/CTranslate2/issues/1765",
        patterns=(
            "CUDA failed with error no kernel image is available",
            (
                "RuntimeError: (?:parallel_for failed|transform): .{0,80}no kernel"
                " image is available"
            ),
        ),
    ),
    _rule(
        code="TM208",
        severity="error",
        title="driver is too old to compile CTranslate2 for this GPU",
        when=lambda m: every(any_of(m.gpus_jit_blocked), negated(m.ct2_driver_too_old)),
        evidence="{gpus_jit_blocked}; driver {driver}; the wheel's PTX needs {jit_floor}",
        cause=(
            "For compute capability 9.0 and newer the driver compiles CTranslate2's PTX, "
            "and this driver is too old for it. Minor-version compatibility does not cover "
            "PTX."
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
        title="CTranslate2 without GPU code",
        when=lambda m: every(negated(m.ct2_gpu_code), m.has_gpu),
        evidence="{machine} wheel of ctranslate2 {package.ctranslate2}; GPUs: {gpus}",
        cause="CTranslate2's wheels for Linux aarch64 and macOS support the CPU only.",
        consequence="Transcription runs on the CPU while the GPU is idle.",
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
        evidence=(
            "{blackwell_gpus}; int8 in ctranslate2 {package.ctranslate2}: {ct2_blackwell_int8}"
        ),
        cause=(
            "cuBLAS rejects the unpadded int8 shapes on compute capability 12. CTranslate2 "
            "4.6.2 disables int8 there; 4.7.0 pads the shapes."
        ),
        consequence="int8 fails at the first encode, or CTranslate2 uses float16 instead.",
        fix=("pip install -U 'ctranslate2>=4.8.1,<5' 'nvidia-cublas-cu12>=12.8,<13'",),
        source="https://github.com/OpenNMT/CTranslate2/pull/1982",
        patterns=("CUBLAS_STATUS_NOT_SUPPORTED",),
    ),
    _rule(
        code="TM211",
        severity="error",
        title="cuBLAS is too old for this GPU",
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
        cause="The installation was interrupted, or a cleanup removed files.",
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
        title="CTranslate2 imports pkg_resources, which may be missing",
        when=lambda m: every(older(m.version("ctranslate2"), "4.6.2"), equals(m.system, "Windows")),
        evidence="ctranslate2 {package.ctranslate2} on Windows; setuptools {package.setuptools}",
        cause=(
            "CTranslate2 below 4.6.2 imports pkg_resources on Windows; the newest "
            "setuptools does not include it."
        ),
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
        consequence="CTranslate2 uses int8 or float32 instead.",
        source="https://opennmt.net/CTranslate2/quantization.html",
        patterns=(
            (
                "Requested (?:int8_)?(?:b?float16) compute type, but the target"
                " device or backend do(?:es)? not support efficient"
            ),
        ),
    ),
)
