"""An empty folder for environments, and small wheels to build them from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_compat_updates import index
from wheels import prepared


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for environments, an index that is a folder of wheels, and no network."""
    return prepared(tmp_path, monkeypatch)


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
