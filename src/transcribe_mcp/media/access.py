"""Access control: which recordings may be read and which outputs may be written.

Every path is checked three times. ``Access`` checks it as written, without touching the disk: a
refusal then reveals nothing about files outside the roots. It checks the resolved path again after
following links. ``opened_inside`` checks it once more when it opens the file, possibly hours later,
and follows no links then.
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
    OutputError,
    SourceNotFoundError,
    SourceRefusedError,
    SourceTooLargeError,
    SourceUnreadableError,
    TranscribeError,
    UsageError,
)
from .inputs import MEDIA_EXTENSIONS, Collected, Recording, no_recordings_in, require_some
from .openat import MEETS_LINK, NotRegularError, OpenedFile, open_file, resolved
from .source_names import exists, literal_parts, look_alikes, nearest, plain_name, spellings
from .walk import PathPattern, Walk, short

MAX_FILE_BYTES = 5 * 1024**3
MAX_RECORDINGS = 1_000  # per call
# Retries while another process moves directories
OPENING_TRIES = 5
MAX_NAMED_ROOTS = 5  # in a hint
MAX_SOURCE_CHARS = 4_096  # PATH_MAX on Linux

_HAS_FLAGS = os.name == "nt" or hasattr(os, "chflags")  # Linux hides files by their name alone.
_SETTING = "roots are set with --allowed-root or TRANSCRIBE_MCP_ALLOWED_ROOTS"
_HINT = f"name a file inside an allowed root; {_SETTING}"


@dataclass(frozen=True, slots=True)
class Access:
    """The roots and limits of one caller.

    Attributes:
        roots: directories for reading recordings and writing results.
        allow_urls: allow downloads from public addresses.
        max_file_bytes: limit on the size of a recording.
        reserved: the program's own directories, closed to results.
        resolved: the roots without links. Jobs store these, so a link that replaces a root opens
            nothing.
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
        """Add roots, except those that would open a whole disk."""
        more = tuple(root for root in roots if root != Path(root.anchor))
        return Access((*self.roots, *more), self.allow_urls, self.max_file_bytes, self.reserved)

    def recording(self, source: str) -> Path:
        """The resolved path of one recording.

        Raises:
            SourceRefusedError: outside the roots, hidden, or a link out of them.
            SourceNotFoundError: no such file.
            SourceUnreadableError: not a regular file, or no permission.
            SourceTooLargeError: larger than the limit.
        """
        written = self.written(source)
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
            raise SourceUnreadableError.because(source, error) from error
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
            raise SourceUnreadableError(
                f"{source} is {kind}", hint="name a media file; directories go in a batch"
            )
        if status.st_size > self.max_file_bytes:
            gib = 1024**3
            raise SourceTooLargeError(
                f"{source} has {status.st_size / gib:.1f} GiB, "
                f"more than the limit of {self.max_file_bytes / gib:g} GiB",
                hint="extract its audio track, or raise TRANSCRIBE_MCP_MAX_FILE_GIB",
            )
        return path

    def output(self, target: str, extension: str) -> Path:
        """Check a target for a result: inside the roots, not hidden, with the format's extension.

        Raises:
            OutputError: otherwise.
        """
        extension = extension[extension.rindex(".") :]
        hint = f"name a file that ends in {extension}, inside an allowed root"
        try:
            written = self._judged(self._below_root(plain_name(target)))
            if written.suffix.lower() != extension:
                raise OutputError(
                    f"cannot write {target}: it does not end in {extension}", hint=hint
                )
            folder = self._resolve(written.parent, target)
        except SourceRefusedError as error:
            raise OutputError(f"cannot write {target}: {error}", hint=hint) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(
                f"cannot write {target}: {reason}", hint="name a directory that exists"
            ) from error
        path = folder / written.name
        if os.path.islink(path):  # noqa: PTH114 - long names are no error
            raise OutputError(f"cannot write {target}: it is a link", hint="name another file")
        if any(path.is_relative_to(own) for own in self.reserved):
            raise OutputError(
                f"cannot write {target}: that directory is the server's own", hint=hint
            )
        return path

    def written(self, source: str) -> Path:
        """Resolve a name to an absolute path inside a root, without touching the disk elsewhere.

        Prefers the first spelling that exists, then a single file that looks the same, then the
        plain name. A relative name is below the working directory, or below one of the roots.

        Raises:
            SourceRefusedError: outside the roots, hidden, or below several roots.
        """
        for name in spellings(source):
            found = self._meant(name)
            if len(found) > 1:
                raise SourceRefusedError(
                    f"{short(source)} is in several allowed directories",
                    hint=f"name one: {' or '.join(map(str, found[:MAX_NAMED_ROOTS]))}",
                )
            if found:
                return found[0]
        path = self._judged(self._below_root(plain_name(source)))
        found = look_alikes(path, self._may_list)
        return self._judged(str(found[0])) if len(found) == 1 else path

    def misses(self, source: str) -> bool:
        """Whether a name is outside the roots, or is relative and in none of them."""
        try:
            path = self.written(source)
        except SourceRefusedError:
            return True
        return _is_relative(plain_name(source)) and not exists(path)

    def _meant(self, name: str) -> list[Path]:
        """The files inside roots that a name means: as it stands, else below each root."""
        below = [str(root / name) for root in self.roots] if _is_relative(name) else []
        return self._existing([name]) or self._existing(below)

    def _existing(self, names: Sequence[str]) -> list[Path]:
        found = []
        for name in names:
            with suppress(SourceRefusedError):
                found.append(self._judged(name))
        return [path for path in dict.fromkeys(found) if exists(path)]

    def _below_root(self, name: str) -> str:
        """A relative name below the only root, if the working directory is outside it."""
        if len(self.roots) != 1 or not _is_relative(name) or _is_here(self.roots[0]):
            return name
        return str(self.roots[0] / name)

    def _may_list(self, folder: Path) -> bool:
        with suppress(SourceRefusedError, OSError, RuntimeError):
            self._resolve(folder, str(folder))
            return True
        return False

    def _judged(self, source: str) -> Path:
        """Check the absolute path as written, without touching the disk."""
        if source[:5].lower() == "file:":
            source = path_of_uri(source)
        if not source or len(source) > MAX_SOURCE_CHARS or "\0" in source:
            what = "is empty" if not source else "is not a path"
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
            # An NTFS alternate data stream.
            raise SourceRefusedError(f"{short(source)} is not a plain file", hint=_HINT)
        _require_inside(path, (*map(Path.absolute, self.roots), *self.resolved), source)
        return path

    def _resolve(self, written: Path, source: str) -> Path:
        path = resolved(written)
        _require_inside(path, self.resolved, source)
        return path


