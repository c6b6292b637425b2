"""Writing a result: whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import OutputError, OutputExistsError

_HINTS = {
    errno.ENOSPC: "free some space on that disk, or choose another directory with --output-dir",
    errno.EDQUOT: "free some of your quota, or choose another directory with --output-dir",
    errno.EFBIG: "the system limits the size of files there; choose another directory with --output-dir",
    errno.EACCES: "choose a directory that you may write to with --output-dir",
    errno.EPERM: "choose a directory that you may write to with --output-dir",
    errno.EROFS: "this file system is read-only; choose another directory with --output-dir",
    errno.ENAMETOOLONG: "shorten the name of the recording or of the directory",
    errno.ENOTDIR: "a part of this path is a file; choose another directory with --output-dir",
    errno.EEXIST: "a part of this path is a file; choose another directory with --output-dir",
}


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that ``write_whole`` would refuse, before the work is done.

    Raises:
        OutputExistsError: there is a file and ``overwrite`` is not set.
        OutputError: there is a directory, a device or a pipe, or no such name can be.
    """
    try:
        if path.is_dir():
            raise OutputError(
                f"cannot write {path}: it is a directory", hint="choose another name or directory"
            )
        if path.exists() and not path.is_file():
            raise OutputError(
                f"cannot write {path}: it is no ordinary file",
                hint="choose another name or directory",
            )
    except OSError as error:
        raise _refused(path, error) from error
    if not overwrite and os.path.lexists(path):
        raise _exists(path)


def plan(targets: Sequence[Path], *, overwrite: bool, skip_existing: bool) -> list[Path]:
    """Those of a recording's files that are to be written; none where all are there and may be skipped.

    Raises:
        OutputExistsError, OutputError: as ``check_target``.
    """
    found = [path for path in targets if not (skip_existing and path.is_file())]
    for path in found:
        check_target(path, overwrite=overwrite)
    return found


def require_writable(directory: Path) -> None:
    """Make a directory, if need be, and see that files can be made in it: before the work, not after.

    Raises:
        OutputError: the system refuses.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (OSError, ValueError) as error:
        raise _refused(directory, error) from error


def write_whole(path: Path, content: bytes, *, overwrite: bool) -> None:
    """Write a file under a temporary name beside it and move it into place; an old file stays until then.

    Raises:
        OutputExistsError: there is a file, or one came meanwhile, and ``overwrite`` is not set.
        OutputError: the system refuses; nothing is left behind.
    """
    temporary = path.with_name(f".transcribe-{secrets.token_hex(8)}.tmp")
    try:
        check_target(path, overwrite=overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(content)
            if overwrite:
                _replace(temporary, path)
            else:
                _place_new(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise _refused(path, error) from error


def _replace(temporary: Path, path: Path) -> None:
    if path.exists():
        path = path.resolve()  # what a link points to is replaced, not the link
        shutil.copymode(path, temporary)
    temporary.replace(path)


def _place_new(temporary: Path, path: Path) -> None:
    """Move a file to a name that nobody has; of two programs that try, one gets it."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError as error:
        raise _exists(path) from error
    except (
        OSError,
        NotImplementedError,
    ):  # a file system without hard links: reserve the name, then fill it
        _reserve(path)
        try:
            temporary.replace(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _reserve(path: Path) -> None:
    try:
        path.open("xb").close()
    except FileExistsError as error:
        raise _exists(path) from error


def _exists(path: Path) -> OutputExistsError:
    return OutputExistsError(
        f"{path} exists already", hint="add --overwrite to replace it, or choose another directory"
    )


def _refused(path: Path, error: OSError | ValueError) -> OutputError:
    if isinstance(error, OSError):
        reason, hint = error.strerror or str(error), _HINTS.get(error.errno or 0, "")
    else:
        reason, hint = str(error), ""
    return OutputError(
        f"cannot write {path}: {reason}", hint=hint or "choose another directory with --output-dir"
    )
