"""Messages and hints for clients without a shell: no options and commands of the command line.

Errors are raised below the front ends, and some hints name what a user types. Each front end
replaces the common ones by what its clients can do; the rest of those clauses is left out. A
message that only quotes such an option becomes empty; front ends then show it unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_FOREIGN = re.compile(r"(?<![\w-])--[a-z]|transcribe-mcp [a-z]")
_CLAUSES = re.compile(r"(?<=[;.,])\s+")


class Wording:
    """The words of a front end.

    Args:
        replacements: in order, a pattern in a text for the command line, and its replacement.
    """

    def __init__(self, replacements: Sequence[tuple[str, str]]) -> None:
        self._replacements = [(re.compile(pattern), words) for pattern, words in replacements]

    def __call__(self, text: str) -> str:
        for pattern, words in self._replacements:
            text = pattern.sub(words, text)
        if _FOREIGN.search(text):
            kept = [clause for clause in _CLAUSES.split(text) if not _FOREIGN.search(clause)]
            text = " ".join(kept).rstrip(";, ")
        return text
