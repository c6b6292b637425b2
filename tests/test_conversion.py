"""Checkpoints converted and loaded in CTranslate2: every layout, precision and damage."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ctranslate2
import numpy as np
import pytest
from numpy.typing import NDArray
from patience import PATIENCE_S
from small_checkpoints import (
    D_MODEL,
    HEADS,
    LAYERS,
    Recipe,
    token_id,
    vocab_size,
    weights,
    write_checkpoint,
    write_json,
)
from tokenizers import Tokenizer

from transcribe_mcp import models
from transcribe_mcp.domain.progress import no_progress
from transcribe_mcp.errors import CancelledError, ModelFormatError
from transcribe_mcp.models import conversion
from transcribe_mcp.settings import settings

NANO = Path(__file__).parents[2] / "shared" / "whisper-nano"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSCRIBE_MCP_CACHE_DIR", str(tmp_path / "cache"))
    settings.cache_clear()
    return tmp_path / "cache" / "converted"


def convert(directory: Path, quantization: str = "source") -> Path:
    checkpoint = models.resolve(str(directory), offline=True, progress=no_progress)
    return conversion.ctranslate2_directory(checkpoint, quantization, no_progress)  # type: ignore[arg-type]


def load(directory: Path, compute_type: str = "float32") -> ctranslate2.models.Whisper:
    return ctranslate2.models.Whisper(str(directory), compute_type=compute_type, intra_threads=1)


def mel(n_mels: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((1, n_mels, 3000), dtype=np.float32)


def decoded(model: ctranslate2.models.Whisper, recipe: Recipe) -> tuple[list[int], float]:
    prompt = ["<|startoftranscript|>", "<|notimestamps|>"]
    if recipe.multilingual:
        prompt[1:1] = ["<|en|>", "<|transcribe|>"]
    features = ctranslate2.StorageView.from_array(mel(recipe.n_mels))
    ids = [[token_id(recipe, token) for token in prompt]]
    result = model.generate(features, ids, beam_size=1, max_length=24, return_scores=True)[0]
    return result.sequences_ids[0], result.scores[0]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(n_mels=128, dtype="F32"),
        Recipe(dtype="BF16"),
        Recipe(shards=3),
        Recipe(multilingual=False),
        Recipe(tokenizer="files"),
        Recipe(prefix=""),
        Recipe(declared=False),
    ],
    ids=str,
)
def test_every_layout_of_the_same_weights_loads_and_decodes_alike(
    tmp_path: Path, recipe: Recipe
) -> None:
    model = load(convert(write_checkpoint(tmp_path / "model", recipe)))
    plain = Recipe(n_mels=recipe.n_mels, multilingual=recipe.multilingual)
    reference = load(convert(write_checkpoint(tmp_path / "reference", plain)))
    assert model.n_mels == recipe.n_mels
    assert model.is_multilingual == recipe.multilingual
    tokens, score = decoded(model, recipe)
    assert tokens
    if recipe.declared:  # undeclared, no token is suppressed
        assert (tokens, score) == decoded(reference, plain)


def attention(
    x: NDArray[np.float32],
    seen: NDArray[np.float32],
    w: dict[str, NDArray[np.float32]],
    name: str,
    causal: bool = False,
) -> NDArray[np.float32]:
    def heads(values: NDArray[np.float32], part: str) -> NDArray[np.float32]:
        projected = values @ w[f"{name}.{part}.weight"].T + w.get(
            f"{name}.{part}.bias", np.float32(0)
        )
        return projected.reshape(len(values), HEADS, -1).transpose(1, 0, 2)

    scores = (
        heads(x, "q_proj") @ heads(seen, "k_proj").transpose(0, 2, 1) / np.sqrt(D_MODEL / HEADS)
    )
    if causal:
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (
        (shares / shares.sum(-1, keepdims=True) @ heads(seen, "v_proj"))
        .transpose(1, 0, 2)
        .reshape(len(x), -1)
    )
    return mixed @ w[f"{name}.out_proj.weight"].T + w[f"{name}.out_proj.bias"]


def normalized(
    x: NDArray[np.float32], w: dict[str, NDArray[np.float32]], name: str
) -> NDArray[np.float32]:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"]
        + w[f"{name}.bias"]
    )


def gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    from math import erf

    return (x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))).astype(np.float32)


def convolved(
    x: NDArray[np.float32], w: dict[str, NDArray[np.float32]], name: str, stride: int
) -> NDArray[np.float32]:
    padded = np.pad(x, ((0, 0), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=1)[
        :, ::stride
    ]  # (channels, frames, 3)
    return gelu(np.einsum("cfk,ock->of", patches, w[f"{name}.weight"]) + w[f"{name}.bias"][:, None])


def feed_forward(
    x: NDArray[np.float32], w: dict[str, NDArray[np.float32]], layer: str
) -> NDArray[np.float32]:
    hidden = (
        normalized(x, w, f"{layer}.final_layer_norm") @ w[f"{layer}.fc1.weight"].T
        + w[f"{layer}.fc1.bias"]
    )
    return gelu(hidden) @ w[f"{layer}.fc2.weight"].T + w[f"{layer}.fc2.bias"]


def encoded_by_numpy(w: dict[str, NDArray[np.float32]], layers: int) -> NDArray[np.float32]:
    """(1500, d_model): what Whisper's encoder makes of ``mel``, written down from the paper's
    formulas.
    """
    x = convolved(convolved(mel(80)[0], w, "encoder.conv1", 1), w, "encoder.conv2", 2).T
    x = x + w["encoder.embed_positions.weight"]
    for layer in (f"encoder.layers.{number}" for number in range(layers)):
        normal = normalized(x, w, f"{layer}.self_attn_layer_norm")
        x = x + attention(normal, normal, w, f"{layer}.self_attn")
        x = x + feed_forward(x, w, layer)
    return normalized(x, w, "encoder.layer_norm")


def logits_by_numpy(
    w: dict[str, NDArray[np.float32]], sound: NDArray[np.float32], prompt: list[int], layers: int
) -> NDArray[np.float32]:
    """(vocabulary,): the decoder's logits of the token after ``prompt``."""
    x = (
        w["decoder.embed_tokens.weight"][prompt]
        + w["decoder.embed_positions.weight"][: len(prompt)]
    )
    for layer in (f"decoder.layers.{number}" for number in range(layers)):
        normal = normalized(x, w, f"{layer}.self_attn_layer_norm")
        x = x + attention(normal, normal, w, f"{layer}.self_attn", causal=True)
        x = x + attention(
            normalized(x, w, f"{layer}.encoder_attn_layer_norm"), sound, w, f"{layer}.encoder_attn"
        )
        x = x + feed_forward(x, w, layer)
    return (normalized(x, w, "decoder.layer_norm") @ w["decoder.embed_tokens.weight"].T)[-1]


