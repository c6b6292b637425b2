"""Files inside the roots and nothing else, whatever a name, a link or a pattern says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transcribe_mcp.errors import (
    CancelledError,
    OutputError,
    SourceError,
    SourceNotFoundError,
    SourceRefusedError,
    SourceTooLargeError,
    SourceUnreadableError,
    TranscribeError,
    UsageError,
)
from transcribe_mcp.media import walk
from transcribe_mcp.media.access import Access, default_roots, find_allowed

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="links and modes of POSIX")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with recordings, beside what must stay outside."""
    place = tmp_path_factory.mktemp("place")
    for folder in ("root/talks/more", "root/.hidden", "secret/deep", "root2"):
        (place / folder).mkdir(parents=True)
    for name in (
        "root/a.wav", "root/talks/b.mp3", "root/talks/more/c.WAV", "root/talks/notes.txt",
        "root/.hidden/d.wav", "root/talks/.e.wav", "root/odd [x] name.wav", "secret/s.wav",
        "secret/deep/t.wav", "root2/u.wav",
    ):  # fmt: skip
        (place / name).write_bytes(b"sound")
    (place / "root/out").symlink_to(place / "secret")
    (place / "root/out.wav").symlink_to(place / "secret/s.wav")
    (place / "root/in.wav").symlink_to(place / "root/a.wav")
    (place / "root/round").symlink_to(place / "root/round")
    return place


@pytest.fixture(scope="module")
def access(place: Path) -> Access:
    return Access((place / "root",))


def found(access: Access, *sources: str) -> list[str]:
    recordings, _ = find_allowed(sources, access)
    return [recording.path.name for recording in recordings]


@pytest.mark.parametrize(
    "name", ["a.wav", "talks/b.mp3", "talks/../a.wav", "./a.wav", "odd [x] name.wav"]
)
def test_a_file_inside_a_root_may_be_read(place: Path, access: Access, name: str) -> None:
    assert access.recording(str(place / "root" / name)).is_file()
    assert access.recording((place / "root").as_uri() + "/a.wav") == place / "root/a.wav"


@POSIX
def test_a_link_inside_the_root_gives_what_it_leads_to(place: Path, access: Access) -> None:
    assert access.recording(str(place / "root/in.wav")) == place / "root/a.wav"


@POSIX
@pytest.mark.parametrize(
    "name",
    [
        "../secret/s.wav", "out/s.wav", "out.wav", "talks/../../secret/s.wav", "../root2/u.wav",
        ".hidden/d.wav", "talks/.e.wav", "../secret/missing.wav", "/etc/passwd", "~root/x.wav",
        "~nobody-at-all/x.wav", "file://otherhost/a.wav", "file:///etc/passwd", "a\0.wav",
        "x" * 5000, "", "../root-not/a.wav",
    ],
)  # fmt: skip
def test_what_is_outside_or_hidden_is_refused(place: Path, access: Access, name: str) -> None:
    source = (
        name if name.startswith(("/", "~", "file:")) or not name else f"{place / 'root'}/{name}"
    )
    with pytest.raises(SourceRefusedError) as refused:
        access.recording(source)
    assert refused.value.hint and len(str(refused.value)) < 500


def test_a_relative_name_is_below_the_working_directory_or_else_a_root(
    place: Path, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "./talks/../a.wav", "a%2Ewav", "'a.wav'"):
        assert access.recording(name) == place / "root/a.wav"
    assert found(access, "talks/*.mp3", "talks/more") == ["b.mp3", "c.WAV"]
    assert access.output("new.txt", ".txt") == place / "root/new.txt"
    with pytest.raises(SourceNotFoundError, match="missing") as missing:
        access.recording("b.wav missing")
    assert missing.value.hint
    for name in ("../secret/s.wav", "out/s.wav", ".hidden/d.wav", "out.wav"):
        with pytest.raises(SourceRefusedError):
            access.recording(name)
    (tmp_path / "u.wav").write_bytes(b"sound")
    here = Access((place / "root", tmp_path, place / "root2"))
    assert here.recording("u.wav") == tmp_path / "u.wav"
    assert here.recording("talks/b.mp3") == place / "root/talks/b.mp3"


