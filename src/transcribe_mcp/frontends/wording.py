"""Messages and hints for clients without a shell: no options and commands of the command line.

Errors are raised below the front ends, and some hints name shell commands. Each front end replaces
common ones by actions of its clients, and drops other clauses with commands. If a message would
become empty, front ends show it unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_FOREIGN = re.compile(r"(?<![\w-])--[a-z]|transcribe-mcp [a-z]")
_CLAUSES = re.compile(r"(?<=[;.,])\s+")


class Wording:
    """The wording of a front end.

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
