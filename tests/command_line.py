"""Runs the real command as a user's shell would: a process of its own, with empty caches and no
hub.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from media import wav_bytes
from patience import PATIENCE_S

from transcribe_mcp.media.decode import SAMPLE_RATE_HZ, read

COMMAND = (sys.executable, "-m", "transcribe_mcp")
FAKE = ("transcribe", "--engine", "fake", "--no-vad")  # words for every sound, at once
SAMPLES = Path(__file__).parents[1] / "samples"

_LEFT_OUT = re.compile(
    r"HF_.*|TRANSFORMERS_OFFLINE|TRANSCRIBE_MCP_.*|.*_proxy|.*_PROXY|LC_.*|LANG|PYTHON(UTF8|IOENCODING)"
)


def environment(home: Path, **variables: str) -> dict[str, str]:
    """What the process sees: nothing of this machine's user, and no network unless ``variables``
    say otherwise.
    """
    kept = {name: value for name, value in os.environ.items() if not _LEFT_OUT.fullmatch(name)}
    ours = {
        "HF_HOME": str(home / "hub"),
        "TRANSCRIBE_MCP_CACHE_DIR": str(home / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    return {**kept, **ours, "HOME": str(home), **variables}


def run(
    *arguments: str | Path, cwd: Path, command: Sequence[str] = COMMAND, **options: Any
) -> subprocess.CompletedProcess[str]:
    """The finished process. ``options`` are those of ``subprocess.run``; ``stdout`` and ``stderr``
    are text.
    """
    streams = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": environment(cwd),
    } | options
    line = [*command, *map(str, arguments)]
    done = subprocess.run(
        line, cwd=cwd, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False, **streams
    )
    stdout, stderr = ((text or b"").decode("utf-8") for text in (done.stdout, done.stderr))
    assert "Traceback" not in stderr and "Traceback" not in stdout, stderr
    return subprocess.CompletedProcess(line, done.returncode, stdout, stderr)


def results(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """What ``--json`` printed, by source."""
    return {row["source"]: row for row in map(json.loads, done.stdout.splitlines())}


def left_in(directory: Path) -> list[str]:
    """Every file below, hidden and temporary ones too."""
    return sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
    )


def clip(path: Path, seconds: float) -> Path:
    """The beginning of the spoken welcome, as WAV."""
    samples = read(SAMPLES / "welcome.flac")[: round(seconds * SAMPLE_RATE_HZ)]
    return write_wav(path, samples)


def write_wav(path: Path, samples: np.ndarray) -> Path:
    pcm = (samples * np.iinfo(np.int16).max).astype("<i2").tobytes()
    path.write_bytes(wav_bytes(pcm, rate_hz=SAMPLE_RATE_HZ, channels=1, bits=16))
    return path


def write_silence(path: Path, hours: float) -> Path:
    """Silence of any length in no time and hardly any space: a WAV that is a hole."""
    size = round(hours * 3600 * 8000) * 2
    header = wav_bytes(b"", rate_hz=8000, channels=1, bits=16, claim=size)
    path.write_bytes(header)
    os.truncate(path, len(header) + size)
    return path
