"""A model whose files are damaged or do not fit each other is refused by name, before any recording
is looked at.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SAMPLES, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from small_checkpoints import SPECIALS, Recipe, write_checkpoint

from transcribe_mcp.domain.progress import no_progress
from transcribe_mcp.engines import DecodingOptions, EngineRequest, load_recognizer
from transcribe_mcp.errors import ModelFormatError, TranscribeError
from transcribe_mcp.models import conversion, resolve
from transcribe_mcp.models.model_bin import read_variables
from transcribe_mcp.settings import settings as program_settings
from transcribe_mcp.speech.regions import Region, Window

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A healthy model in both layouts, and one of another kind to take files from."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSCRIBE_MCP_CACHE_DIR", str(folder / "cache"))
        program_settings.cache_clear()
        source = write_checkpoint(folder / "huggingface")
        checkpoint = resolve(str(source), offline=True, progress=no_progress)
        converted = conversion.ctranslate2_directory(checkpoint, "source", no_progress)
        shutil.copytree(converted, folder / "ctranslate2")
        write_checkpoint(folder / "other", Recipe(multilingual=False))
        yield {name: folder / name for name in ("huggingface", "ctranslate2", "other")}
    program_settings.cache_clear()


def deleted(name: str) -> Damage:
    return lambda model: (model / name).unlink()


def written(name: str, text: str) -> Damage:
    return lambda model: (model / name).write_text(text, encoding="utf-8")


def cut(name: str, share: float) -> Damage:
    def do(model: Path) -> None:
        content = (model / name).read_bytes()
        (model / name).write_bytes(content[: int(len(content) * share)])

    return do


def changed(name: str, **values: Any) -> Damage:
    def do(model: Path) -> None:
        content = json.loads((model / name).read_text(encoding="utf-8"))
        (model / name).write_text(json.dumps(content | values), encoding="utf-8")

    return do


def a_directory(name: str) -> Damage:
    def do(model: Path) -> None:
        (model / name).unlink()
        (model / name).mkdir()

    return do


def a_broken_link(name: str) -> Damage:
    """As in a snapshot of the Hub's cache that was copied without its blobs."""

    def do(model: Path) -> None:
        (model / name).unlink()
        (model / name).symlink_to(f"../../blobs/{name}")

    return do


def a_pipe(name: str) -> Damage:
    def do(model: Path) -> None:
        (model / name).unlink()
        os.mkfifo(model / name)

    return do


def from_another(*names: str) -> Damage:
    return lambda model: [
        shutil.copy(model.parent / "other" / name, model / name) for name in names
    ]


