"""Calls that mean harm, through the official client: every one is answered, soon, and nothing
outside is read.

    calls      wrong types, huge values, patterns, paths out of the roots, devices, odd Unicode,
               deep JSON, false ids, on a root with directories 2,000 deep, 100,000 files in one,
               links that go round, pipes
    lines      what no client writes: lone surrogates, JSON nested without end, no JSON at all
    leaving    how long the server lives after its client has gone, at rest and in the middle of a
    search

python benchmarks/hostile_calls.py [--calls 1000] [--files 100000] [--depth 2000] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import OWN_AUDIO, own_model
from mcp import Client, MCPError, StdioServerParameters

SERVE = ["-m", "transcribe_mcp", "serve"]
ANSWER_S = 2.0
PATIENCE_S = 300.0  # later answers count as missing
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "hostile", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
# Loaded by every Python that the server starts: notes which files and directories outside are
# opened or listed.
WITNESS = """
import os, sys
def watch(event, arguments):
    watched = event in ("open", "os.listdir", "os.scandir")
    if watched and arguments and isinstance(arguments[0], (str, bytes)):
        if b"outside" in os.fsencode(arguments[0]):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with os.fdopen(os.open(os.environ["WITNESS_LOG"], flags), "a") as log:
                log.write(f"{event} {arguments[0]!r}\\n")
