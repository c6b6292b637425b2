"""A package index on this machine: one that tells the truth, one that is silent, and several that
talk nonsense.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from transcribe_mcp.compat.cli import main
from transcribe_mcp.compat.facts import load
from transcribe_mcp.compat.index import pip_configuration
from transcribe_mcp.compat.tables import watched_packages
from transcribe_mcp.compat.updates import known_version

MACHINES = Path(__file__).with_name("machines")
HEALTHY = str(MACHINES / "rtx3060-core.json")
JSON_TYPE = "application/vnd.pypi.simple.v1+json"
Answer = tuple[int, str, bytes]


@contextmanager
def index(answer: Callable[[str, str], Answer]) -> Iterator[str]:
    """An index whose every answer is ``answer(path, accept)``; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = answer(self.path, self.headers.get("Accept", ""))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 64  # as many as ask at once; a fuller queue costs each a second

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Releases:
    """What an honest index holds: every watched package at its known version, and what a test
    adds.
    """

    def __init__(self) -> None:
        self.files: dict[str, list[tuple[str, str]]] = {}
        for package in watched_packages(updates=True):
            self.add(package, known_version(package), "Requires-Dist: numpy")

    def add(self, package: str, version: str, *lines: str) -> None:
        metadata = (
            "\n".join(["Metadata-Version: 2.1", f"Name: {package}", f"Version: {version}", *lines])
            + "\n\n"
        )
        self.files.setdefault(package, []).append((version, metadata))

    def __call__(self, path: str, accept: str) -> Answer:
        if path.endswith(".metadata"):
            name = path.rpartition("/")[2].removesuffix("-py3-none-any.whl.metadata")
            package, _, version = name.rpartition("-")
            return 200, "text/plain", dict(self.files[package.replace("_", "-")])[version].encode()
        package = path.strip("/").rpartition("/")[2]
        if package not in self.files:
            return 404, "text/plain", b"no such package"
        assert JSON_TYPE in accept
        entries = [
            {
                "filename": f"{package.replace('-', '_')}-{version}-py3-none-any.whl",
                "url": f"/files/{package.replace('-', '_')}-{version}-py3-none-any.whl",
                "core-metadata": {"sha256": hashlib.sha256(metadata.encode()).hexdigest()},
                "requires-python": ">=3.10",
            }
            for version, metadata in self.files[package]
        ]
        return (
            200,
            JSON_TYPE,
            json.dumps(
                {"meta": {"api-version": "1.1"}, "name": package, "files": entries}
            ).encode(),
        )


