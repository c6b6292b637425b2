"""The form of all audio inside the program: mono, float32 in [-1, 1]."""

from __future__ import annotations

SAMPLE_RATE_HZ = 16_000
