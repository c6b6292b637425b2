"""README and the pages beside it are true: commands run, samples are the output, tables are
complete.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def run(*arguments: str) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *arguments]
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, encoding="utf-8", check=True
    )
    return result.stdout


def test_the_first_command_prints_the_sample_beside_it() -> None:
    [command] = [block for block in blocks("sh") if "pip install" in block and "dialogue" in block]
    arguments = command.split("transcribe-mcp ", 1)[1].split()

    printed = run("-m", "transcribe_mcp", *arguments, "--quiet")

    assert printed == blocks("")[0]


def test_the_subtitle_command_prints_the_sample_beside_it() -> None:
    [command] = [block for block in blocks("sh") if "--format srt" in block and "dialogue" in block]
    arguments = command.split("transcribe-mcp ", 1)[1].split()

    printed = run("-m", "transcribe_mcp", *arguments, "--quiet")

    assert printed.strip() == blocks("")[1].strip()


def test_the_python_program_prints_sentences_with_times() -> None:
    [program] = blocks("python")

    lines = run("-c", program).splitlines()

    assert re.fullmatch(r"\d+\.\d\d \d+\.\d\d Welcome, this program .*", lines[0])
    assert lines[-1].startswith("ctranslate2 tiny.en [")


def test_the_commands_named_exist() -> None:
    helps = run("-m", "transcribe_mcp", "--help") + run("-m", "transcribe_mcp", "models", "--help")

    for command in re.findall(r"^\| `transcribe-mcp ([\w-]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^  {command} ", helps, flags=re.MULTILINE), command


def test_the_settings_page_names_every_setting() -> None:
    from transcribe_mcp.settings import Settings

    page = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `TRANSCRIBE_MCP_(\w+)`", page, flags=re.MULTILINE))

    assert named == {each.name.upper() for each in fields(Settings)}


def test_the_tree_is_the_one_in_the_repository() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page.split("```\nsrc/transcribe_mcp/\n")[1].split("```")[0]
    named = re.findall(r"^ {2}(\S+?)/? {2,}", tree, flags=re.MULTILINE)
    there = [
        path.name
        for path in (REPOSITORY / "src" / "transcribe_mcp").iterdir()
        if path.name not in {"__pycache__", "py.typed", "__init__.py"}
    ]

    assert sorted(named) == sorted(there)
