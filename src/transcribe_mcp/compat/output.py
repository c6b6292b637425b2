"""Writing answers: text for people, one JSON object for programs."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

# A recorded machine or a log may hold anything; a terminal must not obey it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def say(text: str) -> None:
    sys.stdout.write(_CONTROL.sub("?", text) + "\n")


def say_json(record: Any) -> None:
    say(json.dumps(record, indent=1, ensure_ascii=False))
