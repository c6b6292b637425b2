"""The HTTP server: how soon it answers, what an upload costs in time and memory, and whether calls
wait for uploads. Needs Linux for the memory.

python benchmarks/http_server.py [--runs 9] [--uploads 300] [--gib 1]
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import OWN_AUDIO, SAMPLE_RATE_HZ, Bar, own_model, read_samples, real_model, report

from transcribe_mcp import EngineSpec, Options, load_engine, transcribe

BARE = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
async def health(_): return JSONResponse({"status": "ok"})
app = Starlette(routes=[Route("/health", health)])
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
"""
TOKEN = "benchmark-of-the-http-server"  # the calls of the page need one
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
CALLS = ("/health", "/v1/models/whisper-1", "/api/jobs?limit=50", "/api/search?q=the")
SERVE = ("-m", "transcribe_mcp", "serve", "--http", "--port")
PART = 1 << 20
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
TAIL = b"\r\n--x--\r\n"


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def server(command: tuple[str, ...], **variables: str) -> Iterator[tuple[int, int, float]]:
    """(port, process, seconds until it answered ``/health``)."""
    port = free_port()
    begin = time.perf_counter()
    environment = os.environ | variables
    with subprocess.Popen(
        [sys.executable, *command, str(port)], stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            while True:
                try:
                    get(port, "/health")
                    break
                except OSError:
                    assert process.poll() is None, f"the server ended with {process.returncode}"
                    time.sleep(0.005)
            yield port, process.pid, time.perf_counter() - begin
        finally:
            process.terminate()


def get(port: int, path: str) -> float:
    """Seconds of one call on its own connection."""
    begin = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", path, headers=HEADERS)
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.status == 200, response.status
    return time.perf_counter() - begin


def post(port: int, recording: bytes, *, waits: bool = True) -> tuple[float, int]:
    """(seconds, status) of an upload."""
    begin = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    headers = {**HEADERS, "Content-Type": "multipart/form-data; boundary=x"}
    connection.request("POST", "/v1/audio/transcriptions", HEAD + recording + TAIL, headers)
    if not waits:
        connection.close()
        return 0.0, 0
    response = connection.getresponse()
    response.read()
    connection.close()
    return time.perf_counter() - begin, response.status


def clip(seconds: float, number: int) -> bytes:
    """A WAV file of speech; each number has its own bytes."""
    samples = np.concatenate([read_samples(path) for path in sorted(OWN_AUDIO.glob("en_*.flac"))])
    pcm = (samples[: round(seconds * SAMPLE_RATE_HZ)] * 32000).astype("<i2")
    pcm[0] = number
    with tempfile.TemporaryFile() as file:
        with wave.open(file, "wb") as target:
            target.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
            target.writeframes(pcm.tobytes())
        file.seek(0)
        return file.read()


# -- the measurements ------------------------------------------------------------------------------


def starts(runs: int, variables: dict[str, str]) -> dict[str, float]:
    """Medians of a start and of a call, each over a bare Starlette application's."""
    times: dict[str, list[float]] = {"start": [], "bare start": [], "call": [], "bare call": []}
    with tempfile.NamedTemporaryFile("w", suffix=".py") as bare:
        bare.write(BARE)
        bare.flush()
        for _ in range(runs + 1):  # the first one is not counted: bytecode, the system's cache
            for name, command in (("", SERVE), ("bare ", (bare.name,))):
                with server(command, **variables) as (port, _, start_s):
                    times[f"{name}start"].append(start_s)
                    time.sleep(3.0)  # the rest has loaded
                    times[f"{name}call"] += [get(port, "/health") for _ in range(200)]
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    print({name: f"{seconds * 1000:.1f} ms" for name, seconds in medians.items()})
    return {
        "start over bare": medians["start"] / medians["bare start"],
        "call over bare": medians["call"] / medians["bare call"],
    }


def overhead_s(runs: int, variables: dict[str, str]) -> float:
    """Median seconds of a 5 s clip by ``/v1`` on a warm worker, less the pipeline's."""
    with tempfile.TemporaryDirectory() as folder:
        engine = load_engine(EngineSpec(model=str(real_model()), device="cpu"))
        pipeline = []
        for number in range(runs + 2):
            path = Path(folder) / f"{number}.wav"
            path.write_bytes(clip(5.0, number))
            begin = time.perf_counter()
            transcribe(path, engine, Options())
            pipeline.append(time.perf_counter() - begin)
        engine.close()
    with server(SERVE, **variables) as (port, _, _):
        served = [post(port, clip(5.0, number))[0] for number in range(runs + 2)]
    medians = (statistics.median(pipeline[2:]), statistics.median(served[2:]))
    print("pipeline {:.3f} s, /v1 {:.3f} s".format(*medians))
    return medians[1] - medians[0]


def upload_mib(gib: float, variables: dict[str, str]) -> float:
    """MiB that the server's peak grows by during a large upload."""
    with server(SERVE, **variables, TRANSCRIBE_MCP_START_WORKERS="0") as (port, pid, _):
        post(port, clip(5.0, 0), waits=False)
        time.sleep(3.0)  # all modules are loaded
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        before = peak_kib(pid)
        n_parts = round(gib * 1024)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        connection.putrequest("POST", "/v1/audio/transcriptions")
        connection.putheader("Authorization", HEADERS["Authorization"])
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Content-Length", str(len(HEAD) + n_parts * PART + len(TAIL)))
        connection.endheaders()
        begin = time.perf_counter()
        part = os.urandom(PART)
        for each in (HEAD, *[part] * n_parts, TAIL):
            connection.send(each)
        folder = Path(variables["TRANSCRIBE_MCP_DATA_DIR"]) / "uploads"
        while not any(path.stat().st_size == n_parts * PART for path in folder.glob("*.wav")):
            time.sleep(0.1)
        print(f"{gib:g} GiB in {time.perf_counter() - begin:.1f} s")
        grown = peak_kib(pid) - before
        connection.close()
    return grown / 1024


def peak_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise RuntimeError("the system does not say how much memory a process takes")


def many_uploads(n: int, variables: dict[str, str]) -> tuple[int, float]:
    """(uploads without an answer, p99 in seconds of the slowest other call) with eight clients.

    A tiny model, because the server is measured here and not the recognizer.
    """
    with server(SERVE, **variables | {"TRANSCRIBE_MCP_MODEL": str(own_model())}) as (port, _, _):
        post(port, clip(2.0, 0))
        time.sleep(3.0)
        is_over = threading.Event()
        calls: dict[str, list[float]] = {path: [] for path in CALLS}

        def call() -> None:
            while not is_over.is_set():
                for path in CALLS:
                    calls[path].append(get(port, path))
                time.sleep(0.02)

        caller = threading.Thread(target=call)
        caller.start()
        clips = [clip(2.0, number) for number in range(1, n + 1)]
        with ThreadPoolExecutor(8) as clients:
            statuses = [status for _, status in clients.map(partial(post, port), clips)]
        is_over.set()
        caller.join()
    p99_s = {path: statistics.quantiles(taken, n=100)[98] for path, taken in calls.items()}
    for path, taken in calls.items():
        median_s = statistics.median(taken)
        print(f"{len(taken)} x {path}: median {median_s:.4f} s, p99 {p99_s[path]:.4f} s")
    return sum(status != 200 for status in statuses), max(p99_s.values())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--uploads", type=int, default=300)
    parser.add_argument("--gib", type=float, default=1.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        variables = {
            "HF_HUB_OFFLINE": "1",
            "TRANSCRIBE_MCP_TOKEN": TOKEN,
            "TRANSCRIBE_MCP_DATA_DIR": f"{folder}/data",
            "TRANSCRIBE_MCP_MODEL": str(real_model()),
            "TRANSCRIBE_MCP_EXIT_AFTER_S": "20",
        }
        found: dict[str, Any] = starts(arguments.runs, variables)
        found["overhead_s"] = overhead_s(arguments.runs, variables)
        found["upload_mib"] = upload_mib(arguments.gib, variables)
        found["lost"], found["p99_s"] = many_uploads(arguments.uploads, variables)
    bars = [
        Bar("start until /health over bare Starlette", found["start over bare"], "<=", 1.5),
        Bar("/health over bare Starlette", found["call over bare"], "<=", 1.5),
        Bar(
            "5 s clip on a warm worker: more than the pipeline, s", found["overhead_s"], "<=", 0.15
        ),
        Bar(f"upload of {arguments.gib:g} GiB: more memory, MiB", found["upload_mib"], "<=", 64),
        Bar(f"{arguments.uploads} uploads of 8 clients: lost", found["lost"], "==", 0),
        Bar("p99 of other calls meanwhile, ms", found["p99_s"] * 1000, "<=", 200),
    ]
    return report("http_server", found, bars)


if __name__ == "__main__":
    raise SystemExit(main())
