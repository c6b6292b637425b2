"""The page about the server says what is so."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from command_line import run
from mcp_places import calling, home, stdio

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
SNAPSHOT = ROOT / "tests" / "data" / "mcp_tools.json"
TOOLS = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
SETTINGS = dict(re.findall(r"^\| `TRANSCRIBE_MCP_(\w+)` \| `(--[\w-]+)`", PAGE, flags=re.MULTILINE))


def test_the_page_names_every_tool() -> None:
    assert re.findall(r"^\| `([a-z_]+)` \|", PAGE, flags=re.MULTILINE) == [
        tool["name"] for tool in TOOLS
    ]


def test_every_setting_of_a_server_has_an_option_and_every_option_a_row(tmp_path: Path) -> None:
    options = set(re.findall(r"--[a-z][\w-]+", run("serve", "--help", cwd=tmp_path).stdout))
    without = {"--help", "--http", "--no-web", "--open"}
    without |= {"--host", "--port", "--allowed-host", "--allowed-origin"}
    assert options - without == set(SETTINGS.values())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-file-gib", "-1"),
        ("--max-duration-hours", "0"),
        ("--max-queue-length", "0"),
        ("--max-queue-length", "x"),
        ("--port", "8765"),  # without --http
        ("--max-live", "2"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_words(
    tmp_path: Path, option: str, value: str
) -> None:
    done = run("serve", option, value, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_options_win_over_variables(tmp_path: Path) -> None:
    with home(tmp_path / "home") as place:
        other = tmp_path / "other"
        other.mkdir()
        arguments = [
            "--allowed-root",
            str(other),
            "--data-dir",
            str(place.data / "b"),
            "--model",
            "small",
            "--max-file-gib",
        ]
        (other / "a.wav").write_bytes(bytes(2000))
        with calling(stdio(place, *arguments, "0.000001")) as caller:
            assert caller.answer("list_models")["default_model"] == "small"
            assert (
                caller.refusal("transcribe_audio", source=str(other / "a.wav"))["code"]
                == "source_too_large"
            )
            assert (
                caller.refusal("transcribe_audio", source=str(place.root / "a.wav"))["code"]
                == "source_refused"
            )
            caller.answer("list_transcription_history")
        assert list((place.data / "b").iterdir())


if __name__ == "__main__":
    from transcribe_mcp.frontends.mcp.server import Handlers, build_server
    from transcribe_mcp.frontends.mcp.transcript_view import without_view
    from transcribe_mcp.service.async_service import AsyncService
    from transcribe_mcp.service.service import default_service

    server = build_server(Handlers(AsyncService(default_service())))
    tools = asyncio.run(server.list_tools())
    found = without_view(
        [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]
    )
    SNAPSHOT.write_bytes(json.dumps(found, indent=1).encode() + b"\n")
