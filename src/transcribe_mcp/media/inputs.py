"""What the user named -> the recordings that are meant, and where their results go."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ..errors import (
    OutputError,
    SourceNotFoundError,
    SourceUnreadableError,
    TranscribeError,
    UsageError,
)
from .source_names import bare_url, existing_name, literal_parts, nearest

_EXTENSIONS = """
    .3g2 .3gp .aac .ac3 .aif .aifc .aiff .amr .ape .asf .au .avi .caf .dts .dv .eac3 .f4v .flac .flv .gsm .m2ts .m4a
    .m4b .m4r .m4v .mka .mkv .mov .mp2 .mp3 .mp4 .mpeg .mpg .mts .mxf .oga .ogg .ogv .opus .ra .rm .spx .tta .ts .vob
    .voc .w64 .wav .webm .wma .wmv .wv
"""
# What a directory is searched for; a file named by itself may have any extension.
MEDIA_EXTENSIONS = frozenset(_EXTENSIONS.split())


STANDARD_INPUT = "-"
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f<>:"/\\|?*]')


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording. ``relative`` is its place below the directory that was named, or its name.

    ``remote`` is a URL or ``-`` that the recording comes from; ``path`` is then no file.
    """

    path: Path
    relative: Path
    remote: str = ""

    @property
    def source(self) -> str:
        """What its user calls it."""
        return self.remote or str(self.path)


def is_url(source: str) -> bool:
    """Whether a source names an address and not a file."""
    scheme, separator, _ = source.strip().partition("://")
    return bool(separator) and scheme.isalpha() and len(scheme) > 1 and scheme.lower() != "file"


def find_recordings(
    sources: Sequence[str], *, from_shell: bool = True
) -> tuple[list[Recording], list[tuple[str, TranscribeError]]]:
    """Files, directories, glob patterns and URLs -> recordings in order, each once, and what could not be found.

    ``from_shell``: ``-`` is standard input.
    """
    found: dict[Path, Recording] = {}
    missing: list[tuple[str, TranscribeError]] = []
    for source in map(bare_url, sources):
        try:
            name = source if is_url(source) or source == STANDARD_INPUT else existing_name(source)
            for recording in _expand(name, from_shell=from_shell):
                found.setdefault(recording.path.absolute(), recording)
        except TranscribeError as error:
            missing.append((source, error))
        except (
            OSError
        ) as error:  # a name longer than names can be, a directory that may not be searched
            message = f"{source}: cannot be read: {error.strerror}"
            missing.append(
                (source, SourceUnreadableError(message, hint="Check its name and its permissions."))
            )
    return list(found.values()), missing


def as_recordings(sources: Sequence[str]) -> list[Recording]:
    """URLs, and files that were found before, each once. The disk is not touched."""
    return [
        _remote(source) if is_url(source) else Recording(Path(source), Path(Path(source).name))
        for source in dict.fromkeys(sources)
    ]


def _remote(url: str) -> Recording:
    return Recording(Path(url), Path(_name_of(url)), url.strip())


def _expand(source: str, *, from_shell: bool) -> Iterator[Recording]:
    path = Path(source)
    if not source:
        raise SourceNotFoundError(
            "the name of a source is empty", hint="Was a variable of the shell not set?"
        )
    if source == STANDARD_INPUT and from_shell:
        yield Recording(path, Path("stdin"), source)
    elif is_url(source):
        yield _remote(source)
    elif path.is_dir():
        yield from _search(path)
    elif glob.has_magic(source) and not path.exists():
        named = literal_parts(path)
        pattern = Path(*map(glob.escape, path.parts[:named]), *path.parts[named:])
        matches = sorted(Path(match) for match in glob.glob(str(pattern), recursive=True))  # noqa: PTH207 - absolute patterns too
        if not matches:
            hint = nearest(path) or "check the pattern and the directory"
            raise SourceNotFoundError(f"nothing matches {source}", hint=hint)
        for match in matches:
            yield from _search(match) if match.is_dir() else [Recording(match, Path(match.name))]
    elif not path.exists():
        # Said here, and not when it is read: for a typing error no model is fetched and loaded.
        raise SourceNotFoundError(
            f"{source}: no such file", hint=nearest(path) or "Check the name and the directory."
        )
    else:
        yield Recording(path, Path(path.name))


def _name_of(url: str) -> str:
    """What results of a recording at a URL are called: as the file there, or its host."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return "recording"
    for name in (PurePosixPath(unquote(parts.path)).name, parts.hostname or ""):
        if plain := _NOT_IN_NAMES.sub("_", name).strip(". "):
            return plain
    return "recording"


def _search(directory: Path) -> Iterator[Recording]:
    """The media files below a directory, hidden ones left out."""
    next(directory.iterdir(), None)  # rglob takes a directory that may not be read for an empty one
    files = sorted(file for file in directory.rglob("*") if file.suffix.lower() in MEDIA_EXTENSIONS)
    seen = False
    for file in files:
        relative = file.relative_to(directory)
        if not any(part.startswith(".") for part in relative.parts) and file.is_file():
            seen = True
            yield Recording(file, relative)
    if not seen:
        hint = "name files with other extensions one by one or with a pattern"
        raise SourceNotFoundError(f"there are no recordings in {directory}", hint=hint)


def output_paths(
    recordings: Sequence[Recording], directory: Path, extensions: Iterable[str]
) -> dict[Path, dict[str, Path]]:
    """Where each recording's results go: by its path, then by extension.

    A recording's results are named after it without its extension; where two would share a name, with it.

    Raises:
        UsageError: two recordings would still be written to the same file.
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
        hint = "transcribe them one directory at a time, each with its own --output-dir"
        raise UsageError(f"two recordings are both called {clash}", hint=hint)
    outputs = {
        recording.path: {
            extension: directory / name.parent / (name.name + extension) for extension in extensions
        }
        for recording, name in zip(recordings, names, strict=True)
    }
    sources = {recording.path.absolute() for recording in recordings}
    for path in (path for paths in outputs.values() for path in paths.values()):
        if path.absolute() in sources:
            raise OutputError(
                f"{path} is a recording and would be overwritten",
                hint="choose another --output-dir",
            )
    return outputs
