"""What ``import transcribe_mcp`` offers, and that offering it costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import transcribe_mcp
from transcribe_mcp.settings import settings

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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0.0] * 16_000, "engine"), "the source is of the type list"),
        ((None, "engine"), "the source is of the type NoneType"),
        ((WELCOME, "tiny.en"), "the engine is of the type str"),
        ((WELCOME, transcribe_mcp.EngineSpec()), "the engine is of the type EngineSpec"),
        ((WELCOME, "engine", {"language": "en"}), "the options are of the type dict"),
        (("", "engine"), "the name of the source is empty"),
    ],
)
def test_an_argument_of_another_type_is_one_of_our_errors(
    arguments: tuple[Any, ...], words: str
) -> None:
    engine = transcribe_mcp.load_engine(transcribe_mcp.EngineSpec(engine="fake"))
    given = (engine if each == "engine" else each for each in arguments)
    with pytest.raises(transcribe_mcp.TranscribeError, match=words) as caught:
        transcribe_mcp.transcribe(*given)
    assert caught.value.hint.startswith(("give ", "load one"))


def test_an_engine_is_loaded_by_its_spec_and_used_until_it_is_closed() -> None:
    with pytest.raises(transcribe_mcp.TranscribeError, match="the spec is of the type str"):
        transcribe_mcp.load_engine("tiny.en")  # type: ignore[arg-type]
    engine = transcribe_mcp.load_engine(transcribe_mcp.EngineSpec(engine="fake"))
    engine.close()
    with pytest.raises(transcribe_mcp.TranscribeError, match="the engine is closed"):
        transcribe_mcp.transcribe(WELCOME, engine)


def test_a_url_is_transcribed_unless_offline_mode_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(WELCOME.parent))
    engine = transcribe_mcp.load_engine(transcribe_mcp.EngineSpec(engine="fake"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/{WELCOME.name}"
        try:
            transcript = transcribe_mcp.transcribe(url, engine)
            monkeypatch.setenv("TRANSCRIBE_MCP_OFFLINE", "1")
            settings.cache_clear()
            with pytest.raises(transcribe_mcp.TranscribeError, match="offline mode is on"):
                transcribe_mcp.transcribe(url, engine)
        finally:
            server.shutdown()
            settings.cache_clear()
    assert transcript.source == url
    assert transcript.text == transcribe_mcp.transcribe(WELCOME, engine).text
