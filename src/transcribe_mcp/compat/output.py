"""Writing answers: text for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from typing import Any


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def say_json(record: Any) -> None:
    say(json.dumps(record, indent=1, ensure_ascii=False))
