"""The data directory, as ``settings.data_dir``, but without pydantic and platformdirs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_NAME = "transcribe-mcp"


def data_dir() -> Path:
    """``TRANSCRIBE_MCP_DATA_DIR``, else the platform's user data directory."""
    named = os.environ.get("TRANSCRIBE_MCP_DATA_DIR")
    if named:
        return Path(named)
    home = Path.home()
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
        return local / _NAME / _NAME
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / _NAME
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / _NAME


def environments_dir() -> Path:
    return data_dir() / "environments"
