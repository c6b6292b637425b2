"""What can go wrong here. ``compat`` may import nothing of ours, so it has a small tree of its own.

CompatError
├── FactsError          a facts file is missing, damaged, hostile or of another version
├── TableError          one of our own data files contradicts itself
├── IndexProblem        the package index cannot be asked, or answers nonsense
└── EnvironmentProblem  an environment cannot be made, found or used
"""

from __future__ import annotations


class CompatError(Exception):
    """``str(error)`` is one line that says what failed; ``hint`` is the way out, or empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(" ".join(message.split()))
        self.hint = " ".join(hint.split())


class FactsError(CompatError):
    pass


class TableError(CompatError):
    pass


class IndexProblem(CompatError):
    pass


class EnvironmentProblem(CompatError):
    pass
