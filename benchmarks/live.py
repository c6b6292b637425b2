"""Live transcription: latency after the end of speech, alone and beside a batch job, and word
errors beside those of the same recordings offline.

    python benchmarks/live.py [SETS] [--only t16,m_clean] [--seconds 60] [--sessions 2]

``SETS`` is as in ``real_accuracy.py``, which has the rules of comparison too. The model is Whisper
tiny.en on the CPU. Latency is measured in real time through a server and its WebSocket, from the
last frame of speech: until the utterance is found, and until its text has come less the time from
its commit to its text, which is decoding. For word errors, sound goes in as fast as it is
transcribed.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import SAMPLE_RATE_HZ, SHARED, Bar, Samples, read_samples, real_model, report
from real_accuracy import Set, errors

from transcribe_mcp import EngineSpec, Options, load_engine, transcribe
from transcribe_mcp.service.live import LiveEvent, LiveSetup, listen
from transcribe_mcp.service.models import JobOptions, JobRequest, JobStatus
from transcribe_mcp.service.service import Service
from transcribe_mcp.settings import Settings

SETS = SHARED / "accuracy" / "sets"
CHUNK_S = 0.02
SILENCE_S = 0.5
BATCH_S = 6 * 3600.0  # more than any CPU transcribes while the sound is played
SERVE = ("-m", "transcribe_mcp", "serve", "--http", "--no-web", "--port", "0")
URL = "/v1/realtime?intent=transcription"


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one utterance, in seconds from the end of its speech."""

    found_s: float
    text_s: float
    decoding_s: float

    @property
    def overhead_s(self) -> float:
        return self.text_s - self.decoding_s


@dataclass(frozen=True, slots=True)
class Heard:
    """A text, for ``real_accuracy.errors``."""

    text: str


# -- latency ---------------------------------------------------------------------------------------


