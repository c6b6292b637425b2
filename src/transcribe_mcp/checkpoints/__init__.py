"""Whisper checkpoints: by name, Hub id or directory; which are here, which to take, getting and removing them.

Two layouts are read: Hugging Face's with safetensors weights, which ``conversion`` turns into CTranslate2's, and
CTranslate2's own. Pickled weights (``pytorch_model.bin``, ``*.pt``) are refused: loading them runs code.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..errors import ModelFormatError, ModelUnavailableError, UnknownNameError, UsageError
from ..progress import Progress
from ..settings import settings
from . import conversion, hub
from .catalogue import ALIASES, CATALOGUE, DEMANDS, CatalogueEntry, Demand, Machine, describe, entry_named, fits
from .checks import require_usable
from .layouts import (
    Checkpoint,
    can_translate,
    file_names,
    is_complete,
    is_english_only,
    layout_of,
    read_json,
    wanted_files,
)

__all__ = [
    "Checkpoint",
    "Choice",
    "ModelRow",
    "choose_model",
    "find_cached",
    "is_offline",
    "list_models",
    "path",
    "pull",
    "remove",
    "require_usable",
    "resolve",
]


@dataclass(frozen=True, slots=True)
class Choice:
    """What ``--model auto`` became, and why: a sentence for the result."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One line of ``models list``. ``bytes_on_disk`` counts the files and what was converted from them."""

    name: str
    repo: str
    parameters_millions: int | None
    download_bytes: int | None
    languages: str
    path: Path | None
    bytes_on_disk: int | None

    def to_json(self) -> dict[str, str | int | None]:
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(value: str | int | Path | None) -> str | int | None:
    return str(value) if isinstance(value, Path) else value


def resolve(name: str, *, offline: bool, progress: Progress) -> Checkpoint:
    """The checkpoint of a name: a directory, else what the Hub's cache holds, else fetched now unless ``offline``.

    Its files are not checked: that is ``require_usable``.

    Raises:
        UnknownNameError: it is no directory, no Hub id and no catalogue name; the hint suggests the nearest.
        ModelUnavailableError: it is not here, and offline or not to be had from the Hub.
        DownloadError: fetching it failed halfway.
        ModelFormatError: its files are in no layout that is read here.
    """
    found = find_cached(name)
    if found is not None:
        return found
    repo = _repo_of(name)
    if offline or is_offline():
        hint = f"with a connection: transcribe-mcp models pull {name}; or give --model the directory of a model"
        raise ModelUnavailableError(f"model {name} is not on this machine, and it is to work offline", hint=hint)
    remote = hub.list_repository(repo)
    wanted = wanted_files([file.name for file in remote.files], where=repo)
    snapshot = hub.download(remote.only(wanted), progress)
    return _describe(_canonical(name), snapshot, repo)


def find_cached(name: str) -> Checkpoint | None:
    """The checkpoint if it is on this disk, complete; ``None`` if it would have to be fetched. No network call.

    Raises:
        UnknownNameError, ModelFormatError: as ``resolve``.
    """
    directory = _own_directory(name)
    if directory is not None:
        return _describe(name, directory, None)
    repo = _repo_of(name)
    for snapshot in hub.cached_snapshots(repo):
        if is_complete(snapshot):
            return _describe(_canonical(name), snapshot, repo)
    return None


def is_offline() -> bool:
    """Whether the settings or the Hub's own variables forbid every network call."""
    return settings().offline or hub.is_offline()


def choose_model(machine: Machine, *, language: str | None = None, task: str = "transcribe", offline: bool) -> Choice:
    """Choose for ``--model auto``: the best cached model that the machine carries, else the best to fetch.

    A cached model is taken before a better one is fetched: nothing large is downloaded where something works. Models
    for English alone are taken if the language is English, or if nothing else is cached and it is not known.

    Args:
        language: code of the recording's language where the user named one.
        task: ``translate`` leaves out the models that cannot.

    Raises:
        ModelUnavailableError: nothing is cached and nothing can be fetched; takes at most 5 s to find out.
    """
    demands = [
        d for d in DEMANDS["cpu" if machine.device == "cpu" else "cuda"] if _serves(CATALOGUE[d.model], language, task)
    ]
    cached = [d for d in demands if _find_cached_or_none(d.model) is not None]
    if cached:
        return _choose_cached(cached, machine, language)
    candidates = [d for d in demands if not CATALOGUE[d.model].english_only]
    best = next((d for d in candidates if fits(d, machine)), candidates[-1])
    if offline or is_offline():
        hint = f"with a connection: transcribe-mcp models pull {best.model}; or give --model the directory of a model"
        raise ModelUnavailableError("no Whisper model is on this machine, and it is to work offline", hint=hint)
    try:
        hub.list_repository(CATALOGUE[best.model].repo)
    except ModelUnavailableError as error:
        hint = f"with a connection: transcribe-mcp models pull {best.model}; or give --model the directory of a model"
        raise ModelUnavailableError(f"no Whisper model is on this machine; {error}", hint=hint) from error
    return Choice(best.model, f"{best.model} is the best for this machine ({describe(machine)}); none was cached")


def list_models() -> tuple[ModelRow, ...]:
    """Every model of the catalogue, then other Whisper models in the Hub's cache."""
    rows = [_row(entry.name, entry.repo, entry) for entry in CATALOGUE.values()]
    known = {entry.repo for entry in CATALOGUE.values()}
    others = [repo for repo in hub.cached_repositories() if repo not in known and _is_whisper(repo)]
    return tuple(rows + [_row(repo, repo, None) for repo in others])


