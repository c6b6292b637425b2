"""Which engine ``auto`` is, and how many windows at once: from what is installed, shown by the
driver, and free.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from whisper_nano import whisper_nano

from transcribe_mcp.compat.device_choice import BATCHES_BESIDE, LISTENING_BYTES, batch_that_fits
from transcribe_mcp.compat.memory import BATCHES, geometries, geometry, largest_batch, memory_need
from transcribe_mcp.engines.auto import auto_engine
from transcribe_mcp.engines.model_shape import known_shape
from transcribe_mcp.models import find_cached

GIGABYTE = 1_000_000_000


def test_without_a_gpu_auto_is_ctranslate2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert auto_engine("auto", "auto", "auto") == "ctranslate2"


def test_a_cpu_that_was_asked_for_gets_ctranslate2_without_a_look_at_the_gpu() -> None:
    program = (
        "import sys, transcribe_mcp.engines.auto as c; assert c.auto_engine('auto', 'cpu', "
        "'auto') == 'ctranslate2';"
        "assert not {'torch', 'ctranslate2'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("compute_type", ["bfloat16", "bfloat16+int8", "float32"])
def test_the_batch_fits_beside_those_before_and_behind_it_and_the_next_larger_one_would_not(
    compute_type: str,
) -> None:
    for shape in geometries():
        for free_bytes in (4 * GIGABYTE, 12 * GIGABYTE, 80 * GIGABYTE):
            batch = batch_that_fits(shape, "whisper", compute_type, free_bytes, most=128)
            larger = min((size for size in BATCHES if size > batch), default=None)

            def total(size: int, shape=shape) -> int:
                need = memory_need(shape, "whisper", compute_type, size)
                return (
                    need.total_bytes
                    + BATCHES_BESIDE["whisper"] * need.audio_cache_bytes
                    + LISTENING_BYTES
                )

            assert batch == 1 or total(batch) <= 0.9 * free_bytes
            assert batch == 128 or (larger is not None and total(larger) > 0.9 * free_bytes)


def test_no_more_windows_are_taken_than_are_fastest() -> None:
    assert batch_that_fits(geometry("tiny"), "whisper", "bfloat16", 80 * GIGABYTE, most=48) == 48


def test_eight_bit_keys_and_values_make_room_for_more_windows() -> None:
    plain, small = (
        largest_batch(geometry("large-v3"), "whisper", kind, 24 * GIGABYTE)
        for kind in ("bfloat16", "bfloat16+int8")
    )
    assert small > plain > 0


def test_more_windows_never_need_less_memory() -> None:
    for engine in ("whisper", "torch", "ctranslate2", "cpu"):
        needs = [
            memory_need(geometry("small"), engine, "float16", batch).total_bytes
            for batch in BATCHES
        ]
        assert needs == sorted(needs)


def test_a_model_s_dimensions_are_read_from_its_own_files() -> None:
    shape = known_shape(find_cached(str(whisper_nano())))
    assert (shape.n_state, shape.n_head, shape.encoder_layers, shape.decoder_layers) == (
        256,
        4,
        5,
        4,
    )
