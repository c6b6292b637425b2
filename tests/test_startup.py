"""What does not transcribe starts without loading what transcribes."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import COMMAND, run

HEAVY = {"av", "ctranslate2", "faster_whisper", "numpy", "onnxruntime", "tokenizers", "torch"}
FOR_MODELS = {"huggingface_hub", "pydantic_settings", "safetensors"}
FOR_BARS = {"rich"}
FOR_SERVERS = {"dbos", "mcp", "mcp_types", "sqlalchemy", "starlette", "uvicorn"}


def loaded_by(*arguments: str, cwd: Path) -> set[str]:
    """Top-level packages that the command imported, as the interpreter reports them."""
    python, *rest = COMMAND
    done = run(*arguments, cwd=cwd, command=(python, "-X", "importtime", *rest))
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


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
    assert loaded & {"ctranslate2", "faster_whisper", "torch", "tokenizers"} == set()


def test_listing_models_loads_no_engine(tmp_path: Path) -> None:
    loaded = loaded_by("models", "list", cwd=tmp_path)
    assert "huggingface_hub" in loaded
    assert loaded & {"av", "ctranslate2", "faster_whisper", "onnxruntime", "torch"} == set()