def _is_relative(name: str) -> bool:
    return bool(name) and not (name.startswith(("~", "/", "\\")) or ":" in name[:5])


def _is_here(root: Path) -> bool:
    """Whether the working directory is inside a root."""
    return Path.cwd().is_relative_to(root.absolute())


def _require_inside(path: Path, roots: Sequence[Path], source: str) -> None:
    holding = [root for root in roots if path.is_relative_to(root)]
    if not holding:
        named = ", ".join(map(str, list(dict.fromkeys(roots))[:MAX_NAMED_ROOTS]))
        raise SourceRefusedError(
            f"{short(source)} is outside the directories that may be read",
            hint=f"name a file inside {named}; {_SETTING}",
        )
    if all(_is_hidden(path, root) for root in holding):
        raise SourceRefusedError(
            f"{short(source)} is hidden", hint="hidden files and directories are not read"
        )


@contextmanager
def opened_inside(path: Path, roots: Sequence[Path]) -> Iterator[OpenedFile]:
    """Open ``path`` if it lies inside ``roots``; links are followed only inside them.

    Args:
        roots: without links, as in ``Access.resolved``.

    Raises:
        SourceRefusedError: outside the roots, hidden, or its directories keep changing.
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
            raise SourceUnreadableError(
                f"{path} is {error.strerror}", hint="name a media file; directories go in a batch"
            ) from error
        except OSError as error:
            if error.errno not in MEETS_LINK:
                raise SourceUnreadableError.because(path, error) from error
    raise SourceRefusedError(
        f"{path}: a link has taken the place of the file or of its directory",
        hint="put the recording back, then submit it again",
    )


def find_allowed(
    sources: Sequence[str], access: Access, check: Callable[[], None] = lambda: None
) -> tuple[list[Recording], list[tuple[str, TranscribeError]]]:
    """Expand files, directories and patterns to recordings, in order and without duplicates.

    Returns the recordings, and the refused names with their errors. Lists no directory outside the
    roots, whatever a pattern or a link names. Calls ``check`` regularly; it may raise to stop.

    Raises:
        UsageError: too many recordings or directory entries for one call.
    """
    search = _Search(access, Walk(check), Collected(show=short))
    for source in sources:
        check()
        search.collected.add(source, search.recordings(source))
    refused = [
        (str(directory), SourceUnreadableError.because(directory, error))
        for directory, error in search.walk.unreadable[:MAX_RECORDINGS]
    ]
    return list(search.collected.found.values()), search.collected.refused + refused


@dataclass(frozen=True, slots=True)
class _Search:
    """Expands directories and patterns inside the roots; one walk and its limits serve a whole
    call.
    """

    access: Access
    walk: Walk
    collected: Collected

    def recordings(self, source: str) -> Iterator[Recording]:
        """Yield the allowed recordings of one source; collect the other names as refused."""
        for written, relative in self._expand(source):
            try:
                yield Recording(self.access.recording(written), relative)
            except TranscribeError as error:
                self.collected.refused.append((written, error))
            if len(self.collected.found) + len(self.collected.refused) > MAX_RECORDINGS:
                raise UsageError(
                    f"{short(source)} names more than {MAX_RECORDINGS} recordings",
                    hint="name fewer files or smaller directories in one call",
                )

    def _expand(self, source: str) -> Iterator[tuple[str, Path]]:
        """Yield each name as written, with its path relative to the named directory."""
        written = self.access.written(source)
        if written.is_dir():
            yield from self._media_below(written, source)
        elif glob.has_magic(str(written)) and not written.exists():
            yield from self._matching(written, source)
        else:
            yield source, Path(written.name)

    def _media_below(self, folder: Path, source: str) -> Iterator[tuple[str, Path]]:
        found = (
            (str(folder / relative), relative)
            for relative in self._files(folder, source, PathPattern(("**",)))
            if relative.suffix.lower() in MEDIA_EXTENSIONS
        )
        yield from require_some(found, lambda: no_recordings_in(short(source)))

    def _matching(self, pattern: Path, source: str) -> Iterator[tuple[str, Path]]:
        fixed = literal_parts(pattern)
        folder = Path(*pattern.parts[:fixed])
        files = self._files(folder, source, PathPattern(pattern.parts[fixed:]))

        def no_match() -> SourceNotFoundError:
            hint = nearest(pattern, self.access._may_list) or "check the pattern and the directory"
            return SourceNotFoundError(f"nothing matches {short(source)}", hint=hint)

        found = ((str(folder / relative), Path(relative.name)) for relative in files)
        yield from require_some(found, no_match)

    def _files(self, folder: Path, source: str, pattern: PathPattern) -> Iterator[Path]:
        """Yield matching files below a directory, or nothing if it does not exist."""
        try:
            begin = self.access._resolve(folder, source)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno in MEETS_LINK:
                return
            raise
        yield from self.walk.files(begin, pattern, is_hidden)


def default_roots() -> tuple[Path, ...]:
    """The home directory and the working directory, unless that contains the home directory or is a
    whole disk.
    """
    home = Path.home()
    here = Path.cwd()
    return (home,) if home.is_relative_to(here) or here == Path(here.anchor) else (here, home)


def path_of_uri(uri: str) -> str:
    """Convert ``file:///a%20b`` to ``/a b``; refuse other hosts and schemes.

    Raises:
        SourceRefusedError
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise SourceRefusedError(f"{short(uri)} is not a URL: {error}", hint=_HINT) from error
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise SourceRefusedError(f"{short(uri)} is not a file on this machine", hint=_HINT)
    path = unquote(parts.path)
    drive = os.name == "nt" and len(path) > 2 and path[2] == ":"
    return path[1:] if drive else path


def is_hidden(found: Path | os.DirEntry[str]) -> bool:
    """Whether the name or a system flag hides a file or directory."""
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
    parts = path.relative_to(root).parts
    if not _HAS_FLAGS:  # fast: a path may have thousands of parts
        return any(part.startswith(".") for part in parts)
    return any(is_hidden(root.joinpath(*parts[: n + 1])) for n in range(len(parts)))
