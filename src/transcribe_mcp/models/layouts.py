"""The files of a checkpoint in the two supported layouts, and the properties that they declare."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from ..errors import ModelFormatError

Layout = Literal["huggingface", "ctranslate2"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SHARDS = "model-*-of-*.safetensors"
_TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
_SETTINGS = ("config.json", "generation_config.json", "preprocessor_config.json")
_VOCABULARY = ("vocabulary.json", "vocabulary.txt")
WORD_LAG_S = 0.045  # of tiny.en, measured on 1,670 words with known times
OPENAI_TOKENS = 51_864  # vocabulary of the English models; the others have more
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete model on this disk.

    Attributes:
        name: canonical catalogue name, else the Hub id or the directory as the user gave it.
        english_only: supports English only, by the catalogue, else by the files of the model.
        can_translate: can translate into English; ``None`` if unknown.
        repo: repository on the Hub; ``None`` for a directory of the user.
        is_packaged: its files belong to an installed package.
    """

    name: str
    directory: Path
    layout: Layout
    english_only: bool
    can_translate: bool | None
    repo: str | None = None
    is_packaged: bool = False


def required_files(names: Collection[str], *, where: str) -> list[str]:
    """The files of a repository that are needed to use it. Errors name it as ``where``.

    Raises:
        ModelFormatError: as ``layout_of``.
    """
    if layout_of(names, where=where) == "ctranslate2":
        return [n for n in names if n in ("model.bin", *_VOCABULARY, *_TOKENIZER, *_SETTINGS)]
    tokenizer = ["tokenizer.json"] if "tokenizer.json" in names else list(_TOKENIZER)
    # Some repositories have the same weights in one file and in shards.
    weights = (
        [_SINGLE] if _SINGLE in names else [n for n in names if n == _INDEX or fnmatch(n, _SHARDS)]
    )
    return [n for n in names if n in (*weights, *tokenizer, *_SETTINGS)]