def test_a_relative_name_below_several_roots_is_refused_with_the_paths(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both = Access((place / "root", place / "root/talks/.."))
    assert both.recording("a.wav") == place / "root/a.wav"
    twice = Access((place / "secret", place / "secret/deep", place / "root2"))
    (place / "secret/u.wav").write_bytes(b"sound")
    with pytest.raises(SourceRefusedError, match="several") as refused:
        twice.recording("u.wav")
    assert str(place / "secret/u.wav") in refused.value.hint
    assert str(place / "root2/u.wav") in refused.value.hint
    (place / "secret/u.wav").unlink()


def test_a_refusal_names_the_directories_that_may_be_read(place: Path, access: Access) -> None:
    with pytest.raises(SourceRefusedError) as refused:
        access.recording("/etc/passwd")
    assert str(place / "root") in refused.value.hint


def test_an_output_with_a_name_too_long_or_of_a_directory_is_refused_in_words(
    place: Path, access: Access
) -> None:
    assert access.output(str(place / "root" / ("n" * 300 + ".txt")), ".txt").parent.name == "root"
    with pytest.raises(OutputError, match="does not end in"):
        access.output(str(place / "root"), ".txt")


def test_a_refusal_does_not_tell_whether_there_is_a_file(place: Path, access: Access) -> None:
    messages = []
    for name in ("s.wav", "missing.wav"):
        with pytest.raises(SourceRefusedError) as refused:
            access.recording(str(place / "secret" / name))
        messages.append(str(refused.value).replace(name, ""))
    assert messages[0] == messages[1]


@POSIX
def test_what_is_no_recording_is_called_that(place: Path, access: Access) -> None:
    os.mkfifo(place / "root/pipe.wav")
    for name, error in (
        ("missing.wav", SourceNotFoundError),
        ("talks", SourceUnreadableError),
        ("pipe.wav", SourceUnreadableError),
        ("round", SourceUnreadableError),
        ("round/a.wav", SourceUnreadableError),
        ("y" * 300 + ".wav", SourceUnreadableError),
    ):
        with pytest.raises(error):
            access.recording(str(place / "root" / name))
    (place / "root/pipe.wav").unlink()


def test_a_file_above_the_limit_is_refused_with_its_size(place: Path) -> None:
    with pytest.raises(SourceTooLargeError, match="GiB"):
        Access((place / "root",), max_file_bytes=4).recording(str(place / "root/a.wav"))


def test_a_hidden_directory_may_be_a_root_when_it_is_named(place: Path) -> None:
    hidden = place / "root/.hidden"
    assert Access((hidden,)).recording(str(hidden / "d.wav")) == hidden / "d.wav"


def test_roots_of_a_client_add_to_the_others_but_never_a_whole_disk(
    place: Path, access: Access
) -> None:
    wider = access.widened([Path(place.anchor), place / "root2"])
    assert wider.recording(str(place / "root2/u.wav")).is_file()
    with pytest.raises(SourceRefusedError):
        wider.recording(str(place / "secret/s.wav"))


def test_directories_give_their_recordings_without_hidden_ones_and_without_what_links_lead_to(
    place: Path, access: Access
) -> None:
    root = str(place / "root")
    recordings, refused = find_allowed([root], access)
    names = ["a.wav", "odd [x] name.wav", "b.mp3", "c.WAV"]
    assert [recording.path.name for recording in recordings] == names
    assert recordings[-1].relative == Path("talks/more/c.WAV")
    assert [Path(source).name for source, _ in refused] == ["out.wav"]  # what is refused is said


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.wav", ["a.wav", "odd [x] name.wav"]),
        ("**/*.mp3", ["b.mp3"]),
        ("talks/*", ["b.mp3", "notes.txt"]),
        ("t*/m*/*.WAV", ["c.WAV"]),
        ("**/*.wav", ["a.wav", "odd [x] name.wav"]),
        ("[ab].wav", ["a.wav"]),
        ("odd [x] name.wav", ["odd [x] name.wav"]),
    ],
)
def test_patterns_match_inside_the_roots(
    place: Path, access: Access, pattern: str, names: list[str]
) -> None:
    assert found(access, str(place / "root" / pattern)) == names


@POSIX
@pytest.mark.parametrize(
    "pattern", ["../*/*.wav", "../sec*/*.wav", "out/*.wav", "*/s.wav", "/etc/*", "out/**", ".*/*"]
)
def test_no_pattern_reaches_outside_or_into_hidden_directories(
    place: Path, access: Access, pattern: str
) -> None:
    source = pattern if pattern.startswith("/") else f"{place / 'root'}/{pattern}"
    recordings, refused = find_allowed([source], access)
    assert recordings == []
    assert refused


def test_one_call_names_only_so_many_recordings(tmp_path: Path) -> None:
    for number in range(1001):
        (tmp_path / f"{number}.wav").touch()
    with pytest.raises(UsageError, match="more than 1000"):
        find_allowed([str(tmp_path)], Access((tmp_path,)))


