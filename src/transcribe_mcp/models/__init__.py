"""Whisper checkpoints by name, Hub id or directory: find, choose, download and delete them.

Two layouts are supported: Hugging Face's with safetensors weights, which ``conversion`` converts
for CTranslate2, and CTranslate2's own. Pickled weights (``pytorch_model.bin``, ``*.pt``) are
refused: loading them runs code.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..domain.progress import Progress
from ..errors import ModelFormatError, ModelUnavailableError, UnknownNameError, UsageError
from ..settings import settings
from . import conversion, hub, packaged
from .catalogue import (
    ALIASES,
    CATALOGUE,
    DEMANDS,
    PACKAGED,
    CatalogueEntry,
    Demand,
    Machine,
    describe,
    entry_named,
    fits,
)
from .checks import require_usable
from .layouts import (
    Checkpoint,
    can_translate,
    file_names,
    has_openai_vocabulary,
    is_complete,
    is_english_only,
    layout_of,
    n_decoder_layers,
    read_json,
    require_regular,
    required_files,
    word_lag_s,
)

__all__ = [
    "Checkpoint",
    "ModelChoice",
    "ModelRow",
    "choose_model",
    "find_cached",
    "has_openai_vocabulary",
    "is_offline",
    "list_models",
    "n_decoder_layers",
    "path",
    "pull",
    "remove",
    "require_usable",
    "resolve",
    "word_lag_s",
]


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model that ``--model auto`` chose, with the reason as a sentence.

    ``is_fallback``: a better model was not available.
    """

    name: str
    reason: str
    is_fallback: bool = False


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One line of ``models list``.

    Attributes:
        bytes_on_disk: size of its files and its conversions.
        package: the requirement for pip that installs it without the Hub; ``None`` if there is
            none.
    """

    name: str
    repo: str
    parameters_millions: int | None
    download_bytes: int | None
    languages: str
    path: Path | None
    bytes_on_disk: int | None
    package: str | None = None

    def to_json(self) -> dict[str, str | int | None]:
        return asdict(self) | {"path": None if self.path is None else str(self.path)}


def resolve(name: str, *, offline: bool, progress: Progress, packages: bool = True) -> Checkpoint:
    """The checkpoint of a name: a directory, else a cached model, else downloaded now unless
    ``offline``.

    ``require_usable`` checks its files. Only the checksum of a packaged model is checked here.

    Args:
        packages: also consider models in installed packages; they are in CTranslate2's layout.

    Raises:
        UnknownNameError: no directory, Hub id or catalogue name; the hint suggests the nearest
            name.
        ModelUnavailableError: not cached, and either offline or missing on the Hub.
        DownloadError: the download failed halfway.
        ModelFormatError: an unsupported layout, or a packaged model with a wrong checksum.
    """
    found = find_cached(name, packages=packages)
    if found is not None:
        if found.is_packaged:
            packaged.verify(found.name, found.directory)
        return found
    repo = _repo_of(name)
    if offline or is_offline():
        raise ModelUnavailableError(
            f"model {name} is not downloaded, and offline mode is on", hint=_how_to_get(name)
        )
    remote = hub.list_repository(repo)
    required = required_files([file.name for file in remote.files], where=repo)
    snapshot = hub.download(remote.only(required), progress)
    return _describe(_canonical(name), snapshot, repo)


def _how_to_get(name: str) -> str:
    return (
        f"with a connection: transcribe-mcp models pull {name};"
        " or give --model the directory of a model"
    )


def find_cached(name: str, *, packages: bool = True) -> Checkpoint | None:
    """The complete checkpoint on this disk; ``None`` if it needs a download. No network call.

    The Hub's cache comes before installed packages.

    Raises:
        UnknownNameError, ModelFormatError: as for ``resolve``.
    """
    directory = _own_directory(name)
    if directory is not None:
        return _describe(name, directory, None)
    repo = _repo_of(name)
    for snapshot in hub.cached_snapshots(repo):
        if is_complete(snapshot):
            return _describe(_canonical(name), snapshot, repo)
    directory = packaged.find(_canonical(name)) if packages else None
    if directory is not None:
        return replace(_describe(_canonical(name), directory, repo), is_packaged=True)
    return None


def is_offline() -> bool:
    """Whether the settings or the Hub's own variables forbid network calls."""
    return settings().offline or hub.is_offline()


