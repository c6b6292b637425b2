"""The owner of the jobs that a context submits, reads and cancels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

owner: ContextVar[str] = ContextVar("owner", default="")


@contextmanager
def acting_for(name: str) -> Iterator[None]:
    """Make ``name`` the owner, such as a client's session. Empty: each submission is an owner."""
    token = owner.set(name)
    try:
        yield
    finally:
        owner.reset(token)
