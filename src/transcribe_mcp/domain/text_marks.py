"""Punctuation marks of all languages, as characters for regular expressions and ``str.strip``."""

from __future__ import annotations

OPENERS = "\"'([{“‘„‚«‹「『【（《¿¡"
CLOSERS = "\"')]}”’»›」』】）》"
SENTENCE_MARKS = ".!?…。．｡！？؟۔।።"
WIDE_SENTENCE_MARKS = "。．｡！？"  # no space follows them
CLAUSE_MARKS = ",;:–—、，；：،؛"
