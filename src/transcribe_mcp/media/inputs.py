"""Expand what the user named into recordings, and name their outputs."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from ..errors import (
    CancelledError,
    OutputError,
    SourceNotFoundError,
    SourceUnreadableError,
    TranscribeError,
    UsageError,
)
from .source_names import bare_url, existing_name, literal_parts, nearest

_EXTENSIONS = """
    .3g2 .3gp .aac .ac3 .aif .aifc .aiff .amr .ape .asf .au .avi .caf .dts .dv .eac3 .f4v .flac
    .flv .gsm .m2ts .m4a .m4b .m4r .m4v .mka .mkv .mov .mp2 .mp3 .mp4 .mpeg .mpg .mts .mxf .oga
    .ogg .ogv .opus .ra .rm .spx .tta .ts .vob .voc .w64 .wav .webm .wma .wmv .wv
"""
# Extensions to search a directory for. A file named directly may have any extension.
MEDIA_EXTENSIONS = frozenset(_EXTENSIONS.split())
STANDARD_INPUT = "-"
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f<>:"/\\|?*]')

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording. ``relative`` is its path below the named directory, or its name.

    ``remote`` is the URL or ``-`` that it comes from; ``path`` is then not a file.
    """

    path: Path
    relative: Path
    remote: str = ""

    @property
    def source(self) -> str:
        """The user's name for it."""
        return self.remote or str(self.path)


@dataclass(frozen=True, slots=True)
class Collected:
    """Recordings without duplicates, and refused sources with their errors."""

    found: dict[Path, Recording] = field(default_factory=dict)
    refused: list[tuple[str, TranscribeError]] = field(default_factory=list)
    show: Callable[[str], str] = str  # a source in an error message

    def add(self, source: str, recordings: Iterator[Recording]) -> None:
        """Add the recordings of one source, or its error.

        Raises:
            UsageError, CancelledError: end the whole call.
        """
        try:
            for recording in recordings:
                self.found.setdefault(recording.path.absolute(), recording)
        except (UsageError, CancelledError):
            raise
        except TranscribeError as error:
            self.refused.append((source, error))
        except OSError as error:  # a name that is too long, a directory without permission
            unreadable = SourceUnreadableError.because(self.show(source), error)
            self.refused.append((source, unreadable))


def require_some(found: Iterable[T], error: Callable[[], TranscribeError]) -> Iterator[T]:
    """Yield everything, or raise ``error()`` if there is nothing."""
    is_empty = True
    for each in found:
        is_empty = False
        yield each
    if is_empty:
        raise error()


def no_recordings_in(directory: str) -> SourceNotFoundError:
    hint = "name files with other extensions one by one or with a pattern"
    return SourceNotFoundError(f"there are no recordings in {directory}", hint=hint)


def is_url(source: str) -> bool:
    """Whether a source is a URL and not a file."""
    scheme, separator, _ = source.strip().partition("://")
    return bool(separator) and scheme.isalnum() and len(scheme) > 1 and scheme.lower() != "file"


def find_recordings(
    sources: Sequence[str], *, from_shell: bool = True
) -> tuple[list[Recording], list[tuple[str, TranscribeError]]]:
    """Expand files, directories, glob patterns and URLs to recordings, in order.

    Returns recordings without duplicates, and the other sources with their errors. With
    ``from_shell``, ``-`` is standard input.
    """
    collected = Collected()
    for source in map(bare_url, sources):
        collected.add(source, _expand(source, from_shell=from_shell))
    return list(collected.found.values()), collected.refused


def as_recordings(sources: Sequence[str]) -> list[Recording]:
    """URLs and known files as recordings, without duplicates. Does not touch the disk."""
    return [
        _remote(source) if is_url(source) else Recording(Path(source), Path(Path(source).name))
        for source in dict.fromkeys(sources)
    ]


def _remote(url: str) -> Recording:
    return Recording(Path(url), Path(_name_of(url)), url.strip())


def _expand(source: str, *, from_shell: bool) -> Iterator[Recording]:
    if source == STANDARD_INPUT and from_shell:
        yield Recording(Path(source), Path("stdin"), source)
    elif is_url(source):
        yield _remote(source)
    else:
        yield from _local(source if source == STANDARD_INPUT else existing_name(source))


def _local(source: str) -> Iterator[Recording]:
    path = Path(source)
    if not source:
        raise SourceNotFoundError(
            "the name of a source is empty", hint="was a variable of the shell not set?"
        )
    if path.is_dir():
        yield from _search(path)
    elif path.exists():
        yield Recording(path, Path(path.name))
    elif glob.has_magic(source):
        for match in _matching(path):
            yield from _search(match) if match.is_dir() else [Recording(match, Path(match.name))]
    else:
        # Raised before any model is downloaded or loaded: the name may be a typing error.
        hint = nearest(path) or "check the name and the directory"
        raise SourceNotFoundError(f"{source}: no such file", hint=hint)


def _matching(path: Path) -> list[Path]:
    named = literal_parts(path)
    pattern = Path(*map(glob.escape, path.parts[:named]), *path.parts[named:])
    matches = sorted(map(Path, glob.glob(str(pattern), recursive=True)))  # noqa: PTH207 - absolute patterns too
    if not matches:
        hint = nearest(path) or "check the pattern and the directory"
        raise SourceNotFoundError(f"nothing matches {path}", hint=hint)
    return matches


def _name_of(url: str) -> str:
    """Name for results of a URL: its file name, or its host."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return "recording"
    for name in (PurePosixPath(unquote(parts.path)).name, parts.hostname or ""):
        if plain := _NOT_IN_NAMES.sub("_", name).strip(". "):
            return plain
    return "recording"


def _search(directory: Path) -> Iterator[Recording]:
    """Media files below a directory, except hidden ones."""
    next(directory.iterdir(), None)  # raises without permission, where rglob finds nothing
    files = sorted(file for file in directory.rglob("*") if file.suffix.lower() in MEDIA_EXTENSIONS)
    places = ((file, file.relative_to(directory)) for file in files)
    found = (
        Recording(file, place)
        for file, place in places
        if not any(part.startswith(".") for part in place.parts) and file.is_file()
    )
    yield from require_some(found, lambda: no_recordings_in(str(directory)))


def output_paths(
    recordings: Sequence[Recording], directory: Path, extensions: Iterable[str]
) -> dict[Path, dict[str, Path]]:
    """Output paths by recording and extension.

    Results take the recording's name without its extension, or with it where two would clash.

    Raises:
        UsageError: two recordings would write the same file.
        OutputError: a result would overwrite a recording.
    """
    extensions = list(extensions)
    stems = Counter(recording.relative.with_suffix("") for recording in recordings)
    names = [
        r.relative if stems[r.relative.with_suffix("")] > 1 else r.relative.with_suffix("")
        for r in recordings
    ]
    clash = next((name for name, n in Counter(names).items() if n > 1), None)
    if clash is not None:
        raise UsageError(
            f"two recordings are both called {clash}",
            hint="transcribe them one directory at a time, each with its own --output-dir",
        )
    outputs = {
        recording.path: {
            extension: directory / name.parent / (name.name + extension) for extension in extensions
        }
        for recording, name in zip(recordings, names, strict=True)
    }
    sources = {os.path.realpath(recording.path) for recording in recordings}
    for path in (path for paths in outputs.values() for path in paths.values()):
        if os.path.realpath(path) in sources:  # a link there is not replaced, but what it points to
            raise OutputError(
                f"{path} is a recording and would be overwritten",
                hint="choose another --output-dir",
            )
    return outputs
