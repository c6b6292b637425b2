"""A real S3 server of one's own (moto's), and what processes need to use it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import pytest
from patience import PATIENCE_S, until

SECRET = "aSecretThatNoMessageMayShow"
# Moto lets nobody replace an object without a signature; it does not check it while it is open.
_SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=owner/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=none"
}


@dataclass(frozen=True, slots=True)
class S3:
    """The server, as its owner sees it."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """For clients: where the server is, and credentials."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "TRANSCRIBE_MCP_OFFLINE": "0",
        }

    def ask(self, method: str, path: str, body: bytes = b"") -> int:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, quote(path), body, _SIGNED)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def put(self, path: str, content: bytes | Path = b"") -> None:
        """A bucket (``/name``) or an object."""
        body = content.read_bytes() if isinstance(content, Path) else content
        assert self.ask("PUT", path, body) == 200

    def delete(self, path: str) -> None:
        assert self.ask("DELETE", path) == 204

    @contextmanager
    def closed(self) -> Iterator[None]:
        """It knows nobody's credentials."""
        self.ask("POST", "/moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self.ask("POST", "/moto-api/reset-auth", b"1000000")


@contextmanager
def s3_server(log: Path) -> Iterator[S3]:
    """A server with the buckets ``talks`` and ``talks-private``; tests skip without moto."""
    for name in ("moto", "flask", "s3fs"):
        pytest.importorskip(name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = S3(free.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(server.port)]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            until(lambda: _answers(server), "the S3 server answers")
            for bucket in ("/talks", "/talks-private"):
                server.put(bucket)
            yield server
        finally:
            process.terminate()


def _answers(server: S3) -> bool:
    try:
        return server.ask("GET", "/moto-api/") < 500
    except OSError:
        return False
