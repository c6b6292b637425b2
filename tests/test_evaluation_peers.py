"""Other programs beside ours in an evaluation: ``transcribe-mcp evaluate DIR --compare ...``."""

from __future__ import annotations

import shutil
import sys
import venv
from dataclasses import replace
from pathlib import Path

import pytest
from real_whisper import real_whisper

from transcribe_mcp import EngineSpec
from transcribe_mcp.compat import environments
from transcribe_mcp.errors import EngineUnavailableError, UnknownNameError
from transcribe_mcp.service.evaluating import EvaluateRequest, evaluate

SAMPLES = Path(__file__).parents[1] / "samples"

# Stands where WhisperX would in an environment of its own: it says which model it was given.
WHISPERX = """
import os
from pathlib import Path
def load_audio(path): return [0.0] * 16000
class Pipeline:
    def __init__(self, model): self.model = model
    def transcribe(self, audio, batch_size, language):
        text = f" weights {Path(self.model, 'model.bin').stat().st_size}"
        segment = {"text": text, "start": 0.0, "end": 1.0}
        return {"segments": [segment], "language": language}
def load_model(model, device, compute_type, language, asr_options):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert language == "en" and asr_options == {"beam_size": 5}
    return Pipeline(model)
"""


def environment_with_whisperx(state: str) -> None:
    """As ``env create`` leaves one; its interpreter sees a module that stands where WhisperX
    would.
    """
    folder = environments.folder_of("mine")
    venv.create(folder / "venv", symlinks=sys.platform != "win32")
    site = environments.site_packages_of("mine")
    assert site is not None
    (site / "whisperx.py").write_text(WHISPERX, encoding="utf-8")
    environments.write_record(environments.Environment("mine", environments.READY, want="whisperx"))
    environments.make_current("mine")
    if state == "damaged":
        shutil.rmtree(folder / "venv")
    elif state == "deleted":
        shutil.rmtree(folder)


def directory_with_sample(folder: Path) -> Path:
    folder.mkdir()
    for path in SAMPLES.glob("welcome.*"):
        shutil.copyfile(path, folder / path.name)
    return folder


def test_other_programs_are_judged_on_the_same_recordings(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper")
    real_whisper()
    directory = directory_with_sample(tmp_path / "recordings")
    request = EvaluateRequest(
        directory,
        EngineSpec(model="tiny.en", device="cpu", offline=True),
        compare=("faster-whisper",),
    )

    found = evaluate(request)

    assert found.figures["systems"].keys() == {"transcribe-mcp", "faster-whisper"}
    assert all(row["reference_words"] == 35 for row in found.figures["systems"].values())
    assert all(row["word_error_rate"] < 0.1 for row in found.figures["systems"].values())
    assert [line.split()[0] for line in found.table.splitlines()[-2:]] == [
        "transcribe-mcp",
        "faster-whisper",
    ]


def test_whisperx_is_judged_from_its_own_environment_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = real_whisper()
    monkeypatch.setenv("TRANSCRIBE_MCP_DATA_DIR", str(tmp_path / "data"))
    environment_with_whisperx("whole")
    directory = directory_with_sample(tmp_path / "recordings")
    (directory / "welcome.txt").write_text(
        f"weights {(model / 'model.bin').stat().st_size}", encoding="utf-8"
    )
    request = EvaluateRequest(
        directory,
        EngineSpec("ctranslate2", "tiny.en", "cpu", offline=True),
        compare=("whisperx",),
    )

    found = evaluate(request)

    assert found.figures["systems"]["whisperx"]["word_error_rate"] == 0
    assert found.table.splitlines()[-1].split()[0] == "whisperx"


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ("missing", "whisperx is not installed: no environment has it"),
        ("damaged", "environment mine is damaged: its interpreter"),
        ("deleted", "there is no environment 'mine'"),
    ],
)
def test_a_whisperx_that_cannot_be_run_is_an_error_before_any_recording_is_transcribed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, problem: str
) -> None:
    monkeypatch.setenv("TRANSCRIBE_MCP_DATA_DIR", str(tmp_path / "data"))
    if state != "missing":
        environment_with_whisperx(state)
    request = EvaluateRequest(
        directory_with_sample(tmp_path / "recordings"), EngineSpec(engine="no engine is loaded")
    )

    with pytest.raises(EngineUnavailableError, match=problem) as missing:
        evaluate(replace(request, compare=("whisperx",)))

    assert "transcribe-mcp env create --want whisperx" in missing.value.hint


