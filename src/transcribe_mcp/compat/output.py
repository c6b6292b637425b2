"""Print answers: text for people, one JSON object for programs."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

# A recorded machine or a log may contain escape sequences; a terminal must not execute them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def say(text: str) -> None:
    sys.stdout.write(_CONTROL.sub("?", text) + "\n")


def say_json(record: Any) -> None:
    say(json.dumps(record, indent=1, ensure_ascii=False))


def say_answer(as_json: bool, record: Any, text: str) -> None:
    """Print the record as JSON, or else the text."""
    if as_json:
        say_json(record)
    else:
        say(text)
