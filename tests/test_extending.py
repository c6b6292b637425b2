"""What CONTRIBUTING promises: how many files an option, a format, a tool and an engine touch.

Each is added to a copy of the package. One process then shows them at the command line and the MCP
server.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from command_line import environment
from patience import PATIENCE_S

ROOT = Path(__file__).parents[1]
WELCOME = ROOT / "samples" / "welcome.flac"
PROMISED = {"option": 2, "output format": 3, "MCP tool": 3, "engine": 3}

PROBE = """
import json, sys
from typer.testing import CliRunner
from transcribe_mcp.frontends.cli.app import app
from transcribe_mcp.frontends.mcp.tools import TOOLS
from transcribe_mcp.jobs.job_options import normalized_options
from transcribe_mcp.jobs.models import JobOptions

done = [CliRunner().invoke(app, line) for line in json.loads(sys.argv[1])]
tools = {name: entry.tool.parameters["properties"] for name, entry in TOOLS.items()}
loud = JobOptions.loads(JobOptions(loud=True, engine="dummy").dumps())
print(json.dumps({
    "outputs": [one.stdout for one in done],
    "warnings": [one.stderr for one in done],
    "tools": tools,
    "is_stored": normalized_options(loud, "auto").loud,
    "is_in_old_rows": "loud" in JobOptions().dumps(),
}))
"""
DUMMY_FORMAT = """
from ..domain.options import FormatOptions
from ..domain.transcript import Transcript


def dummy(transcript: Transcript, _: FormatOptions) -> str:
    return f"{len(transcript.words)} words\\n"
"""
DUMMY_ENGINE = """
from dataclasses import replace

from .fake import FakeEngine


def load(request):
    engine = FakeEngine()
    engine.info = replace(engine.info, engine="dummy")
    return engine
"""
DUMMY_TOOL = '''

@tool("Say hello", READS)
async def say_hello(query: arg.Query) -> types.CallToolResult:
    """Greet the caller."""
    return await answering(calls.models(cached_only=True))
'''


@dataclass
class Copy:
    """A copy of the package, and the files that were touched to add each thing."""

    root: Path
    touched: dict[str, set[str]] = field(default_factory=dict)

    def write(self, added: str, path: str, text: str) -> None:
        self.touched.setdefault(added, set()).add(path)
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def insert(self, added: str, path: str, before: str, text: str) -> None:
        """Insert ``text`` before the first line that holds ``before``."""
        target = self.root / path
        source = target if target.exists() else ROOT / path
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        place = next(i for i, line in enumerate(lines) if before in line)
        self.write(added, path, "".join([*lines[:place], text, *lines[place:]]))

    def append(self, added: str, path: str, text: str) -> None:
        self.write(added, path, (self.root / path).read_text(encoding="utf-8") + text)

    def file_with(self, folder: str, text: str) -> str:
        paths = (self.root / folder).rglob("*.py")
        found = next(path for path in paths if text in path.read_text(encoding="utf-8"))
        return found.relative_to(self.root).as_posix()


def add_an_option(copy: Copy) -> None:
    copy.insert(
        "option",
        "src/transcribe_mcp/domain/options.py",
        "    words: bool = option(",
        '    loud: bool = option(False, "Shout.")\n',
    )
    copy.insert(
        "option",
        copy.file_with("src/transcribe_mcp/pipeline", "    notices += speakers.notices"),
        "    notices += speakers.notices",
        '    if options.loud:\n        notices.append(Notice("loud", "this is loud"))\n',
    )


def add_a_format(copy: Copy) -> None:
    package = "src/transcribe_mcp/formats"
    copy.write("output format", f"{package}/dummy.py", DUMMY_FORMAT)
    row = '    "dummy": Format(dummy.dummy, "text/plain", ".dummy", "the number of words"),\n'
    copy.insert(
        "output format", f"{package}/__init__.py", "from . import ", "from . import dummy\n"
    )
    copy.insert("output format", f"{package}/__init__.py", '    "txt": Format(', row)
    copy.write("output format", "tests/golden/sample.dummy", "52 words\n")


def add_a_tool(copy: Copy) -> None:
    copy.append("MCP tool", "src/transcribe_mcp/frontends/mcp/tools.py", DUMMY_TOOL)
    copy.insert("MCP tool", "docs/mcp.md", "| `diagnose_system` |", "| `say_hello` | greets |\n")
    copy.insert("MCP tool", "tests/data/mcp_tools.json", "]", ', {"name": "say_hello"}\n')


def add_an_engine(copy: Copy) -> None:
    copy.write("engine", "src/transcribe_mcp/engines/dummy.py", DUMMY_ENGINE)
    table = copy.file_with("src/transcribe_mcp/engines", '    "fake": EngineEntry(')
    row = '    "dummy": EngineEntry(".dummy", "words for tests"),\n'
    copy.insert("engine", table, '    "fake": EngineEntry(', row)
    model = '    "dummy": whisper_nano,\n'
    copy.insert("engine", "tests/test_engines.py", '    "whisper": whisper_nano', model)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    root = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", root / "src", ignore=ignored)
    made = Copy(root)
    for add in (add_an_option, add_a_format, add_a_tool, add_an_engine):
        add(made)
    return made


@pytest.fixture(scope="module")
def shown(copy: Copy) -> dict[str, Any]:
    """What the copy's command line and tools show."""
    fake = ["transcribe", str(WELCOME), "--no-vad", "--engine"]
    lines = [
        ["transcribe", "--help"],
        [*fake, "fake", "--loud"],
        [*fake, "fake", "--format", "dummy"],
        [*fake, "dummy", "--json"],
    ]
    path = environment(copy.root, PYTHONPATH=str(copy.root / "src"))
    command = [sys.executable, "-c", PROBE, json.dumps(lines)]
    done = subprocess.run(
        command, env=path, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_touches_the_files_that_the_table_of_contributing_counts(copy: Copy) -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    written = dict(re.findall(r"^\| ([\w ]+?) \| (\d) \|", table, flags=re.MULTILINE))

    assert {name: len(paths) for name, paths in copy.touched.items()} == PROMISED
    assert {name: int(written[name]) for name in PROMISED} == PROMISED


def test_an_option_is_at_the_command_line_at_mcp_and_in_stored_jobs(shown: dict[str, Any]) -> None:
    assert re.search(r"--loud +Shout\.", shown["outputs"][0])
    assert "warning: this is loud" in shown["warnings"][1]
    for name in ("transcribe_audio", "batch_transcribe"):
        loud = {"type": "boolean", "description": "Shout. Default: false."}
        assert shown["tools"][name]["loud"] == loud
    assert shown["is_stored"] and not shown["is_in_old_rows"]


def test_a_format_is_at_the_command_line_and_at_mcp(shown: dict[str, Any]) -> None:
    assert re.search(r"--format TEXT +dummy, txt,", shown["outputs"][0])
    assert re.fullmatch(r"\d+ words\n", shown["outputs"][2])
    result = shown["tools"]["get_transcription_result"]["format"]["description"]
    audio = shown["tools"]["transcribe_audio"]["formats"]["description"]
    assert "dummy: the number of words" in result and audio.startswith("dummy, txt,")


def test_a_tool_is_at_mcp(shown: dict[str, Any]) -> None:
    assert set(shown["tools"]["say_hello"]) == {"query"}


def test_an_engine_is_at_the_command_line_and_in_jobs(shown: dict[str, Any]) -> None:
    assert "dummy" in shown["outputs"][0].partition("engine: ")[2].partition("[")[0]
    assert json.loads(shown["outputs"][3])["transcript"]["engine"] == "dummy"