@contextmanager
def server(data_dir: Path) -> Iterator[str]:
    """The address of a server."""
    environment = os.environ | {
        "TRANSCRIBE_MCP_DATA_DIR": str(data_dir),
        "TRANSCRIBE_MCP_MODEL": str(real_model()),
        "TRANSCRIBE_MCP_EXIT_AFTER_S": "10",
    }
    with subprocess.Popen(
        [sys.executable, *SERVE], stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stderr is not None
        try:
            yield running.stderr.readline().split()[-1].removesuffix("/mcp")
        finally:
            running.terminate()


def spoken_live(url: str, samples: Samples) -> list[Latency]:
    """Play a recording in real time."""
    from websockets.sync.client import connect

    arrived: list[tuple[float, dict[str, Any]]] = []
    with connect(url.replace("http", "ws") + URL) as websocket:
        setup = {"format": {"type": "audio/pcm", "rate": SAMPLE_RATE_HZ}}
        session = {"type": "transcription", "audio": {"input": setup}}
        websocket.send(json.dumps({"type": "session.update", "session": session}))
        while json.loads(websocket.recv())["type"] != "session.updated":
            pass

        def receive() -> None:
            for message in websocket:
                arrived.append((time.perf_counter(), json.loads(message)))

        receiving = threading.Thread(target=receive)
        receiving.start()
        begin = time.perf_counter()
        step = round(CHUNK_S * SAMPLE_RATE_HZ)
        scaled = (np.clip(samples, -1, 1) * 32767).astype("<i2")
        for at in range(0, len(scaled), step):
            # A chunk can be sent when its last sample has been spoken.
            time.sleep(max(0.0, begin + at / SAMPLE_RATE_HZ + CHUNK_S - time.perf_counter()))
            audio = base64.b64encode(scaled[at : at + step].tobytes()).decode()
            websocket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        while len(_times(arrived, "completed")) < len(_times(arrived, "committed")):
            time.sleep(CHUNK_S)
    receiving.join()
    return list(_latencies(arrived, begin))


def _times(arrived: Sequence[tuple[float, dict[str, Any]]], kind: str) -> dict[str, float]:
    """When the events of this kind came, by item."""
    return {
        event["item_id"]: at for at, event in arrived if event["type"].rpartition(".")[2] == kind
    }


def _latencies(arrived: Sequence[tuple[float, dict[str, Any]]], begin: float) -> Iterator[Latency]:
    committed = _times(arrived, "committed")
    completed = _times(arrived, "completed")
    for at, event in arrived:
        if event["type"] == "input_audio_buffer.speech_stopped":
            item = event["item_id"]
            end = begin + event["audio_end_ms"] / 1000 - SILENCE_S
            decoding_s = completed[item] - committed[item]
            yield Latency(at - end, completed[item] - end, decoding_s)


@contextmanager
def batch_job(data_dir: Path, samples: Samples) -> Iterator[None]:
    """A long job runs in the block."""
    import wave

    path = data_dir.parent / "batch.wav"
    frames = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        for _ in range(math.ceil(BATCH_S * SAMPLE_RATE_HZ / len(samples))):
            file.writeframes(frames)
    service = Service(Settings(data_dir=data_dir, exit_after_s=10))
    options = JobOptions(model=str(real_model()), device="cpu")
    job = service.submit(JobRequest(str(path), options))
    while service.wait_for(job.job_id, 1.0).status is JobStatus.QUEUED:
        pass
    try:
        yield
        found = service.get_job(job.job_id)
        assert found.status is JobStatus.RUNNING, f"the batch job is {found.status} already"
    finally:
        service.cancel(job.job_id)
        service.close()


def latencies(paths: Sequence[Path], seconds: float, sessions: int) -> dict[str, list[Latency]]:
    sounds = [read_samples(path)[: round(seconds * SAMPLE_RATE_HZ)] for path in paths]
    found: dict[str, list[Latency]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        data_dir = Path(folder) / "data"
        with server(data_dir) as url, ThreadPoolExecutor(sessions) as threads:
            found["alone"] = [each for sound in sounds for each in spoken_live(url, sound)]
            with batch_job(data_dir, sounds[0]):
                played = [threads.submit(spoken_live, url, sounds[0]) for _ in range(sessions)]
                found["beside a job"] = [each for one in played for each in one.result()]
    return found


def summary(found: Sequence[Latency]) -> dict[str, float]:
    def at(values: list[float], share: float) -> float:
        return sorted(values)[min(len(values) - 1, int(share * len(values)))]

    figures: dict[str, float] = {"utterances": len(found)}
    for name in ("found_s", "decoding_s", "overhead_s", "text_s"):
        values = [getattr(each, name) for each in found]
        figures[f"{name} median"] = round(statistics.median(values), 3)
        figures[f"{name} 95th"] = round(at(values, 0.95), 3)
    return figures


# -- word errors -----------------------------------------------------------------------------------


def live_text(service: Service, samples: Samples) -> str:
    texts: list[str] = []

    def take(event: LiveEvent) -> None:
        if event.kind == "completed":
            texts.append(event.text)

    options = JobOptions(model=str(real_model()), device="cpu", language="en")
    setup = LiveSetup(options, rate_hz=SAMPLE_RATE_HZ, is_limited=False)
    data = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    listen(service, setup, (data[at : at + 8192] for at in range(0, len(data), 8192)), take)
    return " ".join(texts)


def word_errors(paths: Sequence[Path]) -> dict[str, dict[str, float]]:
    loaded = load_engine(EngineSpec(model=str(real_model()), device="cpu"))
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        service = Service(Settings(data_dir=Path(folder)))
        for path in paths:
            one = Set.read(path)
            live = Heard(live_text(service, read_samples(path)))
            offline = transcribe(path, loaded, Options(language="en"))
            found[path.stem] = {
                "words": len(one.reference),
                "live": sum(errors(one, live)),  # type: ignore[arg-type]
                "offline": sum(errors(one, offline)),
            }
            print(path.stem, found[path.stem], flush=True)
    loaded.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", type=Path, nargs="?", default=SETS)
    parser.add_argument("--only", default="p_dialogue,t16,m_clean")
    parser.add_argument("--seconds", type=float, default=60.0, help="played of each recording")
    parser.add_argument("--sessions", type=int, default=2, help="beside the batch job")
    given = parser.parse_args()
    paths = [given.sets / f"{name}.flac" for name in given.only.split(",")]
    if not all(path.exists() for path in paths):
        print(f"skipped: {given.sets} has no such recordings")
        print(json.dumps({"benchmark": "live", "skipped": True}))
        return 0
    warnings.simplefilter("ignore", DeprecationWarning)
    found = latencies(paths, given.seconds, given.sessions)
    times = {name: summary(each) for name, each in found.items()}
    for name, figures in times.items():
        print(name, figures, flush=True)
    counted = word_errors(paths)
    n_words = sum(row["words"] for row in counted.values())
    rates = {
        kind: 100 * sum(row[kind] for row in counted.values()) / n_words
        for kind in ("live", "offline")
    }
    bars = [
        *(
            Bar(f"end of speech to text, less decoding, {name} (s, median)",
                figures["overhead_s median"], "<=", 0.6)
            for name, figures in times.items()
        ),
        Bar("word errors live (%)", rates["live"], "<=", rates["offline"] + 1.0),
    ]  # fmt: skip
    return report("live", {"latency": times, "word_errors": counted}, bars)


if __name__ == "__main__":
    sys.exit(main())
