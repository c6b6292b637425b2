"""ULIDs: unguessable ids of 26 characters in order of time (https://github.com/ulid/spec)."""

from __future__ import annotations

import secrets
import threading
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LENGTH = 26
_RANDOM_BITS = 80

_lock = threading.Lock()
_latest = 0


def new_id() -> str:
    """A new id. Ids of one process are in ascending order even if the clock steps back."""
    global _latest
    with _lock:
        number = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        if number <= _latest:
            number = _latest + 1 + secrets.randbits(_RANDOM_BITS // 2)
        _latest = number
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(5 * (LENGTH - 1), -1, -5))


def is_id(text: str) -> bool:
    return len(text) == LENGTH and set(text) <= set(_ALPHABET)
