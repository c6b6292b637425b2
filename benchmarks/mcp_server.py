"""The MCP server as its clients feel it: starting, one short recording, many clients at once.

    start      until the first list of tools, against a server of the bare SDK with one tool, in
    turns overhead   a 5 s clip through transcribe_audio on a warm worker, against the pipeline
    called directly, in turns load       300 short jobs from 8 client processes of one HTTP server;
    the time of every call, as its client and as
               the server has it, while the worker is busy and while it rests

python benchmarks/mcp_server.py [start] [overhead] [load] [--jobs 300] [--clients 8] [--runs 15]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import OWN_AUDIO, SAMPLE_RATE_HZ, Bar, own_model, read_samples, report, write_flac
from mcp import Client, StdioServerParameters

from transcribe_mcp import EngineRequest, Options, load_engine, transcribe

SERVE = [sys.executable, "-m", "transcribe_mcp", "serve"]
BARE = """
from mcp.server import MCPServer
server = MCPServer("bare")
@server.tool()
def add(a: int, b: int) -> int:
    "Add two numbers."
    return a + b
server.run("stdio")
"""
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
LIST = (
    json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}})
    + "\n"
)
CLIP_S = 5.0
PAUSE_S = 0.5  # between the polls of one client; tasks would poll every second
PATIENCE_S = 1800.0


def environment(folder: Path) -> dict[str, str]:
    settings = {
        "DATA_DIR": folder / "data",
        "ALLOWED_ROOTS": folder,
        "MODEL": own_model(),
        "EXIT_AFTER_S": 30,
    }
    return os.environ | {f"TRANSCRIBE_MCP_{name}": str(value) for name, value in settings.items()}


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- start ----------------------------------------------------------------------------------------


def first_list(command: list[str], variables: dict[str, str]) -> float:
    """Seconds from starting a server to the line that lists its tools."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=variables,
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(LIST)
        server.stdin.flush()
        line = server.stdout.readline()
        taken = time.perf_counter() - begin
        assert '"tools"' in line, line
        server.stdin.close()
    return taken


def measure_start(folder: Path, runs: int) -> tuple[dict[str, Any], list[Bar]]:
    variables = environment(folder)
    commands = {"bare": [sys.executable, "-c", BARE], "ours": SERVE}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for run in range(runs + 1):
        for name, command in commands.items():
            taken = first_list(command, variables)
            if run:  # the first fills the system's cache
                times[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, median_s in medians.items():
        print(f"first list of tools, {name:<10}{median_s * 1000:8.0f} ms, median of {runs}")
    ratio = medians["ours"] / medians["bare"]
    figures = {f"{name}_s": round(median_s, 4) for name, median_s in medians.items()}
    return figures, [Bar("first list over a bare server's", ratio, "<=", 1.5)]


# --- overhead -------------------------------------------------------------------------------------


def measure_overhead(folder: Path, runs: int) -> tuple[dict[str, Any], list[Bar]]:
    clip = folder / "clip.flac"
    write_flac(clip, [read_samples(OWN_AUDIO / "en_0.flac")[: round(CLIP_S * SAMPLE_RATE_HZ)]])
    engine = load_engine(EngineRequest(engine="ctranslate2", model=str(own_model()), device="cpu"))
    options = Options(language="en")

    async def through_the_server() -> list[tuple[float, float]]:
        pairs = []
        arguments = {"source": str(clip), "language": "en", "force": True, "wait_s": 45}
        async with Client(
            StdioServerParameters(command=SERVE[0], args=SERVE[1:], env=environment(folder))
        ) as client:
            for run in range(runs + 1):
                begin = time.perf_counter()
                await asyncio.to_thread(transcribe, clip, engine, options)
                between = time.perf_counter()
                result = await client.call_tool("transcribe_audio", arguments)
                end = time.perf_counter()
                assert json.loads(result.content[0].text)["status"] == "completed", result
                if run:  # the first starts the worker and loads the model
                    pairs.append((between - begin, end - between))
        return pairs

    pairs = asyncio.run(through_the_server())
    engine.close()
    direct_s, call_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    more_s = statistics.median(call - direct for direct, call in pairs)
    print(f"5 s clip directly              {direct_s * 1000:8.0f} ms")
    print(f"5 s clip by transcribe_audio   {call_s * 1000:8.0f} ms, median of {runs}")
    figures = {
        "direct_s": round(direct_s, 4),
        "call_s": round(call_s, 4),
        "more_s": round(more_s, 4),
    }
    return figures, [Bar("a call costs more than the pipeline, s", more_s, "<=", 0.25)]


# --- load -----------------------------------------------------------------------------------------


@contextmanager
def http_server(folder: Path) -> Iterator[str]:
    command = [
        sys.executable,
        __file__,
        "--serve",
        str(folder / "served"),
        "serve",
        "--http",
        "--port",
        "0",
    ]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment(folder)
    ) as server:
        assert server.stderr is not None
        try:
            yield server.stderr.readline().rpartition(" ")[2].strip()
        finally:
            server.terminate()


