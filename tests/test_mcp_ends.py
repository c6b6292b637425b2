"""When a server ends: with its client or at a signal, whatever it does; and that it answers whoever
is still there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mcp_places import MODERN, SERVE, Home, home
from patience import PATIENCE_S

ROOT = Path(__file__).parents[1]
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="terminals and signals of POSIX")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with home(tmp_path_factory.mktemp("ends")) as made:
        yield made


def line(number: int, method: str, **params: object) -> bytes:
    return json.dumps(
        {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": META}}
    ).encode()


def call(number: int, tool: str, **arguments: object) -> bytes:
    return line(number, "tools/call", name=tool, arguments=arguments)


def in_a_terminal(place: Home) -> tuple[int, int]:
    """A server that has answered once, its process and its terminal."""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place.path)
        os.execve(sys.executable, [sys.executable, *SERVE], place.environment)
    os.write(terminal, line(1, "ping") + b"\n")
    said = b""
    while (
        b'"result"' not in said and b'"error"' not in said
    ):  # the terminal echoes the question as well
        said += os.read(terminal, 65536)
    return pid, terminal


@POSIX
@pytest.mark.parametrize(
    ("how", "code"),
    [("Ctrl-C", 128 + signal.SIGINT), ("SIGTERM", 128 + signal.SIGTERM), ("Ctrl-D", 0)],
)
def test_a_server_in_a_terminal_ends_without_enter(place: Home, how: str, code: int) -> None:
    pid, terminal = in_a_terminal(place)
    if how == "SIGTERM":
        os.kill(pid, signal.SIGTERM)
    else:
        os.write(terminal, b"\x03" if how == "Ctrl-C" else b"\x04")
    guard = subprocess.Popen(
        [sys.executable, "-c", GUARD, str(pid), str(PATIENCE_S)], stdin=subprocess.PIPE
    )
    try:
        _, status = os.waitpid(pid, 0)
    finally:
        guard.communicate(b"over")
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == code


# Ends a server that does not end, so that the test fails in place of waiting for ever.
GUARD = """
import os, select, signal, sys
if not select.select([sys.stdin], [], [], float(sys.argv[2]))[0]:
    os.kill(int(sys.argv[1]), signal.SIGKILL)
"""


def answers_of(place: Home, lines: Sequence[bytes], n: int) -> dict[int, dict[str, Any]]:
    """The first answers of a server to these lines, by their IDs."""
    with subprocess.Popen(
        [sys.executable, *SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=place.environment,
        cwd=place.path,
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(b"\n".join(lines) + b"\n")
        server.stdin.flush()
        answers: dict[int, dict[str, Any]] = {}
        while len(answers) < n:
            said = json.loads(server.stdout.readline())
            answers[said["id"]] = said
        server.stdin.close()
        assert server.wait(PATIENCE_S) == 0
    return answers


def test_a_request_that_cannot_be_read_is_answered(place: Home) -> None:
    """Half a surrogate pair, as JavaScript writes names that are no Unicode, and arguments nested
    without end.
    """
    odd = call(5, "transcribe_audio", source="@").replace(b"@", b"\\udcff")
    deep = call(6, "cancel_transcription", job_id=0).replace(
        b'"job_id": 0', b'"job_id": ' + b"[" * 3000 + b"]" * 3000
    )
    lines = [b"no message", odd, deep, line(7, "tools/list")]
    answers = answers_of(place, lines, 3)
    assert sorted(answers) == [5, 6, 7]
    assert (
        "cannot be read" in str(answers[5]["error"])
        and "error" in answers[6]
        and "result" in answers[7]
    )


def test_what_is_no_single_message_is_read_or_refused_and_never_left_without_an_answer(
    place: Home,
) -> None:
    invalid = [
        {"id": 11, "method": "ping"},
        {"jsonrpc": "1.0", "id": 12, "method": "ping"},
        {"jsonrpc": "2.0", "id": 13},
        {"jsonrpc": "2.0", "id": 14, "method": 7},
        {"jsonrpc": "2.0", "id": 15, "method": "tools/call", "params": ["x"]},
        [{"id": 16, "method": "ping"}],
    ]
    both = [json.loads(line(number, "tools/list")) for number in (21, 22)]
    nothing = [[], 5, {"jsonrpc": "2.0", "id": 31, "result": 5, "error": 5}, [[both]]]
    lines = [json.dumps(each).encode() for each in (*nothing, *invalid, both)]
    lines.append("\ufeff".encode() + line(23, "tools/list"))
    answers = answers_of(place, lines, len(invalid) + 3)
    assert sorted(answers) == [11, 12, 13, 14, 15, 16, 21, 22, 23]
    assert {answers[number]["error"]["code"] for number in range(11, 17)} == {-32600}
    assert all(answers[number]["result"]["tools"] for number in (21, 22, 23))


@POSIX
def test_hostile_calls_are_all_answered_and_read_nothing_outside() -> None:
    """The benchmark, small; how long things take is not judged here."""
    command = [
        sys.executable,
        "benchmarks/hostile_calls.py",
        "--calls",
        "100",
        "--files",
        "500",
        "--depth",
        "1500",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=PATIENCE_S * 2
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["answered"], figures["read_outside"]) == (100, 0), done.stdout
    assert figures["refused"] >= 80
