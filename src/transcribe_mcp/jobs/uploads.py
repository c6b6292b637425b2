"""Recordings that HTTP clients have sent, kept in the data directory until no job names them.

A file is named by its content, so the same bytes are one file, and jobs on it are found again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from heapq import nlargest
from pathlib import Path

from ..domain.files import atomic_write
from ..domain.private_files import FILE_MODE, FOLDER_MODE
from ..errors import StoreBusyError, StoreError, StoreFullError
from .models import JobFilter
from .writer_protocol import hold_lock

FOLDER = "uploads"
CLIP = "voice-"  # the beginning of the names of clips
TEMPORARY = "new-"  # the beginning of the names of folders for uploads under way
LOCK_S = 30.0
FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
MAX_MATCHES = 10_000  # of a filter; databases limit the parameters of a query
ABANDONED_S = 86_400.0
# Jobs on one file are equal only with equal modification times. The name identifies the content, so
# every file gets this time, also one that is deleted and sent again.
_MTIME_NS = 1_000_000_000_000_000_000
_NAME_SUFFIX = ".name"


@dataclass(frozen=True, slots=True)
class Upload:
    """A recording that a client has sent whole.

    Attributes:
        path: a temporary file; ``keep`` moves it.
        digest: SHA-256 of its content in hexadecimal.
        suffix: of the kept file's name, such as ``.mp3``.
        name: the client's, only for showing; may be empty.
    """

    path: Path
    digest: str
    suffix: str = ".bin"
    name: str = ""


def make_folder(data_dir: Path) -> Path:
    """The folder of uploads. Deletes leftovers of killed servers."""
    folder = data_dir.absolute() / FOLDER
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    for left in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
    return folder


@contextmanager
def disk_errors(data_dir: Path) -> Iterator[None]:
    """Translate errors of writing uploads.

    Raises:
        StoreFullError: the disk is full.
        StoreError: the folder is not writable.
    """
    try:
        yield
    except OSError as error:
        message = f"cannot keep the upload in {data_dir / FOLDER}: {error.strerror or error}"
        if error.errno in FULL:
            raise StoreFullError(message, hint="free some disk space there") from error
        raise StoreError(message, hint="check the permissions of that directory") from error


def place_of(data_dir: Path, upload: Upload) -> Path:
    """Where an upload is kept: the place of an earlier one with the same content."""
    folder = data_dir.absolute() / FOLDER
    found = (path for path in folder.glob(f"{upload.digest}.*") if path.suffix != _NAME_SUFFIX)
    return next(found, folder / f"{upload.digest}{upload.suffix}")


def keep(upload: Upload, path: Path) -> None:
    """Move an upload to its place."""
    os.utime(upload.path, ns=(_MTIME_NS, _MTIME_NS))
    with suppress(PermissionError):  # Windows: a worker reads the file, which has the same content
        upload.path.replace(path)
    if upload.name:
        named = path.with_suffix(_NAME_SUFFIX)
        named.touch(mode=FILE_MODE)
        named.write_text(upload.name, encoding="utf-8")


def keep_clip(data_dir: Path, clip: bytes) -> str:
    """Keep a clip of a voice while a job names it; returns its SHA-256, which names it."""
    digest = hashlib.sha256(clip).hexdigest()
    path = clip_path(data_dir, digest)
    with atomic_write(path, mode=FILE_MODE) as file:
        file.write(clip)
    return digest


def clip_path(data_dir: Path, digest: str) -> Path:
    return data_dir.absolute() / FOLDER / f"{CLIP}{digest}"


def with_paths(references: Iterable[str], data_dir: Path) -> tuple[str, ...]:
    """The option ``references`` of a job, with paths in place of digests."""
    pairs = (reference.partition("=") for reference in references)
    return tuple(f"{name}={clip_path(data_dir, digest)}" for name, _, digest in pairs)


def digest_of(path: str) -> str:
    """The SHA-256 in the name of an upload or a clip."""
    return Path(path).stem.removeprefix(CLIP)


@contextmanager
def locked(data_dir: Path, digests: Iterable[str]) -> Iterator[None]:
    """Stop others from deleting these files, and from using them in new jobs.

    Raises:
        StoreBusyError: another process holds the lock for too long.
        StoreError: see ``disk_errors``.
    """
    names = sorted({f"uploads-{digest[:1]}.lock" for digest in digests})
    with ExitStack() as stack:
        for name in names:  # in the same order everywhere
            with disk_errors(data_dir):
                lock = hold_lock(data_dir, LOCK_S, name)
            if lock is None:
                message = f"another process has not finished its upload and holds the lock {name}"
                raise StoreBusyError(message, hint="try again")
            stack.enter_context(closing(lock))
        yield


def name_of(source: str) -> str:
    """The client's name for an upload; "" for other sources and for uploads without a name."""
    path = Path(source)
    if path.parent.name != FOLDER:
        return ""
    try:
        return path.with_suffix(_NAME_SUFFIX).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def with_names(which: JobFilter, data_dir: Path) -> JobFilter:
    """The filter, for the names of uploads too. Of those that match, the newest count."""
    part = which.source_contains.lower()
    if not part:
        return which
    folder = data_dir.absolute() / FOLDER
    names = [path for path in folder.glob(f"*{_NAME_SUFFIX}") if part in name_of(str(path)).lower()]
    stems = {path.stem for path in nlargest(MAX_MATCHES, names, key=_written_at)}
    found = (path for path in folder.glob("*.*") if path.stem in stems)
    return replace(which, or_sources=tuple(map(str, found)))


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it was just deleted
        return 0.0


def is_kept(data_dir: Path, source: str) -> bool:
    """Whether the source of a job is an upload."""
    return Path(source).parent == data_dir.absolute() / FOLDER


def drop(source: str) -> None:
    """Delete an upload. On Windows, an open file stays."""
    path = Path(source)
    for each in (path, path.with_suffix(_NAME_SUFFIX)):
        with suppress(OSError):
            each.unlink(missing_ok=True)
