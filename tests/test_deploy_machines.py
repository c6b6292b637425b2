"""The section on several machines in docs/deploy.md, as it stands, on real servers."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from command_line import COMMAND, environment, run
from patience import PATIENCE_S
from postgres import new_database, server
from s3_place import SECRET, s3_server
from whisper_nano import CACHE, SPEECH, whisper_nano

PAGE = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## Several machines\n")[1].split("\n## ")[0]
LINES = [
    shlex.split(line, comments=True)
    for block in re.findall(r"^```sh\n(.*?)^```$", SECTION, flags=re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
EXPORTED = {word.partition("=")[0] for line in LINES if line[0] == "export" for word in line[1:]}


@contextmanager
def machine(variables: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that the section sets, with the servers of this test."""
    folder = tmp_path_factory.mktemp("machines")
    with server() as url, s3_server(folder / "log") as s3:
        s3.put("/talks/monday.flac", SPEECH / "en_0.flac")
        live = {
            **s3.environment,
            "TRANSCRIBE_MCP_DATABASE_URL": new_database(url),
            "TRANSCRIBE_MCP_EXIT_AFTER_S": "inf",
            "TRANSCRIBE_MCP_START_WORKERS": "0",
        }
        assert set(live) >= EXPORTED
        given = {"TRANSCRIBE_MCP_MODEL": str(whisper_nano())}
        given["TRANSCRIBE_MCP_CACHE_DIR"] = str(CACHE / "cache")
        yield environment(folder, **live, **given)


def test_the_commands_of_the_section_transcribe_an_object_on_another_machine(
    variables: dict[str, str], tmp_path: Path
) -> None:
    def on(name: str) -> dict[str, str]:
        return {**variables, "TRANSCRIBE_MCP_DATA_DIR": str(tmp_path / name)}

    ours = [line[1:] for line in LINES if line[0] == "transcribe-mcp"]
    [worker] = [line for line in ours if line[0] == "worker"]
    [serve] = [line for line in ours if line[0] == "serve"]
    [transcribe] = [line for line in ours if line[0] == "transcribe"]
    [listing] = [line for line in ours if line[0] == "jobs"]
    [health] = [line for line in LINES if line[0] == "curl"]
    with ExitStack() as stack:
        stack.enter_context(machine(on("worker"), *worker))
        web = stack.enter_context(machine(on("server"), *serve, "--port", "0"))
        assert web.stderr is not None
        address = re.findall(r"http://[\d.]+:\d+", web.stderr.readline())[0]
        alive = run(
            health[1].replace("http://127.0.0.1:8765", address), cwd=tmp_path, command=health[:1]
        )
        queued = run(*transcribe, cwd=tmp_path, env=on("shell"))
        job = queued.stdout.split()[0]
        shown = run("jobs", "show", job, "--wait", cwd=tmp_path, env=on("shell"))
        listed = run(*listing, cwd=tmp_path, env=on("shell"))

    assert '"status":"ok"' in alive.stdout.replace(" ", "")
    assert shown.returncode == 0 and shown.stdout.strip(), shown.stderr
    assert job in listed.stdout and "completed" in listed.stdout
    logs = [path.read_text() for path in tmp_path.rglob("*.log")]
    assert logs and not any(SECRET in log for log in logs)
    assert not list(tmp_path.rglob("fetched/[!.]*"))
