"""The output formats, for front ends, which use nothing below the service."""

from __future__ import annotations

from ..formats import FORMATS, export, exports, find_export, find_format, render

__all__ = ["FORMATS", "export", "exports", "find_export", "find_format", "render"]
