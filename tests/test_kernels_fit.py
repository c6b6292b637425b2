"""Triton's kernels compiled for GPUs that are not here. Skipped where there is no Triton: torch for
CUDA brings it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.compiler import compile as compile_kernel  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from transcribe_mcp.engines import EngineRequest  # noqa: E402
from transcribe_mcp.engines.whisper import alignment_kernels, gemv_kernels, kernels  # noqa: E402
from transcribe_mcp.engines.whisper.caches import KeptQueries  # noqa: E402
from transcribe_mcp.engines.whisper.decode_slots import Slots  # noqa: E402
from transcribe_mcp.engines.whisper.loading import _load_on  # noqa: E402
from transcribe_mcp.engines.whisper.model import Norm  # noqa: E402
from transcribe_mcp.speech import lstm_kernels  # noqa: E402

# Shared memory that a block may have by compute capability: CUDA C++ Programming Guide, "Technical
# Specifications".
SHARED_BYTES = {75: 65_536, 80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 120: 101_376}
TYPES = {
    torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16",
    torch.int64: "i64", torch.int32: "i32", torch.int8: "i8", torch.uint8: "u8",
}  # fmt: skip
HEADS, SIZE, POSITIONS, TOKENS = 6, 64, 1500, 51_866


@dataclass(frozen=True)
class Launch:
    kernel: Any
    types: tuple[str, ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]

    def shared_bytes(self, capability: int) -> int:
        names = [param.name for param in self.kernel.params]
        source = ASTSource(
            self.kernel,
            dict(zip(names, self.types, strict=True)),
            dict(self.constants),
            {(i,): [["tt.divisibility", 16]] for i in self.aligned},
        )
        target = GPUTarget("cuda", capability, 32)
        found: int = compile_kernel(
            source, target=target, options=dict(self.options)
        ).metadata.shared
        return found


def type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    return "i1" if isinstance(value, bool) else "i32" if isinstance(value, int) else "fp32"


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Launch]]:
    """What would have been launched."""
    made: set[Launch] = set()

    def note(
        kernel: Any, *values: Any, grid: Any = None, warmup: bool = False, **options: Any
    ) -> None:
        given = list(zip(kernel.params, values, strict=True))
        made.add(
            Launch(
                kernel,
                tuple(
                    "constexpr" if param.is_constexpr else type_of(value) for param, value in given
                ),
                tuple((param.name, value) for param, value in given if param.is_constexpr),
                tuple(i for i, value in enumerate(values) if isinstance(value, torch.Tensor)),
                tuple((name, value) for name, value in options.items() if name.startswith("num_")),
            )
        )

    monkeypatch.setenv(
        "TRITON_DEFAULT_FP_FUSION", "1"
    )  # 3.9 warns of a change of what it is by default
    monkeypatch.setattr(JITFunction, "run", note)
    yield made


def too_large(launches: set[Launch], capabilities: tuple[int, ...]) -> list[str]:
    """Which need more than there is."""
    return [
        f"{launch.kernel.__name__} for {capability}, {launch.constants}: {taken} bytes"
        for launch in launches
        for capability in capabilities
        if "*bf16" not in launch.types or capability >= 80  # the engine takes float16 before
        if (taken := launch.shared_bytes(capability)) > SHARED_BYTES[capability]
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_engine_s_kernels_compile_for_every_gpu_and_fit_on_it(
    dtype: Any, launches: set[Launch]
) -> None:
    from whisper_nano import whisper_nano

    request = EngineRequest(
        "whisper", str(whisper_nano()), "cpu", "float32", threads=1, offline=True
    )
    engine = _load_on(request, torch.device("cpu"))
    for width in (384, 1280):
        x, ones = torch.zeros((1, width), dtype=dtype), torch.ones(width, dtype=dtype)
        kernels.norm(x, Norm(ones, ones))
        kernels.add_norm(x, x, Norm(ones, ones))
        gemv_kernels.product(
            x, torch.zeros((4 * width, width), dtype=dtype), x.new_zeros(4 * width), gelu=True
        )
    for int8, n_rows in ((False, 1), (False, 64), (True, 1), (True, 64)):
        slots = Slots(engine._running.model, engine._directions.alignment_heads, n_rows, 256)
        slots.text = torch.zeros((2, 2, n_rows, HEADS, 256, SIZE), dtype=dtype)
        slots.queries = KeptQueries(
            torch.zeros((n_rows, 2, 256, SIZE), dtype=dtype), slots.queries.heads
        )
        kept_at = torch.full((2, HEADS), -1, dtype=torch.int32)
        shape = kernels.AudioShape(HEADS, SIZE, POSITIONS, int8, kept_at)
        attention = kernels.TritonAttention(slots, n_rows, shape, kernels.tuning_for(n_rows))
        attention.text(0, torch.zeros((n_rows, 1, 3 * HEADS * SIZE), dtype=dtype))
        attention.audio(0, torch.zeros((n_rows, 1, HEADS * SIZE), dtype=dtype))
        logits = torch.zeros((n_rows, TOKENS))
        kernels.advance(slots.state.first(n_rows), logits, engine._step_rules(timestamps=False))
    states = torch.zeros((1, POSITIONS, HEADS * SIZE), dtype=dtype)
    layer = SimpleNamespace(audio_key_value=lambda states: torch.cat([states, states], dim=2))
    kernels.audio_cache(
        SimpleNamespace(decoder_layers=[layer], heads=HEADS, head_size=SIZE), states
    )
    alignment_kernels.smoothed(torch.zeros((2, HEADS, 20, POSITIONS)))
    alignment_kernels.path_starts(torch.zeros((2, 20, POSITIONS)), [20, 20], [POSITIONS, POSITIONS])
    engine.close()

    assert len({launch.kernel for launch in launches}) == 9
    assert not too_large(launches, tuple(SHARED_BYTES))


@pytest.mark.parametrize(
    ("kept", "capabilities"), [(True, (80, 90)), (False, (80, 86, 89, 90, 120))]
)
def test_the_kernel_of_voice_detection_fits_on_every_gpu_that_it_is_made_for(
    kept: bool,
    capabilities: tuple[int, ...],
    launches: set[Launch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lstm_kernels, "_keeps_weights", lambda device: kept)
    state = torch.zeros((1, 1, 128)), torch.zeros((1, 1, 128))

    lstm_kernels.run_lanes(
        torch.zeros((500, 512)), torch.zeros((512, 128), dtype=torch.float16), state, 250, 5
    )

    (launch,) = launches
    assert not too_large(launches, capabilities)
    assert (launch.shared_bytes(90) >= lstm_kernels.KEPT_BYTES) == kept