@pytest.fixture(autouse=True)
def only_the_index_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_CERT", "PIP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def asked(address: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setenv("PIP_INDEX_URL", address)
    return main(["updates", *options])


def test_nothing_new_exits_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with index(Releases()) as address:
        assert asked(address, monkeypatch, "--facts", HEALTHY) == 0
    assert "No new releases" in capsys.readouterr().out


def test_a_new_release_exits_10_and_says_which_plans_and_findings_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    releases = Releases()
    releases.add("ctranslate2", "4.9.0", "Requires-Dist: numpy", "Requires-Dist: pyyaml")
    releases.add("faster-whisper", "2.0.0", "Requires-Dist: ctranslate2<4")
    releases.add("numpy", "9.0.0rc1", "Requires-Dist: nothing")  # a pre-release is not a release
    releases.add("torch", "2.16.0", "Requires-Dist: numpy", "Requires-Dist: cuda-toolkit==13.2.2")
    with index(releases) as address:
        assert (
            asked(address, monkeypatch, "--json", "--facts", str(MACHINES / "rtx4090-torch.json"))
            == 10
        )
    answer = json.loads(capsys.readouterr().out)
    by_name = {release["package"]: release for release in answer["releases"]}
    assert sorted(by_name) == ["ctranslate2", "faster-whisper", "torch"] and answer["changed"]
    assert by_name["ctranslate2"]["changes"] == ["+ pyyaml"]
    assert "plan gpu: ctranslate2==4.8.5 -> ctranslate2==4.9.0" in by_name["ctranslate2"]["effects"]
    assert "plan torch: torch==2.15.0 -> torch==2.16.0" in by_name["torch"]["effects"]
    assert any("would cause TM309" in effect for effect in by_name["faster-whisper"]["effects"])


def test_an_index_of_html_pages_is_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(path: str, accept: str) -> Answer:
        if "numpy" not in path:
            return 404, "text/html", b""
        page = (
            "<!DOCTYPE html><a "
            'href="/f/numpy-9.9.9-cp312-cp312-linux_x86_64.whl#sha256=0">numpy</a>'
        )
        page += (
            '<a href="/f/numpy-9.9.10-cp312-cp312-linux_x86_64.whl" data-yanked="broken">numpy</a>'
        )
        return 200, "text/html", page.encode()

    with index(answer) as address:
        assert asked(address, monkeypatch, "--facts", HEALTHY) == 10
    assert "numpy 9.9.9 is new" in capsys.readouterr().out


NONSENSE: dict[str, Answer] = {
    "json without files": (200, JSON_TYPE, b'{"meta": {}}'),
    "files of the wrong kind": (200, JSON_TYPE, b'{"files": [3, {"filename": 7}]}'),
    "cut off": (200, JSON_TYPE, b'{"files": [{"filename": "num'),
    "no text": (200, JSON_TYPE, bytes(range(128, 256))),
    "deep": (200, JSON_TYPE, b"[" * 100_000),
    "a login page as plain text": (200, "text/plain", b"please log in"),
    "an error": (500, "text/plain", b"down"),
    "refused": (403, "text/plain", b"no"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_an_index_that_talks_nonsense_is_one_clear_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with index(lambda path, accept: NONSENSE[name]) as address:
        assert asked(address, monkeypatch, "--facts", HEALTHY) == 3
    said = capsys.readouterr()
    assert (
        said.out == ""
        and said.err.startswith("error: http://127.0.0.1")
        and len(said.err.splitlines()) <= 2
    )


def test_one_package_that_cannot_be_read_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    releases = Releases()
    releases.add("numpy", "99.0", "Requires-Dist: nothing")

    def answer(path: str, accept: str) -> Answer:
        return (200, JSON_TYPE, b"?") if path.endswith("/lightning/") else releases(path, accept)

    with index(answer) as address:
        assert asked(address, monkeypatch, "--facts", HEALTHY) == 10
    out = capsys.readouterr().out
    assert "numpy 99.0 is new" in out and "! http://127.0.0.1" in out and "lightning" in out


def test_metadata_that_was_tampered_with_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    releases = Releases()
    releases.add("numpy", "99.0", "Requires-Dist: nothing")

    def answer(path: str, accept: str) -> Answer:
        status, kind, body = releases(path, accept)
        return status, kind, body + b"Requires-Dist: evil\n" if path.endswith(".metadata") else body

    with index(answer) as address:
        assert asked(address, monkeypatch, "--facts", HEALTHY) == 0
    assert "does not match its checksum" in capsys.readouterr().out


def test_without_a_network_the_message_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with index(Releases()) as address:
        silent = address
    assert (
        asked(silent.replace("http://", "http://me:secret@"), monkeypatch, "--facts", HEALTHY) == 3
    )
    said = capsys.readouterr().err
    assert "cannot be reached" in said and "hint:" in said and "secret" not in said


def test_pip_s_configuration_is_read_as_pip_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://global.example/simple/\nextra_index_url =\n  https://a.example/simple\n"
        "  file:///opt/wheels\ncert = /etc/ca.pem\n[install]\nindex-url = https://install.example/simple\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    found = pip_configuration()
    assert found.index_urls == ("https://install.example/simple", "https://a.example/simple")
    assert found.certificates == "/etc/ca.pem"
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.example/simple")
    assert pip_configuration().index_urls[0] == "https://variable.example/simple"
    file.write_text("this is not a configuration", encoding="utf-8")
    monkeypatch.delenv("PIP_INDEX_URL")
    assert pip_configuration().index_urls == ("https://pypi.org/simple",)


def test_the_machine_that_is_asked_about_is_not_changed() -> None:
    assert load(Path(HEALTHY)).value("packages.installed")["ctranslate2"] == known_version(
        "ctranslate2"
    )
