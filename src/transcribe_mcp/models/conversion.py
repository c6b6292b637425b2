"""Checkpoints in Hugging Face's layout -> directories that CTranslate2 loads, made once and kept.

What is stored: ``source`` keeps the precision of the file, for GPUs and for full precision; ``int8`` the 8-bit weights
that a CPU computes with. CTranslate2 would also make int8 of float16 when it loads, with the same results, but at every
start: with the geometry of ``small`` (2 cores, CTranslate2 4.8.5) that took 2.1 s at best from a file of 409 MB, and
stored int8 0.2 s from 209 MB; with that of ``large-v3`` 18 s from 2.96 GB, and 2.0 s from 1.49 GB.

A conversion is named by the checksum of everything that goes into it, so a changed file makes a new one and two copies
of a model share one. Checksums are remembered by path, size, time and inode, so a start does not read the weights.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..domain.progress import Progress
from ..errors import ModelError, ModelFormatError
from ..settings import settings
from .layouts import Checkpoint, is_english_only, read_json, weight_files

if TYPE_CHECKING:
    from .weights import Quantization

VERSION = 1  # raised whenever the same input would be written differently
_TEXTS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
_KEPT = (
    "generation_config.json",
    "preprocessor_config.json",
)  # beside tokenizer.json; config.json is CTranslate2's
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
_NEEDED_TOKENS = ("<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>")
_SPARE_TOKEN = "<|startoflm|>"  # trained for nothing, and nothing asks for it


def ctranslate2_directory(
    checkpoint: Checkpoint, quantization: Quantization, progress: Progress
) -> Path:
    """The directory to load in CTranslate2: the checkpoint's own, or its conversion, made now if it is not there.

    Beside ``model.bin``, ``config.json`` and ``vocabulary.json`` it holds ``tokenizer.json``, and the checkpoint's
    ``generation_config.json`` and ``preprocessor_config.json`` if it has them. Calls ``progress("checksum", ...)`` and
    ``progress("convert", ...)`` with bytes.

    Raises:
        ModelFormatError: a file is damaged or missing, or does not fit the others.
        ModelError: the disk is full or the cache cannot be written to.
    """
    if checkpoint.layout == "ctranslate2":
        return checkpoint.directory
    from filelock import FileLock

    root = _root()
    with _disk_errors_in_words(root):
        root.mkdir(parents=True, exist_ok=True)
        key = _key(checkpoint.directory, quantization, progress)
        target = root / key
        if target.is_dir():
            return target
        with FileLock(root / f"{key}.lock"):
            if target.is_dir():  # another process made it while this one waited
                return target
            _remove_leftovers(root, key)
            temporary = root / f"{key}.{os.getpid()}.tmp"
            temporary.mkdir()
            try:
                _convert(checkpoint, quantization, temporary, progress)
                temporary.replace(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return target


def conversions_of(directory: Path) -> list[Path]:
    """The conversions that were made of checkpoints in or below ``directory``."""
    found = []
    for record in _root().glob("*/source.json"):
        source = read_json(record).get("directory")
        if source and Path(source).is_relative_to(directory.absolute()):
            found.append(record.parent)
    return found


def remove_conversions_of(directory: Path) -> int:
    """Delete them; return the bytes freed."""
    freed = 0
    for conversion in conversions_of(directory):
        freed += sum(file.stat().st_size for file in conversion.iterdir())
        shutil.rmtree(conversion)
        conversion.with_name(f"{conversion.name}.lock").unlink(missing_ok=True)
    return freed


def _root() -> Path:
    return settings().cache_dir / "converted"


def _key(directory: Path, quantization: str, progress: Progress) -> str:
    parts = [f"conversion {VERSION} {quantization}"]
    parts += [
        f"{name} {_sha256(directory / name)}" for name in _TEXTS if (directory / name).is_file()
    ]
    parts += [
        f"{file.name} {_remembered_sha256(file, progress)}" for file in weight_files(directory)
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _remembered_sha256(file: Path, progress: Progress) -> str:
    """The checksum of a large file, read only if it is not the file that it was when last read."""
    index = _root() / "checksums.json"
    try:
        known = read_json(index)
        status = file.stat()
    except ModelFormatError:
        known = {}  # only a memory: made again
        status = file.stat()
    except FileNotFoundError as error:
        raise ModelFormatError(
            f"{file} is missing", hint="fetch or export the model again"
        ) from error
    identity = [status.st_size, status.st_mtime_ns, status.st_ino]
    path = str(file.resolve())
    if known.get(path, [])[:-1] == identity:
        return str(known[path][-1])
    checksum, done = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            checksum.update(block)
            done += len(block)
            progress("checksum", done, status.st_size)
    known = {p: v for p, v in known.items() if Path(p).is_file()} | {
        path: [*identity, checksum.hexdigest()]
    }
    temporary = index.with_name(f"checksums.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
    temporary.replace(index)
    return checksum.hexdigest()


def _remove_leftovers(root: Path, own_key: str) -> None:
    """Delete what killed conversions left: temporary directories whose lock nobody holds."""
    from filelock import FileLock, Timeout

    for temporary in root.glob("*.tmp"):
        key = temporary.name.partition(".")[0]
        if not temporary.is_dir():
            continue
        if key == own_key:
            shutil.rmtree(temporary, ignore_errors=True)
            continue
        try:
            with FileLock(root / f"{key}.lock", timeout=0):
                shutil.rmtree(temporary, ignore_errors=True)
        except Timeout:
            continue  # another process is at it


def _convert(
    checkpoint: Checkpoint, quantization: Quantization, output: Path, progress: Progress
) -> None:
    from .tensors import Geometry, Tensors
    from .weights import SpecificationWriter  # loads CTranslate2

    source = checkpoint.directory
    config_file = source / "config.json"
    config = read_json(config_file)
    geometry = Geometry.of(config, config_file)
    files = weight_files(source)
    tensors = Tensors(files)
    write_tokenizer(source, output)
    vocabulary = _vocabulary(output / "tokenizer.json", geometry.vocab_size)
    generation = read_json(source / "generation_config.json")
    decoding = {
        "suppress_ids": token_ids("suppress_tokens", generation, config, geometry.vocab_size),
        "suppress_ids_begin": token_ids(
            "begin_suppress_tokens", generation, config, geometry.vocab_size
        ),
        "lang_ids": _language_ids(generation, vocabulary),
        "alignment_heads": alignment_heads(
            generation, geometry.decoder_layers, geometry.decoder_attention_heads
        ),
    }
    _mark_multilingual(vocabulary, multilingual=not is_english_only(checkpoint), where=source)
    count = _Count(progress, sum(file.stat().st_size for file in files))
    SpecificationWriter(geometry, tensors, quantization, count.add).save(
        output, vocabulary, decoding
    )
    for name in _KEPT:
        if (source / name).is_file():
            shutil.copyfile(source / name, output / name)
    record = {
        "directory": str(source.absolute()),
        "name": checkpoint.name,
        "quantization": quantization,
    }
    (output / "source.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


class _Count:
    """Adds up bytes for ``progress``; the total is the size of the source, which int8 does not reach."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._report, self._total, self._done = partial(progress, "convert"), total, 0

    def add(self, written: int) -> None:
        self._done += written
        self._report(min(self._done, self._total), self._total)


