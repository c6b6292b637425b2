"""Which recordings and outputs a program may name that acts for its user: files inside allowed roots, nothing hidden.

A path is judged twice: as it is written, before the disk is touched (so that a refusal says nothing about what exists
outside), and again after its links are resolved. What comes back is the resolved path, and that is what is opened.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

from .errors import (
    OutputError,
    SourceNotFoundError,
    SourceRefusedError,
    SourceTooLargeError,
    SourceUnreadableError,
    TranscribeError,
    UsageError,
)
from .sources import MEDIA_EXTENSIONS, Recording
from .text_breaks import shortened

MAX_FILE_BYTES = 5 * 1024**3
MAX_RECORDINGS = 1_000  # of one call
MAX_ENTRIES = 50_000  # of directories, looked at for one call
MAX_SOURCE_CHARS = 4_096  # Linux's longest path

_HINT = "name a file inside an allowed root; roots are set with --allowed-root or TRANSCRIBE_MCP_ALLOWED_ROOTS"


@dataclass(frozen=True, slots=True)
class Access:
    """What may be named.

    Attributes:
        roots: directories whose files may be read and beside which results may be written.
        allow_urls: recordings may be fetched from public addresses.
        max_file_bytes: larger recordings are refused.
        reserved: directories of our own, below which nothing is written for a user.
    """

    roots: tuple[Path, ...]
    allow_urls: bool = False
    max_file_bytes: int = MAX_FILE_BYTES
    reserved: tuple[Path, ...] = ()
    _resolved: tuple[Path, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_resolved", tuple(dict.fromkeys(Path(os.path.realpath(root)) for root in self.roots)))

    def widened(self, roots: Sequence[Path]) -> Access:
        """The same with more roots, those aside that would open a whole disk."""
        more = tuple(root for root in roots if root != Path(root.anchor))
        return Access((*self.roots, *more), self.allow_urls, self.max_file_bytes, self.reserved)

    def recording(self, source: str) -> Path:
        """The resolved path of one recording.

        Raises:
            SourceRefusedError: outside the roots, hidden, or leading out of them through links.
            SourceNotFoundError: there is no such file.
            SourceUnreadableError: it is no ordinary file, or the system refuses.
            SourceTooLargeError: larger than the limit.
        """
        written = self._written(source)
        try:
            path = self._resolve(written, source)
            status = path.stat()
        except FileNotFoundError as error:
            raise SourceNotFoundError(f"{source}: no such file", hint="check the name and the directory") from error
        except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in circles
            reason = getattr(error, "strerror", None) or str(error)
            raise SourceUnreadableError(f"{source}: cannot be read: {reason}", hint="check its permissions") from error
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
            raise SourceUnreadableError(f"{source} is {kind}", hint="name a media file; directories go in a batch")
        if status.st_size > self.max_file_bytes:
            size, limit = status.st_size / 1024**3, self.max_file_bytes / 1024**3
            raise SourceTooLargeError(
                f"{source} has {size:.1f} GiB, more than the limit of {limit:g} GiB",
                hint="extract its sound track, or raise TRANSCRIBE_MCP_MAX_FILE_GIB",
            )
        return path

    def require_inside(self, source: str) -> None:
        """The first of the two judgements: the name as it is written. The disk is not touched.

        Raises:
            SourceRefusedError: outside the roots or hidden.
        """
        self._written(source)

    def output(self, target: str, extension: str) -> Path:
        """Where a result may be written: inside the roots, not hidden, with the extension of its format.

        Raises:
            OutputError: anything else.
        """
        hint = f"name a file that ends in {extension}, inside an allowed root"
        try:
            written = self._written(target)
            folder = self._resolve(written.parent, target)
        except SourceRefusedError as error:
            raise OutputError(f"cannot write {target}: {error}", hint=hint) from error
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise OutputError(f"cannot write {target}: {reason}", hint="name a directory that exists") from error
        if written.suffix.lower() != extension:
            raise OutputError(f"cannot write {target}: it does not end in {extension}", hint=hint)
        path = folder / written.name
        if path.is_symlink():
            raise OutputError(f"cannot write {target}: it is a link", hint="name another file")
        if any(path.is_relative_to(own) for own in self.reserved):
            raise OutputError(f"cannot write {target}: that directory is the server's own", hint=hint)
        return path

    def _written(self, source: str) -> Path:
        """The absolute path as it is written, inside a root and not hidden; the disk is not touched."""
        if source.startswith("file://"):
            source = path_of_uri(source)
        if not source or len(source) > MAX_SOURCE_CHARS or "\0" in source:
            what = "is empty" if not source else "is no path"
            raise SourceRefusedError(f"the name {_short(source)} {what}", hint="give the path of a media file")
        if os.name == "nt" and source.replace("/", "\\").startswith("\\\\"):
            raise SourceRefusedError(f"{_short(source)} is on another machine", hint=_HINT)
        try:
            path = Path(os.path.abspath(Path(source).expanduser()))  # noqa: PTH100 - resolve() would follow links
        except RuntimeError as error:  # ~nobody
            raise SourceRefusedError(f"{_short(source)}: {error}", hint=_HINT) from error
        if os.name == "nt" and any(":" in part for part in path.parts[1:]):
            raise SourceRefusedError(f"{_short(source)} is no plain file", hint=_HINT)  # a second stream of one
        self._require_inside(path, (*map(Path.absolute, self.roots), *self._resolved), source)
        return path

    def _resolve(self, written: Path, source: str) -> Path:
        path = written.resolve(strict=True)
        self._require_inside(path, self._resolved, source)
        return path

    def _require_inside(self, path: Path, roots: Sequence[Path], source: str) -> None:
        root = next((root for root in roots if path.is_relative_to(root)), None)
        if root is None:
            raise SourceRefusedError(f"{_short(source)} is outside the directories that may be read", hint=_HINT)
        if all(_is_hidden(path, root) for root in roots if path.is_relative_to(root)):
            raise SourceRefusedError(f"{_short(source)} is hidden", hint="hidden files and directories are not read")


def find_allowed(sources: Sequence[str], access: Access) -> tuple[list[Recording], list[tuple[str, TranscribeError]]]:
    """Files, directories and patterns -> recordings in order, each once, and what was refused, each with its reason.

    No directory outside the roots is listed, whatever a pattern or a link says.

    Raises:
        UsageError: more recordings, or more entries to look at, than one call may ask for.
    """
    found: dict[Path, Recording] = {}
    refused: list[tuple[str, TranscribeError]] = []
    search = _Search(access)
    for source in sources:
        try:
            for written, relative in search.expand(source):
                try:
                    path = access.recording(written)
                except TranscribeError as error:
                    refused.append((written, error))
                else:
                    found.setdefault(path, Recording(path, relative))
                if len(found) + len(refused) > MAX_RECORDINGS:
                    hint = "name fewer files or smaller directories in one call"
                    raise UsageError(f"{_short(source)} names more than {MAX_RECORDINGS} recordings", hint=hint)
        except UsageError:
            raise
        except TranscribeError as error:
            refused.append((source, error))
        except OSError as error:  # a name longer than names can be
            message = f"{_short(source)}: cannot be read: {error.strerror}"
            refused.append((source, SourceUnreadableError(message, hint="check its name and its permissions")))
    return list(found.values()), refused


class _Search:
    """Expands directories and patterns one directory at a time, inside the roots only."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._left = MAX_ENTRIES

    def expand(self, source: str) -> Iterator[tuple[str, Path]]:
        """What ``source`` names, as written, with its place below the directory that was named."""
        written = self._access._written(source)
        if written.is_dir():
            self._access._resolve(written, source)  # a link may lead out of the roots
            yield from self._media_below(written, source)
        elif glob.has_magic(str(written)) and not written.exists():
            yield from self._matching(written, source)
        else:
            yield source, Path(written.name)

    def _media_below(self, folder: Path, source: str) -> Iterator[tuple[str, Path]]:
        seen = False
        for path in self._walk(folder):
            if path.suffix.lower() in MEDIA_EXTENSIONS:
                seen = True
                yield str(path), path.relative_to(folder)
        if not seen:
            hint = "name files with other extensions one by one or with a pattern"
            raise SourceNotFoundError(f"there are no recordings in {_short(source)}", hint=hint)

    def _matching(self, pattern: Path, source: str) -> Iterator[tuple[str, Path]]:
        parts = pattern.parts
        fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        base = Path(*parts[:fixed])
        seen = False
        for path in self._walk(base, None if "**" in parts else len(parts) - fixed):
            if _matches(path.relative_to(base), parts[fixed:]):
                seen = True
                yield str(path), Path(path.name)
        if not seen:
            raise SourceNotFoundError(f"nothing matches {_short(source)}", hint="check the pattern and the directory")

    def _walk(self, folder: Path, depth: int | None = None) -> Iterator[Path]:
        """Files below, in order, without hidden ones and what a link leads to; ``depth`` levels, or all."""
        try:
            self._access._resolve(folder, str(folder))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (OSError, RuntimeError, SourceRefusedError):
            return
        for entry in entries:
            self._left -= 1
            if self._left < 0:
                raise UsageError(
                    f"more than {MAX_ENTRIES} files would have to be looked at", hint="name a smaller directory"
                )
            path = Path(entry.path)
            if _is_hidden(path, folder):
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth is None or depth > 1:
                    yield from self._walk(path, None if depth is None else depth - 1)
            else:
                yield path


