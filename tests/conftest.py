"""Fixtures of more than one file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from huggingface_hub import constants
from local_hub import TINY, Hub, closed_port, serving
from small_checkpoints import write_checkpoint

from transcribe_mcp.settings import settings

# Tests start hundreds of processes, which need not compile the same modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says something of the machine, not of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, no hub that answers, an empty cache of ours."""
    cache = tmp_path / "hub"
    for variable in (
        "HF_TOKEN",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
        "TRANSCRIBE_MCP_OFFLINE",
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TRANSCRIBE_MCP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    settings.cache_clear()
    return cache


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that serves a small checkpoint as openai/whisper-tiny, with files that nobody needs."""
    directory = write_checkpoint(tmp_path / "published")
    for name in (
        "README.md",
        "flax_model.msgpack",
        "pytorch_model.bin",
        "vocab.json",
        "model-00001-of-00001.safetensors",
    ):
        (directory / name).write_bytes(b"not needed")
    with serving(Hub.of(TINY, directory)) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        yield served
