"""``transcribe-mcp listen``, with sound on standard input and with a microphone that is none."""

from __future__ import annotations

import json
import signal
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import COMMAND, environment
from job_places import Place, end_workers
from numpy.typing import NDArray
from patience import PATIENCE_S
from whisper_nano import CACHE, SPEECH, whisper_nano

from transcribe_mcp.media.decode import SAMPLE_RATE_HZ, read
from transcribe_mcp.service.service import Service
from transcribe_mcp.settings import Settings

STAND_IN = Path(__file__).parent / "data" / "sounddevice"
CLIP = read(SPEECH / "en_0.flac")


def wav(path: Path, samples: NDArray[np.float32], channels: int = 1, width: int = 2) -> Path:
    scaled = np.repeat((np.clip(samples, -1, 1) * 32767).astype("<i2"), channels)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes(scaled.astype("<i4").tobytes() if width == 4 else scaled.tobytes())
    return path


@pytest.fixture
def variables(tmp_path: Path) -> Iterator[dict[str, str]]:
    data = tmp_path / "data"
    yield environment(
        tmp_path,
        TRANSCRIBE_MCP_DATA_DIR=str(data),
        TRANSCRIBE_MCP_CACHE_DIR=str(CACHE / "cache"),
        TRANSCRIBE_MCP_MODEL=str(whisper_nano()),
        TRANSCRIBE_MCP_START_WORKERS="0",
    )
    if data.exists():
        end_workers(Place(data))


def listen(
    variables: dict[str, str], sound: bytes, *arguments: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, "listen", *arguments],
        input=sound, capture_output=True, env=variables, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in stderr, stderr
    return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)


def test_standard_input_is_transcribed_utterance_by_utterance_and_saved(
    variables: dict[str, str], tmp_path: Path
) -> None:
    pause = np.zeros(SAMPLE_RATE_HZ, np.float32)
    spoken = np.concatenate([CLIP, pause, CLIP])
    stereo = wav(tmp_path / "spoken.wav", spoken, channels=2).read_bytes()
    done = listen(variables, stereo, "-", "--json", "--save")
    assert done.returncode == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    times = [row[name] for row in rows for name in ("start", "end")]
    assert len(rows) > 1 and times == sorted(times)
    assert times[0] >= 0 and times[-1] <= len(spoken) / SAMPLE_RATE_HZ + 0.1
    service = Service(Settings(data_dir=tmp_path / "data", start_workers=False))
    [job] = service.list_jobs().jobs
    assert job.job_id in done.stderr
    kept = read(Path(job.source))
    assert len(kept) == pytest.approx(len(spoken), abs=2 * SAMPLE_RATE_HZ / 100)
    service.close()

    raw = (np.clip(spoken, -1, 1) * 32767).astype("<i2").tobytes()
    plain = listen(variables, raw, "-")
    assert plain.stdout.splitlines() == [row["text"] for row in rows]
    assert plain.stderr == ""


def test_ctrl_c_ends_a_microphone_after_its_last_words(
    variables: dict[str, str], tmp_path: Path
) -> None:
    spoken = wav(tmp_path / "spoken.wav", CLIP)
    here = {"PYTHONPATH": str(STAND_IN), "SPOKEN": str(spoken)}
    with subprocess.Popen(
        [*COMMAND, "listen"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=variables | here,
    ) as heard:  # fmt: skip
        try:
            assert heard.stdout is not None and heard.stderr is not None
            assert heard.stderr.readline() == "listening to A microphone; Ctrl-C stops\n"
            assert len(heard.stdout.readline().split()) > 3
            heard.send_signal(signal.SIGINT)
            rest, errors = heard.communicate(timeout=PATIENCE_S)
        finally:
            heard.kill()
    assert (heard.returncode, rest, errors) == (0, "", "")


def test_what_cannot_be_heard_is_said_in_words(variables: dict[str, str], tmp_path: Path) -> None:
    file = listen(variables, b"", "talk.mp3")
    assert file.returncode == 2 and "transcribe-mcp transcribe talk.mp3" in file.stderr
    deep = listen(variables, wav(tmp_path / "deep.wav", CLIP, width=4).read_bytes(), "-")
    assert deep.returncode == 1 and "32 bits" in deep.stderr and "ffmpeg" in deep.stderr
    for sound in (b"", (SPEECH / "en_0.flac").read_bytes()):
        other = listen(variables, sound, "-")
        assert other.returncode == 1 and "standard input" in other.stderr, other.stderr
    model = listen(variables, bytes(32_000), "-", "--model", "nothing")
    assert model.returncode != 0 and "nothing" in model.stderr
    here = {"PYTHONPATH": str(STAND_IN), "SPOKEN": str(wav(tmp_path / "spoken.wav", CLIP))}
    other = listen(variables | here, b"", "--microphone", "no such")
    assert other.returncode == 1 and "python -m sounddevice" in other.stderr
    (tmp_path / "sounddevice.py").write_text("raise ImportError('not here')", encoding="utf-8")
    missing = listen(variables | {"PYTHONPATH": str(tmp_path)}, b"")
    assert missing.returncode == 1 and "transcribe-mcp[live]" in missing.stderr
