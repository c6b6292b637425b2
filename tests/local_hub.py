"""A model hub on this machine: lists one repository and serves its files, with the faults that a
test asks for.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

from patience import PATIENCE_S
from small_checkpoints import Recipe, write_checkpoint

from transcribe_mcp.models.catalogue import CATALOGUE

COMMIT = "c0ffee00" * 5
TINY = "openai/whisper-tiny"


@dataclass
class Hub:
    """What it serves and how.

    Attributes:
        breaks: file name -> bytes after which the connection closes, one entry a request, until
        none is left.
        corrupt: names of files that are served with a changed byte.
        list_status, file_status: answered instead of 200.
        silent: answers nothing until ``released`` is set.
        claimed_bytes: declared instead of the size of model.safetensors.
        requests: (path, Range header) of every request.
    """

    repo: str
    files: dict[str, bytes]
    breaks: dict[str, list[int]] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    list_status: int = 200
    file_status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    claimed_bytes: int | None = None
    released: Event = field(default_factory=Event)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    endpoint: str = ""

    @classmethod
    def of(cls, repo: str, directory: Path) -> Hub:
        return cls(repo, {file.name: file.read_bytes() for file in directory.iterdir()})

    def ranges(self, name: str) -> list[str | None]:
        return [range_ for path, range_ in self.requests if path.endswith(f"/{name}")]

    def listing(self) -> bytes:
        siblings = [self._sibling(name, content) for name, content in self.files.items()]
        return json.dumps({"id": self.repo, "sha": COMMIT, "siblings": siblings}).encode()

    def _sibling(self, name: str, content: bytes) -> dict[str, object]:
        sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": sha1}
        if name.endswith((".safetensors", ".bin")):
            size = self.claimed_bytes or len(content)
            entry |= {
                "size": size,
                "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": size},
            }
        return entry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        range_ = self.headers.get("Range")
        self.hub.requests.append((path, range_))
        if self.hub.silent:
            self.hub.released.wait(PATIENCE_S)
        if path == f"/api/models/{self.hub.repo}/revision/main":
            self._answer(self.hub.list_status, self.hub.listing())
            return
        name = path.removeprefix(f"/{self.hub.repo}/resolve/{COMMIT}/")
        if name not in self.hub.files or self.hub.file_status != 200:
            self._answer(self.hub.file_status if name in self.hub.files else 404, b"")
            return
        self._send_file(name, range_)

    def _send_file(self, name: str, range_: str | None) -> None:
        content = self.hub.files[name]
        if name in self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int(range_.removeprefix("bytes=").removesuffix("-")) if range_ else 0
        breaks = self.hub.breaks.get(name)
        end = start + breaks.pop(0) if breaks else len(content)
        self._answer(206 if range_ else 200, content[start:end], len(content) - start)
        if end < len(content):
            self.close_connection = True

    def _answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in self.hub.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def hub_cache_with(hub_cache: Path, name: str, recipe: Recipe | None = None) -> Path:
    """As the Hub's own tools leave it."""
    repository = hub_cache / f"models--{CATALOGUE[name].repo.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return write_checkpoint(repository / "snapshots" / COMMIT, recipe or Recipe())