def file_names(directory: Path) -> list[str]:
    """The names in a directory.

    Raises:
        ModelFormatError: the directory is not readable.
    """
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise ModelFormatError(
            f"{directory} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error


def require_regular(directory: Path, names: Collection[str]) -> None:
    """Refuse files that cannot be read: a link to a missing file, as in a copied snapshot of the
    Hub's cache, and pipes, which would block.

    Raises:
        ModelFormatError
    """
    for path in (directory / name for name in names):
        if not path.exists():
            raise ModelFormatError(
                f"{path} is a symbolic link, and what it points to is missing",
                hint="copy the files themselves, not the links: cp -rL",
            )
        if not path.is_file():
            kind = "a directory" if path.is_dir() else "not a regular file"
            raise ModelFormatError(f"{path} is {kind}", hint="download or export the model again")


def layout_of(names: Collection[str], *, where: str) -> Layout:
    """Determine the layout from the names of the files.

    Raises:
        ModelFormatError: only pickled weights, no weights, or no configuration.
    """
    if "model.bin" in names and any(n in names for n in _VOCABULARY):
        return "ctranslate2"
    if _SINGLE in names or _INDEX in names:
        if "config.json" not in names:
            raise ModelFormatError(
                f"{where} has no config.json",
                hint="a Whisper checkpoint has one beside its weights",
            )
        return "huggingface"
    pickles = sorted(n for n in names if any(fnmatch(n, pattern) for pattern in _PICKLES))
    if pickles:
        raise ModelFormatError(
            f"{where} has only pickled weights ({pickles[0]}); loading a pickle can run code",
            hint="use a repository or revision with model.safetensors",
        )
    raise ModelFormatError(
        f"{where} contains no Whisper model",
        hint=(
            "a model has config.json and model.safetensors, or model.bin and vocabulary.json"
            " for CTranslate2"
        ),
    )


def is_english_only(checkpoint: Checkpoint) -> bool:
    """Whether the model supports English only: declared by its files, else derived from its
    vocabulary.

    Whisper's multilingual vocabulary has an empty token and the English one does not. CTranslate2
    uses the same rule.
    """
    generation = read_json(checkpoint.directory / "generation_config.json")
    if checkpoint.layout == "huggingface":
        if isinstance(generation.get("is_multilingual"), bool):
            return not generation["is_multilingual"]
        if isinstance(generation.get("lang_to_id"), dict) and generation["lang_to_id"]:
            return len(generation["lang_to_id"]) == 1
        return "" not in _huggingface_tokens(checkpoint.directory)
    return "" not in ctranslate2_tokens(checkpoint.directory)


def word_lag_s(checkpoint: Checkpoint) -> float:
    """Delay of the attention, measured with tiny.en; 0 for models of another family."""
    return WORD_LAG_S if has_openai_vocabulary(checkpoint) else 0.0


def has_openai_vocabulary(checkpoint: Checkpoint) -> bool:
    """Whether the model has OpenAI's vocabulary, and so derives from OpenAI's weights."""
    if checkpoint.layout == "huggingface":
        n_tokens = read_json(checkpoint.directory / "config.json").get("vocab_size")
    else:
        n_tokens = len(ctranslate2_tokens(checkpoint.directory))
    return isinstance(n_tokens, int) and n_tokens >= OPENAI_TOKENS


def n_decoder_layers(checkpoint: Checkpoint) -> int | None:
    """Decoder layers; ``None`` if unknown.

    A lower bound for CTranslate2, whose files name only the layers with alignment heads.
    """
    config = read_json(checkpoint.directory / "config.json")
    if checkpoint.layout == "huggingface":
        declared = config.get("decoder_layers")
        return declared if isinstance(declared, int) else None
    layers = [
        head[0] for head in config.get("alignment_heads") or () if isinstance(head, list) and head
    ]
    return max(layers) + 1 if layers else None


def _huggingface_tokens(directory: Path) -> Collection[str]:
    model = read_json(directory / "tokenizer.json").get("model")
    if isinstance(model, dict) and isinstance(model.get("vocab"), dict):
        return list(model["vocab"])
    return list(read_json(directory / "vocab.json"))


def ctranslate2_tokens(directory: Path) -> list[str]:
    """The tokens of a CTranslate2 model by id.

    Raises:
        ModelFormatError: the vocabulary is damaged or unreadable.
    """
    text = directory / "vocabulary.txt"
    file = text if text.is_file() else directory / "vocabulary.json"
    try:
        content = file.read_text(encoding="utf-8")
        tokens = content.removesuffix("\n").split("\n") if file is text else json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFormatError(
            f"{file} cannot be read: {error}", hint="download the model again"
        ) from error
    if not isinstance(tokens, list) or set(map(type, tokens)) - {str}:
        raise ModelFormatError(
            f"{file} contains no list of tokens", hint="download or convert the model again"
        )
    return tokens


def can_translate(checkpoint: Checkpoint, english_only: bool) -> bool | None:
    """Whether the model can translate into English; ``None`` if unknown."""
    if english_only or re.search(r"turbo|distil", checkpoint.name, re.IGNORECASE):
        return False
    config = read_json(checkpoint.directory / "config.json")
    encoder = config.get("encoder_layers")
    decoder = config.get("decoder_layers")
    # Large models with a pruned decoder were not trained to translate.
    return False if encoder == 32 and isinstance(decoder, int) and decoder <= 4 else None


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing.

    Raises:
        ModelFormatError: the file is damaged, unreadable or not an object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFormatError(
            f"{file} cannot be read: {error}", hint="download the model again"
        ) from error
    if not isinstance(content, dict):
        raise ModelFormatError(f"{file} is not a JSON object", hint="download the model again")
    return content


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a Hugging Face checkpoint, including missing ones."""
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    shards = read_json(directory / _INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelFormatError(
            f"{directory / _INDEX} names no files", hint="download the model again"
        )
    return [directory / name for name in sorted({Path(str(name)).name for name in shards.values()})]


def is_complete(snapshot: Path) -> bool:
    """Whether a snapshot in the Hub's cache has all required files; other tools may download
    fewer.
    """
    try:
        names = [name for name in file_names(snapshot) if (snapshot / name).is_file()]
        layout = layout_of(names, where=str(snapshot))
        weights = weight_files(snapshot) if layout == "huggingface" else [snapshot / "config.json"]
    except ModelFormatError:
        return False
    has_tokenizer = (
        layout == "ctranslate2"
        or "tokenizer.json" in names
        or {"vocab.json", "merges.txt"} <= set(names)
    )
    return has_tokenizer and all(file.is_file() for file in weights)