def _matches(path: PurePath, patterns: Sequence[str]) -> bool:
    """Whether a relative path fits a pattern part by part; ``**`` stands for any number of directories."""
    parts = path.parts
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_matches(PurePath(*parts[skip:]), patterns[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0]) and _matches(PurePath(*parts[1:]), patterns[1:])


def default_roots() -> tuple[Path, ...]:
    """The working directory, unless it holds the home directory or a whole disk, and the home directory."""
    home, here = Path.home(), Path.cwd()
    return (home,) if home.is_relative_to(here) or here == Path(here.anchor) else (here, home)


def path_of_uri(uri: str) -> str:
    """``file:///a%20b`` -> ``/a b``; other machines and other schemes are refused.

    Raises:
        SourceRefusedError
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise SourceRefusedError(f"{_short(uri)} is no address: {error}", hint=_HINT) from error
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise SourceRefusedError(f"{_short(uri)} is no file of this machine", hint=_HINT)
    path = unquote(parts.path)
    drive = os.name == "nt" and len(path) > 2 and path[2] == ":"
    return path[1:] if drive else path


def _is_hidden(path: Path, root: Path) -> bool:
    """Whether the path, or a directory between it and ``root``, is hidden by its name or by the system."""
    below = root
    for part in path.relative_to(root).parts:
        below = below / part
        if part.startswith(".") or _is_flagged_hidden(below):
            return True
    return False


def _is_flagged_hidden(path: Path) -> bool:
    if os.name != "nt" and not hasattr(os, "chflags"):
        return False  # Linux: the name alone says so
    try:
        status = path.lstat()
    except OSError:
        return False
    flags = getattr(status, "st_flags", 0) & stat.UF_HIDDEN
    attributes = getattr(status, "st_file_attributes", 0) & stat.FILE_ATTRIBUTE_HIDDEN
    return bool(flags or attributes)


def _short(source: str) -> str:
    """A name for a message: in quotes, escaped, of bounded length."""
    return repr(shortened(source, 200))
