"""Find known errors in a log or traceback: their code, cause and fix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from .rules import RULES, Rule

MAX_TEXT_CHARS = 2_000_000  # the end of the log; takes about a second
_CONTEXT_CHARS = 160


@dataclass(frozen=True, slots=True)
class Recognised:
    """A rule, and the line of the log that matched it."""

    rule: Rule
    words: str
    position: int


@lru_cache(maxsize=1)
def _compiled() -> list[tuple[Rule, list[re.Pattern[str]]]]:
    """Compiled when a text is first explained: plain ``doctor`` does not need the patterns."""
    return [
        (rule, [re.compile(pattern, re.MULTILINE) for pattern in rule.patterns]) for rule in RULES
    ]


def explain(text: str) -> list[Recognised]:
    """The known errors in ``text``, each once, in the order of their first appearance."""
    text = text[-MAX_TEXT_CHARS:]
    found = []
    for rule, patterns in _compiled():
        matches = [match for pattern in patterns if (match := pattern.search(text))]
        if matches:
            first = min(matches, key=lambda match: match.start())
            found.append(Recognised(rule, _line_around(text, first.start()), first.start()))
    return sorted(found, key=lambda item: item.position)


def _line_around(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    line = text[start : end if end >= 0 else len(text)].strip()
    return line if len(line) <= _CONTEXT_CHARS else line[: _CONTEXT_CHARS - 1] + "…"
