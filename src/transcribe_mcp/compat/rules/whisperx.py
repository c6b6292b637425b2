"""WhisperX, pyannote.audio and what they need. ``m`` is the machine."""

from __future__ import annotations

from functools import partial

from .base import Rule, equals, every, negated, newer, older, present, within

_rule = partial(Rule, area="whisperx")
RULES = (
    _rule(
        code="TM401",
        severity="error",
        title="WhisperX with contradictory requirements",
        when=lambda m: within(m.version("whisperx"), ">=3.3.3,<3.5.0"),
        evidence=(
            "whisperx {package.whisperx} requires ctranslate2<4.5 (cuDNN 8) and "
            "torch>=2.5.1 (cuDNN 9)"
        ),
        cause="No cuDNN satisfies both pins; WhisperX 3.5.0 fixed that.",
        consequence=(
            "GPU transcription aborts or alignment fails, depending on the installed cuDNN."
        ),
        fix=("transcribe-mcp doctor --plan --want whisperx",),
        source="https://pypi.org/project/whisperx/#history",
    ),
    _rule(
        code="TM402",
        severity="warn",
        title="WhisperX shares an environment with transcribe-mcp",
        when=lambda m: every(present(m.version("whisperx")), present(m.version("transcribe-mcp"))),
        evidence=(
            "whisperx {package.whisperx} pins torch 2.8 and huggingface-hub<1; "
            "transcribe-mcp needs huggingface-hub>=1"
        ),
        cause="Their requirements exclude each other.",
        consequence="Installing one breaks the other.",
        fix=("transcribe-mcp env create whisperx --want whisperx",),
        source="https://pypi.org/project/whisperx/#history",
    ),
    _rule(
        code="TM403",
        severity="error",
        title="WhisperX does not support this Python",
        when=lambda m: every(newer(m.version("whisperx"), "3.3.1"), newer(m.python, "3.14")),
        evidence="whisperx {package.whisperx} on Python {python}",
        cause="WhisperX requires Python below 3.14, because torch 2.8 has no wheels for 3.14.",
        consequence="No compatible torch can be installed.",
        fix=("transcribe-mcp doctor --plan --want whisperx",),
        source="https://pypi.org/project/whisperx/#history",
        patterns=(
            (
                "Ignored the following versions that require a different python"
                " version.{0,400}whisperx"
            ),
            r"(?:requirement|distribution found for) whisperx\b",
        ),
    ),
    _rule(
        code="TM404",
        severity="error",
        title="pyannote 3 with a torchaudio that lacks its functions",
        when=lambda m: every(
            newer(m.version("torchaudio"), "2.9"), older(m.version("pyannote-audio"), "4")
        ),
        evidence="torchaudio {package.torchaudio}, pyannote.audio {package.pyannote-audio}",
        cause=(
            "torchaudio 2.9 removed info, AudioMetaData and list_audio_backends, which "
            "pyannote 3 uses at import."
        ),
        consequence="import pyannote.audio fails.",
        fix=(
            "pip install -U 'pyannote.audio>=4.0.7'",
            "# or torch and torchaudio 2.8",
        ),
        source="https://github.com/pytorch/audio/issues/3902",
        patterns=(
            (
                "module '?torchaudio'? has no attribute '?(?:AudioMetaData|info"
                "|list_audio_backends|set_audio_backend|backend)"
            ),
            "cannot import name 'AudioMetaData' from 'torchaudio",
        ),
    ),
    _rule(
        code="TM405",
        severity="error",
        title="torchaudio does not match torch",
        when=lambda m: m.torchaudio_mismatch,
        evidence="torchaudio {package.torchaudio}, torch {package.torch}",
        cause=(
            "torchaudio is compiled for one torch version. 2.11.0, the last release, needs "
            "torch>=2.11 but does not declare it, so no installer objects."
        ),
        consequence="import torchaudio fails with an undefined symbol.",
        fix=("transcribe-mcp doctor --plan --want whisperx",),
        source="https://github.com/pytorch/audio/issues/3902",
        patterns=(
            r"torchaudio\S*: undefined symbol",
            r"Could not load this library: \S*libtorchaudio\.so",
            r"OSError: \S*_torchaudio\S*: undefined symbol",
        ),
    ),
    _rule(
        code="TM406",
        severity="warn",
        title="torchcodec does not match torch",
        when=lambda m: m.torchcodec_mismatch,
        evidence=(
            "torchcodec {package.torchcodec} needs torch {torchcodec_wants}; installed is "
            "{package.torch}"
        ),
        cause=(
            "torchcodec is compiled for specific torch versions but declares none. The "
            "same message also appears without supported FFmpeg libraries, or with a CUDA "
            "build of torchcodec and another torch."
        ),
        consequence="pyannote 4 cannot open files; it works with decoded audio.",
        fix=(
            (
                "# pass decoded audio (transcribe-mcp does), or install torchcodec from "
                "torch's own index"
            ),
        ),
        source="https://github.com/meta-pytorch/torchcodec#installing-torchcodec",
        patterns=(
            "Could not load libtorchcodec",
            "torchcodec is not installed correctly",
            r"libtorchcodec_core\d\.so",
        ),
    ),
    _rule(
        code="TM407",
        severity="warn",
        title="CUDA 13 build of torchcodec with another torch",
        when=lambda m: m.torchcodec_wrong_cuda,
        evidence=(
            "torchcodec {package.torchcodec} from PyPI is a CUDA 13 build; torch is "
            "{package.torch} ({torch_variant})"
        ),
        cause=(
            "torchcodec 0.11.0 and 0.14 or newer from PyPI need libcudart.so.13 and "
            "libtorch_cuda.so."
        ),
        consequence="torchcodec does not load; pyannote 4 cannot open files.",
        fix=(
            ("pip install torchcodec --index-url https://download.pytorch.org/whl/{torch_variant}"),
        ),
        source="https://github.com/meta-pytorch/torchcodec#installing-torchcodec",
        patterns=(r"libnppicc\.so\.1[23]: cannot open shared object file",),
    ),
    _rule(
        code="TM408",
        severity="warn",
        title="no FFmpeg libraries for torchcodec",
        when=lambda m: every(m.torchcodec_no_ffmpeg, equals(m.system, "Linux")),
        evidence=(
            "torchcodec {package.torchcodec} needs FFmpeg {torchcodec_ffmpeg}; the loader "
            "finds no such version"
        ),
        cause=(
            "torchcodec opens the system's FFmpeg libraries; the copies inside PyAV do not count."
        ),
        consequence="pyannote 4 cannot open files; it works with decoded audio.",
        fix=("sudo apt-get install ffmpeg",),
        source="https://github.com/meta-pytorch/torchcodec#installing-torchcodec",
        patterns=(r"libavutil\.so\.\d+: cannot open shared object file",),
    ),
    _rule(
        code="TM409",
        severity="warn",
        title="pyannote's telemetry is on",
        when=lambda m: every(newer(m.version("pyannote-audio"), "4.0"), negated(m.telemetry_off)),
        evidence="pyannote.audio {package.pyannote-audio} without PYANNOTE_METRICS_ENABLED=0",
        cause=(
            "pyannote.audio 4 reports pipeline, file duration and number of speakers to "
            "otel.pyannote.ai by default."
        ),
        consequence="Metadata about your recordings leaves the machine.",
        fix=("export PYANNOTE_METRICS_ENABLED=0",),
        source="https://github.com/pyannote/pyannote-audio#telemetry",
    ),
    _rule(
        code="TM410",
        severity="error",
        title="WhisperX calls pyannote 4 with an old argument",
        when=lambda m: every(
            older(m.version("whisperx"), "3.8"), newer(m.version("pyannote-audio"), "4")
        ),
        evidence="whisperx {package.whisperx}, pyannote.audio {package.pyannote-audio}",
        cause=(
            "pyannote.audio 4 renamed use_auth_token to token; WhisperX below 3.8 passes "
            "the old name."
        ),
        consequence="Loading the speaker pipeline fails with TypeError.",
        fix=("transcribe-mcp doctor --plan --want whisperx",),
        source="https://github.com/pyannote/pyannote-audio/releases/tag/4.0.0",
        patterns=("unexpected keyword argument '?use_auth_token",),
    ),
    _rule(
        code="TM411",
        severity="warn",
        title="pyannote's models need a token, but none is set",
        when=lambda m: every(present(m.version("pyannote-audio")), negated(m.token)),
        evidence="neither HF_TOKEN nor a saved token",
        cause=(
            "pyannote's models are gated: accept their conditions on huggingface.co, then "
            "use a token of that account."
        ),
        consequence="The first download of a speaker model fails.",
        fix=(
            (
                "# accept the conditions at "
                "https://huggingface.co/pyannote/speaker-diarization-community-1"
            ),
            "hf auth login",
        ),
        source="https://huggingface.co/docs/hub/models-gated",
        patterns=(
            "Cannot access gated repo",
            "GatedRepoError",
            r"Access to model pyannote/\S+ is restricted",
            r"401 Client Error.{0,200}huggingface\.co",
            r"Could not download '?pyannote/\S+",
        ),
    ),
    _rule(
        code="TM412",
        severity="error",
        title="WhisperX needs the ffmpeg program",
        when=lambda m: every(present(m.version("whisperx")), negated(m.has_ffmpeg)),
        evidence="whisperx {package.whisperx}; no ffmpeg on the PATH",
        cause="WhisperX decodes with the ffmpeg program; transcribe-mcp does not need it.",
        consequence="Every file fails with FileNotFoundError.",
        fix=("sudo apt-get install ffmpeg",),
        source="https://github.com/m-bain/whisperX/blob/main/whisperx/audio.py",
        patterns=(
            "No such file or directory: '?ffmpeg",
            "ffmpeg: (?:command )?not found",
            r"\[WinError 2\] The system cannot find the file specified.{0,200}ffmpeg",
        ),
    ),
    _rule(
        code="TM413",
        severity="warn",
        title="onnxruntime is installed twice",
        when=lambda m: every(
            present(m.version("onnxruntime")), present(m.version("onnxruntime-gpu"))
        ),
        evidence=(
            "onnxruntime {package.onnxruntime} and onnxruntime-gpu "
            "{package.onnxruntime-gpu} share one folder"
        ),
        cause="The two packages write the same files, so the last installation wins.",
        consequence="The GPU build silently becomes the CPU build, or imports fail.",
        fix=(
            "pip uninstall -y onnxruntime onnxruntime-gpu",
            "pip install onnxruntime",
        ),
        source="https://onnxruntime.ai/docs/install/",
    ),
    _rule(
        code="TM414",
        severity="warn",
        title="onnxruntime-gpu without CUDA 13",
        when=lambda m: every(newer(m.version("onnxruntime-gpu"), "1.31.1"), negated(m.cublas13)),
        evidence=(
            "onnxruntime-gpu {package.onnxruntime-gpu} is a CUDA 13 build; libcublas.so.13 "
            "is missing"
        ),
        cause="Current onnxruntime-gpu releases need CUDA 13 and cuDNN 9.",
        consequence="onnxruntime warns and uses the CPU.",
        fix=("pip install onnxruntime  # voice detection runs on the CPU anyway",),
        source="https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html",
        patterns=(
            "Failed to (?:load library|create CUDAExecutionProvider)",
            r"libonnxruntime_providers_cuda\.so with error",
        ),
    ),
)
