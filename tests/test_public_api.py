"""What ``import transcribe_mcp`` offers, and that offering it costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import transcribe_mcp

WELCOME = Path(__file__).parents[1] / "samples" / "welcome.flac"
HEAVY = {
    "av",
    "ctranslate2",
    "huggingface_hub",
    "numpy",
    "onnxruntime",
    "pydantic",
    "tokenizers",
    "torch",
    "typer",
}


@pytest.mark.parametrize("name", transcribe_mcp.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(transcribe_mcp, name) is not None
    assert name in dir(transcribe_mcp)


def test_a_name_that_is_not_there_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"transcribe_mcp.*'transcribee'"):
        _ = transcribe_mcp.transcribee


def test_the_version_is_that_of_the_installed_package() -> None:
    assert transcribe_mcp.__version__ == version("transcribe-mcp")


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import json, sys, transcribe_mcp; print(json.dumps(sorted(sys.modules)))"

    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    ).stdout

    assert HEAVY.isdisjoint(json.loads(loaded))


def test_a_recording_is_transcribed_with_public_names_alone() -> None:
    engine = transcribe_mcp.load_engine(transcribe_mcp.EngineRequest(engine="fake"))

    transcript = transcribe_mcp.transcribe(
        WELCOME, engine, transcribe_mcp.Options(language="english")
    )

    assert isinstance(transcript, transcribe_mcp.Transcript)
    assert all(isinstance(segment, transcribe_mcp.Segment) for segment in transcript.segments)
    assert all(isinstance(word, transcribe_mcp.Word) for word in transcript.words)
    assert transcript.words
    assert transcribe_mcp.Transcript.loads(transcript.dumps()).text == transcript.text


def test_a_missing_recording_is_one_of_our_errors() -> None:
    engine = transcribe_mcp.load_engine(transcribe_mcp.EngineRequest(engine="fake"))

    with pytest.raises(transcribe_mcp.TranscribeError, match=r"missing\.flac"):
        transcribe_mcp.transcribe("missing.flac", engine)
