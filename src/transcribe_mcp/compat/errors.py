"""The errors of ``compat``, which imports nothing of ours and so has its own small tree.

CompatError
├── FactsError             a facts file is missing, damaged, hostile or of another version
├── TableError             one of our own data files is damaged
├── PackageIndexError      the package index does not answer, or gives an invalid answer
└── EnvironmentBuildError  an environment cannot be built, found or used
"""

from __future__ import annotations


class CompatError(Exception):
    """``str(error)`` is one line that says what failed; ``hint`` says what to do, or is empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(" ".join(message.split()))
        self.hint = " ".join(hint.split())


class FactsError(CompatError):
    pass


class TableError(CompatError):
    pass


class PackageIndexError(CompatError):
    pass


class EnvironmentBuildError(CompatError):
    pass
