"""Write result files atomically."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import OutputError, OutputExistsError

_OTHER_DIRECTORY = "choose another directory with --output-dir"
_HINTS = {
    errno.ENOSPC: "free some space on that disk, or choose another directory with --output-dir",
    errno.EDQUOT: "free some of your quota, or choose another directory with --output-dir",
    errno.EFBIG: (
        "the system limits the size of files there; choose another directory with --output-dir"
    ),
    errno.EACCES: "choose a directory that you may write to with --output-dir",
    errno.EPERM: "choose a directory that you may write to with --output-dir",
    errno.EROFS: "this file system is read-only; choose another directory with --output-dir",
    errno.ENAMETOOLONG: "shorten the name of the recording or of the directory",
    errno.ENOTDIR: "a part of this path is a file; choose another directory with --output-dir",
    errno.EEXIST: "a part of this path is a file; choose another directory with --output-dir",
}


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse early a path that ``write_whole`` would refuse later.

    Raises:
        OutputExistsError: the file exists and ``overwrite`` is not set.
        OutputError: it is a directory, a device or a pipe, or the name is invalid.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a directory" if path.is_dir() else "not a regular file"
            hint = "choose another name or directory"
            raise OutputError(f"cannot write {path}: it is {kind}", hint=hint)
    except OSError as error:
        raise _refused(path, error) from error
    if not overwrite and os.path.lexists(path):
        raise _exists(path)


def plan(targets: Sequence[Path], *, overwrite: bool, skip_existing: bool) -> list[Path]:
    """The files to write for a recording; none if all exist and ``skip_existing`` is set.

    Raises:
        OutputExistsError, OutputError: as ``check_target``.
    """
    found = [path for path in targets if not (skip_existing and path.is_file())]
    for path in found:
        check_target(path, overwrite=overwrite)
    return found


def require_writable(directory: Path) -> None:
    """Create a directory if necessary, and check before the work that it is writable.

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
    """Write a temporary file beside the target and move it into place.

    Raises:
        OutputExistsError: the file exists, or another program created it meanwhile.
        OutputError: the system refuses; no partial file remains.
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
        path = path.resolve()  # replaces the target of a link, not the link
        shutil.copymode(path, temporary)
    temporary.replace(path)


def _place_new(temporary: Path, path: Path) -> None:
    """Move a file to an unused name. If two programs try, one succeeds."""
    try:
        path.hardlink_to(temporary)
    except (OSError, NotImplementedError):
        # The file exists, or there are no hard links: reserve the name, replace the empty file.
        try:
            path.open("xb").close()
        except FileExistsError as error:
            raise _exists(path) from error
        try:
            temporary.replace(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _exists(path: Path) -> OutputExistsError:
    return OutputExistsError(
        f"{path} exists already", hint="add --overwrite to replace it, or choose another directory"
    )


def _refused(path: Path, error: OSError | ValueError) -> OutputError:
    reason = getattr(error, "strerror", None) or str(error)
    for part in (path, *path.parents):
        if os.path.islink(part) and not part.exists():  # noqa: PTH114 - long names are no error
            reason = f"{part} is a symbolic link, and what it points to is missing"
            return OutputError(f"cannot write {path}: {reason}", hint=_OTHER_DIRECTORY)
    hint = _HINTS.get(getattr(error, "errno", None) or 0, _OTHER_DIRECTORY)
    return OutputError(f"cannot write {path}: {reason}", hint=hint)
