"""Names of files in the messages of the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_line import FAKE, run

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX links and names")


@POSIX
@pytest.mark.parametrize("target", ["gone", "talks"])
def test_a_broken_link_among_the_directories_of_a_path_is_named(
    tmp_path: Path, target: str
) -> None:
    (tmp_path / "talks").symlink_to(target)
    done = run(*FAKE, "talks/part.wav", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: talks/part.wav: no such file",
        "hint: 'talks' is a symbolic link, and what it points to is missing",
    ]


@POSIX
@pytest.mark.parametrize("sign", ["\x1b[31m", "\r", "\x07", "\x9b2J", "\u202e"])
def test_a_name_in_an_error_cannot_control_the_terminal(tmp_path: Path, sign: str) -> None:
    (tmp_path / f"a{sign}.wav").touch()
    done = run(*FAKE, f"a{sign}.wav", cwd=tmp_path)
    assert done.returncode == 1
    assert sign[0] not in done.stderr
    assert f"a{sign.encode('unicode_escape').decode()}.wav" in done.stderr