def choose_model(
    machine: Machine,
    *,
    language: str | None = None,
    task: str = "transcribe",
    offline: bool,
    packages: bool = True,
) -> ModelChoice:
    """Choose for ``--model auto``: the best cached model for the machine, else the best to
    download.

    A cached model comes before a better download: nothing large is downloaded if something works.
    English-only models are used if the language is English, or if nothing else is cached and the
    language is unknown. A packaged model comes last, if no download is possible.

    Args:
        language: language code, if the user gave one.
        task: ``translate`` excludes models without translation.
        packages: see ``resolve``.

    Raises:
        ModelUnavailableError: nothing is cached and no download is possible; known within 5 s.
    """
    demands = [
        d
        for d in DEMANDS["cpu" if machine.device == "cpu" else "cuda"]
        if _serves(CATALOGUE[d.model], language, task)
    ]
    cached = [d for d in demands if _find_cached_or_none(d.model, packages=False) is not None]
    if cached:
        return _choose_cached(cached, machine, language)
    candidates = [d for d in demands if not CATALOGUE[d.model].english_only]
    best = next((d for d in candidates if fits(d, machine)), candidates[-1]).model
    try:
        if offline or is_offline():
            raise ModelUnavailableError("offline mode is on")
        hub.list_repository(CATALOGUE[best].repo)
    except ModelUnavailableError as error:
        if packages and (choice := _choose_packaged(best, language, task, str(error))) is not None:
            return choice
        raise ModelUnavailableError(
            f"no Whisper model is downloaded; {error}", hint=_how_to_get(best)
        ) from error
    reason = f"{best} is the best for this machine ({describe(machine)}); none was cached"
    return ModelChoice(best, reason)


def _choose_packaged(
    best: str, language: str | None, task: str, problem: str
) -> ModelChoice | None:
    """A packaged model, with the reason and the command for a better one."""
    for name in PACKAGED:
        if _serves(CATALOGUE[name], language, task) and packaged.find(name) is not None:
            languages = ", which supports English only" if CATALOGUE[name].english_only else ""
            reason = (
                f"{problem}; using {name}{languages}."
                f" For a better model: transcribe-mcp models pull {best}"
            )
            return ModelChoice(name, reason, is_fallback=True)
    return None


def list_models() -> tuple[ModelRow, ...]:
    """Every model of the catalogue, then other Whisper models in the Hub's cache."""
    rows = [_row(entry.name, entry.repo, entry) for entry in CATALOGUE.values()]
    known = {entry.repo for entry in CATALOGUE.values()}
    others = [repo for repo in hub.cached_repositories() if repo not in known and _is_whisper(repo)]
    return tuple(rows + [_row(repo, repo, None) for repo in others])


def pull(name: str, progress: Progress) -> Checkpoint:
    """Download a model if necessary, and check it. A packaged model is enough if the Hub is
    unreachable.

    Raises:
        TranscribeError: as for ``resolve`` and ``require_usable``.
    """
    try:
        pulled = resolve(name, offline=False, progress=progress, packages=False)
    except ModelUnavailableError:
        if not packaged.find(_canonical(name)):
            raise
        pulled = resolve(name, offline=True, progress=progress)
    require_usable(pulled)
    return pulled


def path(name: str) -> Path:
    """The directory of a model.

    Raises:
        UnknownNameError: there is no such model.
        ModelUnavailableError: the model is not on this machine.
    """
    found = find_cached(name)
    if found is None:
        raise ModelUnavailableError(
            f"model {name} is not downloaded", hint=f"transcribe-mcp models pull {name}"
        )
    return found.directory


def remove(name: str) -> int:
    """Delete a cached model, its partial downloads and its conversions; return the bytes freed.

    Raises:
        UsageError: a directory of the user, or part of an installed package.
        UnknownNameError, ModelUnavailableError: as for ``path``.
    """
    if _own_directory(name) is not None:
        raise UsageError(
            f"{name} is a directory of your own, not a cached model", hint="delete it yourself"
        )
    directory = hub.repository_directory(_repo_of(name))
    if not directory.is_dir():
        if packaged.find(_canonical(name)):
            package = PACKAGED[_canonical(name)].requirement.partition("==")[0]
            raise UsageError(
                f"model {name} is part of the package {package}", hint=f"pip uninstall {package}"
            )
        raise ModelUnavailableError(
            f"model {name} is not downloaded", hint="transcribe-mcp models list"
        )
    freed: int = _bytes_below(directory) + conversion.remove_conversions_of(directory)
    hub.delete(_repo_of(name))
    return freed


