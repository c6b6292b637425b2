"""Names of files as assistants and people write them: what can only mean one file is taken for
it.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import run
from mcp_places import Caller, Home, calling, home, stdio
from whisper_nano import SPEECH

from transcribe_mcp.errors import SourceRefusedError
from transcribe_mcp.media.access import Access, find_allowed
from transcribe_mcp.media.inputs import find_recordings

NAMES = (
    "talk one.mp3", "Memo 3.04\u202fPM – take 2.m4a", "Café’s.mp3", "100%25.mp3", "don't.mp3",
    "x.mp3", "[x].mp3", "album [2024]/a.mp3", "album [2024]/b.mp3", "year 2024/c.mp3",
)  # fmt: skip
POSIX_NAMES = ("'quoted'.mp3", "back\\ slash.mp3", "~odd.mp3") if os.name == "posix" else ()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "root"
    for name in (*NAMES, *POSIX_NAMES):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(b"x")
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(made))
    return made


WRITTEN: dict[str, tuple[str, Callable[[Path], str]]] = {
    "as it is": ("x.mp3", lambda root: f"{root}/x.mp3"),
    "tilde": ("talk one.mp3", lambda root: "~/talk one.mp3"),
    "quoted tilde": ("x.mp3", lambda root: '"~/x.mp3"'),
    "quotes": ("talk one.mp3", lambda root: f"'{root}/talk one.mp3'"),
    "smart quotes": ("talk one.mp3", lambda root: f"“{root}/talk one.mp3”"),
    "low quotes": ("x.mp3", lambda root: f"„{root}/x.mp3“"),
    "backticks and spaces": ("x.mp3", lambda root: f"  `{root}/x.mp3` \n"),
    "angle brackets": ("x.mp3", lambda root: f"<{root}/x.mp3>"),
    "URI": ("talk one.mp3", lambda root: (root / "talk one.mp3").as_uri()),
    "URI with one slash": (
        "x.mp3",
        lambda root: (root / "x.mp3").as_uri().replace("file://", "file:"),
    ),
    "URI in capitals": ("x.mp3", lambda root: (root / "x.mp3").as_uri().replace("file://", "FILE://")),
    "URI of localhost": ("x.mp3", lambda root: (root / "x.mp3").as_uri().replace("file://", "file://localhost")),
    "URI without escapes": ("talk one.mp3", lambda root: f"file://{root.as_posix()}/talk one.mp3"),
    "URI of a name with a percent sign": ("100%25.mp3", lambda root: f"file://{root.as_posix()}/100%25.mp3"),
    "percent sign": ("100%25.mp3", lambda root: f"{root}/100%25.mp3"),
    "percent escapes": ("talk one.mp3", lambda root: f"{root}/talk%20one.mp3"),
    "no-break space": ("talk one.mp3", lambda root: f"{root}/talk\u00a0one.mp3"),
    "plain space and hyphen": (
        "Memo 3.04\u202fPM – take 2.m4a",
        lambda root: f"{root}/Memo 3.04 PM - take 2.m4a",
    ),
    "decomposed": ("Café’s.mp3", lambda root: unicodedata.normalize("NFD", f"{root}/Café's.mp3")),
    "curly apostrophe": ("don't.mp3", lambda root: f"{root}/don’t.mp3"),
    "invisible sign": ("x.mp3", lambda root: f"{root}/x\u200b.mp3"),
    "brackets": ("[x].mp3", lambda root: f"{root}/[x].mp3"),
    "look-alike directory": ("a.mp3", lambda root: f"{root}/album\u00a0[2024]/a.mp3"),
}  # fmt: skip
if os.name == "posix":
    WRITTEN |= {
        "name with quotes": ("'quoted'.mp3", lambda root: f"{root}/'quoted'.mp3"),
        "name with a backslash": ("back\\ slash.mp3", lambda root: f"{root}/back\\ slash.mp3"),
        "as a shell shows it": ("talk one.mp3", lambda root: f"{root}/talk\\ one.mp3"),
        "URI without its third slash": ("x.mp3", lambda root: f"file:/{root}/x.mp3"),
    }


@pytest.mark.parametrize("how", WRITTEN)
def test_a_file_is_found_however_its_name_is_written(root: Path, how: str) -> None:
    name, write = WRITTEN[how]
    for found, missing in (
        find_recordings([write(root)]),
        find_allowed([write(root)], Access((root,))),
    ):
        assert [recording.path.name for recording in found] == [name], missing


def test_a_url_may_stand_in_quotes(tmp_path: Path) -> None:
    for url in (
        '"https://example.org/a.mp3"',
        " <https://example.org/a.mp3>\n",
        "https://example.org/a.mp3",
    ):
        (recording,), _ = find_recordings([url])
        assert recording.source == "https://example.org/a.mp3"


def test_brackets_of_a_directory_that_exists_are_no_pattern(root: Path) -> None:
    for pattern, names in {
        "album [2024]/*.mp3": ["a.mp3", "b.mp3"],
        "year [2]024/*": ["c.mp3"],
    }.items():
        for found, _ in (
            find_recordings([f"{root}/{pattern}"]),
            find_allowed([f"{root}/{pattern}"], Access((root,))),
        ):
            assert [recording.path.name for recording in found] == names


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("X.mp3", "did you mean 'x.mp3'?"),
        ("talk on.mp3", "did you mean 'talk one.mp3'?"),
        ("album 2024/a.mp3", "there is 'album [2024]' in '"),
        ("album 2024/*.mp3", "there is 'album [2024]' in '"),
        ("nothing like it", "check the name"),
    ],
)
def test_a_name_that_means_no_file_is_refused_with_the_nearest(
    root: Path, name: str, hint: str
) -> None:
    for found, missing in (
        find_recordings([f"{root}/{name}"]),
        find_allowed([f"{root}/{name}"], Access((root,))),
    ):
        assert not found
        assert hint in missing[0][1].hint.lower()


@pytest.mark.parametrize("target", ["gone.mp3", "link.mp3"])
def test_a_link_to_nothing_or_to_itself_is_named_as_such(root: Path, target: str) -> None:
    (root / "link.mp3").symlink_to(root / target)
    _, missing = find_recordings([str(root / "link.mp3")])
    assert "symbolic link" in missing[0][1].hint


def test_two_names_that_look_the_same_are_both_named(root: Path) -> None:
    for name in ("it’s.mp3", "it's.mp3"):
        (root / name).write_bytes(b"x")
    found, missing = find_allowed([f"{root}/it´s.mp3"], Access((root,)))
    assert not found and "it’s.mp3" in missing[0][1].hint and "it's.mp3" in missing[0][1].hint


@pytest.mark.parametrize(
    "write", ["file://{}/a.mp3", "'{}/a.mp3'", "{}/%61.mp3", "{}\\/a.mp3", "{}/a\u200b.mp3"]
)
def test_no_spelling_leads_outside_or_tells_what_is_there(
    root: Path, tmp_path: Path, write: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.mp3").write_bytes(b"x")
    here, nowhere = (
        find_allowed([write.format(folder)], Access((root,)))[1][0][1]
        for folder in (outside, tmp_path / "outsidf")
    )
    assert isinstance(here, SourceRefusedError) and isinstance(nowhere, SourceRefusedError)
    assert str(here).replace("outside", "") == str(nowhere).replace("outsidf", "").replace(
        "outside", ""
    )
    assert here.hint == nowhere.hint


# --- through the front ends -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with home(tmp_path_factory.mktemp("names")) as made:
        shutil.copy(SPEECH / "en_0.flac", made.root / "Memo 3.04\u202fPM.flac")
        yield made


@pytest.fixture(scope="module")
def caller(place: Home) -> Iterator[Caller]:
    with calling(stdio(place, HOME=str(place.root), USERPROFILE=str(place.root))) as made:
        yield made


def test_an_assistant_and_a_shell_name_a_file_as_they_see_it(
    caller: Caller, place: Home, tmp_path: Path
) -> None:
    for source in (
        "“~/Memo 3.04 PM.flac”",
        f"file://localhost{place.root.as_posix()}/Memo%203.04%20PM.flac",
    ):
        answer = caller.answer("transcribe_audio", source=source)
        assert answer["source"] == str(place.root / "Memo 3.04\u202fPM.flac")
    saved = caller.answer(
        "get_transcription_result", job_id=answer["job_id"], save_as='"~/memo’s text.txt" '
    )
    assert saved["written"] == str(place.root / "memo’s text.txt")
    done = run("transcribe", f"'{place.root}/Memo 3.04 PM.flac'", "--engine", "fake", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
