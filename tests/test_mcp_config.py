"""Telling a client of this server: one entry in its file, a copy before, nothing else changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment, run
from mcp import StdioServerParameters
from mcp_places import calling

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="where POSIX systems keep such files")
FILES = {
    "claude-code": ".claude.json",
    "claude-desktop": ".config/Claude/claude_desktop_config.json",
    "cursor": ".cursor/mcp.json",
    "vscode": ".config/Code/User/mcp.json",
}
KEYS = {
    "claude-code": "mcpServers",
    "claude-desktop": "mcpServers",
    "cursor": "mcpServers",
    "vscode": "servers",
}


def config(user: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    here = {
        name: value
        for name, value in environment(user, **variables).items()
        if name != "XDG_CONFIG_HOME"
    }
    return run("mcp-config", *arguments, cwd=user, env=here)


@pytest.mark.parametrize("client", FILES)
def test_without_write_the_entry_is_printed_and_no_file_is_touched(
    tmp_path: Path, client: str
) -> None:
    done = config(tmp_path, client)
    (entry,) = json.loads(done.stdout)[KEYS[client]].values()
    assert done.returncode == 0 and "run again with --write" in done.stderr
    assert entry["command"] == sys.executable and entry["args"] == ["-m", "transcribe_mcp", "serve"]
    assert not (tmp_path / FILES[client]).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="where Linux keeps such files")
@pytest.mark.parametrize("client", FILES)
def test_write_adds_the_entry_to_the_clients_file_and_keeps_a_copy(
    tmp_path: Path, client: str
) -> None:
    path = tmp_path / FILES[client]
    assert config(tmp_path, client, "--write").stdout == f"{path}\n"
    fresh = json.loads(path.read_text())
    path.write_text(
        json.dumps({"first": [1], KEYS[client]: {"other": {"command": "x"}}, "ünicode": "ü"}),
        "utf-8",
    )
    before = path.read_bytes()
    done = config(tmp_path, client, "--write")
    after = json.loads(path.read_text("utf-8"))
    assert list(after) == ["first", KEYS[client], "ünicode"]
    assert after[KEYS[client]] == {"other": {"command": "x"}, **fresh[KEYS[client]]}
    (copy,) = path.parent.glob(f"{path.name}.backup-*")
    assert copy.read_bytes() == before and str(copy) in done.stderr
    assert config(tmp_path, client, "--write").returncode == 0  # not a second entry
    assert json.loads(path.read_text("utf-8")) == after


@POSIX
def test_a_link_is_followed_and_the_mode_of_the_file_kept(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_text("{}")
    real.chmod(0o640)
    (tmp_path / "mcp.json").symlink_to(real)
    assert config(tmp_path, "cursor", "--write", "--file", "mcp.json").returncode == 0
    assert (tmp_path / "mcp.json").is_symlink()
    assert "transcribe" in real.read_text() and real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "text", ['{"a": 1,}', "// comment\n{}", "[]", '{"mcpServers": []}', "\udcff", "nothing"]
)
def test_a_file_that_a_person_wrote_otherwise_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(text, "utf-8", "surrogateescape")
    before = path.read_bytes()
    done = config(tmp_path, "cursor", "--write", "--file", str(path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "hint: add it by hand" in done.stderr
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "  \n", "\ufeff{}"])
def test_an_empty_file_or_a_byte_order_mark_is_no_hindrance(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(text, "utf-8")
    assert config(tmp_path, "cursor", "--write", "--file", str(path)).returncode == 0
    assert "transcribe" in json.loads(path.read_text("utf-8"))["mcpServers"]


def test_settings_go_along_and_the_token_does_not(tmp_path: Path) -> None:
    done = config(
        tmp_path, "cursor", TRANSCRIBE_MCP_MODEL="small", TRANSCRIBE_MCP_TOKEN="a-token-0123456789"
    )
    (entry,) = json.loads(done.stdout)["mcpServers"].values()
    assert entry["env"]["TRANSCRIBE_MCP_MODEL"] == "small"
    assert "a-token" not in done.stdout + done.stderr


def test_a_client_that_is_misspelt_is_guessed(tmp_path: Path) -> None:
    done = config(tmp_path, "claude-cod")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean claude-code?" in done.stderr


def test_what_is_printed_starts_a_server(tmp_path: Path) -> None:
    (entry,) = json.loads(config(tmp_path, "vscode").stdout)["servers"].values()
    started = StdioServerParameters(
        command=entry["command"], args=entry["args"], cwd=str(tmp_path), env=environment(tmp_path)
    )
    with calling(started) as caller:
        assert caller.portal.call(caller.client.list_tools).tools
