"""``transcribe-mcp bench`` on a real model, and against a real peer."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from command_line import run
from slow import slow
from whisper_nano import SPEECH, kept_conversions, whisper_nano

from transcribe_mcp.compat.memory import geometry

ON_THE_CPU = (
    "--engine",
    "ctranslate2",
    "--device",
    "cpu",
    "--compute-type",
    "int8",
    "--offline",
    "--runs",
    "1",
)


@pytest.fixture(autouse=True, scope="module")
def conversions() -> Iterator[None]:
    with kept_conversions():
        yield


def test_every_stage_has_its_line_and_the_json_says_the_same(tmp_path) -> None:
    arguments = (
        "bench",
        SPEECH / "en_0.flac",
        "--minutes",
        "0.3",
        "--model",
        whisper_nano(),
        *ON_THE_CPU,
    )

    done = run(*arguments, "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert list(stages) == ["speech", "encode", "decode", "words", "total, stages overlapped"]
    assert all(stage["seconds"] > 0 for stage in stages.values())
    assert stages["encode"]["times_real_time"] == pytest.approx(
        18.0 / stages["encode"]["seconds"], rel=0.01
    )
    assert (found["audio_s"], found["windows"], found["peers"]) == (pytest.approx(18.0), 1, [])
    assert found["tokens"] > 10
    assert found["peak_bytes"] > 100e6


@slow
def test_the_share_of_the_ceiling_is_told_where_numbers_are_as_wide_as_the_ceilings(
    tmp_path,
) -> None:
    arguments = (
        "bench",
        "--minutes",
        "0.2",
        "--model",
        whisper_nano(),
        *ON_THE_CPU,
        "--compute-type",
        "float32",
    )

    done = run(*arguments, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    encode = next(line for line in done.stdout.splitlines() if line.startswith("encode"))
    assert "TFLOP/s" in encode


@slow
def test_a_peer_that_is_installed_has_its_line_over_the_same_recording(tmp_path) -> None:
    arguments = ("bench", "--minutes", "0.2", "--model", whisper_nano(), "--peers", *ON_THE_CPU)

    done = run(*arguments, "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    peers = {peer["name"]: peer for peer in json.loads(done.stdout)["peers"]}
    assert peers["faster-whisper"]["seconds"] > 0, peers


@pytest.mark.parametrize("wrong", [("--minutes", "0"), ("--minutes", "1000"), ("--runs", "0")])
def test_what_cannot_be_measured_is_refused_with_the_range(
    wrong: tuple[str, str], tmp_path
) -> None:
    done = run("bench", *wrong, *ON_THE_CPU[:-2], cwd=tmp_path)

    assert done.returncode == 2
    assert wrong[0] in done.stderr
    assert "hint:" in done.stderr


def test_the_work_of_a_large_model_is_counted_as_its_authors_count_it() -> None:
    """Two operations for every weight and position, and those of attention."""
    large = geometry("large-v3")
    by_weights = 2 * 1500 * large.encoder_parameters

    assert large.encoder_flops == pytest.approx(by_weights, rel=0.4)
    assert large.encoder_flops > by_weights
    one, many = (large.decoding_bytes(batch, 100, 2, 2) for batch in (1, 64))
    assert one > 104 * 1.5e9, "every step reads all weights"
    assert many < 64 * one