def test_the_converted_model_computes_what_the_weights_say(tmp_path: Path) -> None:
    model = load(convert(write_checkpoint(tmp_path / "model")))
    features = ctranslate2.StorageView.from_array(mel(80))
    w = weights(Recipe())
    sound = encoded_by_numpy(w, LAYERS)
    encoded = np.array(model.encode(features, to_cpu=True))[0]
    np.testing.assert_allclose(encoded, sound, atol=2e-3)
    tokens = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
    prompt = [token_id(Recipe(), token) for token in tokens]
    options = {
        "beam_size": 1,
        "max_length": len(prompt) + 1,
        "suppress_blank": False,
        "suppress_tokens": [],
    }
    result = model.generate(features, [prompt], return_logits_vocab=True, **options)[0]
    logits = np.array(result.logits[0][0]).ravel()
    np.testing.assert_allclose(logits, logits_by_numpy(w, sound, prompt, LAYERS), atol=2e-3)


def test_stored_int8_is_what_ctranslate2_makes_of_the_source_when_it_loads(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "model")
    stored, made = load(convert(source, "int8"), "int8"), load(convert(source), "int8")
    assert decoded(stored, Recipe()) == decoded(made, Recipe())
    assert (convert(source, "int8") / "model.bin").stat().st_size < (
        convert(source) / "model.bin"
    ).stat().st_size


