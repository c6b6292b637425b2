"""Search directories for files that match a pattern, within limits and without following links."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from ..domain.text_breaks import shortened
from ..errors import UsageError
from .openat import MEETS_LINK, WALKS, open_directory, open_subdirectory

# Levels below the named directory; each holds a descriptor while those below are read
MAX_DEPTH = 64
MAX_ENTRIES = 50_000  # directory entries per call
MAX_WALK_S = 10.0  # per call: a network drive can need seconds per directory
CHECK_ENTRIES = 256  # between two checks of the deadline

States = frozenset[int]
IsHidden = Callable[["os.DirEntry[str]"], bool]


class PathPattern:
    """A glob pattern for relative paths; ``**`` matches any number of directories.

    A walk matches it level by level, as a nondeterministic automaton: a state is the index of the
    next part. Each entry costs at most one comparison per part, however many ``**`` the pattern
    has.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        merged = [
            part for part, run in groupby(parts) for part in (run if part != "**" else [part])
        ]
        self._parts = [
            None if part == "**" else re.compile(fnmatch.translate(part)).match for part in merged
        ]
        self.begin = self._skipping({0})

    def after(self, states: States, name: str) -> States:
        """The states after one more part of a path."""
        following = set()
        for state in states:
            if state < len(self._parts):
                matches = self._parts[state]
                if matches is None:
                    following.add(state)
                elif matches(name):
                    following.add(state + 1)
        return self._skipping(following)

    def accepts(self, states: States) -> bool:
        """Whether a path that ends here matches."""
        return len(self._parts) in states

    def _skipping(self, states: set[int]) -> States:
        """Add the states after each ``**``, which may match nothing. Two never follow one
        another.
        """
        parts = self._parts
        return frozenset(
            states | {state + 1 for state in states if state < len(parts) and parts[state] is None}
        )


class Walk:
    """One call's directory walks and their shared limits. Calls ``check`` regularly; it may raise
    to stop.

    Attributes:
        unreadable: directories that could not be listed, with the error.
    """

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        self._entries_left = MAX_ENTRIES
        self._deadline = time.monotonic() + MAX_WALK_S
        self.unreadable: list[tuple[Path, OSError]] = []

    def files(self, folder: Path, pattern: PathPattern, is_hidden: IsHidden) -> Iterator[Path]:
        """Yield matching files relative to ``folder``, in order; links are not followed.

        Args:
            folder: absolute and without links.
            is_hidden: skips a file or directory.

        Raises:
            UsageError: one of the limits is reached.
        """
        try:
            descriptor = open_directory(folder) if WALKS else None
        except OSError as error:
            self._skip(folder, error)
            return
        yield from self._below(
            _Directory(folder, Path(), descriptor), pattern, pattern.begin, is_hidden
        )

    def _below(
        self, directory: _Directory, pattern: PathPattern, states: States, is_hidden: IsHidden
    ) -> Iterator[Path]:
        """Walk ``directory`` and close it."""
        try:
            entries = self._entries(directory)
            for entry in entries:
                after = pattern.after(states, entry.name)
                if not after or is_hidden(entry):
                    continue
                if not entry.is_dir(follow_symlinks=False):
                    if pattern.accepts(after):
                        yield directory.relative / entry.name
                    continue
                if len(directory.relative.parts) >= MAX_DEPTH:
                    folder = short(str(directory.folder))
                    raise UsageError(
                        f"{folder} has more than {MAX_DEPTH} levels of directories below it",
                        hint="name a directory further down",
                    )
                try:
                    below = directory.below(entry.name)
                except OSError as error:
                    self._skip(directory.path / entry.name, error)
                else:
                    yield from self._below(below, pattern, after, is_hidden)
        finally:
            directory.close()

    def _entries(self, directory: _Directory) -> list[os.DirEntry[str]]:
        """Entries in name order, counted while reading: a directory can hold millions."""
        entries: list[os.DirEntry[str]] = []
        self._look_up()
        try:
            place = directory.path if directory.descriptor is None else directory.descriptor
            with os.scandir(place) as found:
                for entry in found:
                    entries.append(entry)
                    if len(entries) > self._entries_left:
                        raise UsageError(
                            f"more than {MAX_ENTRIES} directory entries would have to be searched",
                            hint="name a smaller directory, or a pattern that begins further down",
                        )
                    if len(entries) % CHECK_ENTRIES == 0:
                        self._look_up()
        except OSError as error:
            self._skip(directory.path, error)
        self._entries_left -= len(entries)
        return sorted(entries, key=lambda entry: entry.name)

    def _look_up(self) -> None:
        self._check()
        if time.monotonic() > self._deadline:
            raise UsageError(
                f"searching the directories took more than {MAX_WALK_S:g} s",
                hint="name a smaller directory, or a pattern that begins further down",
            )

    def _skip(self, directory: Path, error: OSError) -> None:
        # Not for entries that changed during the walk.
        if error.errno not in MEETS_LINK and not isinstance(error, FileNotFoundError):
            self.unreadable.append((directory, error))


class _Directory:
    """A directory of a walk, held open where possible so that no link can replace it.

    Attributes:
        folder, relative: start of the walk, and the path below it.
    """

    def __init__(self, folder: Path, relative: Path, descriptor: int | None) -> None:
        self.folder = folder
        self.relative = relative
        self.descriptor = descriptor

    @property
    def path(self) -> Path:
        return self.folder / self.relative

    def below(self, name: str) -> _Directory:
        descriptor = None
        if self.descriptor is not None:
            descriptor = open_subdirectory(name, self.descriptor)
        elif Path(os.path.realpath(self.path / name)) != self.path / name:
            # On Windows a junction looks like a directory.
            raise NotADirectoryError(errno.ENOTDIR, "it is a link")
        return _Directory(self.folder, self.relative / name, descriptor)

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def short(source: str) -> str:
    """Quote, escape and shorten a name for a message."""
    return repr(shortened(source, 200))
