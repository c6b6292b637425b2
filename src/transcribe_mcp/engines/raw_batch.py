"""The batch of windows of an engine that reads the samples themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..speech.regions import Window


@dataclass(frozen=True, slots=True)
class Unencoded:
    """Windows as they came. Cheap to select from, since nothing is copied."""

    windows: tuple[Window, ...]

    def __len__(self) -> int:
        return len(self.windows)

    def select(self, indices: Sequence[int]) -> Unencoded:
        """The same windows, only those at ``indices``, in that order."""
        return Unencoded(tuple(self.windows[i] for i in indices))