def write_tokenizer(source: Path, output: Path) -> None:
    """tokenizer.json as it is, or built from vocab.json, merges.txt and added_tokens.json."""
    if (source / "tokenizer.json").is_file():
        read_json(
            source / "tokenizer.json"
        )  # damaged files are told by name here, not by whoever loads them
        shutil.copyfile(source / "tokenizer.json", output / "tokenizer.json")
        return
    if not (source / "vocab.json").is_file() or not (source / "merges.txt").is_file():
        raise ModelFormatError(
            f"{source} has no tokenizer.json", hint="copy it from the model that this one came from"
        )
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    try:
        tokenizer = Tokenizer(
            models.BPE.from_file(str(source / "vocab.json"), str(source / "merges.txt"))
        )
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelFormatError(
            f"vocab.json and merges.txt in {source} are damaged: {error}"
        ) from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = sorted(read_json(source / "added_tokens.json").items(), key=lambda item: item[1])
    specials = [token for token in read_json(source / "vocab.json") if token.startswith("<|")]
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True) for t in [*specials, *(t for t, _ in added)]]
    )
    moved = next((token for token, number in added if tokenizer.token_to_id(token) != number), None)
    if moved is not None:
        raise ModelFormatError(
            f"{source / 'added_tokens.json'}: {moved} does not follow the vocabulary without a gap"
        )
    tokenizer.save(str(output / "tokenizer.json"))