sys.addaudithook(watch)
"""


@dataclass
class Stage:
    """A root that is hard to search, and what must not be read beside it."""

    base: Path
    times: list[tuple[float, str]] = field(default_factory=list)
    refused: int = 0

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def outside(self) -> Path:
        return self.base / "outside"

    @property
    def witness(self) -> Path:
        return self.base / "witness.log"

    @property
    def environment(self) -> dict[str, str]:
        chosen = {
            "DATA_DIR": self.base / "data", "CACHE_DIR": self.base / "cache",
            "ALLOWED_ROOTS": self.root, "MODEL": own_model(), "EXIT_AFTER_S": 5,
            "MAX_QUEUE_LENGTH": 20, "OFFLINE": 1,
        }  # fmt: skip
        found = os.environ | {
            f"TRANSCRIBE_MCP_{name}": str(value) for name, value in chosen.items()
        }
        return found | {"PYTHONPATH": str(self.base / "witness"), "WITNESS_LOG": str(self.witness)}

    def build(self, n_files: int, depth: int) -> None:
        for folder in (
            "witness",
            "outside/deep",
            "root/talks/more",
            "root/.hidden",
            "root/many",
            "root/deep",
            "root/shut",
        ):
            (self.base / folder).mkdir(parents=True)
        (self.base / "witness" / "sitecustomize.py").write_text(WITNESS, encoding="utf-8")
        for name in ("outside/secret.flac", "outside/deep/secret.flac", "root/a.flac",
                     "root/talks/more/b.flac",
                     "root/.hidden/h.flac"):  # fmt: skip
            shutil.copy(OWN_AUDIO / "en_0.flac", self.base / name)
        for number in range(n_files):
            (self.root / "many" / f"{number}.wav").touch()
        below = os.open(self.root / "deep", os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("d", dir_fd=below)
            following = os.open("d", os.O_RDONLY, dir_fd=below)
            os.close(below)
            below = following
        os.close(below)
        for name, target in (
            ("link", self.outside), ("link.flac", self.outside / "secret.flac"),
            ("round", self.root / "round"), ("talks/up", self.root),
            ("zero.wav", Path("/dev/zero")), ("environ.wav", Path("/proc/self/environ")),
        ):  # fmt: skip
            (self.root / name).symlink_to(target)
        os.mkfifo(self.root / "pipe.wav")
        (self.root / "shut").chmod(0)
        with (self.root / "huge.wav").open("wb") as file:
            os.truncate(file.fileno(), 6 << 30)

    def read_outside(self) -> int:
        return (
            len(self.witness.read_text(encoding="utf-8").splitlines())
            if self.witness.exists()
            else 0
        )


class Hostile:
    """Calls from a seed: the same numbers give the same calls."""

    PARTS = (
        "..", ".", "root", "outside", "link", "link.flac", "deep", "d", "many", "talks", "up",
        "secret.flac", "a.flac", "*", "**", "[a-z]*", "?.flac", "[!", "~", ".hidden", "h.flac",
        "huge.wav", "pipe.wav", "zero.wav", "environ.wav", "round", "shut", "\0", "\n", "%2e%2e",
        "CON", "a" * 300, "$(id)", "\u202e", "e\u0301", "\ufeff", "\U0001f9ea", "\u202f",
    )  # fmt: skip
    ELSEWHERE = (
        "/etc/passwd", "/proc/self/environ", "/proc/self/fd/0", "/proc/self/root/etc/passwd",
        "/dev/zero", "/dev/stdin", "/dev/fd/0", "/dev/tty", "~/.ssh/id_rsa", "~root/x",
        "file:///etc/passwd", "file://host/a", "FILE:/etc/passwd", "\\\\host\\share\\a.wav",
        "http://127.0.0.1/a.wav", "https://u:p@example.org/a", "ftp://x/a", "C:\\win.ini", "",
        "concat:/etc/passwd|a.wav", "subfile,,start,0,end,9,,:/etc/passwd",
        "data:audio/wav;base64,AAAA", "//", "/",
    )  # fmt: skip
    BELOW = (
        "",
        "/deep",
        "/many",
        "/many/*.wav",
        "/many/*9*",
        "/talks",
        "/**",
        "/shut/*",
        "/round/*",
    )
    IDS = (
        "",
        "' OR 1=1 --",
        "*",
        "%",
        "\0",
        "01M870CDSQ94WSP7F3P1VDA13H",
        "0" * 26,
        "../../etc/passwd",
        "x" * 100_000,
    )
    CURSORS = (
        "LTE",
        "OTk5OTk5OTk5OS0wMDAwMDAwMA",
        "=" * 50,
        "\0",
        "99999999999999999999",
        "-1",
        "x" * 100_000,
    )

    def __init__(self, stage: Stage, seed: int, depth: int) -> None:
        self.random = random.Random(seed)
        self._stage = stage
        self._depth = depth

    def path(self) -> str:
        pick = self.random
        root = str(self._stage.root)
        return pick.choice([
            lambda: "/".join(pick.choices(self.PARTS, k=pick.randint(1, 7))),
            lambda: root + "/" + "/".join(pick.choices(self.PARTS, k=pick.randint(1, 7))),
            lambda: pick.choice(self.ELSEWHERE),
            lambda: root + "/" + "**/" * pick.randint(1, 600) + "*.zzz",
            lambda: root + "/" + "**/*/" * pick.randint(1, 300) + "*.zzz",
            lambda: root + "/" + "**/[a-z]*/" * pick.randint(1, 100) + "?",
            lambda: root + "/**/" + "*a" * pick.randint(1, 800) + "b",
            lambda: root + "/deep/" + "d/" * pick.randint(1, min(self._depth, 1900)),
            lambda: root + "/deep/" + "d/" * pick.randint(1, min(self._depth, 1900)) + "**/*.wav",
            lambda: root + "/deep/" + "*/" * pick.randint(1, 1900),
            lambda: root + pick.choice(self.BELOW),
            lambda: "x" * pick.choice([4095, 4096, 4097, 100_000]),
        ])()  # fmt: skip

    def oddity(self) -> Any:
        deep: Any = "x"
        for _ in range(self.random.choice([3, 100])):
            deep = [deep] if self.random.random() < 0.5 else {"a": deep}
        return self.random.choice([
            None, True, -1, 2**63, 1e308, "x" * 200_000, "", [], {}, [1, [2, [3]]], {"a": {"b": 1}},
            deep, ["x"] * 20_000, {str(i): i for i in range(5_000)},
        ])  # fmt: skip

    def call(self) -> tuple[str, dict[str, Any]]:
        """A tool and its arguments."""
        pick = self.random
        number = pick.choice([0, 1, -1, 0.5, 45, 100, 2**40, -(2**40), 1e300])
        job = pick.choice(self.IDS)
        cursor = pick.choice(self.CURSORS)
        tool, arguments = pick.choice([
            ("transcribe_audio", {"source": self.path(), "wait_s": 0}),
            ("transcribe_audio",
             {"source": self.path(), "wait_s": 0, "language": job, "model": self.path()}),
            ("batch_transcribe",
             {"sources": [self.path() for _ in range(pick.randint(1, 4))], "wait_s": 0}),
            ("batch_transcribe",
             {"sources": [self.path()] * pick.choice([1, 200, 1000, 1001]), "wait_s": 0}),
            ("get_transcription_progress", {"job_id": job, "wait_s": 0}),
            ("get_transcription_result", {"job_id": job, "cursor": cursor, "max_chars": number}),
            ("get_transcription_result", {"job_id": job, "format": "srt", "save_as": self.path()}),
            ("get_transcription_result",
             {"job_id": job, "start_s": number, "end_s": number, "format": job}),
            ("list_transcription_history",
             {"cursor": cursor, "limit": number, "source_contains": job}),
            ("search_transcripts", {"query": job, "cursor": cursor, "limit": number}),
            ("search_transcripts", {"query": '"' * pick.randint(1, 400) + "a* OR NEAR("}),
            ("cancel_transcription", {"job_id": job}),
            ("delete_transcription", {"job_id": job}),
            (job[:1000] or "?", {"x": self.oddity()}),
        ])  # fmt: skip
        for name in list(arguments):
            if pick.random() < 0.15:
                arguments[name] = self.oddity()
        return tool, arguments


async def make_calls(stage: Stage, hostile: Hostile, n_calls: int) -> None:
    """Through the official client, one after the other."""
    server = StdioServerParameters(
        command=sys.executable, args=SERVE, env=stage.environment, cwd=str(stage.base)
    )
    async with Client(server) as client:
        await client.list_tools()
        for _ in range(n_calls):
            tool, arguments = hostile.call()
            begun = time.perf_counter()
            try:
                result = await client.call_tool(tool, arguments, read_timeout_seconds=PATIENCE_S)
                stage.refused += bool(result.is_error)
            except MCPError:
                stage.refused += 1
            except RecursionError:  # the client's own, before anything is sent
                pass
            stage.times.append(
                (time.perf_counter() - begun, f"{tool[:40]} {str(arguments)[-160:]}")
            )
        jobs = await client.call_tool(
            "list_transcription_history", {"limit": 100}, read_timeout_seconds=PATIENCE_S
        )
        assert not jobs.is_error and "outside" not in str(jobs.structured_content)


CANCEL = (
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call",'
    b'"params":{"name":"cancel_transcription","arguments":'
)
LINES = (
    b"{" * 50_000, b"[" * 100_000 + b"]" * 100_000, b"\xff\xfe\x00", b"null", b"[]",
    b'{"jsonrpc":"2.0","id":1}',
    b"x" * 10_000_000, CANCEL + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}}",
)  # fmt: skip
SURROGATES = ("\\udcff", "\\ud800", "a\\udfff.flac", "\\ud83d")


def request(number: int, method: str, params: dict[str, Any]) -> bytes:
    shape = {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": META}}
    return json.dumps(shape).encode() + b"\n"


def call_of(number: int, tool: str, **arguments: Any) -> bytes:
    return request(number, "tools/call", {"name": tool, "arguments": arguments})


def talk(stage: Stage, then: Callable[[subprocess.Popen[bytes]], None]) -> float:
    """Seconds that a server lives after ``then`` was said to it and its input was closed."""
    server = subprocess.Popen(
        [sys.executable, *SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=stage.environment, cwd=stage.base,
    )  # fmt: skip
    try:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(request(1, "tools/list", {}))
        server.stdin.flush()
        server.stdout.readline()
        then(server)
        server.stdin.close()
        begun = time.perf_counter()
        server.wait(PATIENCE_S)
        return time.perf_counter() - begun
    finally:
        if server.poll() is None:
            server.kill()


def write_lines(stage: Stage) -> Callable[[subprocess.Popen[bytes]], None]:
    def write(server: subprocess.Popen[bytes]) -> None:
        assert server.stdin is not None and server.stdout is not None
        for line in LINES:
            server.stdin.write(line + b"\n")
        for number, text in enumerate(SURROGATES, 100):
            line = call_of(number, "transcribe_audio", source=f"{stage.root}/@", wait_s=0)
            server.stdin.write(line.replace(b"@", text.encode()))
        server.stdin.flush()
        begun = time.perf_counter()
        server.stdin.write(call_of(999, "list_transcription_history"))
        server.stdin.flush()
        answered = set()
        while 999 not in answered:
            line = server.stdout.readline()
            if not line:
                break
            with suppress(ValueError):
                answered.add(json.loads(line).get("id"))
        wanted = {7, *range(100, 100 + len(SURROGATES)), 999}
        took = time.perf_counter() - begun if wanted <= answered else PATIENCE_S
        stage.times.append((took, f"lines: {sorted(wanted - answered)} without an answer"))

    return write


def leave_in_a_search(stage: Stage) -> Callable[[subprocess.Popen[bytes]], None]:
    def write(server: subprocess.Popen[bytes]) -> None:
        assert server.stdin is not None
        for number in range(20):
            pattern = f"{stage.root}/**/*{number}.mp3"
            server.stdin.write(call_of(100 + number, "batch_transcribe", sources=[pattern] * 50))
        server.stdin.flush()

    return write


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (("calls", 1000), ("files", 100_000), ("depth", 2_000), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="hostile"))
    stage = Stage(base)
    try:
        stage.build(chosen.files, chosen.depth)
        asyncio.run(make_calls(stage, Hostile(stage, chosen.seed, chosen.depth), chosen.calls))
        talk(stage, write_lines(stage))
        leaving = {
            "at_rest_s": talk(stage, lambda _: None),
            "in_a_search_s": talk(stage, leave_in_a_search(stage)),
        }
        slow = sorted(stage.times, reverse=True)
        for took, what in slow[:5]:
            print(f"{took:6.2f} s  {what!r}")
        values = {
            "calls": chosen.calls,
            "answered": len([t for t, _ in stage.times if t < PATIENCE_S]) - 1,
            "refused": stage.refused,
            "later_than_2_s": sum(took > ANSWER_S for took, _ in stage.times),
            "slowest_s": round(slow[0][0], 3), "median_s": round(slow[len(slow) // 2][0], 4),
            "read_outside": stage.read_outside(),
            **{name: round(value, 2) for name, value in leaving.items()},
        }  # fmt: skip
        print(json.dumps(values))
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", str(base)], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", str(base)], check=False)


if __name__ == "__main__":
    main()
