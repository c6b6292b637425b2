"""An empty folder for environments, and small wheels to build them from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_compat_updates import index
from wheels import WORKING_NUMPY, WORKING_ONNXRUNTIME, write_wheel


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for environments, an index that is a folder of wheels, and no network."""
    monkeypatch.setenv("TRANSCRIBE_MCP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    write_wheel(tmp_path / "wheels", "numpy", "2.0", WORKING_NUMPY)
    write_wheel(tmp_path / "wheels", "onnxruntime", "1.0", WORKING_ONNXRUNTIME, ("numpy",))
    return tmp_path


@pytest.fixture
def default_index(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An index that pip is configured for, with the same wheels."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")

    def answer(path: str, accept: str) -> tuple[int, str, bytes]:
        package, _, name = path.removeprefix("/simple/").partition("/")
        if name:
            return 200, "application/octet-stream", (place / "wheels" / name).read_bytes()
        names = [
            wheel.name for wheel in (place / "wheels").glob(f"{package.replace('-', '_')}-*.whl")
        ]
        return 200, "text/html", "".join(f'<a href="{name}">{name}</a>' for name in names).encode()

    with index(answer) as url:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        yield url
