"""Who may talk to a server over HTTP, and what its log and its standard output carry."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import run
from job_places import Place
from mcp_places import (
    LEGACY,
    MODERN,
    SERVE,
    Home,
    calling,
    calling_with_token,
    home,
    http_server,
    stdio,
)
from patience import PATIENCE_S, until
from whisper_nano import SPEECH

TOKEN = "a-token-0123456789abcdef"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with home(tmp_path_factory.mktemp("http")) as made:
        shutil.copy(SPEECH / "en_0.flac", made.root)
        yield made


@pytest.fixture(scope="module")
def guarded(place: Home) -> Iterator[str]:
    """A server on every interface, which asks for the token."""
    with http_server(
        place, "--host", "0.0.0.0", "--allowed-host", "talks.test", TRANSCRIBE_MCP_TOKEN=TOKEN
    ) as url:
        yield url.replace("0.0.0.0", "127.0.0.1")


@pytest.fixture(scope="module")
def open_server(place: Home) -> Iterator[str]:
    with http_server(place) as url:
        yield url


def post(url: str, body: Any = LIST, **headers: str) -> tuple[int, str]:
    given = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": "tools/list",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, given)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except urllib.error.URLError as error:  # it did not read to the end what it refuses
        assert isinstance(error.reason, ConnectionError), error
        return 413, ""


def test_the_right_token_opens_and_nothing_else_does(guarded: str) -> None:
    status, text = post(guarded, Authorization=f"Bearer {TOKEN}")
    assert status == 200 and "transcribe_audio" in text
    wrong = (
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer ünïcödé",
    )
    for header in wrong:
        status, text = post(guarded, Authorization=header.encode().decode("latin-1"))
        assert (status, "transcribe_audio" in text) == (401, False), header
    assert post(guarded)[0] == 401


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
def test_the_official_client_works_with_the_token(guarded: str, place: Home, mode: str) -> None:
    with calling_with_token(guarded, TOKEN, mode) as caller:
        job = caller.answer("transcribe_audio", source=str(place.root / "en_0.flac"), wait_s=45)
        assert caller.finished(job["job_id"])["status"] == "completed"


def test_a_page_of_another_site_cannot_use_a_server_of_this_machine(
    open_server: str, guarded: str
) -> None:
    port = open_server.rpartition(":")[2].partition("/")[0]
    assert post(open_server)[0] == 200
    assert post(open_server, Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200
    for host in (
        f"evil.test:{port}",
        "evil.test",
        f"127.0.0.1.evil.test:{port}",
        f"localhost.evil.test:{port}",
    ):
        assert post(open_server, Host=host)[0] == 421, host
    for origin in (
        "http://evil.test",
        f"http://evil.test:{port}",
        "null",
        f"http://localhost.evil.test:{port}",
    ):
        assert post(open_server, Origin=origin)[0] == 403, origin
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert post(guarded, Host="talks.test:1", **bearer)[0] == 200
    assert post(guarded, Host="evil.test:1", **bearer)[0] == 421


def test_only_a_whole_name_and_a_port_of_digits_are_trusted_whatever_the_route(
    open_server: str,
) -> None:
    port = int(open_server.rpartition(":")[2].partition("/")[0])

    def status(host: str, path: str = "/mcp", *more: str) -> int:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
            lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *more, "Connection: close", "", ""]
            connection.sendall("\r\n".join(lines).encode("latin-1"))
            return int(connection.makefile("rb").readline().split()[1])

    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:65535", "[::1]:80"):
        assert status(host) != 421, host
        assert status("localhost", "/mcp", f"Origin: http://{host}") != 403, host
    for host in (
        "localhost:x.evil.test", "localhost:80.evil.test", "localhost:80@evil.test", "localhost:",
        "localhost:65536", "localhost:-1", "localhost:+1", "localhost:\xb2", "localhost.",
        "localhost.evil.test", "evil.test", "[::1]x", "[::1", "127.0.0.1:8 0", "user@localhost",
        "http://localhost",
    ):  # fmt: skip
        for path in ("/mcp", "/", "/.well-known/oauth-protected-resource", "/nothing"):
            assert status(host, path) == 421, (host, path)
        assert status("localhost", "/mcp", f"Origin: http://{host}") == 403, host
    assert status("localhost", "/nothing", "Origin: null") == 403


def half_open(url: str, said: bytes) -> socket.socket:
    port = int(url.rpartition(":")[2].partition("/")[0])
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    connection.sendall(said)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_requests_that_never_come_in_whole_are_closed_and_keep_nobody_out(open_server: str) -> None:
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n"
    body = head + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    begun = [b"", b"POST", head, body]
    waiting = [half_open(open_server, begun[number % len(begun)]) for number in range(600)]
    assert post(open_server)[0] == 200  # while they are there
    assert all(map(is_closed, waiting))
    for connection in waiting:
        connection.close()
    assert post(open_server)[0] == 200


def test_what_is_no_message_is_refused_and_the_server_lives(open_server: str) -> None:
    for body in (
        b"",
        b"not json",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"jsonrpc":"2.0"',
        json.dumps([LIST] * 3).encode(),
    ):
        status, _ = post(open_server, body)
        assert 400 <= status < 500, body
    assert post(open_server, b"x" * (5 << 20))[0] == 413
    assert post(open_server)[0] == 200


def test_other_machines_are_not_let_in_without_a_token_that_cannot_be_guessed(place: Home) -> None:
    environment = place.environment
    for variables, words in (
        ({}, "no token"),
        ({"TRANSCRIBE_MCP_TOKEN": "short"}, "fewer than 16"),
    ):
        done = subprocess.run(
            [sys.executable, *SERVE, "--http", "--host", "0.0.0.0", "--port", "0"],
            capture_output=True, text=True, check=False, timeout=PATIENCE_S,
            env=environment | variables, cwd=place.path,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr and "hint: set TRANSCRIBE_MCP_TOKEN" in done.stderr
        assert "short " not in done.stderr.splitlines()[-1]


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for a browser is a shell script")
def test_open_shows_the_page_in_the_browser_with_a_link_that_logs_in(
    tmp_path: Path,
) -> None:
    shown = tmp_path / "shown"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {shown}.new && mv {shown}.new {shown}\n')
    browser.chmod(0o700)
    with (
        home(tmp_path / "home") as place,
        http_server(place, "--open", BROWSER=f"{browser} %s") as url,
    ):
        until(shown.exists, "the browser is open")
        page, _, token = shown.read_text().partition("/#token=")
        assert page == url.removesuffix("/mcp")
        login = post(f"{page}/api/session", {"token": token})
        assert login[0] == 204
        shown.unlink()
        again = subprocess.run(
            [sys.executable, *SERVE, "--open"], cwd=place.path, capture_output=True, text=True,
            timeout=PATIENCE_S, env=place.environment | {"BROWSER": f"{browser} %s"}, check=True,
        )  # fmt: skip
        assert f"is already running: {page}/" in again.stderr
        until(shown.exists, "the browser is open")
        assert shown.read_text() == f"{page}/"


def test_a_port_that_is_taken_is_said_in_words(place: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--http", "--port", port, cwd=place.path)
    assert done.returncode == 2
    assert (
        f"port {port}" in done.stderr and "hint:" in done.stderr and "Traceback" not in done.stderr
    )


def test_neither_the_token_nor_what_was_said_reaches_a_log_or_a_child(place: Home) -> None:
    """The log of the server, that of the worker, and the worker's environment."""
    environment = place.environment | {"TRANSCRIBE_MCP_TOKEN": TOKEN}
    command = [sys.executable, *SERVE, "--http", "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, env=environment, cwd=place.path, text=True
    ) as server:
        assert server.stderr is not None
        first = server.stderr.readline()
        url = first.rpartition(" ")[2].strip()
        with calling_with_token(url, TOKEN) as caller:
            source = str(place.root / "en_0.flac")
            job = caller.answer("transcribe_audio", source=source, force=True, wait_s=45)
            caller.finished(job["job_id"])
            answer = caller.answer("get_transcription_result", job_id=job["job_id"])
            caller.answer("search_transcripts", query=answer["text"].split()[0])
            caller.call("transcribe_audio", source=source, vocabulary=["x" * 500])
            caller.call("get_transcription_result", job_id=answer["text"])
        post(url, Authorization=f"Bearer {TOKEN}x")
        server.terminate()
        log = first + server.communicate(timeout=PATIENCE_S)[0 if server.stderr is None else 1]
    worker = Place(place.data)
    pid = worker.worker_pid()
    assert pid is not None
    said = [sentence.strip() for sentence in answer["text"].splitlines()]
    assert said
    if sys.platform == "linux":
        assert TOKEN.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    for text in (log, worker.log()):
        assert TOKEN not in text
        assert not [sentence for sentence in said if sentence in text]