def bert_tokenizer(model: Path) -> None:
    words = {"[UNK]": 0, "the": 1}
    vocabulary = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "vocab": words,
    }
    content = {
        "version": "1.0",
        "added_tokens": [],
        "model": vocabulary | {"max_input_chars_per_word": 100},
    }
    (model / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def no_numbers(model: Path) -> None:
    if (model / "model.safetensors").is_file():
        tensors = load_file(model / "model.safetensors")
        tensors["model.encoder.layers.0.fc1.weight"][3, 5] = np.nan
        save_file(tensors, model / "model.safetensors")
        return
    variables = read_variables(model / "model.bin")
    assert variables is not None
    with (model / "model.bin").open("r+b") as stream:
        stream.seek(variables["decoder/layer_0/ffn/linear_0/weight"].offset)
        stream.write(np.float16(np.inf).tobytes())


def text_token_gone(model: Path) -> None:
    content = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    del content["model"]["vocab"]["A"]
    (model / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def specials_swapped(model: Path) -> None:
    text = (model / "tokenizer.json").read_text(encoding="utf-8")
    text = text.replace("<|endoftext|>", "<|swapped|>").replace(
        "<|startoftranscript|>", "<|endoftext|>"
    )
    (model / "tokenizer.json").write_text(
        text.replace("<|swapped|>", "<|startoftranscript|>"), encoding="utf-8"
    )


IN_BOTH: dict[str, Damage] = {
    "no config": deleted("config.json"),
    "no tokenizer": deleted("tokenizer.json"),
    "config is empty": written("config.json", ""),
    "config is a list": written("config.json", "[]"),
    "config is a number": written("config.json", "7"),
    "config is nested without end": written("config.json", "[" * 200_000),
    "config is a directory": a_directory("config.json"),
    "config is no UTF-8": lambda model: (model / "config.json").write_bytes(b'{"a": "\xff\xfe"}'),
    "tokenizer is empty": written("tokenizer.json", ""),
    "tokenizer is another Whisper's": from_another("tokenizer.json"),
    "tokenizer is no Whisper's": bert_tokenizer,
    "tokenizer lacks a letter": text_token_gone,
    "tokenizer has an id that is text": changed(
        "tokenizer.json", added_tokens=[{"id": "x", "content": "<|en|>"}]
    ),
    "tokenizer has a negative id": changed(
        "tokenizer.json", added_tokens=[{"id": -1, "content": "<|en|>"}]
    ),
    "preprocessor is of a model with other mels": changed(
        "preprocessor_config.json", feature_size=128
    ),
    "weights are not numbers": no_numbers,
}
IN_CTRANSLATE2: dict[str, Damage] = {
    **{
        f"model.bin is cut to {share:.0%}": cut("model.bin", share)
        for share in (0, 0.0001, 0.1, 0.5, 0.999)
    },
    "model.bin lacks its last byte": lambda m: (m / "model.bin").write_bytes(
        (m / "model.bin").read_bytes()[:-1]
    ),
    "model.bin is something else": lambda m: (m / "model.bin").write_bytes(
        np.random.default_rng(1).bytes(100_000)
    ),
    "model.bin is of another kind": lambda m: (m / "model.bin").write_bytes(
        (m / "model.bin").read_bytes().replace(b"WhisperSpec", b"Transformer", 1)
    ),
    "model.bin is a directory": a_directory("model.bin"),
    "tokenizer has special tokens in other places": specials_swapped,
    "no alignment heads": changed("config.json", alignment_heads=[]),
    "no languages": changed("config.json", lang_ids=None),
    "vocabulary is an object": written("vocabulary.json", "{}"),
    "vocabulary is short": written("vocabulary.json", '["a", "b"]'),
    "vocabulary is of numbers": written("vocabulary.json", "[1, 2]"),
    "languages beyond the vocabulary": changed("config.json", lang_ids=[999_999]),
    "languages below zero": changed("config.json", lang_ids=[-5]),
    "languages are text": changed("config.json", lang_ids=["en"]),
    "languages are no list": changed("config.json", lang_ids=7),
    "suppressed tokens beyond the vocabulary": changed("config.json", suppress_ids=[999_999]),
    "suppressed tokens are text": changed("config.json", suppress_ids_begin=["a"]),
    "heads in layers that are not there": changed("config.json", alignment_heads=[[99, 0]]),
    "heads that are not there": changed("config.json", alignment_heads=[[0, 99]]),
    "heads below zero": changed("config.json", alignment_heads=[[0, -1]]),
    "heads are text": changed("config.json", alignment_heads="x"),
    "heads are no pairs": changed("config.json", alignment_heads=[[1]]),
    "heads are fractions": changed("config.json", alignment_heads=[[0.5, 1.5]]),
}
IN_HUGGINGFACE: dict[str, Damage] = {
    **{
        f"weights are cut to {share:.0%}": cut("model.safetensors", share)
        for share in (0, 0.0001, 0.1, 0.5, 0.999)
    },
    "weights are something else": written("model.safetensors", "not weights at all"),
    "config is of another model": changed("config.json", model_type="bert"),
    "config has another number of mels": changed("config.json", num_mel_bins=128),
    "config has a number of mels that no Whisper has": changed("config.json", num_mel_bins=100),
    "config has another vocabulary": changed("config.json", vocab_size=1000),
    "config has a vocabulary without end": changed("config.json", vocab_size=10**15),
    "config has layers that are not there": changed("config.json", decoder_layers=10**9),
    "config has no layers": changed("config.json", encoder_layers=0),
    "config has fewer positions": changed("config.json", max_target_positions=100),
    "generation config is a list": written("generation_config.json", "[]"),
    "languages beyond the vocabulary": changed(
        "generation_config.json", lang_to_id={"<|en|>": 999_999}
    ),
    "languages below zero": changed("generation_config.json", lang_to_id={"<|en|>": -1}),
    "languages are text": changed("generation_config.json", lang_to_id={"<|en|>": "x"}),
    "languages are a list": changed("generation_config.json", lang_to_id=["<|en|>"]),
    "languages are a number": changed("generation_config.json", lang_to_id=7, is_multilingual=None),
    "languages at other tokens": changed("generation_config.json", lang_to_id={"<|en|>": 3}),
    "the first token at another place": changed("generation_config.json", decoder_start_token_id=3),
    "heads are text": changed("generation_config.json", alignment_heads="x"),
    "heads are a number": changed("generation_config.json", alignment_heads=7),
    "heads are no pairs": changed("generation_config.json", alignment_heads=[[1], [2, 3, 4]]),
    "heads below zero": changed("generation_config.json", alignment_heads=[[-1, 0]]),
    "heads are fractions": changed("generation_config.json", alignment_heads=[[0.5, float("nan")]]),
    "suppressed tokens are a number": changed("generation_config.json", suppress_tokens=7),
}
CASES = [
    *((engine, layout, name) for name in IN_BOTH for engine, layout in
      (("ctranslate2", "huggingface"), ("ctranslate2", "ctranslate2"), ("whisper", "huggingface"))),
    *(("ctranslate2", "ctranslate2", name) for name in IN_CTRANSLATE2),
    *((engine, "huggingface", name) for name in IN_HUGGINGFACE
      for engine in ("ctranslate2", "whisper")),
]  # fmt: skip


def damaged(models: dict[str, Path], layout: str, name: str) -> Path:
    damage = (IN_BOTH | {"ctranslate2": IN_CTRANSLATE2, "huggingface": IN_HUGGINGFACE}[layout])[
        name
    ]
    model = models[layout].parent / f"{layout} that is damaged"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(models[layout], model)
    damage(model)
    return model


def load(engine: str, model: Path) -> Any:
    if engine == "whisper":
        pytest.importorskip("torch")
    return load_recognizer(
        EngineRequest(engine=engine, model=str(model), device="cpu", offline=True)
    )


@pytest.mark.parametrize(("engine", "layout", "name"), CASES)
def test_a_damaged_model_is_refused_by_name_when_it_is_loaded(
    models: dict[str, Path], engine: str, layout: str, name: str
) -> None:
    model = damaged(models, layout, name)

    with pytest.raises(ModelFormatError) as caught:
        load(engine, model)

    assert str(model) in str(caught.value)
    assert caught.value.hint
    assert not any(mark in str(caught.value) for mark in ("json.exception", "std::", "Traceback"))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX links and pipes")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "weights"])
@pytest.mark.parametrize("layout", ["huggingface", "ctranslate2"])
def test_a_broken_link_or_a_pipe_in_a_model_is_named_and_not_waited_for(
    models: dict[str, Path], tmp_path: Path, layout: str, name: str
) -> None:
    if name == "weights":
        name = {"huggingface": "model.safetensors", "ctranslate2": "model.bin"}[layout]
    for number, (damage, words) in enumerate(
        ((a_broken_link, "is a symbolic link, and what it points to is missing"),
         (a_pipe, "is not a regular file"))
    ):  # fmt: skip
        model = shutil.copytree(models[layout], tmp_path / str(number))
        damage(name)(model)
        with pytest.raises(ModelFormatError) as caught:
            load("ctranslate2", model)
        assert str(caught.value) == f"{model / name} {words}"


@pytest.mark.parametrize(("engine", "layout"), sorted({case[:2] for case in CASES}))
def test_the_healthy_model_is_taken(models: dict[str, Path], engine: str, layout: str) -> None:
    taken = load(engine, models[layout])
    taken.close()

    assert taken.info.languages == ("de", "en")


def test_the_command_line_blames_the_model_and_not_the_recording(
    models: dict[str, Path], tmp_path: Path
) -> None:
    model = damaged(models, "ctranslate2", "heads in layers that are not there")

    done = run(
        "transcribe",
        SAMPLES / "welcome.flac",
        "--model",
        model,
        "--engine",
        "ctranslate2",
        cwd=tmp_path,
    )

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {model / 'config.json'}: alignment_heads has [99, 0]")
    assert "hint: " in done.stderr
    assert "welcome.flac" not in done.stderr


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(SPECIALS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_a_settings_file_says_the_model_works_or_is_refused(
    models: dict[str, Path], data: st.DataObject
) -> None:
    engine_name, layout = data.draw(st.sampled_from(sorted({case[:2] for case in CASES})))
    name = data.draw(
        st.sampled_from(sorted(path.name for path in models[layout].glob("*config.json")))
    )
    content = json.loads((models[layout] / name).read_text(encoding="utf-8"))
    content[data.draw(st.sampled_from(sorted(content)))] = data.draw(_VALUES)
    model = models[layout].parent / f"{layout} of any content"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(models[layout], model)
    (model / name).write_text(json.dumps(content), encoding="utf-8")
    window = Window(0.0, np.zeros(16_000, np.float32), (Region(0.0, 1.0),))

    try:
        engine = load(engine_name, model)
    except TranscribeError as error:
        assert isinstance(error, ModelFormatError), error
        assert error.hint
        return
    encoded, options = engine.encode([window]), DecodingOptions()
    engine.detect_language(encoded)
    engine.align(encoded, engine.decode(encoded, ["en"], options), options)
    engine.close()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind here"
)
def test_files_that_may_not_be_read_are_named(models: dict[str, Path]) -> None:
    model = damaged(models, "ctranslate2", "no tokenizer")
    shutil.copy(models["ctranslate2"] / "tokenizer.json", model)
    (model / "model.bin").chmod(0)
    with pytest.raises(ModelFormatError, match=r"model\.bin cannot be read"):
        load("ctranslate2", model)
