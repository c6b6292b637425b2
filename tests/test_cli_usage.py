"""Help texts, and errors in the command line itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from command_line import COMMAND, run

from transcribe_mcp.frontends.cli.app import app


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("transcribe", "SOURCE is missing", "see: transcribe-mcp transcribe --help"),
        ("voices add Ann", "CLIP is missing", "see: transcribe-mcp voices add --help"),
        ("jobs frob", "no such command 'frob'", "see: transcribe-mcp jobs --help"),
        ("transcribe a --model", "option '--model' requires", "see: transcribe-mcp --help"),
        (
            "transcribe a --frmt srt",
            "no such option: --frmt",
            "did you mean --format? see: transcribe-mcp transcribe --help",
        ),
        ("jobs list --limit x", "--limit: ", "see: transcribe-mcp jobs list --help"),
        ("jobs list --limit 0", "--limit: ", "see: transcribe-mcp jobs list --help"),
    ],
)
def test_an_error_in_the_command_line_has_a_hint(
    line: str, message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        app(line.split(), prog_name="transcribe-mcp")
    assert ended.value.code == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith(f"error: {message}")
    assert shown[1:] == [f"hint: {hint}"]


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        app([*command.split(), "--help"], prog_name="transcribe-mcp")
    return capsys.readouterr().out


def test_an_option_of_speakers_implies_diarize_only_beside_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "Implies diarize." in help_of("transcribe", capsys)
    assert "Implies diarize." not in help_of("jobs speakers", capsys)


@pytest.mark.parametrize(
    "command", ["transcribe", "listen", "serve", "mcp-config", "worker", "evaluate", "bench"]
)
def test_the_help_names_the_values_of_options_in_capitals(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    options = help_of(command, capsys).partition("Options:")[2]
    assert "--" in options and not re.search(r"<[a-z ]+[\[>]", options)


@pytest.mark.parametrize("group", ["", "jobs", "models", "voices"])
def test_no_summary_of_a_command_is_cut_off(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "..." not in help_of(group, capsys).partition("Commands:")[2]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python says so since 3.13")
def test_a_command_closes_its_database(tmp_path: Path) -> None:
    command = (COMMAND[0], "-W", "error::ResourceWarning", *COMMAND[1:])
    done = run("jobs", "list", cwd=tmp_path, command=command)
    assert (done.returncode, done.stderr) == (0, "no jobs\n")
