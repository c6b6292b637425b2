"""Checkpoints in Hugging Face's layout -> directories for CTranslate2, converted once and cached.

The quantization ``source`` keeps the precision of the file, for GPUs and for full precision;
``int8`` stores 8-bit weights for CPUs. CTranslate2 can also quantize float16 on load, with the same
results, but at every start. With the sizes of ``small`` (2 cores, CTranslate2 4.8.5) that took at
least 2.1 s from 409 MB, and stored int8 0.2 s from 209 MB; with ``large-v3`` 18 s from 2.96 GB, and
2.0 s from 1.49 GB.

The name of a conversion is a checksum of all its inputs: a changed file causes a new conversion,
and copies of a model share one. Checksums of weights are cached by path, size, time and inode, so a
start does not read them.
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

from ..domain.files import atomic_write
from ..domain.progress import Progress
from ..errors import ModelError, ModelFormatError
from ..settings import settings
from .checks import check_text_tokens, tokens_of
from .layouts import Checkpoint, is_english_only, read_json, weight_files

if TYPE_CHECKING:
    from .weights import Quantization

VERSION = 1  # raise it when the same input gives another output
_TEXTS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
_COPIED = ("generation_config.json", "preprocessor_config.json")
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
_SPARE_TOKEN = "<|startoflm|>"  # an unused special token


def ctranslate2_directory(
    checkpoint: Checkpoint, quantization: Quantization, progress: Progress
) -> Path:
    """The directory for CTranslate2: the checkpoint itself, or its conversion, created now if
    missing.

    A conversion holds ``model.bin``, ``config.json``, ``vocabulary.json``, ``tokenizer.json``, and
    copies of ``generation_config.json`` and ``preprocessor_config.json`` if there are any. Calls
    ``progress("checksum", ...)`` and ``progress("convert", ...)`` with bytes.

    Raises:
        ModelFormatError: a file is damaged or missing, or does not match the others.
        ModelError: the disk is full or the cache is not writable.
    """
    if checkpoint.layout == "ctranslate2":
        return checkpoint.directory
    from filelock import FileLock

    root = _root()
    with _disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        key = _key(checkpoint.directory, quantization, progress)
        target = root / key
        if target.is_dir():
            return target
        with FileLock(root / f"{key}.lock"):
            if target.is_dir():  # converted by another process in the meantime
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
    """The conversions of checkpoints in or below ``directory``."""
    return [
        record.parent
        for record in _root().glob("*/source.json")
        if (source := read_json(record).get("directory"))
        and Path(source).is_relative_to(directory.absolute())
    ]


def remove_conversions_of(directory: Path) -> int:
    """Delete the conversions of ``directory``; return the bytes freed."""
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
        f"{name} {hashlib.sha256((directory / name).read_bytes()).hexdigest()}"
        for name in _TEXTS
        if (directory / name).is_file()
    ]
    parts += [f"{file.name} {_cached_sha256(file, progress)}" for file in weight_files(directory)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def _cached_sha256(file: Path, progress: Progress) -> str:
    """The checksum of a large file, computed only if the file has changed since the last time."""
    index = _root() / "checksums.json"
    try:
        status = file.stat()
        known = read_json(index)
    except FileNotFoundError as error:
        raise ModelFormatError(
            f"{file} is missing", hint="download or export the model again"
        ) from error
    except ModelFormatError:
        known = {}  # a damaged cache: rebuild it
    identity = [status.st_size, status.st_mtime_ns, status.st_ino]
    path = str(file.resolve())
    if known.get(path, [])[:-1] == identity:
        return str(known[path][-1])
    checksum = hashlib.sha256()
    done = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            checksum.update(block)
            done += len(block)
            progress("checksum", done, status.st_size)
    known = {p: v for p, v in known.items() if Path(p).is_file()}
    known[path] = [*identity, checksum.hexdigest()]
    with atomic_write(index) as output:
        output.write(json.dumps(known, indent=1).encode())
    return checksum.hexdigest()


def _remove_leftovers(root: Path, own_key: str) -> None:
    """Delete the temporary directories of killed conversions, whose lock is free."""
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
            continue  # another process is converting


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
    vocabulary = _vocabulary(output, geometry.vocab_size)
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
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, output / name)
    record = {
        "directory": str(source.absolute()),
        "name": checkpoint.name,
        "quantization": quantization,
    }
    (output / "source.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


class _Count:
    """Sums up bytes for ``progress``. The total is the size of the source; int8 stays below it."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._report = partial(progress, "convert")
        self._total = total
        self._done = 0

    def add(self, written: int) -> None:
        self._done += written
        self._report(min(self._done, self._total), self._total)


def write_tokenizer(source: Path, output: Path) -> None:
    """Copy tokenizer.json, or build it from vocab.json, merges.txt and added_tokens.json."""
    if (source / "tokenizer.json").is_file():
        read_json(source / "tokenizer.json")  # raises an error that names a damaged file
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


def _vocabulary(directory: Path, size: int) -> list[str]:
    """The tokens by id, exactly ``size``.

    Tokenizers of older checkpoints lack the timestamps, 0.02 s apart. They are added.
    """
    tokens = tokens_of(directory)
    check_text_tokens(directory, tokens, size)
    by_id = {number: token for token, number in tokens.items() if number < size}
    end = max(by_id) + 1
    named = {n: f"<|{(n - end) * 0.02:.2f}|>" for n in range(end, size)} | by_id
    return [named.get(n, f"<|unused {n}|>") for n in range(size)]


def _mark_multilingual(vocabulary: list[str], *, multilingual: bool, where: Path) -> None:
    """Mark the vocabulary for CTranslate2: an empty token means multilingual.

    Whisper's own vocabularies are marked correctly. Elsewhere an unused token is renamed; ids stay.
    """
    if ("" in vocabulary) == multilingual:
        return
    if not multilingual:
        vocabulary[vocabulary.index("")] = "<|empty|>"
    elif _SPARE_TOKEN in vocabulary:
        vocabulary[vocabulary.index(_SPARE_TOKEN)] = ""
    else:
        raise ModelFormatError(
            f"{where}: the vocabulary has neither an empty token nor {_SPARE_TOKEN}",
            hint="CTranslate2 would treat this multilingual model as an English one",
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
    """The cross-attention heads for alignment; without a list, all heads of the upper half of the
    layers.

    Heads outside the model are dropped: some distilled models were published with the list of their
    teacher.
    """
    declared = generation.get("alignment_heads") or []
    valid = [[layer, head] for layer, head in declared if 0 <= layer < layers and 0 <= head < heads]
    return valid or [[layer, head] for layer in range(layers // 2, layers) for head in range(heads)]


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (
            "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        )
        raise ModelError(
            f"cannot convert the model in {root}: {reason}",
            hint="free some space, or set TRANSCRIBE_MCP_CACHE_DIR to another directory",
        ) from error
