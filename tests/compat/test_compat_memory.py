"""The memory model against published parameter counts and against measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from transcribe_mcp.compat.memory import (
    BATCHES,
    OVERHEADS,
    WEIGHT_BYTES,
    geometries,
    geometry,
    largest_batch,
    memory_need,
)
from transcribe_mcp.compat.tables import table

WITHIN = 0.15
MEASURED = table("memory_measured").rows
# Trained parameters of openai/whisper's checkpoints, counted from the published state dictionaries'
# shapes.
PARAMETERS = {
    "tiny": 37184640,
    "base": 71825920,
    "small": 240582912,
    "medium": 762321920,
    "large-v2": 1541384960,
}


@pytest.mark.parametrize("model", PARAMETERS)
def test_parameters_are_counted_exactly(model: str) -> None:
    assert geometry(model).parameters == PARAMETERS[model]


def error_of(row: Mapping[str, Any]) -> float:
    need = memory_need(geometry(row["model"]), row["engine"], row["precision"], row["batch"])
    return abs(need.total_bytes / row["measured_bytes"] - 1)


@pytest.mark.parametrize(
    "row",
    MEASURED,
    ids=lambda row: "-".join(map(str, list(row.values())[:4])),
)
def test_the_prediction_is_within_15_percent_of_what_was_measured(row: Mapping[str, Any]) -> None:
    assert error_of(row) <= WITHIN


def test_every_size_was_measured_on_a_gpu_with_both_engines_in_small_and_large_batches() -> None:
    measured = {(row["engine"], row["model"], row["precision"], row["batch"]) for row in MEASURED}
    for engine, precision in (
        ("torch", "float16"),
        ("ctranslate2", "float16"),
        ("ctranslate2", "int8_float16"),
    ):
        for model in ("tiny", "base", "small", "medium", "large-v3", "large-v3-turbo"):
            assert {(engine, model, precision, batch) for batch in (1, 16)} <= measured


# https://github.com/SYSTRAN/faster-whisper#benchmark: large-v2, beam 5, one window at a time, RTX
# 3070 Ti 8 GB.
@pytest.mark.parametrize(
    ("precision", "published_mebibytes"), [("float16", 4525), ("int8_float16", 2926)]
)
def test_the_prediction_is_within_15_percent_of_faster_whisper_s_figures(
    precision: str, published_mebibytes: int
) -> None:
    need = memory_need(geometry("large-v2"), "ctranslate2", precision, batch=1, beam=5)
    assert abs(need.total_bytes / (published_mebibytes << 20) - 1) <= WITHIN


def test_more_windows_more_beams_and_more_precision_need_more_memory() -> None:
    for shape in geometries():
        for engine in OVERHEADS:
            for dtype in WEIGHT_BYTES:
                needs = [memory_need(shape, engine, dtype, batch).total_bytes for batch in BATCHES]
                assert needs == sorted(set(needs))
            assert (
                memory_need(shape, engine, "float32", 8).total_bytes
                > memory_need(shape, engine, "float16", 8).total_bytes
            )
            beams = [
                memory_need(shape, engine, "float16", 8, beam).text_cache_bytes for beam in (1, 5)
            ]
            assert beams[1] == 5 * beams[0]


def test_the_largest_batch_fits_and_the_next_does_not() -> None:
    for shape in geometries():
        for available_bytes in (1 << 30, 8 << 30, 80 << 30):
            batch = largest_batch(shape, "ctranslate2", "float16", available_bytes)
            for each in BATCHES:
                need = memory_need(shape, "ctranslate2", "float16", each).total_bytes
                assert (need <= 0.9 * available_bytes) == (each <= batch)


def test_a_model_that_is_not_in_the_table_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        geometry("enormous")