Calls = list[tuple[bytes, float, float]]  # request, when it was answered, seconds


@dataclass(frozen=True, slots=True)
class Timed:
    """An ASGI application that adds each request to ``calls``."""

    app: Any
    calls: Calls

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        begin = time.perf_counter()
        asked = b""

        async def heard() -> Any:
            nonlocal asked
            message = await receive()
            asked += message.get("body", b"")
            return message

        async def answered(message: Any) -> None:
            await send(message)
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            if is_last and asked:
                self.calls.append((asked, time.time(), time.perf_counter() - begin))

        await self.app(scope, heard, answered)


def serve(log: Path, arguments: Sequence[str]) -> None:
    """The command line's server, which at its end writes down each call: its tool, when, how many
    seconds it took.
    """
    from transcribe_mcp.__main__ import main as command_line
    from transcribe_mcp.frontends.mcp import server as mcp_server

    listen = mcp_server.listen
    calls: Calls = []
    mcp_server.listen = lambda app, *where: listen(Timed(app, calls), *where)
    sys.argv = ["transcribe-mcp", *arguments]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        command_line()
    finally:
        requests = [(json.loads(asked), *times) for asked, *times in calls]
        rows = [
            (r["params"]["name"], *times)
            for r, *times in requests
            if r.get("method") == "tools/call"
        ]
        log.write_text(json.dumps(rows), encoding="utf-8")


async def be_a_client(url: str, first: str, sources: Sequence[str]) -> None:
    """Submit recordings and ask for them until they are done; prints how many are, and the seconds
    of every call.

    A client compiles a tool's schema when it first calls it: each is called once before anything is
    timed.
    """
    taken: dict[str, list[float]] = {}
    async with Client(url) as client:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            begin = time.perf_counter()
            result = await client.call_tool(tool, arguments)
            taken.setdefault(tool, []).append(time.perf_counter() - begin)
            assert not result.is_error, result
            return dict(json.loads(result.content[0].text))

        async def look(job_id: str) -> dict[str, Any]:
            await call("list_transcription_history", limit=10)
            await call("search_transcripts", query="captain")
            return await call("get_transcription_progress", job_id=job_id)

        done = (await call("transcribe_audio", source=first, wait_s=45))["job_id"]
        await look(done)
        await call("get_transcription_result", job_id=done)
        taken.clear()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        waiting = [
            (await call("transcribe_audio", source=source, wait_s=0))["job_id"]
            for source in sources
        ]
        n_completed = 0
        while waiting:
            state = await look(waiting[0])
            if state["status"] not in ("queued", "running"):
                n_completed += state["status"] == "completed"
                await call("get_transcription_result", job_id=waiting.pop(0))
            await asyncio.sleep(PAUSE_S)
    print(json.dumps({"done": n_completed, "taken": taken}))


Times = dict[str, list[float]]


