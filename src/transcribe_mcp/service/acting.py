"""In whose name jobs are submitted, cancelled and looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

owner: ContextVar[str] = ContextVar("owner", default="")


@contextmanager
def acting_for(name: str) -> Iterator[None]:
    """In this context ``name``, such as a client's session, owns the jobs. Empty: each submission is an owner."""
    token = owner.set(name)
    try:
        yield
    finally:
        owner.reset(token)
