"""Times of day in the answers of front ends: ISO 8601, UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(seconds: float, timespec: str = "seconds") -> str:
    """Seconds since the epoch -> ``2026-11-24T14:30:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