def run_clients(url: str, first: str, parts: Sequence[Sequence[str]]) -> tuple[int, Times, float]:
    """Clients that begin together: (jobs completed, seconds of their calls by tool, when they
    began).
    """
    command = [sys.executable, __file__, "--client", url, first]
    clients = [
        subprocess.Popen(
            [*command, *part], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for part in parts
    ]
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
    begun_at = time.time()
    for client in clients:
        assert client.stdin is not None
        client.stdin.write("go\n")
        client.stdin.flush()
    done = 0
    taken = {}
    for client in clients:
        answer = json.loads(client.communicate(timeout=PATIENCE_S)[0])
        done += answer["done"]
        for tool, seconds in answer["taken"].items():
            taken.setdefault(tool, []).extend(seconds)
    return done, taken, begun_at


def served_from(rows: Sequence[Any], begun_at: float, ended_at: float) -> Times:
    """Seconds of calls by tool as the server has them."""
    taken: Times = {}
    for tool, at, seconds in rows:
        if begun_at <= at <= ended_at:
            taken.setdefault(tool, []).append(seconds)
    return taken


def measure_load(folder: Path, n_jobs: int, n_clients: int) -> tuple[dict[str, Any], list[Bar]]:
    speech = [read_samples(path) for path in sorted(OWN_AUDIO.glob("en_?.flac"))]
    chance = random.Random(0)
    names = []
    for n in range(n_jobs + 1):
        samples = chance.choice(speech)
        start = chance.randrange(len(samples) - 3 * SAMPLE_RATE_HZ)
        names.append(str(folder / f"short{n:03d}.flac"))
        write_flac(Path(names[-1]), [samples[start : start + 2 * SAMPLE_RATE_HZ + n]])
    first = names.pop()
    with http_server(folder) as url:
        parts = [names[i::n_clients] for i in range(n_clients)]
        done, busy, busy_at = run_clients(url, first, parts)
        done_at = time.time()
        _, idle, idle_at = run_clients(
            url, first, [part[:6] for part in parts]
        )  # answered from the library
    rows = json.loads((folder / "served").read_text(encoding="utf-8"))
    took_s = done_at - busy_at
    busy_at_server = served_from(rows, busy_at, done_at)
    idle_at_server = served_from(rows, idle_at, time.time())
    columns = {
        "busy": busy,
        "idle": idle,
        "busy, at the server": busy_at_server,
        "idle, at the server": idle_at_server,
    }
    calls = {
        tool: {
            name: round(1000 * percentile(times[tool], 0.99), 1) for name, times in columns.items()
        }
        for tool in busy
    }
    print(
        f"{n_jobs} jobs from {n_clients} clients in {took_s:.0f} s; 99th percentile of each "
        "call, ms"
    )
    print(f"{'':<28}{'calls':>7}" + "".join(f"{name:>21}" for name in columns))
    for tool, row in calls.items():
        print(
            f"{tool:<28}{len(busy[tool]):>7}" + "".join(f"{value:>21.1f}" for value in row.values())
        )
    figures = {"jobs": n_jobs, "clients": n_clients, "seconds": round(took_s, 1), "calls": calls}
    worst_s = max(percentile(seconds, 0.99) for seconds in busy.values())
    everything = [
        percentile([each for seconds in t.values() for each in seconds], 0.99) for t in (busy, idle)
    ]
    figures["busy_over_idle"] = round(everything[0] / everything[1], 2)
    print(f"all calls together, busy over idle: {figures['busy_over_idle']}")
    return figures, [
        Bar("jobs lost", n_jobs - done, "==", 0),
        Bar("99th percentile of the slowest kind of call while busy, s", worst_s, "<=", 0.2),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=["start", "overhead", "load", []], default=[])
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--runs", type=int, default=15)
    asked = parser.parse_args()
    measures: dict[str, Callable[[Path], tuple[dict[str, Any], list[Bar]]]] = {
        "start": lambda folder: measure_start(folder, asked.runs),
        "overhead": lambda folder: measure_overhead(folder, asked.runs),
        "load": lambda folder: measure_load(folder, asked.jobs, asked.clients),
    }
    figures = {}
    bars = []
    for part in asked.parts or measures:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            figures[part], more = measures[part](Path(folder))
            bars += more
    return report("mcp_server", figures, bars)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), sys.argv[3:])
    elif sys.argv[1:2] == ["--client"]:
        asyncio.run(be_a_client(sys.argv[2], sys.argv[3], sys.argv[4:]))
    else:
        raise SystemExit(main())
