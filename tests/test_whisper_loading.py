"""Loading the PyTorch engine where CUDA is not as it should be. The GPU is one that torch is told
of.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from whisper_nano import speech_truths, whisper_nano, window_of

torch = pytest.importorskip("torch")

from transcribe_mcp import engines, load_engine  # noqa: E402
from transcribe_mcp.engines import DecodingOptions, EngineRequest, load_recognizer  # noqa: E402
from transcribe_mcp.engines.whisper import gpu_start  # noqa: E402
from transcribe_mcp.engines.whisper.engine import WhisperEngine  # noqa: E402
from transcribe_mcp.errors import EngineFailedError, OutOfMemoryError  # noqa: E402

BUSY = "CUDA error: all CUDA-capable devices are busy or unavailable"
FULL = "CUDA error: out of memory"


def raises(error: Exception) -> Callable[..., Any]:
    def raising(*arguments: Any) -> Any:
        raise error

    return raising


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch says that there is one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def request(device: str, compute_type: str = "auto") -> EngineRequest:
    return EngineRequest(
        "whisper", str(whisper_nano()), device, compute_type, threads=2, offline=True
    )


@pytest.mark.parametrize("compute_type", ["auto", "float32"])
@pytest.mark.parametrize("words", [BUSY, FULL])
def test_a_gpu_that_cannot_even_be_asked_is_replaced_by_the_cpu(
    gpu: None, monkeypatch: pytest.MonkeyPatch, words: str, compute_type: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", raises(RuntimeError(words)))

    engine = load_engine(request("auto", compute_type))

    (notice,) = [notice for notice in engine.info.warnings if notice.code == "gpu_failed"]
    assert words in notice.message
    assert engine.info.device == "cpu"
    name = sorted(speech_truths())[0]
    [model] = engine.models
    assert model.decode(model.encode([window_of(name)]), [name[:2]], DecodingOptions())[0].text
    engine.close()


@pytest.mark.parametrize(("words", "kind"), [(BUSY, EngineFailedError), (FULL, OutOfMemoryError)])
def test_a_gpu_that_was_asked_for_by_name_is_an_error_of_ours(
    gpu: None, monkeypatch: pytest.MonkeyPatch, words: str, kind: type[Exception]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", raises(RuntimeError(words)))

    with pytest.raises(kind, match=words):
        load_recognizer(request("cuda:0"))


def test_an_engine_whose_gpu_is_gone_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_recognizer(request("cpu"))
    assert isinstance(engine, WhisperEngine)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "synchronize", raises(RuntimeError("CUDA error: unspecified launch failure"))
    )

    engine.close()

    with pytest.raises(EngineFailedError, match="closed"):
        engine.encode([])


# -- Triton ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
        subprocess.CalledProcessError(1, ["gcc", "main.c"]),
        PermissionError(13, "Permission denied: '/root/.triton/cache'"),
    ],
    ids=["no compiler", "no headers", "no place for what was compiled"],
)
def test_why_a_kernel_cannot_be_launched_is_told(error: Exception) -> None:
    pytest.importorskip("triton")
    from transcribe_mcp.speech.lstm_kernels import launch_problem

    assert str(error) in launch_problem(raises(error))
    assert launch_problem(lambda: None) == ""
    with pytest.raises(RuntimeError, match="out of memory"):
        launch_problem(raises(RuntimeError("CUDA out of memory")))


def test_memory_of_several_gpus_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch would unmap what another GPU of the process still uses."""
    changes: list[str] = []
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        torch._C, "_accelerator_setAllocatorSettings", changes.append, raising=False
    )
    requests: list[EngineRequest] = []
    monkeypatch.setattr(engines, "_load", lambda _, one: requests.append(one))

    engines.load_recognizers(request("cuda:0,1"))
    gpu_start.use_expandable_segments(torch.device("cuda:1"), alone=requests[1].n_devices == 1)

    assert [(one.device, one.n_devices) for one in requests] == [("cuda:0", 2), ("cuda:1", 2)]
    assert changes == ["expandable_segments:False"]
