"""The help of doctor, env and compat: the right program's name, and a text for every argument."""

from __future__ import annotations

import pytest

from transcribe_mcp.compat.cli import USAGE, main

COMMANDS = {
    "": "transcribe-mcp compat",
    "doctor": "transcribe-mcp doctor",
    "updates": "transcribe-mcp compat updates",
    "document": "transcribe-mcp compat document",
    "env": "transcribe-mcp env",
    **{
        f"env {action}": f"transcribe-mcp env {action}"
        for action in ("create", "list", "verify", "use", "try", "rollback", "rm")
    },
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_names_its_program_and_explains_every_argument(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert shown.startswith(f"usage: {COMMANDS[command]} [-h]")
    arguments = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
    entries = [line for line in arguments if line not in ("COMMAND", "ACTION")]
    assert entries and all("  " in line for line in entries), entries


@pytest.mark.parametrize("command", ["", "env"])
def test_a_command_without_its_subcommand_shows_its_help(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == USAGE
    assert capsys.readouterr().err.startswith(f"usage: {COMMANDS[command]} [-h]")


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("frob", ""), ("env frob", "env"), ("env rm", "env rm"), ("doctor --facts", "doctor"),
        ("env list --x", "env list"), ("env create -x", "env create"), ("--x", ""),
    ],
)  # fmt: skip
def test_an_error_in_the_command_line_has_a_hint_that_names_the_command(
    line: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    message, hint = capsys.readouterr().err.splitlines()
    assert ended.value.code == USAGE
    assert message.startswith("error: ")
    assert hint == f"hint: see: {COMMANDS[command]} --help"