def test_a_program_that_is_not_known_is_refused_with_the_names_that_are(tmp_path: Path) -> None:
    request = EvaluateRequest(
        directory_with_sample(tmp_path / "recordings"), EngineSpec(engine="fake")
    )

    with pytest.raises(UnknownNameError, match="no peer 'kaldi'") as unknown:
        evaluate(replace(request, compare=("kaldi",)))

    assert (
        unknown.value.hint
        == "choose from: faster-whisper, faster-whisper-batched, whisperx, senko, pyannote"
    )


# Stands where the diarizers would: each hears one speaker for the whole recording.
SENKO = """
import wave
class Diarizer:
    def __init__(self, device, warmup, quiet): pass
    def diarize(self, path, generate_colors):
        with wave.open(path) as file:
            assert file.getparams()[:3] == (1, 2, 16000)
            end = file.getnframes() / 16000
        return {"merged_segments": [{"start": 0.0, "end": end, "speaker": "SPEAKER_01"}]}
"""
PYANNOTE = """
from types import SimpleNamespace
class Annotation:
    def __init__(self, end): self.end = end
    def itertracks(self, yield_label):
        return [(SimpleNamespace(start=0.0, end=self.end), "A", "SPEAKER_00")]
class Pipeline:
    @classmethod
    def from_pretrained(cls, name): return cls()
    def __call__(self, audio):
        end = audio["waveform"].shape[1] / audio["sample_rate"]
        return SimpleNamespace(speaker_diarization=Annotation(end))
"""


def test_diarizers_are_judged_by_their_turns_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    model = real_whisper()
    modules = tmp_path / "modules"
    (modules / "pyannote" / "audio").mkdir(parents=True)
    (modules / "senko.py").write_text(SENKO)
    (modules / "pyannote" / "audio" / "__init__.py").write_text(PYANNOTE)
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.syspath_prepend(str(modules))
    directory = directory_with_sample(tmp_path / "recordings")
    (directory / "welcome.rttm").write_text("SPEAKER w 1 0.0 9.0 <NA> <NA> anna <NA> <NA>\n")
    request = EvaluateRequest(
        directory,
        EngineSpec("ctranslate2", str(model), "cpu", offline=True),
        compare=("senko", "pyannote"),
    )

    found = evaluate(request)

    systems = found.figures["systems"]
    assert systems["transcribe-mcp"]["speakers"]["found_speakers"] == 1
    assert systems["transcribe-mcp"]["speakers"]["word_accuracy"] == 1
    for name in ("senko", "pyannote"):
        assert systems[name]["word_error_rate"] is None
        assert systems[name]["speakers"]["missed_s"] == 0
        assert systems[name]["speakers"]["counts_right"] == 1


@pytest.mark.parametrize(("name", "package"), [("senko", "senko"), ("pyannote", "pyannote-audio")])
def test_diarizers_that_are_not_installed_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setattr("transcribe_mcp.quality.bench.compared.find_spec", lambda name: None)
    request = EvaluateRequest(
        directory_with_sample(tmp_path / "recordings"), EngineSpec(engine="no engine is loaded")
    )

    with pytest.raises(EngineUnavailableError, match=f"{name} is not installed") as missing:
        evaluate(replace(request, compare=(name,)))

    assert missing.value.hint == f"pip install {package}"