def _own_directory(name: str) -> Path | None:
    """The directory at a path. A bare catalogue name never means a directory."""
    if entry_named(name) is not None and not any(mark in name for mark in ("/", os.sep)):
        return None
    directory = Path(name).expanduser()
    return directory if name and _is_there(directory.is_dir) else None


def _is_there(looks: Callable[[], bool]) -> bool:
    """False for names that no file can have, such as one of 300 characters."""
    try:
        return looks()
    except OSError:
        return False


def _repo_of(name: str) -> str:
    entry = entry_named(name)
    if entry is not None:
        return entry.repo
    if _is_there(Path(name).expanduser().is_file):
        raise UnknownNameError(
            f"{name} is a file, but a model is a directory",
            hint=f"give its directory: {Path(name).parent}",
        )
    if hub.HUB_ID.fullmatch(name):
        return name
    if any(mark in name for mark in ("/", "\\")):
        raise UnknownNameError(
            f"there is no directory {name}",
            hint="give the directory or name of a model; see all names: transcribe-mcp models list",
        )
    offered = [*CATALOGUE, *ALIASES]
    nearest = difflib.get_close_matches(name.lower(), offered, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    raise UnknownNameError(
        f"there is no model {name!r}",
        hint=f"{hint}see all names: transcribe-mcp models list; or give the ID of a model on"
        " Hugging Face, such as openai/whisper-small",
    )


def _canonical(name: str) -> str:
    entry = entry_named(name)
    return entry.name if entry else name


def _describe(name: str, directory: Path, repo: str | None) -> Checkpoint:
    names = file_names(directory)
    require_regular(directory, required_files(names, where=str(directory)))
    checkpoint = Checkpoint(
        name, directory, layout_of(names, where=str(directory)), False, None, repo
    )
    entry = entry_named(repo) if repo else None
    if entry is not None:
        return replace(
            checkpoint, english_only=entry.english_only, can_translate=entry.can_translate
        )
    english_only = is_english_only(checkpoint)
    return replace(
        checkpoint, english_only=english_only, can_translate=can_translate(checkpoint, english_only)
    )


def _find_cached_or_none(name: str, *, packages: bool = True) -> Checkpoint | None:
    try:
        return find_cached(name, packages=packages)
    except ModelFormatError:
        return None


def _serves(entry: CatalogueEntry, language: str | None, task: str) -> bool:
    if task == "translate" and not entry.can_translate:
        return False
    return not entry.english_only or language in (None, "en", "auto")


def _choose_cached(cached: list[Demand], machine: Machine, language: str | None) -> ModelChoice:
    """The best model that fits, else the smallest. English-only models if necessary or asked
    for.
    """
    multilingual = [d for d in cached if not CATALOGUE[d.model].english_only]
    preferred = cached if language == "en" else multilingual or cached
    best = next((d for d in preferred if fits(d, machine)), None)
    chosen = best or preferred[-1]
    reason = f"{chosen.model} is the best cached model for this machine ({describe(machine)})"
    if best is None:
        reason = (
            f"{chosen.model} is cached, but it needs more than this machine has"
            f" ({describe(machine)})"
        )
    if CATALOGUE[chosen.model].english_only and language != "en":
        reason += "; it supports English only"
    return ModelChoice(chosen.model, reason)


def _is_whisper(repo: str) -> bool:
    for snapshot in hub.cached_snapshots(repo):
        if is_complete(snapshot):
            try:
                config = read_json(snapshot / "config.json")
            except ModelFormatError:
                return False
            # CTranslate2 writes both keys only for Whisper.
            of_ctranslate2 = {"alignment_heads", "lang_ids"} <= set(config)
            return config.get("model_type") == "whisper" or of_ctranslate2
    return False


def _row(name: str, repo: str, entry: CatalogueEntry | None) -> ModelRow:
    found = _find_cached_or_none(name)
    languages = "English" if found and found.english_only else "several languages"
    size = None
    if found is not None:
        home = found.directory if found.is_packaged else hub.repository_directory(repo)
        size = _bytes_below(home) + sum(_bytes_below(d) for d in conversion.conversions_of(home))
    return ModelRow(
        name,
        repo,
        parameters_millions=entry.parameters_millions if entry else None,
        download_bytes=entry.download_bytes if entry else None,
        languages=entry.languages if entry else languages,
        path=found.directory if found else None,
        bytes_on_disk=size,
        package=PACKAGED[name].requirement if name in PACKAGED else None,
    )


def _bytes_below(directory: Path) -> int:
    files = (file for file in directory.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.lstat().st_size for file in files)
