"""Names of files in the messages of the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import FAKE, run, write_wav
from media import speechlike

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


@POSIX
def test_an_output_directory_that_is_a_broken_link_is_called_that(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", speechlike(0.2))
    (tmp_path / "out").symlink_to("gone")
    for directory in ("out", "out/more"):
        done = run(*FAKE, "a.wav", "-o", directory, cwd=tmp_path)
        assert done.returncode == 1
        assert "out is a symbolic link, and what it points to is missing" in done.stderr
        assert "hint: choose another directory" in done.stderr


@POSIX
def test_no_link_lets_a_result_overwrite_its_recording(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", speechlike(0.2))
    recording = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").symlink_to("../a.wav")
    done = run(*FAKE, "a.wav", "-o", "out", "--overwrite", cwd=tmp_path)
    assert done.returncode == 1
    assert "out/a.txt is a recording and would be overwritten" in done.stderr
    assert (tmp_path / "a.wav").read_bytes() == recording


def test_one_recording_has_no_heading_however_its_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, speechlike(2))
    for name in ("a.wav", "./a.wav", path.as_uri(), "'a.wav'"):
        assert run(*FAKE, name, cwd=tmp_path).stdout.startswith("word"), name


def test_an_empty_output_directory_is_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", speechlike(0.2))
    done = run(*FAKE, "a.wav", "-o", "", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: --output-dir is empty",
        "hint: was a variable of the shell not set?",
    ]
    assert not (tmp_path / "a.txt").exists()


def test_a_directory_of_terms_is_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", speechlike(0.2))
    (tmp_path / "terms").mkdir()
    done = run(*FAKE, "a.wav", "--vocabulary", "terms", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: vocabulary file terms cannot be read: ")


@pytest.mark.parametrize(
    ("option", "value"), [("--beam-size", "100000"), ("--track", "1" * 5000), ("--channel", "00")]
)
def test_a_number_out_of_bounds_is_refused_before_any_work(
    tmp_path: Path, option: str, value: str
) -> None:
    write_wav(tmp_path / "a.wav", speechlike(0.2))
    done = run(*FAKE, "a.wav", option, value, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert value[:8] in done.stderr


@POSIX
@pytest.mark.parametrize("command", [[*FAKE, "/tmp/a.wav"], ["jobs", "list"], ["--version"]])
def test_a_working_directory_that_was_deleted_is_named(tmp_path: Path, command: list[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = [sys.executable, "-m", "transcribe_mcp", *command]
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *program],
        cwd=gone,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: cannot use the working directory: No such file or directory",
        "hint: change to another directory and run the command again",
    ]