@pytest.mark.parametrize("multilingual", [True, False])
def test_ctranslate2_sees_the_languages_that_are_declared_whatever_the_vocabulary(
    tmp_path: Path, multilingual: bool
) -> None:
    recipe = Recipe(multilingual=multilingual, empty_token=not multilingual)
    model = load(convert(write_checkpoint(tmp_path / "model", recipe)))
    assert model.is_multilingual == multilingual


def test_the_decoding_settings_come_from_the_checkpoint_without_heads_that_it_lacks(
    tmp_path: Path,
) -> None:
    converted = convert(write_checkpoint(tmp_path / "model"))
    config = json.loads((converted / "config.json").read_text())
    languages = [token_id(Recipe(), "<|en|>"), token_id(Recipe(), "<|de|>")]
    expected = {
        "alignment_heads": [[1, 0]],
        "lang_ids": languages,
        "suppress_ids": [3, 4],
        "suppress_ids_begin": [],
    }
    assert config == expected


def test_without_declared_settings_the_upper_layers_align_and_the_tokens_name_the_languages(
    tmp_path: Path,
) -> None:
    converted = convert(write_checkpoint(tmp_path / "model", Recipe(declared=False)))
    config = json.loads((converted / "config.json").read_text())
    assert config["alignment_heads"] == [[1, 0], [1, 1]]
    assert config["lang_ids"] == [token_id(Recipe(), "<|en|>"), token_id(Recipe(), "<|de|>")]


def test_a_tokenizer_that_ends_before_the_timestamps_is_continued_in_the_vocabulary(
    tmp_path: Path,
) -> None:
    vocabulary = json.loads(
        (convert(write_checkpoint(tmp_path / "model")) / "vocabulary.json").read_text()
    )
    assert len(vocabulary) == vocab_size(Recipe())
    assert vocabulary[-11:] == [f"<|{i * 0.02:.2f}|>" for i in range(11)]


def test_a_tokenizer_built_from_vocabulary_and_merges_speaks_like_the_one_in_json(
    tmp_path: Path,
) -> None:
    texts = ["Hello world", "Grüße, 12 €", "a<|notimestamps|>b"]
    files = [
        convert(write_checkpoint(tmp_path / kind, Recipe(tokenizer=kind)))
        for kind in ("json", "files")
    ]
    read, built = (Tokenizer.from_file(str(directory / "tokenizer.json")) for directory in files)
    assert [built.encode(t).ids for t in texts] == [read.encode(t).ids for t in texts]
    assert [built.decode(read.encode(t).ids) for t in texts] == ["Hello world", "Grüße, 12 €", "ab"]


def test_a_checkpoint_is_read_and_converted_once(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "model")
    first = convert(source)
    calls: list[str] = []
    checkpoint = models.resolve(str(source), offline=True, progress=no_progress)
    again = conversion.ctranslate2_directory(
        checkpoint, "source", lambda stage, done, total: calls.append(stage)
    )
    assert again == first
    assert calls == []


def test_changed_weights_are_converted_anew(tmp_path: Path) -> None:
    first = convert(write_checkpoint(tmp_path / "model"))
    second = convert(write_checkpoint(tmp_path / "model", Recipe(dtype="F32")))
    assert second != first
    assert first.is_dir()