def pull(name: str, progress: Progress) -> Checkpoint:
    """Have the model on this machine, fit for use. Raises as ``resolve`` and ``require_usable``."""
    pulled = resolve(name, offline=False, progress=progress)
    require_usable(pulled)
    return pulled


def path(name: str) -> Path:
    """Where the model's files lie.

    Raises:
        UnknownNameError: there is no such model.
        ModelUnavailableError: it is not on this machine.
    """
    found = find_cached(name)
    if found is None:
        hint = f"transcribe-mcp models pull {name}"
        raise ModelUnavailableError(f"model {name} is not on this machine", hint=hint)
    return found.directory


def remove(name: str) -> int:
    """Delete a cached model, what was fetched of it in part, and its conversions; return the bytes freed.

    Raises:
        UsageError: it is a directory of the user's own.
        UnknownNameError, ModelUnavailableError: as ``path``.
    """
    if _own_directory(name) is not None:
        message = f"{name} is a directory of your own, not a cached model"
        raise UsageError(message, hint="delete it yourself if you mean it")
    directory = hub.repository_directory(_repo_of(name))
    if not directory.is_dir():
        raise ModelUnavailableError(f"model {name} is not on this machine", hint="transcribe-mcp models list")
    freed: int = _bytes_below(directory) + conversion.remove_conversions_of(directory)
    hub.delete(_repo_of(name))
    return freed


def _own_directory(name: str) -> Path | None:
    """The directory that a name is a path of. A bare name is the catalogue's even where a directory is called so."""
    if entry_named(name) is not None and not any(mark in name for mark in ("/", os.sep)):
        return None
    directory = Path(name).expanduser()
    return directory if name and directory.is_dir() else None


def _repo_of(name: str) -> str:
    entry = entry_named(name)
    if entry is not None:
        return entry.repo
    if Path(name).expanduser().is_file():
        message = f"{name} is a file, and a model is a directory"
        raise UnknownNameError(message, hint=f"give its directory: {Path(name).parent}")
    if hub.is_hub_id(name):
        return name
    if any(mark in name for mark in ("/", "\\")):
        raise UnknownNameError(f"there is no directory {name}", hint="give a directory that holds a model")
    offered = [*CATALOGUE, *ALIASES]
    nearest = difflib.get_close_matches(name.lower(), offered, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    raise UnknownNameError(f"there is no model {name!r}", hint=f"{hint}All names: transcribe-mcp models list")


def _canonical(name: str) -> str:
    entry = entry_named(name)
    return entry.name if entry else name


def _describe(name: str, directory: Path, repo: str | None) -> Checkpoint:
    names = file_names(directory)
    checkpoint = Checkpoint(name, directory, layout_of(names, where=str(directory)), False, None, repo)
    entry = entry_named(repo) if repo else None
    if entry is not None:
        return replace(checkpoint, english_only=entry.english_only, can_translate=entry.can_translate)
    english_only = is_english_only(checkpoint)
    return replace(checkpoint, english_only=english_only, can_translate=can_translate(checkpoint, english_only))


def _find_cached_or_none(name: str) -> Checkpoint | None:
    try:
        return find_cached(name)
    except ModelFormatError:
        return None


def _serves(entry: CatalogueEntry, language: str | None, task: str) -> bool:
    if task == "translate" and not entry.can_translate:
        return False
    return not entry.english_only or language in (None, "en", "auto")


def _choose_cached(cached: list[Demand], machine: Machine, language: str | None) -> Choice:
    """The most wanted that fits; else the one that asks least. English alone only if it must or may be."""
    multilingual = [d for d in cached if not CATALOGUE[d.model].english_only]
    preferred = cached if language == "en" else multilingual or cached
    best = next((d for d in preferred if fits(d, machine)), None)
    chosen = best or preferred[-1]
    reason = f"{chosen.model} is the best cached model for this machine ({describe(machine)})"
    if best is None:
        reason = f"{chosen.model} is cached, though it asks for more than this machine has ({describe(machine)})"
    if CATALOGUE[chosen.model].english_only and language != "en":
        reason += "; it knows English only"
    return Choice(chosen.model, reason)


def _is_whisper(repo: str) -> bool:
    for snapshot in hub.cached_snapshots(repo):
        if is_complete(snapshot):
            try:
                config = read_json(snapshot / "config.json")
            except ModelFormatError:
                return False
            # CTranslate2 writes these two for Whisper and for nothing else.
            return config.get("model_type") == "whisper" or {"alignment_heads", "lang_ids"} <= set(config)
    return False


def _row(name: str, repo: str, entry: CatalogueEntry | None) -> ModelRow:
    found = _find_cached_or_none(name)
    languages = entry.languages if entry else ("English" if found and found.english_only else "several languages")
    parameters, download = (entry.parameters_millions, entry.download_bytes) if entry else (None, None)
    if found is None:
        return ModelRow(name, repo, parameters, download, languages, None, None)
    converted = sum(_bytes_below(d) for d in conversion.conversions_of(hub.repository_directory(repo)))
    size = _bytes_below(hub.repository_directory(repo)) + converted
    return ModelRow(name, repo, parameters, download, languages, found.directory, size)


def _bytes_below(directory: Path) -> int:
    return sum(file.lstat().st_size for file in _files_below(directory))


def _files_below(directory: Path) -> Iterator[Path]:
    return (file for file in directory.rglob("*") if file.is_file() and not file.is_symlink())