def test_many_double_stars_match_as_one_does_and_as_fast(tmp_path: Path) -> None:
    """Each is tried at every level at once: what took hours for one path is a count of
    comparisons.
    """
    folder = tmp_path.joinpath(*(f"d{number}" for number in range(12)))
    folder.mkdir(parents=True)
    (folder / "x.wav").touch()
    access = Access((tmp_path,))
    for stars in (1, 2, 10, 500):
        assert found(access, f"{tmp_path}/{'**/' * stars}*.wav") == ["x.wav"]
        assert found(access, f"{tmp_path}/{'**/' * stars}*.zzz") == []
    for levels, names in ((1, ["x.wav"]), (12, ["x.wav"]), (13, []), (300, [])):
        assert found(access, f"{tmp_path}/{'**/*/' * levels}*.wav") == names
    assert found(access, f"{tmp_path}/**/d3/**/d7/**/x.*") == ["x.wav"]
    assert found(access, f"{tmp_path}/**/d7/**/d3/**/x.*") == []


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """Directories below one another, more than any path can name. Python cannot remove them."""
    deep = tmp_path / "deep"
    deep.mkdir()
    below = os.open(deep, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=below)
        following = os.open("d", os.O_RDONLY, dir_fd=below)
        os.close(below)
        below = following
    os.close(below)
    yield deep
    subprocess.run(["rm", "-rf", str(deep)], check=True)


@POSIX
def test_searching_stops_at_its_limits_and_says_which(deep: Path, tmp_path: Path) -> None:
    access = Access((tmp_path,))
    for source in (
        "",
        "/**/*.wav",
        "/" + "*/" * 1500,
        "/" + "d/" * 1500,
        "/" + "d/" * 1500 + "**/*.wav",
    ):
        with pytest.raises(UsageError, match="more than 64 levels") as refused:
            find_allowed([f"{deep}{source}"], access)
        assert refused.value.hint and len(str(refused.value)) < 500


def test_a_call_looks_at_so_many_entries_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "MAX_ENTRIES", 500)
    for number in range(5):
        (tmp_path / f"{number}").mkdir()
        for each in range(101):
            (tmp_path / f"{number}" / f"{each}.txt").touch()
    access = Access((tmp_path,))
    assert found(access, f"{tmp_path}/[0-3]/*.wav") == []
    for sources in (
        [f"{tmp_path}/**/*.wav"],
        [str(tmp_path)],
        [f"{tmp_path}/{number}/*.wav" for number in range(5)],
    ):
        with pytest.raises(
            UsageError, match="more than 500"
        ) as refused:  # of one call, not of one pattern
            find_allowed(sources, access)
        assert refused.value.hint


@POSIX
def test_a_search_stops_when_nobody_waits_for_it(place: Path, access: Access) -> None:
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise CancelledError("the call was cancelled")

    with pytest.raises(CancelledError):
        find_allowed([str(place / "root")], access, check)
    assert looks == 3


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "shut").mkdir(mode=0)
    recordings, refused = find_allowed([str(tmp_path)], Access((tmp_path,)))
    assert len(recordings) == 1 and [Path(source).name for source, _ in refused] == ["shut"]
    assert isinstance(refused[0][1], SourceUnreadableError)


def test_outputs_stay_inside_the_roots_and_carry_their_format(place: Path, access: Access) -> None:
    root = place / "root"
    assert access.output(str(root / "talks/b.srt"), ".srt") == root / "talks/b.srt"
    own = Access((root,), reserved=(root / "talks",))
    for target, allowed in (
        ("../secret/x.srt", access), ("out/x.srt", access), (".hidden/x.srt", access),
        (".x.srt", access), ("x.py", access), ("missing/x.srt", access), ("", access),
        ("talks/x.srt", own), ("/etc/x.srt", access), ("out.wav", access),
    ):  # fmt: skip
        with pytest.raises(OutputError):
            allowed.output(target if target.startswith("/") else f"{root}/{target}", ".srt")


def test_the_default_roots_never_hold_a_whole_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for here in (Path(tmp_path.anchor), tmp_path):
        monkeypatch.chdir(here)
        assert default_roots() == (tmp_path / "home",)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert default_roots() == (tmp_path / "work", tmp_path / "home")


PARTS = st.sampled_from(
    [
        "..",
        ".",
        "root",
        "secret",
        "out",
        "talks",
        "*",
        "**",
        "?",
        "[a-z]*",
        "~",
        ".hidden",
        "s.wav",
        "a.wav",
        "round",
    ]
)
NAMES = st.one_of(st.lists(PARTS, max_size=8).map("/".join), st.text(max_size=40))


@POSIX
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, absolute=st.booleans())
def test_no_name_whatever_leads_out_of_the_roots(
    place: Path, access: Access, name: str, absolute: bool
) -> None:
    source = f"{place / 'root'}/{name}" if absolute else name
    inside = str(place / "root") + os.sep
    try:
        assert str(access.recording(source)).startswith(inside)
    except SourceError as error:
        assert error.hint
    recordings, refused = find_allowed([source], access)
    assert all(str(recording.path).startswith(inside) for recording in recordings)
    assert all(isinstance(error, TranscribeError) for _, error in refused)
