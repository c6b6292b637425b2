"""The output formats, for front ends, which see nothing below the service."""

from __future__ import annotations

from ..formats import FORMATS, find_format, render

__all__ = ["FORMATS", "find_format", "render"]
