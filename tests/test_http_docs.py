"""The page about HTTP says what is so: its commands and its program run as they stand."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp_places import home, http_server
from patience import PATIENCE_S
from real_whisper import real_whisper

from transcribe_mcp.frontends.http.models import ALIASES
from transcribe_mcp.frontends.http.parameters import DIARIZED, FORMATS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8765"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with (
        home(tmp_path_factory.mktemp("docs"), MODEL=str(real_whisper())) as place,
        http_server(place) as address,
    ):
        yield address.removesuffix("/mcp")


def run(command: list[str]) -> str:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    ).stdout


def test_every_command_of_the_page_runs(url: str) -> None:
    answers = []
    for block in blocks("sh"):
        for line in block.replace("\\\n", "").splitlines():
            command = shlex.split(line.replace(ADDRESS, url), comments=True)
            if command and command[0] == "curl":
                answers.append(run([*command, "--silent", "--fail"]))
            else:
                assert command[:3] == ["transcribe-mcp", "serve", "--http"] or "=" in command[0]
    subtitles, events, more_subtitles = answers
    assert subtitles.startswith("1\n00:00:00") and more_subtitles.startswith("1\n00:00:00")
    assert "event: transcript.text.delta" in events and "event: transcript.text.done" in events


def test_the_programs_of_the_page_print_words_with_times_and_speakers(url: str) -> None:
    lines, spoken = [
        run([sys.executable, "-W", "ignore", "-c", program.replace(ADDRESS, url)]).splitlines()
        for program in blocks("python")
    ]
    assert {line.split()[0] for line in spoken} == {"A", "Alan"}
    assert len(lines) > 20 and all(re.fullmatch(r"[\d.]+ [\d.]+ \S+", line) for line in lines)


def test_the_page_names_every_model_format_and_option() -> None:
    for name in (*ALIASES, *FORMATS, DIARIZED):
        assert f"`{name}`" in PAGE, name
    [error] = map(json.loads, blocks("json"))
    assert set(error["error"]) == {"message", "type", "param", "code"}
