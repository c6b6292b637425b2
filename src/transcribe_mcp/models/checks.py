"""Whether a checkpoint's files are whole and fit each other, judged before an engine loads it.

Engines trust these files: CTranslate2 ends the process on an alignment head that the model does not have. So every
value that reaches an engine is checked here, and an error names the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelFormatError
from .layouts import Checkpoint, ctranslate2_tokens, read_json

MELS = (80, 128)  # of every Whisper model
POSITIONS = {"max_source_positions": 1500, "max_target_positions": 448}  # 30 s of audio, n_text_ctx
HEAD_SIZE = (
    64  # of every Whisper model; older files of CTranslate2 do not store how many heads there are
)
SAME_TOKENS = (
    0.99  # share of a tokenizer's tokens that are in their places; a few may have been renamed
)
_AGAIN = "fetch or export the model again"
_OF_ANOTHER = "copy tokenizer.json from the model that this one came from"
# Entries of generation_config.json and config.json -> the token that they are the id of.
_DECLARED_TOKENS = {
    "decoder_start_token_id": "<|startoftranscript|>",
    "eos_token_id": "<|endoftext|>",
    "no_timestamps_token_id": "<|notimestamps|>",
}
_NEEDED_TOKENS = ("<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>")


def require_usable(checkpoint: Checkpoint) -> None:
    """
    Raises:
        ModelFormatError: a file is missing, cut short or damaged, or does not fit the others.
    """
    if checkpoint.layout == "ctranslate2":
        _check_ctranslate2(checkpoint.directory)
    else:
        _check_huggingface(checkpoint.directory)


# -- Hugging Face's layout ---------------------------------------------------------------------------------------------


def _check_huggingface(directory: Path) -> None:
    from .layouts import weight_files
    from .tensors import Geometry, Tensors

    config_file = directory / "config.json"
    config = read_json(config_file)
    geometry = Geometry.of(config, config_file)
    _check_sizes(
        config_file,
        geometry.num_mel_bins,
        geometry.max_source_positions,
        geometry.max_target_positions,
    )
    _check_features(directory, geometry.num_mel_bins)
    tensors = Tensors(weight_files(directory))
    tensors.get("decoder.embed_tokens.weight", (geometry.vocab_size, geometry.d_model))
    last_layers = (("encoder", geometry.encoder_layers, geometry.encoder_ffn_dim),
                   ("decoder", geometry.decoder_layers, geometry.decoder_ffn_dim))  # fmt: skip
    for side, layers, ffn_dim in last_layers:  # before anything is made for that many
        tensors.get(f"{side}.layers.{layers - 1}.fc1.weight", (ffn_dim, geometry.d_model))
    generation_file = directory / "generation_config.json"
    generation = read_json(generation_file)
    _check_pairs(generation_file, "alignment_heads", generation.get("alignment_heads"))
    for file, content in ((config_file, config), (generation_file, generation)):
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            _check_ids(file, name, content.get(name) or [], None)
    languages = _language_ids(generation_file, generation.get("lang_to_id"), geometry.vocab_size)
    tokens = _tokens(directory)
    _check_text_tokens(directory, tokens, geometry.vocab_size)
    declared = {
        token: generation.get(name, config.get(name)) for name, token in _DECLARED_TOKENS.items()
    }
    for token, number in (declared | languages).items():
        if isinstance(number, int) and tokens.get(token) != number:
            message = f"{directory}: the tokenizer has {token} at {tokens.get(token)}, the model at {number}"
            raise ModelFormatError(message, hint=_OF_ANOTHER)


def _tokens(directory: Path) -> dict[str, int]:
    """Ids by token: those of tokenizer.json, or of the older files that it can be made of."""
    file = directory / "tokenizer.json"
    if not file.is_file():
        if not (directory / "vocab.json").is_file():
            raise ModelFormatError(f"{directory} has no tokenizer.json", hint=_OF_ANOTHER)
        tokens = read_json(directory / "vocab.json") | read_json(directory / "added_tokens.json")
    else:
        content = read_json(file)
        model, added = content.get("model"), content.get("added_tokens") or []
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(vocabulary, dict) or not isinstance(added, list):
            raise ModelFormatError(f"{file} is no tokenizer of a Whisper model", hint=_OF_ANOTHER)
        entries = [entry for entry in added if isinstance(entry, dict)]
        tokens = vocabulary | {str(entry.get("content")): entry.get("id") for entry in entries}
    if set(map(type, tokens.values())) - {int} or min(tokens.values(), default=0) < 0:
        bad = next(token for token, number in tokens.items() if not _is_id(number))
        raise ModelFormatError(
            f"{directory}: the tokenizer's id of {bad[:40]!r} is {tokens[bad]!r}", hint=_OF_ANOTHER
        )
    return tokens


def _check_text_tokens(directory: Path, tokens: Mapping[str, int], size: int) -> None:
    missing = next((token for token in _NEEDED_TOKENS if tokens.get(token, size) >= size), None)
    if missing is not None:
        message = f"{directory}: the tokenizer has no token {missing} below {size}, the model's vocabulary"
        raise ModelFormatError(message, hint=_OF_ANOTHER)
    gaps = set(range(tokens["<|endoftext|>"])) - set(tokens.values())
    if gaps:
        raise ModelFormatError(
            f"{directory}: the tokenizer has no token with the id {min(gaps)}", hint=_OF_ANOTHER
        )


# -- CTranslate2's layout ----------------------------------------------------------------------------------------------


def _check_ctranslate2(directory: Path) -> None:
    from .model_bin import read_variables, require_finite, scalar

    config_file, weights = directory / "config.json", directory / "model.bin"
    if not config_file.is_file():
        message = (
            f"{directory} has no config.json, which names the languages and the alignment heads"
        )
        raise ModelFormatError(
            message, hint="fetch or convert the model again, with its config.json"
        )
    config = read_json(config_file)
    variables = read_variables(weights)
    vocabulary = ctranslate2_tokens(directory)
    if variables is None:
        layers, heads, size = None, None, len(vocabulary)
    else:
        convolution, embedding = (
            variables.get("encoder/conv1/weight"),
            variables.get("decoder/embeddings/weight"),
        )
        if (
            convolution is None
            or len(convolution.shape) != 3
            or embedding is None
            or len(embedding.shape) != 2
        ):
            raise ModelFormatError(f"{weights} lacks weights of a Whisper model", hint=_AGAIN)
        positions = [
            variables[name].shape[0] if name in variables and variables[name].shape else None
            for name in (f"{side}/position_encodings/encodings" for side in ("encoder", "decoder"))
        ]
        _check_sizes(weights, convolution.shape[1], *positions)
        _check_features(directory, convolution.shape[1])
        size, width = embedding.shape
        layers = len(
            {name.split("/")[1] for name in variables if name.startswith("decoder/layer_")}
            - {"layer_norm"}
        )
        heads = scalar(weights, variables.get("decoder/num_heads")) or width // HEAD_SIZE
        require_finite(weights, variables)
    if len(vocabulary) != size:
        message = f"{directory}: the vocabulary has {len(vocabulary)} tokens, the model {size}"
        raise ModelFormatError(message, hint=_AGAIN)
    pairs = _check_pairs(config_file, "alignment_heads", config.get("alignment_heads"))
    if not pairs or (
        "" in vocabulary and not config.get("lang_ids")
    ):  # an empty token marks a multilingual model
        name = "lang_ids" if pairs else "alignment_heads"
        raise ModelFormatError(
            f"{config_file} names no {name}", hint="convert the model again with a newer converter"
        )
    for layer, head in pairs:
        if layers is not None and heads is not None and not (layer < layers and head < heads):
            message = f"{config_file}: alignment_heads has [{layer}, {head}], the decoder {layers} layers of {heads} heads"
            raise ModelFormatError(
                message, hint="convert the model again with its own alignment heads"
            )
    for name in ("lang_ids", "suppress_ids", "suppress_ids_begin"):
        _check_ids(
            config_file, name, config.get(name, []), size, least=0 if name == "lang_ids" else -1
        )
    _check_same_tokens(directory, _tokens(directory), vocabulary)


def _check_same_tokens(directory: Path, tokens: Mapping[str, int], vocabulary: list[str]) -> None:
    size = len(vocabulary)
    _check_text_tokens(directory, tokens, size)
    moved = [
        token for token, number in tokens.items() if number < size and vocabulary[number] != token
    ]
    special = next((token for token in moved if token in _NEEDED_TOKENS), None)
    if special is not None or len(moved) > (1 - SAME_TOKENS) * len(tokens):
        token = special or moved[0]
        message = (
            f"{directory}: tokenizer.json has {token[:40]!r} at {tokens[token]}, "
            f"the model's vocabulary {vocabulary[tokens[token]][:40]!r}"
        )
        raise ModelFormatError(message, hint=_OF_ANOTHER)


# -- both --------------------------------------------------------------------------------------------------------------


def _check_sizes(file: Path, n_mels: int, *positions: int | None) -> None:
    if n_mels not in MELS:
        message = f"{file}: the model takes {n_mels} mel bands; Whisper models take {' or '.join(map(str, MELS))}"
        raise ModelFormatError(message, hint=_AGAIN)
    for (name, expected), found in zip(POSITIONS.items(), positions, strict=True):
        if found != expected:
            raise ModelFormatError(
                f"{file}: {name} is {found}, not {expected}", hint="give a Whisper checkpoint"
            )


def _check_features(directory: Path, n_mels: int) -> None:
    file = directory / "preprocessor_config.json"
    declared = read_json(file).get("feature_size")
    if declared is not None and declared != n_mels:
        message = f"{file}: feature_size is {declared!r}, and the model takes {n_mels} mel bands"
        raise ModelFormatError(
            message, hint="copy preprocessor_config.json from the model that this one came from"
        )


def _check_pairs(file: Path, name: str, value: Any) -> list[tuple[int, int]]:
    """The value, which must be a list of two integers each, at least 0, or nothing."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ModelFormatError(f"{file}: {name} is no list", hint=_AGAIN)
    for pair in value:
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_id, pair))):
            message = f"{file}: {name} has {str(pair)[:40]}, not a layer and a head"
            raise ModelFormatError(message, hint=_AGAIN)
    return [(layer, head) for layer, head in value]


def _check_ids(file: Path, name: str, value: Any, size: int | None, *, least: int = -1) -> None:
    """A list of token ids. -1 stands for a set of tokens in some files."""
    if not isinstance(value, list):
        raise ModelFormatError(f"{file}: {name} is no list", hint=_AGAIN)
    for number in value:
        if type(number) is not int or number < least or (size is not None and number >= size):
            of = "" if size is None else f" of a vocabulary of {size}"
            raise ModelFormatError(
                f"{file}: {name} has {str(number)[:40]}, no token{of}", hint=_AGAIN
            )


def _language_ids(file: Path, value: Any, size: int) -> dict[str, int]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelFormatError(f"{file}: lang_to_id is no object", hint=_AGAIN)
    for token, number in value.items():
        if not _is_id(number) or number >= size:
            message = f"{file}: lang_to_id has {token[:40]!r} at {str(number)[:40]}, no token of a vocabulary of {size}"
            raise ModelFormatError(message, hint=_AGAIN)
    return value


def _is_id(value: Any) -> bool:
    return type(value) is int and value >= 0
