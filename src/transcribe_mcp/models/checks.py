"""Checks that the files of a checkpoint are complete and consistent, before an engine loads it.

Engines trust these files: CTranslate2 aborts the process on an alignment head outside the model. So
this module checks every value that reaches an engine, and its errors name the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelFormatError
from .layouts import Checkpoint, ctranslate2_tokens, read_json

if TYPE_CHECKING:
    from .model_bin import Variable

MELS = (80, 128)  # of every Whisper model
POSITIONS = {"max_source_positions": 1500, "max_target_positions": 448}  # 30 s of audio, n_text_ctx
HEAD_SIZE = 64  # of every Whisper model; older files of CTranslate2 lack the number of heads
MIN_SAME_TOKENS = 0.99  # share of a tokenizer's tokens with the same id; a few may be renamed
_AGAIN = "download or export the model again"
_OF_ANOTHER = "copy tokenizer.json from the base model"
# Token whose id is stored under this name in generation_config.json and config.json.
_DECLARED_TOKENS = {
    "decoder_start_token_id": "<|startoftranscript|>",
    "eos_token_id": "<|endoftext|>",
    "no_timestamps_token_id": "<|notimestamps|>",
}
_NEEDED_TOKENS = ("<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>")


def require_usable(checkpoint: Checkpoint) -> None:
    """Check all files of a checkpoint.

    Raises:
        ModelFormatError: a file is missing, cut short or damaged, or does not match the others.
    """
    if checkpoint.layout == "ctranslate2":
        _check_ctranslate2(checkpoint.directory)
    else:
        _check_huggingface(checkpoint.directory)


# -- Hugging Face's layout -------------------------------------------------------------------------


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
    # The last layers must exist before anything is allocated for their number.
    for side, layers, ffn_dim in (
        ("encoder", geometry.encoder_layers, geometry.encoder_ffn_dim),
        ("decoder", geometry.decoder_layers, geometry.decoder_ffn_dim),
    ):
        tensors.get(f"{side}.layers.{layers - 1}.fc1.weight", (ffn_dim, geometry.d_model))
    generation_file = directory / "generation_config.json"
    generation = read_json(generation_file)
    _check_pairs(generation_file, "alignment_heads", generation.get("alignment_heads"))
    for file, content in ((config_file, config), (generation_file, generation)):
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            _check_ids(file, name, content.get(name) or [], None)
    languages = _language_ids(generation_file, generation.get("lang_to_id"), geometry.vocab_size)
    tokens = tokens_of(directory)
    check_text_tokens(directory, tokens, geometry.vocab_size)
    declared = {
        token: generation.get(name, config.get(name)) for name, token in _DECLARED_TOKENS.items()
    }
    for token, number in (declared | languages).items():
        if isinstance(number, int) and tokens.get(token) != number:
            found = tokens.get(token)
            raise ModelFormatError(
                f"{directory}: {token} is {found} in the tokenizer and {number} in the model",
                hint=_OF_ANOTHER,
            )


def tokens_of(directory: Path) -> dict[str, int]:
    """Ids by token, from tokenizer.json or the older vocab.json and added_tokens.json."""
    file = directory / "tokenizer.json"
    if not file.is_file():
        if not (directory / "vocab.json").is_file():
            raise ModelFormatError(f"{directory} has no tokenizer.json", hint=_OF_ANOTHER)
        tokens = read_json(directory / "vocab.json") | read_json(directory / "added_tokens.json")
    else:
        content = read_json(file)
        model = content.get("model")
        added = content.get("added_tokens") or []
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(vocabulary, dict) or not isinstance(added, list):
            raise ModelFormatError(
                f"{file} is not the tokenizer of a Whisper model", hint=_OF_ANOTHER
            )
        entries = [entry for entry in added if isinstance(entry, dict)]
        tokens = vocabulary | {str(entry.get("content")): entry.get("id") for entry in entries}
    if set(map(type, tokens.values())) - {int} or min(tokens.values(), default=0) < 0:
        bad = next(token for token, number in tokens.items() if not _is_id(number))
        raise ModelFormatError(
            f"{directory}: the tokenizer's id of {bad[:40]!r} is {tokens[bad]!r}", hint=_OF_ANOTHER
        )
    return tokens


def check_text_tokens(directory: Path, tokens: Mapping[str, int], size: int) -> None:
    missing = next((token for token in _NEEDED_TOKENS if tokens.get(token, size) >= size), None)
    if missing is not None:
        raise ModelFormatError(
            f"{directory}: the tokenizer has no token {missing} below {size},"
            " the size of the model's vocabulary",
            hint=_OF_ANOTHER,
        )
    gaps = set(range(tokens["<|endoftext|>"])) - set(tokens.values())
    if gaps:
        raise ModelFormatError(
            f"{directory}: the tokenizer has no token with the id {min(gaps)}", hint=_OF_ANOTHER
        )


# -- CTranslate2's layout --------------------------------------------------------------------------


def _check_ctranslate2(directory: Path) -> None:
    from .model_bin import read_variables

    config_file = directory / "config.json"
    if not config_file.is_file():
        raise ModelFormatError(
            f"{directory} has no config.json with the languages and the alignment heads",
            hint="download or convert the model again, with its config.json",
        )
    config = read_json(config_file)
    weights = directory / "model.bin"
    variables = read_variables(weights)
    vocabulary = ctranslate2_tokens(directory)
    decoder = None if variables is None else _check_variables(directory, weights, variables)
    size = len(vocabulary) if decoder is None else decoder.vocabulary_size
    if len(vocabulary) != size:
        raise ModelFormatError(
            f"{directory}: the vocabulary has {len(vocabulary)} tokens, the model {size}",
            hint=_AGAIN,
        )
    _check_alignment_heads(config_file, config, vocabulary, decoder)
    for name in ("lang_ids", "suppress_ids", "suppress_ids_begin"):
        lowest = 0 if name == "lang_ids" else -1
        _check_ids(config_file, name, config.get(name, []), size, lowest=lowest)
    _check_same_tokens(directory, tokens_of(directory), vocabulary)


@dataclass(frozen=True, slots=True)
class _DecoderSizes:
    layers: int
    heads: int
    vocabulary_size: int


def _check_variables(
    directory: Path, weights: Path, variables: dict[str, Variable]
) -> _DecoderSizes:
    from .model_bin import require_finite, scalar

    def shape_of(name: str) -> tuple[int, ...]:
        return variables[name].shape if name in variables else ()

    convolution = shape_of("encoder/conv1/weight")
    embedding = shape_of("decoder/embeddings/weight")
    if len(convolution) != 3 or len(embedding) != 2:
        raise ModelFormatError(f"{weights} lacks weights of a Whisper model", hint=_AGAIN)
    positions = [
        next(iter(shape_of(f"{side}/position_encodings/encodings")), None)
        for side in ("encoder", "decoder")
    ]
    _check_sizes(weights, convolution[1], *positions)
    _check_features(directory, convolution[1])
    size, width = embedding
    names = {name.split("/")[1] for name in variables if name.startswith("decoder/layer_")}
    heads = scalar(weights, variables.get("decoder/num_heads")) or width // HEAD_SIZE
    require_finite(weights, variables)
    return _DecoderSizes(len(names - {"layer_norm"}), heads, size)


def _check_alignment_heads(
    file: Path, config: dict[str, Any], vocabulary: list[str], decoder: _DecoderSizes | None
) -> None:
    pairs = _check_pairs(file, "alignment_heads", config.get("alignment_heads"))
    is_multilingual = "" in vocabulary
    if not pairs or (is_multilingual and not config.get("lang_ids")):
        name = "lang_ids" if pairs else "alignment_heads"
        raise ModelFormatError(
            f"{file} has no {name}", hint="convert the model again with a newer converter"
        )
    for layer, head in pairs:
        if decoder is not None and not (layer < decoder.layers and head < decoder.heads):
            raise ModelFormatError(
                f"{file}: alignment_heads has [{layer}, {head}],"
                f" the decoder {decoder.layers} layers of {decoder.heads} heads",
                hint="convert the model again with its own alignment heads",
            )


def _check_same_tokens(directory: Path, tokens: Mapping[str, int], vocabulary: list[str]) -> None:
    size = len(vocabulary)
    check_text_tokens(directory, tokens, size)
    moved = [
        token for token, number in tokens.items() if number < size and vocabulary[number] != token
    ]
    special = next((token for token in moved if token in _NEEDED_TOKENS), None)
    if special is not None or len(moved) > (1 - MIN_SAME_TOKENS) * len(tokens):
        token = special or moved[0]
        raise ModelFormatError(
            f"{directory}: token {tokens[token]} is {token[:40]!r} in tokenizer.json"
            f" and {vocabulary[tokens[token]][:40]!r} in the model's vocabulary",
            hint=_OF_ANOTHER,
        )


# -- both ------------------------------------------------------------------------------------------


def _check_sizes(file: Path, n_mels: int, *positions: int | None) -> None:
    if n_mels not in MELS:
        supported = " or ".join(map(str, MELS))
        raise ModelFormatError(
            f"{file}: the model has {n_mels} mel bands, but Whisper models have {supported}",
            hint=_AGAIN,
        )
    for (name, expected), found in zip(POSITIONS.items(), positions, strict=True):
        if found != expected:
            raise ModelFormatError(
                f"{file}: {name} is {found}, not {expected}", hint="give a Whisper checkpoint"
            )


def _check_features(directory: Path, n_mels: int) -> None:
    file = directory / "preprocessor_config.json"
    declared = read_json(file).get("feature_size")
    if declared is not None and declared != n_mels:
        raise ModelFormatError(
            f"{file}: feature_size is {declared!r}, but the model has {n_mels} mel bands",
            hint="copy preprocessor_config.json from the base model",
        )


def _check_pairs(file: Path, name: str, value: Any) -> list[tuple[int, int]]:
    """Check a list of (layer, head); empty if the value is missing."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ModelFormatError(f"{file}: {name} is not a list", hint=_AGAIN)
    for pair in value:
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_id, pair))):
            raise ModelFormatError(
                f"{file}: {name} has {str(pair)[:40]}, not a layer and a head", hint=_AGAIN
            )
    return [(layer, head) for layer, head in value]


def _check_ids(file: Path, name: str, value: Any, size: int | None, *, lowest: int = -1) -> None:
    """Check a list of token ids. In some files -1 stands for a set of tokens."""
    if not isinstance(value, list):
        raise ModelFormatError(f"{file}: {name} is not a list", hint=_AGAIN)
    for number in value:
        if type(number) is not int or number < lowest or (size is not None and number >= size):
            of = "" if size is None else f" of a vocabulary of {size}"
            raise ModelFormatError(
                f"{file}: {name} has {str(number)[:40]}, not a token{of}", hint=_AGAIN
            )


def _language_ids(file: Path, value: Any, size: int) -> dict[str, int]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelFormatError(f"{file}: lang_to_id is not an object", hint=_AGAIN)
    for token, number in value.items():
        if not _is_id(number) or number >= size:
            raise ModelFormatError(
                f"{file}: {token[:40]!r} in lang_to_id is {str(number)[:40]},"
                f" not a token of a vocabulary of {size}",
                hint=_AGAIN,
            )
    return value


def _is_id(value: Any) -> bool:
    return type(value) is int and value >= 0
