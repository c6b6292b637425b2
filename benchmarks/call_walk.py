"""How much of the package one 10 s clip runs through: functions, files, threads and processes.

    direct   transcribe() in one process, model loading included
    mcp      transcribe_audio of a new MCP server with an empty data directory

Every process records its own calls, see ``call_walk_parts/sitecustomize.py``. Imports and class
bodies do not count.

python benchmarks/call_walk.py [--list]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Bar, own_model, report
from mcp import Client, StdioServerParameters, types

import transcribe_mcp

PACKAGE = Path(transcribe_mcp.__file__).parent
RECORDER = Path(__file__).with_name("call_walk_parts")
CLIP = PACKAGE / "quality" / "bench" / "speech.flac"
PATIENCE_S = 120.0
DIRECT = """
import sys
from transcribe_mcp import EngineRequest, Options, load_engine, transcribe
engine = load_engine(EngineRequest(engine="ctranslate2", model=sys.argv[1], device="cpu"))
print(transcribe(sys.argv[2], engine, Options(language="en")).text)
"""


@dataclass(frozen=True, slots=True)
class Call:
    process: str
    thread: str
    thread_name: str
    file: str
    line: str
    function: str


@contextmanager
def recording(folder: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """Variables for the processes to record, and where they write their traces."""
    traces = folder / "traces"
    traces.mkdir()
    paths = [str(RECORDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"DATA_DIR": folder / "data", "MODEL": own_model(), "ALLOWED_ROOTS": CLIP.parent}
    yield (
        os.environ
        | {f"TRANSCRIBE_MCP_{name}": str(value) for name, value in settings.items()}
        | {
            "CALL_WALK_PACKAGE": str(PACKAGE),
            "CALL_WALK_TRACE": str(traces),
            "PYTHONPATH": os.pathsep.join(paths),
            "TRANSCRIBE_MCP_EXIT_AFTER_S": "1",
        },
        traces,
    )


def calls_in(traces: Path) -> set[Call]:
    return {
        Call(trace.stem, *line.split("\t"))
        for trace in traces.glob("*.tsv")
        for line in trace.read_text(encoding="utf-8").splitlines()
    }


def figures(calls: set[Call]) -> dict[str, int]:
    return {
        "functions": len({(call.file, call.line, call.function) for call in calls}),
        "files": len({call.file for call in calls}),
        "threads": len({(call.process, call.thread) for call in calls}),
        "processes": len({call.process for call in calls}),
    }


def direct(folder: Path) -> set[Call]:
    with recording(folder) as (environment, traces):
        command = [sys.executable, "-c", DIRECT, str(own_model()), str(CLIP)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return calls_in(traces)


def through_mcp(folder: Path) -> set[Call]:
    """Until the answer: what the worker does before it ends for lack of work does not count."""
    with recording(folder) as (environment, traces):
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "transcribe_mcp", "serve"], env=environment
        )

        async def call() -> set[Call]:
            async with Client(server) as client:
                answer = await ask(client, "transcribe_audio", source=str(CLIP))
                while answer["status"] in ("queued", "running"):
                    answer = await ask(
                        client, "get_transcription_progress", job_id=answer["job_id"], wait_s=45
                    )
                if answer["status"] != "completed":
                    sys.exit(f"the clip was not transcribed: {answer}")
                return calls_in(traces)

        found = asyncio.run(call())
        await_end(traces)
        return found


async def ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments, read_timeout_seconds=PATIENCE_S)
    (block,) = answer.content
    assert isinstance(block, types.TextContent)
    found: dict[str, Any] = json.loads(block.text)
    return found


def await_end(traces: Path) -> None:
    """Wait for the processes that the server started, so that they do not run beside what is
    measured next.
    """
    deadline = time.monotonic() + PATIENCE_S
    while any(is_alive(int(trace.stem)) for trace in traces.glob("*.tsv")):
        if time.monotonic() > deadline:
            sys.exit("the processes of the server did not end")
        time.sleep(0.1)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def show(calls: set[Call]) -> None:
    threads: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for call in sorted(calls, key=lambda call: int(call.line)):
        files = threads.setdefault((call.process, call.thread, call.thread_name), {})
        files.setdefault(call.file, []).append(call.function)
    for (process, thread, name), files in sorted(threads.items()):
        print(f"process {process}, thread {thread} ({name})")
        for file, functions in sorted(files.items()):
            print(f"    {file}: {', '.join(functions)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="Print the functions of every thread.")
    arguments = parser.parse_args()
    bars = []
    walks = {}
    for name, walk, limits in (
        ("direct", direct, {"functions": 150, "files": 26, "threads": 4}),
        ("mcp", through_mcp, {"functions": 380, "files": 55, "threads": 11, "processes": 3}),
    ):
        with tempfile.TemporaryDirectory() as folder:
            calls = walk(Path(folder))
        if arguments.list:
            show(calls)
        walks[name] = figures(calls)
        print(f"{name:<7}" + "  ".join(f"{what} {n}" for what, n in walks[name].items()))
        bars += [Bar(f"{name} {what}", walks[name][what], "<=", n) for what, n in limits.items()]
    return report("call_walk", {"walks": walks}, bars)


if __name__ == "__main__":
    sys.exit(main())