# --- standard input and output --------------------------------------------------------------------


def serve_lines(
    place: Home, lines: list[bytes], last: int, **variables: str
) -> tuple[list[bytes], bytes]:
    """What a stdio server writes until the answer to request ``last``, and after its client has
    left.
    """
    command = [sys.executable, *SERVE]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=place.environment | variables, cwd=place.path,
    ) as server:  # fmt: skip
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(b"".join(line + b"\n" for line in lines))
        server.stdin.flush()
        written = []
        while not written or f'"id":{last},' not in written[-1].decode():
            written.append(server.stdout.readline())
            assert written[-1], written
        rest, errors = server.communicate(timeout=PATIENCE_S)
        assert server.returncode == 0
        return [*written, *rest.splitlines()], errors


def test_standard_output_carries_the_protocol_alone_whatever_is_said_to_the_server(
    place: Home,
) -> None:
    garbage = [
        b"not json",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"{}",
        b"null",
        b"",
        b'{"jsonrpc": "2.0", "id": 9}',
        b"{" * 5000,
    ]
    written, errors = serve_lines(place, [*garbage, json.dumps(LIST).encode(), *garbage], last=1)
    answers = [json.loads(line) for line in written]
    assert any(answer.get("id") == 1 and answer["result"]["tools"] for answer in answers)
    assert b"Traceback" not in errors


