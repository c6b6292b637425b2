"""Checkpoints as the PyTorch engine reads them: shards, older files, damage, and what they leave
unsaid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_checkpoints import Recipe, weights, write_checkpoint, write_json

torch = pytest.importorskip("torch")

from safetensors.numpy import save_file  # noqa: E402

from transcribe_mcp.engines import DecodingOptions, EngineRequest, load_recognizer  # noqa: E402
from transcribe_mcp.errors import ModelFormatError, UsageError  # noqa: E402
from transcribe_mcp.speech.regions import Region, Window  # noqa: E402

TONE = np.sin(np.arange(32_000, dtype=np.float32) / 9) * np.float32(0.1)
WINDOWS = [Window(5.0, TONE, (Region(5.0, 7.0),))]


def load(directory: Path, compute_type: str = "float32") -> Any:
    return load_recognizer(
        EngineRequest("whisper", str(directory), "cpu", compute_type, threads=1, offline=True)
    )


def heard(directory: Path) -> tuple[int, ...]:
    engine = load(directory)
    [decoded] = engine.decode(engine.encode(WINDOWS), ["en"], DecodingOptions())
    engine.close()
    tokens: tuple[int, ...] = decoded.tokens
    return tokens


@pytest.mark.parametrize(
    "recipe", [Recipe(shards=3), Recipe(prefix=""), Recipe(tokenizer="files"), Recipe(dtype="BF16")]
)
def test_every_form_of_a_checkpoint_holds_the_same_model(tmp_path: Path, recipe: Recipe) -> None:
    usual = write_checkpoint(tmp_path / "usual", Recipe(dtype="F32"))

    assert heard(write_checkpoint(tmp_path / "other", recipe)) == heard(usual)


def rewritten(directory: Path, **changes: Any) -> Path:
    write_checkpoint(directory, Recipe())
    tensors = {
        f"model.{name}": values.astype(np.float16) for name, values in weights(Recipe()).items()
    } | changes
    save_file(
        {name: values for name, values in tensors.items() if values is not None},
        directory / "model.safetensors",
    )
    return directory


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model.encoder.layers.1.fc1.weight": np.zeros((16, 32), np.float16)},
            r"fc1\.weight has shape \(16, 32\)",
        ),
        (
            {"model.decoder.layers.0.fc2.weight": None},
            r"no tensor model\.decoder\.layers\.0\.fc2\.weight",
        ),
        (
            {"model.encoder.conv1.bias": np.full(16, np.nan, np.float16)},
            r"conv1\.bias contains NaN or infinite values",
        ),
    ],
)
def test_damaged_weights_are_refused_by_name_and_with_a_way_out(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelFormatError, match=words) as caught:
        load(rewritten(tmp_path / "model", **changes))

    assert caught.value.hint


def test_weights_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model")
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(ModelFormatError, match="cut short"):
        load(directory)


def test_a_model_that_names_no_alignment_heads_is_timed_by_all_of_its_upper_half_with_a_warning(
    tmp_path: Path,
) -> None:
    directory = write_checkpoint(tmp_path / "model")
    write_json(directory / "generation_config.json", {"is_multilingual": True})

    engine = load(directory)
    encoded = engine.encode(WINDOWS)
    decoded = engine.decode(encoded, ["en"], DecodingOptions())
    [words] = engine.align(encoded, decoded, DecodingOptions())

    assert [notice.code for notice in engine.info.warnings] == ["no_alignment_heads"]
    assert "".join(word.text for word in words) == decoded[0].text
    assert all(5.0 <= word.start <= word.end <= 7.0 for word in words)
    engine.close()


def test_heads_that_a_model_does_not_have_are_left_out(tmp_path: Path) -> None:
    engine = load(write_checkpoint(tmp_path / "model"))

    assert engine._directions.alignment_heads == ((1, 0),)
    assert engine.info.warnings == ()
    engine.close()


def test_tokens_that_are_never_to_be_said_are_not_said(tmp_path: Path) -> None:
    assert not set(heard(write_checkpoint(tmp_path / "model"))) & {3, 4}


def test_a_model_in_ctranslate2_s_layout_is_refused_with_the_engine_for_it(tmp_path: Path) -> None:
    for name in ("model.bin", "vocabulary.txt", "config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")

    with pytest.raises(ModelFormatError) as caught:
        load(tmp_path)

    assert "ctranslate2" in caught.value.hint


def test_a_precision_that_the_device_does_not_have_is_refused_with_those_it_has(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="float16") as caught:
        load(write_checkpoint(tmp_path / "model"), "float16")

    assert "int8" in caught.value.hint
