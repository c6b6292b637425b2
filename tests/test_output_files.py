"""A result is written whole or not at all, and never over another without being told to."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from patience import PATIENCE_S

from transcribe_mcp.domain.transcript import Segment, Transcript
from transcribe_mcp.errors import OutputError, OutputExistsError
from transcribe_mcp.formats import check_target, write
from transcribe_mcp.formats.files import write_whole

HELLO = Transcript((Segment(0, 1, " Hello."),), 1, "en", 1, "fake", "fake", "cpu", "float32")


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_result_is_written_as_utf_8_and_missing_directories_are_made(tmp_path: Path) -> None:
    path = write(HELLO, "txt", tmp_path / "a b" / "ü" / "-x.txt")
    assert path.read_bytes() == b"Hello.\n"
    assert left_in(path.parent) == ["-x.txt"]


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OutputExistsError, match=r"a\.txt exists already") as caught:
        write(HELLO, "txt", path)
    assert "--overwrite" in caught.value.hint
    assert path.read_text() == "old"
    assert left_in(tmp_path) == ["a.txt"]


def test_overwriting_replaces_the_text_and_keeps_the_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o600)
    before = stat.S_IMODE(path.stat().st_mode)
    write(HELLO, "txt", path, overwrite=True)
    assert path.read_text() == "Hello.\n"
    assert stat.S_IMODE(path.stat().st_mode) == before


def test_overwriting_a_link_replaces_what_it_points_to(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    write(HELLO, "txt", link, overwrite=True)
    assert link.is_symlink()
    assert real.read_text() == "Hello.\n"


def test_a_link_to_nothing_counts_as_there(tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(OutputExistsError):
        write(HELLO, "txt", tmp_path / "link.txt")


def test_of_many_writers_without_overwrite_exactly_one_wins(tmp_path: Path) -> None:
    path, barrier = tmp_path / "a.txt", threading.Barrier(8)
    refused: list[int] = []
    done: list[int] = []

    def attempt(number: int) -> None:
        barrier.wait(PATIENCE_S)
        try:
            write_whole(path, bytes([number]) * 100_000, overwrite=False)
            done.append(number)
        except OutputExistsError:
            refused.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1 and len(refused) == 7
    assert path.read_bytes() == bytes(done) * 100_000
    assert left_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("directory", "it is a directory"),
        ("file/a.txt", "cannot write"),
        ("x" * 300 + ".txt", "name too long"),
        ("nul\0.txt", "cannot write"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_path_that_cannot_be_written_is_a_one_line_error_with_a_hint(
    tmp_path: Path, name: str, message: str, overwrite: bool
) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(OutputError) as caught:
        write(HELLO, "txt", tmp_path / name, overwrite=overwrite)
    assert not isinstance(caught.value, OutputExistsError)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.hint
    assert left_in(tmp_path) == ["directory", "file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_a_device_is_never_replaced() -> None:
    with pytest.raises(OutputError, match="not a regular file"):
        check_target(Path("/dev/full"), overwrite=True)


def limited(script: str, *arguments: str, shell: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script that writes 1 MB to each of its arguments and prints how that ended."""
    code = textwrap.dedent(script) + textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from transcribe_mcp.errors import OutputError
        from transcribe_mcp.formats.files import write_whole
        for name in sys.argv[1:]:
            try:
                write_whole(Path(name), b"x" * 1_000_000, overwrite=True)
                print("written")
            except OutputError as error:
                print(type(error).__name__, error, "|", error.hint)
        """
    )
    command = [sys.executable, "-c", code, *arguments]
    if shell:
        command = [
            "unshare",
            "--mount",
            "--map-root-user",
            "sh",
            "-c",
            f'{shell} && exec "$@"',
            "sh",
            *command,
        ]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_write_that_stops_halfway_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    old = tmp_path / "old.txt"
    old.write_text("old")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))"
    result = limited(limit, str(old), str(tmp_path / "new.txt"))
    assert result.stdout.count("OutputError cannot write") == 2, result.stderr
    assert "--output-dir" in result.stdout
    assert old.read_text() == "old"
    assert left_in(tmp_path) == ["old.txt"]


def can_mount() -> bool:
    try:
        command = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", "/mnt"]
        return (
            subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False).returncode
            == 0
        )
    except OSError:
        return False


@pytest.mark.skipif(not can_mount(), reason="needs a private mount")
@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ("size=64k", "No space left on device", "free some space"),
        ("ro", "Read-only file system", "read-only"),
    ],
)
def test_a_full_or_read_only_disk_is_reported_in_words(
    tmp_path: Path, options: str, message: str, hint: str
) -> None:
    mount = f"mount -t tmpfs -o {options} none {tmp_path}"
    result = limited("", str(tmp_path / "a.txt"), shell=mount)
    assert f"OutputError cannot write {tmp_path / 'a.txt'}: {message}" in result.stdout, (
        result.stderr
    )
    assert hint in result.stdout.split("|")[1]


@pytest.mark.skipif(not can_mount(), reason="needs a private mount")
def test_a_full_disk_holds_the_old_file_and_no_rest(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=64k none {tmp_path} && echo old > {tmp_path}/a.txt"
    listing = f"""
        import atexit
        from pathlib import Path
        there = Path({str(tmp_path)!r})
        atexit.register(lambda: print([(path.name, path.read_text()) for path in there.iterdir()]))
        """
    result = limited(listing, str(tmp_path / "a.txt"), shell=mount)
    assert result.stdout.startswith("OutputError"), result.stderr
    assert result.stdout.endswith("[('a.txt', 'old\\n')]\n")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_directory_without_write_permission_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied") as caught:
            write(HELLO, "txt", tmp_path / "a.txt")
        assert "may write to" in caught.value.hint
    finally:
        tmp_path.chmod(0o700)
