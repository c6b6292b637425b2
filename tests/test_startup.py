"""Every process loads what it needs and no more."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from command_line import COMMAND, environment, run
from job_places import finished, jobs, place, request
from patience import PATIENCE_S
from whisper_nano import SPEECH, kept_conversions, whisper_nano

from transcribe_mcp.jobs.store import Store

HEAVY = {"av", "ctranslate2", "faster_whisper", "numpy", "onnxruntime", "tokenizers", "torch"}
FOR_MODELS = {"huggingface_hub", "pydantic_settings", "safetensors"}
FOR_BARS = {"rich"}
FOR_SERVERS = {"dbos", "mcp", "mcp_types", "pydantic", "sqlalchemy", "starlette", "uvicorn"}


def loaded_by(*arguments: str, cwd: Path) -> set[str]:
    """Top-level packages that the command imported."""
    return {name.split(".")[0] for name in modules_of(*arguments, cwd=cwd)}


def modules_of(*arguments: str, cwd: Path) -> set[str]:
    """Modules that the command imported, as the interpreter reports them."""
    python, *rest = COMMAND
    done = run(*arguments, cwd=cwd, command=(python, "-X", "importtime", *rest))
    return imported(done.stderr)


def imported(errors: str) -> set[str]:
    _, *lines = [line for line in errors.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def packages(errors: str) -> set[str]:
    return {name.split(".")[0] for name in imported(errors)}


def loaded_in(cwd: Path, *command: str, given: str = "", **variables: str) -> set[str]:
    """Top-level packages that a Python process imported until its input ended."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        cwd=cwd,
        env=environment(cwd, **variables),
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return packages(done.stderr)


def test_a_command_loads_no_other_command(tmp_path: Path) -> None:
    version = modules_of("--version", cwd=tmp_path)
    for_transcribing = modules_of("transcribe", "--help", cwd=tmp_path)
    ours = "transcribe_mcp.frontends.cli.terminal"
    assert ours in version and not any(
        name.startswith("transcribe_mcp.service") for name in version
    )
    assert "transcribe_mcp.service.transcribing" in for_transcribing
    assert "transcribe_mcp.jobs.models" not in for_transcribing


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["transcribe", "--help"],
        ["models", "--help"],
        ["serve", "--help"],
    ],
)
def test_help_loads_the_command_line_alone(tmp_path: Path, arguments: list[str]) -> None:
    loaded = loaded_by(*arguments, cwd=tmp_path)
    assert {"transcribe_mcp", "typer"} <= loaded
    assert loaded & (HEAVY | FOR_MODELS | FOR_BARS | FOR_SERVERS) == set()


def test_a_typing_error_loads_no_engine(tmp_path: Path) -> None:
    loaded = loaded_by("transcribe", "missing.wav", cwd=tmp_path)
    assert loaded & {"ctranslate2", "faster_whisper", "pydantic", "torch", "tokenizers"} == set()


def test_listing_models_loads_no_engine(tmp_path: Path) -> None:
    loaded = loaded_by("models", "list", cwd=tmp_path)
    assert "huggingface_hub" in loaded
    engines = {"av", "ctranslate2", "faster_whisper", "onnxruntime", "torch"}
    assert loaded & (engines | {"pydantic"}) == set()


def test_a_command_with_a_warm_worker_loads_no_engine(tmp_path: Path) -> None:
    clip = sorted(SPEECH.glob("*.flac"))[0]
    with kept_conversions(), place(tmp_path / "data"):
        assert finished(jobs.submit(request(clip)).job_id).error is None
        names = ("TRANSCRIBE_MCP_DATA_DIR", "TRANSCRIBE_MCP_CACHE_DIR")
        line = ("-m", "transcribe_mcp", "transcribe", str(clip), "--engine", "ctranslate2")
        model = ("--device", "cpu", "--model", str(whisper_nano()))
        loaded = loaded_in(tmp_path, *line, *model, **{name: os.environ[name] for name in names})
    assert "typer" in loaded
    assert loaded & (HEAVY | FOR_MODELS | FOR_BARS | FOR_SERVERS) == set()


def test_the_writer_loads_the_standard_library_alone(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "data")) as store:
        line = ("-m", "transcribe_mcp.jobs.writer", str(store.url.database), "0")
        loaded = loaded_in(tmp_path, *line)
    third_party = loaded - set(sys.stdlib_module_names) - {"sitecustomize", "org"}
    assert {name for name in third_party if not name.startswith("_")} == {"transcribe_mcp"}


def test_a_worker_loads_no_engine_before_its_first_job(tmp_path: Path) -> None:
    line = ("-m", "transcribe_mcp.jobs.worker")
    variables = {"DATA_DIR": str(tmp_path / "data"), "EXIT_AFTER_S": "0"}
    given = {f"TRANSCRIBE_MCP_{name}": value for name, value in variables.items()}
    loaded = loaded_in(tmp_path, *line, **given)
    assert "dbos" in loaded
    engines = {"av", "ctranslate2", "onnxruntime", "tokenizers", "torch"}
    assert loaded & (engines | FOR_MODELS | FOR_BARS | {"mcp", "typer"}) == set()


def test_the_server_answers_before_it_loads_the_database(tmp_path: Path) -> None:
    client = {"name": "test", "version": "1"}
    parameters = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": parameters}
    given = {"TRANSCRIBE_MCP_DATA_DIR": str(tmp_path / "data")}
    line = ("-m", "transcribe_mcp", "serve")
    loaded = loaded_in(tmp_path, *line, given=f"{json.dumps(hello)}\n", **given)
    assert "mcp" in loaded
    assert loaded & (HEAVY | FOR_MODELS | {"dbos", "sqlalchemy"}) == set()


def test_the_http_server_listens_before_it_loads_other_commands_and_routes(tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with closing(taken):
        port = str(taken.getsockname()[1])
        loaded = modules_of("serve", "--http", "--port", port, cwd=tmp_path)
    ours = {name.removeprefix("transcribe_mcp.frontends.") for name in loaded}
    assert "http.start" in ours
    assert ours & {"cli.options", "http.server", "http.transcriptions", "mcp.server"} == set()
    others = {"pydantic", "transcribe_mcp.domain.options", "transcribe_mcp.domain.transcript"}
    assert loaded & others == set()
