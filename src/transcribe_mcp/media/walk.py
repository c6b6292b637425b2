"""Walking directories for the files that match a pattern, within limits and without following links."""

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

MAX_DEPTH = 64  # directories below the one that was named; each holds a descriptor while those below are read
MAX_ENTRIES = 50_000  # of directories, of one call
MAX_WALK_S = 10.0  # of one call: network drives can take seconds for a directory
CHECK_ENTRIES = 256  # between two looks at the clock

States = frozenset[int]
IsHidden = Callable[["os.DirEntry[str]"], bool]


class PathPattern:
    """A pattern for relative paths, one part for each directory; ``**`` stands for any number of directories.

    It is matched as a walk goes down: a state is the number of a part that may match next, and all states go on at
    once. So an entry costs at most one comparison for each part, however many ``**`` there are.
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
        """The states behind one more part of a path."""
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
        """With those behind a ``**``, which may stand for no directory. Two never follow one another."""
        parts = self._parts
        return frozenset(
            states | {state + 1 for state in states if state < len(parts) and parts[state] is None}
        )


class Walk:
    """All that one call may look at. ``check`` is called now and then and may raise to stop.

    Attributes:
        unreadable: directories that could not be listed, with the reason.
    """

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        self._entries_left = MAX_ENTRIES
        self._deadline = time.monotonic() + MAX_WALK_S
        self.unreadable: list[tuple[Path, OSError]] = []

    def files(self, folder: Path, pattern: PathPattern, is_hidden: IsHidden) -> Iterator[Path]:
        """What is no directory and matches below ``folder``, relative to it, in order; links are not followed.

        Args:
            folder: a path without links.
            is_hidden: of a file or directory below ``folder``; such are left out.

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
        """Closes ``directory``."""
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
                    hint = "name a directory farther down"
                    message = f"below {short(str(directory.folder))} are more than {MAX_DEPTH} levels of directories"
                    raise UsageError(message, hint=hint)
                try:
                    below = directory.below(entry.name)
                except OSError as error:
                    self._skip(directory.path / entry.name, error)
                else:
                    yield from self._below(below, pattern, after, is_hidden)
        finally:
            directory.close()

    def _entries(self, directory: _Directory) -> list[os.DirEntry[str]]:
        """In the order of their names. Counted as they are read: a directory may hold millions."""
        entries: list[os.DirEntry[str]] = []
        self._look_up()
        try:
            with directory.scan() as found:
                for entry in found:
                    entries.append(entry)
                    if len(entries) > self._entries_left:
                        hint = "name a smaller directory, or a pattern that begins farther down"
                        raise UsageError(
                            f"more than {MAX_ENTRIES} files would have to be looked at", hint=hint
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
            hint = "name a smaller directory, or a pattern that begins farther down"
            raise UsageError(
                f"looking through the directories took more than {MAX_WALK_S:g} s", hint=hint
            )

    def _skip(self, directory: Path, error: OSError) -> None:
        if error.errno not in MEETS_LINK and not isinstance(
            error, FileNotFoundError
        ):  # those have just changed
            self.unreadable.append((directory, error))


class _Directory:
    """A directory that is walked, held open where the system can go on from there: no link can take its place.

    Attributes:
        folder, relative: where the walk began, and the place below.
    """

    def __init__(self, folder: Path, relative: Path, descriptor: int | None) -> None:
        self.folder = folder
        self.relative = relative
        self._descriptor = descriptor

    @property
    def path(self) -> Path:
        return self.folder / self.relative

    def scan(self) -> os._ScandirIterator[str]:
        return os.scandir(self.path if self._descriptor is None else self._descriptor)

    def below(self, name: str) -> _Directory:
        descriptor = None
        if self._descriptor is not None:
            descriptor = open_subdirectory(name, self._descriptor)
        elif (
            Path(os.path.realpath(self.path / name)) != self.path / name
        ):  # Windows: a junction is a directory, too
            raise NotADirectoryError(errno.ENOTDIR, "it is a link")
        return _Directory(self.folder, self.relative / name, descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def short(source: str) -> str:
    """A name for a message: in quotes, escaped, of bounded length."""
    return repr(shortened(source, 200))
