"""Help texts, and errors in the command line itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from command_line import COMMAND, run

from transcribe_mcp.frontends.cli.app import COMMAND_LINE_ERROR, app
from transcribe_mcp.frontends.cli.parameters import make_plain


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
        ("jobs list --limit x", "--limit is 'x': ", "see: transcribe-mcp jobs list --help"),
        ("jobs list --limit 0", "--limit is '0': ", "see: transcribe-mcp jobs list --help"),
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


@pytest.mark.parametrize(
    ("line", "setting", "hint"),
    [
        ("worker --keep-days -1", "keep_days is '-1.0'", "give a number of at least 0"),
        ("serve --max-file-gib 0", "max_file_gib is '0.0'", "give a finite number above 0"),
        ("serve --allowed-source talks", "allowed_sources is 'talks'", "give prefixes such as"),
    ],
)
def test_an_option_that_is_no_setting_is_not_called_a_variable(
    line: str, setting: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        app(line.split(), prog_name="transcribe-mcp")
    assert ended.value.code == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == f"error: the setting {setting}"
    assert shown[1].startswith(f"hint: {hint}") and len(shown) == 2


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


VALUES = ("", "7", " 7 ", "7.0", "-1", "0", "1_0", "1e1", "nan", "inf", "x", "9" * 5_000, "Zürich")


@pytest.mark.parametrize("option", ["--whole", "--ranged", "--number", "--text", "--several"])
@pytest.mark.parametrize("value", VALUES)
def test_commands_read_values_as_typer_does(option: str, value: str) -> None:
    def command(
        whole: int | None = None,
        ranged: Annotated[float, typer.Option(min=0, max=10)] = 1,
        number: float = 0.5,
        text: str = "",
        several: list[str] | None = None,
        path: Path | None = None,
    ) -> str:
        return f"{whole!r} {ranged!r} {number!r} {text!r} {several!r} {path!r}"

    declared = typer.Typer()
    declared.command()(command)

    def answer(command: Any) -> str:
        try:
            return str(command.main([option, value], standalone_mode=False))
        except COMMAND_LINE_ERROR as error:
            return str(error)

    ours = typer.main.get_command(declared)
    make_plain(ours)
    assert answer(ours) == answer(typer.main.get_command(declared))