def test_what_a_library_prints_stays_off_the_wire(place: Home, tmp_path: Path) -> None:
    """A module that writes to descriptor 1, as native libraries do, while the server runs and when
    it ends.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, builtins, os\n"
        "def shout():\n"
        "    os.write(1, b'a library was here\\n')\n"
        "def importing(name, *rest, _import=builtins.__import__, **more):\n"
        "    if name == 'sqlalchemy': shout()\n"
        "    return _import(name, *rest, **more)\n"
        "if os.environ.get('LOUD'):\n"
        "    builtins.__import__ = importing\n"
        "    atexit.register(shout)\n",
        encoding="utf-8",
    )
    call = {"name": "list_transcription_history", "arguments": {}, "_meta": META}
    lines = [
        json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}).encode()
    ]
    written, errors = serve_lines(place, lines, last=2, PYTHONPATH=str(tmp_path), LOUD="1")
    assert errors.count(b"a library was here") >= 2
    (answer,) = [json.loads(line) for line in written]
    assert "jobs" in json.loads(answer["result"]["content"][0]["text"])


def test_a_client_that_leaves_in_the_middle_of_a_call_leaves_the_job_behind(place: Home) -> None:
    call = {
        "name": "transcribe_audio",
        "arguments": {"source": str(place.root / "en_0.flac"), "force": True},
    }
    request = {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {**call, "_meta": META}}
    with subprocess.Popen(
        [sys.executable, *SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=place.environment, cwd=place.path,
    ) as server:  # fmt: skip
        assert server.stdin is not None and server.stdout is not None and server.stderr is not None
        server.stdout.close()  # nobody reads what it answers
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        server.stdin.close()
        errors = server.stderr.read()
        server.wait(PATIENCE_S)
    assert b"Traceback" not in errors
    with calling(stdio(place)) as caller:
        newest = caller.answer("list_transcription_history", limit=1)["jobs"][0]
        assert newest["source"].endswith("en_0.flac")
        assert caller.finished(newest["job_id"])["status"] == "completed"
