"""Which recordings and outputs a program may name that acts for its user: files inside allowed roots, nothing hidden.

A path is judged twice: as it is written, before the disk is touched (so that a refusal says nothing about what exists
outside), and again after its links are resolved. What comes back is the resolved path. ``opened_inside`` judges it once
more when it is opened, which may be hours later, and follows no link then.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import (
    CancelledError,
    OutputError,
    SourceNotFoundError,
    SourceRefusedError,
    SourceTooLargeError,
    SourceUnreadableError,
    TranscribeError,
    UsageError,
)
from .inputs import MEDIA_EXTENSIONS, Recording
from .openat import MEETS_LINK, NotRegularError, OpenedFile, open_file, resolved
from .source_names import exists, literal_parts, look_alikes, nearest, plain_name, spellings
from .walk import PathPattern, Walk, short

MAX_FILE_BYTES = 5 * 1024**3
MAX_RECORDINGS = 1_000  # of one call
OPENING_TRIES = (
    5  # a directory may be moved while it is opened; more often than that is no accident
)
MAX_SOURCE_CHARS = 4_096  # Linux's longest path

_HAS_FLAGS = os.name == "nt" or hasattr(
    os, "chflags"
)  # on Linux the name alone says that a file is hidden
_HINT = "name a file inside an allowed root; roots are set with --allowed-root or TRANSCRIBE_MCP_ALLOWED_ROOTS"


@dataclass(frozen=True, slots=True)
class Access:
    """What may be named.

    Attributes:
        roots: directories whose files may be read and beside which results may be written.
        allow_urls: recordings may be fetched from public addresses.
        max_file_bytes: larger recordings are refused.
        reserved: directories of our own, below which nothing is written for a user.
        resolved: the roots without links in them. A job keeps these: a link that takes a root's place opens nothing.
    """

    roots: tuple[Path, ...]
    allow_urls: bool = False
    max_file_bytes: int = MAX_FILE_BYTES
    reserved: tuple[Path, ...] = ()
    resolved: tuple[Path, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "resolved",
            tuple(dict.fromkeys(Path(os.path.realpath(root)) for root in self.roots)),
        )

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
            other = (
                "patterns go in a batch"
                if glob.has_magic(source)
                else "check the name and the directory"
            )
            hint = nearest(written, self._may_list) or other
            raise SourceNotFoundError(f"{source}: no such file", hint=hint) from error
        except OSError as error:
            raise _unreadable(source, error) from error
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
            raise SourceUnreadableError(
                f"{source} is {kind}", hint="name a media file; directories go in a batch"
            )
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
        """Where a result may be written: inside the roots, not hidden, with the (last) extension of its format.

        Raises:
            OutputError: anything else.
        """
        extension = extension[extension.rindex(".") :]
        hint = f"name a file that ends in {extension}, inside an allowed root"
        try:
            written = self._judged(plain_name(target))
            folder = self._resolve(written.parent, target)
        except SourceRefusedError as error:
            raise OutputError(f"cannot write {target}: {error}", hint=hint) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(
                f"cannot write {target}: {reason}", hint="name a directory that exists"
            ) from error
        if written.suffix.lower() != extension:
            raise OutputError(f"cannot write {target}: it does not end in {extension}", hint=hint)
        path = folder / written.name
        if path.is_symlink():
            raise OutputError(f"cannot write {target}: it is a link", hint="name another file")
        if any(path.is_relative_to(own) for own in self.reserved):
            raise OutputError(
                f"cannot write {target}: that directory is the server's own", hint=hint
            )
        return path

    def _written(self, source: str) -> Path:
        """The absolute path that a name means, inside a root and not hidden; outside of them the disk is not touched.

        Of its spellings the first is taken that exists, else the one file that looks the same, else the plain one.
        """
        for name in spellings(source):
            with suppress(SourceRefusedError):
                path = self._judged(name)
                if exists(path):
                    return path
        path = self._judged(plain_name(source))
        found = look_alikes(path, self._may_list)
        return self._judged(str(found[0])) if len(found) == 1 else path

    def _may_list(self, folder: Path) -> bool:
        with suppress(SourceRefusedError, OSError, RuntimeError):
            self._resolve(folder, str(folder))
            return True
        return False

    def _judged(self, source: str) -> Path:
        """The absolute path as it is written, inside a root and not hidden; the disk is not touched."""
        if source[:5].lower() == "file:":
            source = path_of_uri(source)
        if not source or len(source) > MAX_SOURCE_CHARS or "\0" in source:
            what = "is empty" if not source else "is no path"
            raise SourceRefusedError(
                f"the name {short(source)} {what}", hint="give the path of a media file"
            )
        if os.name == "nt" and source.replace("/", "\\").startswith("\\\\"):
            raise SourceRefusedError(f"{short(source)} is on another machine", hint=_HINT)
        try:
            path = Path(os.path.abspath(Path(source).expanduser()))  # noqa: PTH100 - resolve() would follow links
        except RuntimeError as error:  # ~nobody
            raise SourceRefusedError(f"{short(source)}: {error}", hint=_HINT) from error
        if os.name == "nt" and any(":" in part for part in path.parts[1:]):
            raise SourceRefusedError(
                f"{short(source)} is no plain file", hint=_HINT
            )  # a second stream of one
        _require_inside(path, (*map(Path.absolute, self.roots), *self.resolved), source)
        return path

    def _resolve(self, written: Path, source: str) -> Path:
        path = resolved(written)
        _require_inside(path, self.resolved, source)
        return path


def _require_inside(path: Path, roots: Sequence[Path], source: str) -> None:
    holding = [root for root in roots if path.is_relative_to(root)]
    if not holding:
        raise SourceRefusedError(
            f"{short(source)} is outside the directories that may be read", hint=_HINT
        )
    if all(_is_hidden(path, root) for root in holding):
        raise SourceRefusedError(
            f"{short(source)} is hidden", hint="hidden files and directories are not read"
        )


@contextmanager
def opened_inside(path: Path, roots: Sequence[Path]) -> Iterator[OpenedFile]:
    """The file at ``path``, held open, if it lies inside ``roots`` now; links are followed inside of them only.

    Args:
        roots: without links in them, as ``Access.resolved`` gives them.

    Raises:
        SourceRefusedError: it is outside or hidden, or its directories keep changing.
        SourceNotFoundError, SourceUnreadableError: see ``Access.recording``.
    """
    opened = _open_inside(path, roots)
    try:
        yield opened
    finally:
        opened.close()


def _open_inside(path: Path, roots: Sequence[Path]) -> OpenedFile:
    for _ in range(OPENING_TRIES):
        try:
            now = resolved(path)
            _require_inside(now, roots, str(path))
            return OpenedFile.of(open_file(now), path)
        except FileNotFoundError as error:
            raise SourceNotFoundError(
                f"{path}: no such file", hint="check the name and the directory"
            ) from error
        except NotRegularError as error:
            hint = "name a media file; directories go in a batch"
            raise SourceUnreadableError(f"{path} is {error.strerror}", hint=hint) from error
        except OSError as error:
            if error.errno not in MEETS_LINK:
                raise _unreadable(str(path), error) from error
    hint = "put the recording back, then submit it again"
    raise SourceRefusedError(
        f"{path}: a link has taken the place of the file or of its directory", hint=hint
    )


def _unreadable(source: str, error: Exception) -> SourceUnreadableError:
    reason = getattr(error, "strerror", None) or str(error)
    return SourceUnreadableError(
        f"{source}: cannot be read: {reason}", hint="check its permissions"
    )


def find_allowed(
    sources: Sequence[str], access: Access, check: Callable[[], None] = lambda: None
) -> tuple[list[Recording], list[tuple[str, TranscribeError]]]:
    """Files, directories and patterns -> recordings in order, each once, and what was refused, each with its reason.

    No directory outside the roots is listed, whatever a pattern or a link says. ``check`` is called now and then and
    may raise to stop.

    Raises:
        UsageError: more recordings, or more to look at, than one call may ask for.
    """
    found: dict[Path, Recording] = {}
    refused: list[tuple[str, TranscribeError]] = []
    search = _Search(access, Walk(check))
    for source in sources:
        check()
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
                    raise UsageError(
                        f"{short(source)} names more than {MAX_RECORDINGS} recordings", hint=hint
                    )
        except (UsageError, CancelledError):
            raise
        except TranscribeError as error:
            refused.append((source, error))
        except OSError as error:  # a name longer than names can be
            message = f"{short(source)}: cannot be read: {error.strerror}"
            refused.append(
                (source, SourceUnreadableError(message, hint="check its name and its permissions"))
            )
    unreadable = search.walk.unreadable[:MAX_RECORDINGS]
    refused += [
        (str(directory), _unreadable(str(directory), error)) for directory, error in unreadable
    ]
    return list(found.values()), refused


@dataclass(frozen=True, slots=True)
class _Search:
    """Expands directories and patterns, inside the roots only; ``walk`` is that of the whole call."""

    access: Access
    walk: Walk

    def expand(self, source: str) -> Iterator[tuple[str, Path]]:
        """What ``source`` names, as written, with its place below the directory that was named."""
        written = self.access._written(source)
        if written.is_dir():
            yield from self._media_below(written, source)
        elif glob.has_magic(str(written)) and not written.exists():
            yield from self._matching(written, source)
        else:
            yield source, Path(written.name)

    def _media_below(self, folder: Path, source: str) -> Iterator[tuple[str, Path]]:
        seen = False
        for relative in self._files(folder, source, PathPattern(("**",))):
            if relative.suffix.lower() in MEDIA_EXTENSIONS:
                seen = True
                yield str(folder / relative), relative
        if not seen:
            hint = "name files with other extensions one by one or with a pattern"
            raise SourceNotFoundError(f"there are no recordings in {short(source)}", hint=hint)

    def _matching(self, pattern: Path, source: str) -> Iterator[tuple[str, Path]]:
        parts = pattern.parts
        fixed = literal_parts(pattern)
        folder = Path(*parts[:fixed])
        seen = False
        for relative in self._files(folder, source, PathPattern(parts[fixed:])):
            seen = True
            yield str(folder / relative), Path(relative.name)
        if not seen:
            hint = nearest(pattern, self.access._may_list) or "check the pattern and the directory"
            raise SourceNotFoundError(f"nothing matches {short(source)}", hint=hint)

    def _files(self, folder: Path, source: str, pattern: PathPattern) -> Iterator[Path]:
        """Those that match below a directory, which a link to it may name; none where there is no such directory."""
        try:
            begin = self.access._resolve(folder, source)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno in MEETS_LINK:
                return
            raise
        yield from self.walk.files(begin, pattern, is_hidden)


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
        raise SourceRefusedError(f"{short(uri)} is no address: {error}", hint=_HINT) from error
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise SourceRefusedError(f"{short(uri)} is no file of this machine", hint=_HINT)
    path = unquote(parts.path)
    drive = os.name == "nt" and len(path) > 2 and path[2] == ":"
    return path[1:] if drive else path


def is_hidden(found: Path | os.DirEntry[str]) -> bool:
    """Whether a file or directory is hidden by its name or by the system."""
    if found.name.startswith("."):
        return True
    if not _HAS_FLAGS:
        return False
    try:
        status = found.stat(follow_symlinks=False)
    except OSError:
        return False
    flags = getattr(status, "st_flags", 0) & stat.UF_HIDDEN
    attributes = getattr(status, "st_file_attributes", 0) & stat.FILE_ATTRIBUTE_HIDDEN
    return bool(flags or attributes)


def _is_hidden(path: Path, root: Path) -> bool:
    """Whether the path, or a directory between it and ``root``, is hidden."""
    parts = path.relative_to(root).parts
    if not _HAS_FLAGS:  # a path may have thousands of parts
        return any(part.startswith(".") for part in parts)
    return any(is_hidden(root.joinpath(*parts[: n + 1])) for n in range(len(parts)))
