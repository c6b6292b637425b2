"""Open files without following links, as paths that keep their file open.

A checked name can lead elsewhere a moment later, when a link replaces the file or a directory above
it. ``open_file`` opens a path only if no part of it is a link. ``OpenedFile`` is a path to that
open file: every reader gets the same file.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path as SystemPath
else:
    SystemPath = type(Path())

_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
# Non-blocking, because opening a pipe without a writer would block. Regular files ignore it.
_FILE = os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0) | _NO_LINK
# On Linux the directories above need only search permission.
_SEARCHED = _DIRECTORY | getattr(os, "O_PATH", 0)

Patches = dict[int, bytes]
"""Bytes that replace those of a file, by offset in the file."""

WALKS = os.open in os.supports_dir_fd and os.scandir in os.supports_fd and bool(_NO_LINK)
# FreeBSD reports EMLINK.
MEETS_LINK = frozenset({errno.ELOOP, errno.ENOTDIR, getattr(errno, "EMLINK", 0)})


class NotRegularError(OSError):
    """A directory, a pipe or a device, not a regular file."""


def resolved(path: Path) -> Path:
    """Resolve the links of an absolute path without ``..``.

    ``os.path.realpath`` restarts at the root for every part: a second for two thousand parts.
    Without links, one descent is enough.

    Raises:
        OSError: the path does not exist or is out of reach.
    """
    if WALKS and path.name:
        try:
            with _opened_directory(path.parent, _SEARCHED) as parent:
                if not stat.S_ISLNK(
                    os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode
                ):
                    return path
        except OSError:
            pass  # ``realpath`` resolves it or raises the right error
    return Path(os.path.realpath(path, strict=True))


def open_file(path: Path) -> int:
    """Open the regular file at an absolute path without links; returns its descriptor.

    Raises:
        NotRegularError: not a regular file. Never waits for a pipe.
        OSError: ``errno`` is in ``MEETS_LINK`` if a part of the path is a link.
    """
    if hasattr(os, "O_NOFOLLOW_ANY"):  # macOS
        _require_regular(path.stat(follow_symlinks=False))
        descriptor = os.open(path, _FILE | os.O_NOFOLLOW_ANY)
    elif WALKS:
        with _opened_directory(path.parent, _SEARCHED) as parent:
            # Checked before opening, because opening can trigger a device.
            _require_regular(os.stat(path.name, dir_fd=parent, follow_symlinks=False))
            descriptor = os.open(path.name, _FILE | _NO_LINK, dir_fd=parent)
    else:
        descriptor = os.open(path, _FILE)
    try:
        _require_regular(os.fstat(descriptor))
        if sys.platform == "win32" and os.path.normcase(
            _final_path(descriptor)
        ) != os.path.normcase(path):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_directory(path: Path) -> int:
    """Open a directory at an absolute path without links, for ``os.scandir``."""
    if hasattr(os, "O_NOFOLLOW_ANY"):
        return os.open(path, (_DIRECTORY & ~_NO_LINK) | os.O_NOFOLLOW_ANY)
    if path == Path(path.anchor):
        return os.open(path, _DIRECTORY)
    with _opened_directory(path.parent, _SEARCHED) as parent:
        return open_subdirectory(path.name, parent)


def open_subdirectory(name: str, parent: int) -> int:
    """Open a subdirectory of ``parent``, unless it is a link."""
    return os.open(name, _DIRECTORY, dir_fd=parent)


@contextmanager
def writable_directory(path: Path) -> Iterator[Path]:
    """Yield a path that keeps naming this directory, even if another takes its name.

    Linux has such paths. Elsewhere this is ``path`` itself, which the caller has just checked.

    Raises:
        OSError: a part of the path is a link, or opening fails.
    """
    if not hasattr(os, "O_PATH"):
        yield path
        return
    with _opened_directory(path, _SEARCHED) as descriptor:
        held = Path(f"/proc/self/fd/{descriptor}")
        try:
            holds = os.path.samestat((held / ".").stat(), os.fstat(descriptor))
        except OSError:
            holds = False
        yield held if holds else path


@contextmanager
def _opened_directory(path: Path, flags: int) -> Iterator[int]:
    """Open a directory part by part from the root."""
    directory = os.open(path.anchor, flags)
    try:
        for part in path.parts[1:]:
            below = os.open(part, flags, dir_fd=directory)
            os.close(directory)
            directory = below
        yield directory
    finally:
        os.close(directory)


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(
            errno.EINVAL, "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        )


if sys.platform == "win32":

    def _final_path(descriptor: int) -> str:
        """The path of the open file. While it is open, neither it nor its directories can move."""
        import ctypes
        import msvcrt

        buffer = ctypes.create_unicode_buffer(32_768)
        handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
        if not ctypes.windll.kernel32.GetFinalPathNameByHandleW(handle, buffer, len(buffer), 0):
            raise ctypes.WinError()
        return buffer.value.replace("\\\\?\\UNC\\", "\\\\").removeprefix("\\\\?\\")


class OpenedFile(SystemPath):
    """The path of an open file: opening it gives this file, even if another has its name now.

    ``str`` gives the file's name, for messages; ``os.fspath`` gives the path of the descriptor.

    Attributes:
        descriptor: the open file; ``None`` for paths derived from this one, which are plain.
        reopens: whether each opening has a separate position. If not, use ``open`` or ``reader``.
    """

    descriptor: int | None = None
    address: str = ""
    reopens: bool = False

    @classmethod
    def of(cls, descriptor: int, path: Path) -> OpenedFile:
        """Take ownership of the descriptor; ``close`` releases it."""
        opened = cls(path)
        opened.descriptor = descriptor
        if os.name == "nt":  # open files keep their names there
            opened.address = str(path)
            opened.reopens = True
            return opened
        for folder in ("/proc/self/fd", "/dev/fd"):
            opened.address = f"{folder}/{descriptor}"
            opened.reopens = _has_own_position(opened.address, descriptor)
            if opened.reopens:
                break
        return opened

    def __fspath__(self) -> str:
        return str(self) if self.descriptor is None else self.address

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        if self.descriptor is None:
            return super().stat(follow_symlinks=follow_symlinks)
        return os.fstat(self.descriptor)

    def open(self, mode: str = "r", *arguments: Any, **options: Any) -> IO[Any]:  # type: ignore[override]
        if self.descriptor is None or mode != "rb":
            return super().open(mode, *arguments, **options)
        return io.BufferedReader(self.reader())

    def reader(
        self, begin: int = 0, end: int | None = None, patches: Patches | None = None
    ) -> PositionedReader:
        """Bytes ``[begin, end)`` of the file, with a separate position."""
        if self.descriptor is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self))
        return PositionedReader(self.descriptor, f"file:{self}", begin, end, patches)

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class PositionedReader(io.RawIOBase):
    """Bytes ``[begin, end)`` of a file, some of them replaced by ``patches``; other readers of the
    descriptor do not move the position.
    """

    def __init__(
        self,
        descriptor: int,
        name: str,
        begin: int = 0,
        end: int | None = None,
        patches: Patches | None = None,
    ) -> None:
        self._descriptor = os.dup(descriptor)
        self._begin = begin
        self._end = os.fstat(descriptor).st_size if end is None else end
        self._position = 0
        self._patches = patches or {}
        self.name = name  # FFmpeg recognizes some formats only by extension

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}
        position = offset + origins.get(whence, self._end - self._begin)
        if position < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        at = self._begin + self._position
        data = _read_at(self._descriptor, max(0, min(len(view), self._end - at)), at)
        view[: len(data)] = data
        for offset, patch in self._patches.items():
            first = max(offset, at)
            last = min(offset + len(patch), at + len(data))
            if first < last:
                view[first - at : last - at] = patch[first - offset : last - offset]
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


if hasattr(os, "pread"):
    _read_at = os.pread
else:
    from threading import Lock

    _seeking = Lock()

    def _read_at(descriptor: int, size: int, position: int, /) -> bytes:
        with _seeking:
            os.lseek(descriptor, position, os.SEEK_SET)
            return os.read(descriptor, size)


def _has_own_position(address: str, descriptor: int) -> bool:
    """Whether opening ``address`` gives the same file with a separate position.

    Linux does. On macOS and the BSDs it duplicates the descriptor.
    """
    try:
        other = os.open(address, os.O_RDONLY | _BINARY)
    except OSError:
        return False
    try:
        os.lseek(descriptor, 1, os.SEEK_SET)
        is_same = os.path.samestat(os.fstat(other), os.fstat(descriptor))
        return is_same and os.lseek(other, 0, os.SEEK_CUR) == 0
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.close(other)