def test_a_stopped_conversion_leaves_nothing_and_what_a_killed_one_left_is_cleaned(
    tmp_path: Path, cache: Path
) -> None:
    checkpoint = models.resolve(
        str(write_checkpoint(tmp_path / "model")), offline=True, progress=no_progress
    )
    killed = cache / f"{'0' * 40}.99999.tmp"
    killed.mkdir(parents=True)
    (killed / "model.bin").write_bytes(b"half")

    def stop(stage: str, done: float, total: float | None) -> None:
        if stage == "convert":
            raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        conversion.ctranslate2_directory(checkpoint, "source", stop)
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_two_processes_at_once_make_one_conversion(tmp_path: Path, cache: Path) -> None:
    source = write_checkpoint(tmp_path / "model")
    program = (
        "import sys; from transcribe_mcp import models; from transcribe_mcp.models "
        "import conversion;"
        "from transcribe_mcp.domain.progress import no_progress;"
        "c = models.resolve(sys.argv[1], offline=True, progress=no_progress);"
        "print(conversion.ctranslate2_directory(c, 'source', no_progress))"
    )
    command = [sys.executable, "-c", program, str(source)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate(timeout=PATIENCE_S)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(printed) == 1
    assert [path for path in cache.iterdir() if path.is_dir()] == [Path(printed.pop())]


def cut_weights(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def cut_header(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])


def rewrite(directory: Path, old: str, new: str) -> None:
    """Change the header of the weights, keeping its length."""
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(old.encode(), new.encode(), 1))


def change(directory: Path, file: str, **values: object) -> None:
    content = json.loads((directory / file).read_text())
    write_json(directory / file, {**content, **values})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut_weights, "model.safetensors is cut short"),
        (cut_header, "model.safetensors is cut short"),
        (lambda d: (d / "model.safetensors").write_bytes(b""), "model.safetensors is cut short"),
        (
            lambda d: (d / "model.safetensors").write_bytes(b"\x10" + b"\0" * 40),
            "header is damaged",
        ),
        (lambda d: rewrite(d, "layers.1.fc1.weight", "layers.1.fc0.weight"), "no tensor model."),
        (lambda d: change(d, "config.json", d_model=18), "has shape (16, 80, 3), not (18, 80, 3)"),
        (lambda d: change(d, "config.json", d_model=15), "not a multiple of 2 encoder heads"),
        (lambda d: change(d, "config.json", vocab_size=None), "vocab_size is None"),
        (lambda d: change(d, "config.json", model_type="bart"), "'bart' model, not Whisper"),
        (lambda d: (d / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda d: (d / "tokenizer.json").write_text("{"), "tokenizer.json cannot be read"),
        (lambda d: (d / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda d: change(d, "tokenizer.json", added_tokens=[]), "no token <|startoftranscript|>"),
        (
            lambda d: (d / "generation_config.json").write_text("[]"),
            "generation_config.json is not a JSON object",
        ),
    ],
)
def test_a_damaged_checkpoint_is_named_and_leaves_nothing(
    tmp_path: Path, cache: Path, damage: Callable[[Path], object], told: str
) -> None:
    source = write_checkpoint(tmp_path / "model")
    damage(source)
    with pytest.raises(ModelFormatError) as caught:
        convert(source)
    assert told in str(caught.value)
    assert [path for path in cache.glob("*") if path.is_dir()] == []


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "model", Recipe(shards=2))
    (source / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelFormatError, match=r"model-00002-of-00002\.safetensors is missing"):
        convert(source)


@pytest.mark.skipif(not NANO.is_dir(), reason="needs ../shared")
@pytest.mark.parametrize("quantization", ["source", "int8"])
def test_whisper_nano_understands_speech_after_conversion(quantization: str) -> None:
    import av

    from transcribe_mcp.speech.features import log_mel

    speech = NANO.parent / "eval" / "tts" / "00.flac"
    with av.open(str(speech)) as container:
        samples = np.concatenate(
            [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
        )
    directory = convert(NANO, quantization)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    model = load(directory, "int8")
    features = ctranslate2.StorageView.from_array(
        log_mel(samples.astype(np.float32) / 32768, 80)[None]
    )
    assert model.detect_language(features)[0][0][0] == "<|en|>"
    prompt = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    result = model.generate(features, [[tokenizer.token_to_id(t) for t in prompt]], beam_size=1)[0]
    text = tokenizer.decode(result.sequences_ids[0])
    assert "Of or relating to a cross section." in text