def _vocabulary(file: Path, size: int) -> list[str]:
    """The tokens by id, exactly ``size``.

    Tokenizers of older checkpoints end before the timestamps, which the model has: they are added, 0.02 s apart.
    """
    content = read_json(file)
    model = content.get("model")
    tokens = (
        dict(model["vocab"])
        if isinstance(model, dict) and isinstance(model.get("vocab"), dict)
        else {}
    )
    tokens |= {entry["content"]: entry["id"] for entry in content.get("added_tokens") or []}
    by_id = {number: token for token, number in tokens.items() if number < size}
    end = max(by_id, default=-1) + 1
    missing = next(
        (token for token in _NEEDED_TOKENS if token not in tokens or tokens[token] >= size), None
    )
    if missing is not None:
        raise ModelFormatError(
            f"{file.name} has no token {missing} below {size}", hint="it is of another model"
        )
    return [by_id[n] if n in by_id else _filler(n, end) for n in range(size)]


def _filler(number: int, end: int) -> str:
    """The name of an id that the tokenizer does not have: a timestamp after its end, else unused."""
    return f"<|{(number - end) * 0.02:.2f}|>" if number >= end else f"<|unused {number}|>"


def _mark_multilingual(vocabulary: list[str], *, multilingual: bool, where: Path) -> None:
    """Make CTranslate2 see what the model is: it takes a vocabulary for multilingual if it has an empty token.

    Whisper's own have it or not, as they should. Only the name of a token that is never used changes, not its id.
    """
    if ("" in vocabulary) == multilingual:
        return
    if not multilingual:
        vocabulary[vocabulary.index("")] = "<|empty|>"
    elif _SPARE_TOKEN in vocabulary:
        vocabulary[vocabulary.index(_SPARE_TOKEN)] = ""
    else:
        message = f"{where}: the vocabulary has neither an empty token nor {_SPARE_TOKEN}"
        raise ModelFormatError(
            message, hint="CTranslate2 would take this multilingual model for an English one"
        )


def token_ids(
    name: str, generation: dict[str, Any], config: dict[str, Any], size: int
) -> list[int]:
    ids = generation[name] if isinstance(generation.get(name), list) else config.get(name) or []
    return [number for number in ids if isinstance(number, int) and 0 <= number < size]


def _language_ids(generation: dict[str, Any], vocabulary: list[str]) -> list[int]:
    declared = generation.get("lang_to_id")
    if isinstance(declared, dict) and declared:
        return sorted(int(number) for number in declared.values())
    return [number for number, token in enumerate(vocabulary) if _LANGUAGE.fullmatch(token)]


def alignment_heads(generation: dict[str, Any], layers: int, heads: int) -> list[list[int]]:
    """The cross-attention heads that follow the sound; without a list, all heads of the upper half of the layers.

    Heads that the model does not have are left out: some distilled models were published with their teacher's list.
    """
    declared = generation.get("alignment_heads") or []
    valid = [[layer, head] for layer, head in declared if 0 <= layer < layers and 0 <= head < heads]
    return valid or [[layer, head] for layer in range(layers // 2, layers) for head in range(heads)]


@contextmanager
def _disk_errors_in_words(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (
            "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        )
        hint = "free some space, or set TRANSCRIBE_MCP_CACHE_DIR to another directory"
        raise ModelError(f"cannot convert the model in {root}: {reason}", hint=hint) from error
