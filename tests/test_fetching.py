"""Recordings from addresses: real servers on this machine, which only these tests allow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcribe_mcp.errors import (
    CancelledError,
    SourceError,
    SourceFetchError,
    SourceRefusedError,
    SourceTooLargeError,
)
from transcribe_mcp.media.download import FetchLimits, fetch, is_public, is_url, require_url

SOUND = bytes(range(256)) * 400


class Site(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        kind, length, body = "audio/mpeg", len(SOUND), SOUND
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/page":
            kind = "text/html; charset=utf-8"
        if self.path == "/short.mp3":
            body = SOUND[:1000]
        self.send_response(404 if self.path == "/missing.mp3" else 200)
        self.send_header("Content-Type", kind)
        if self.path != "/endless.mp3":
            self.send_header("Content-Length", str(length))
        else:
            self.send_header("Connection", "close")
            body = SOUND * 20
        self.end_headers()
        with suppress(OSError):  # the client has seen enough
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    Site.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


HERE = FetchLimits(max_bytes=200_000, is_allowed=lambda address: address == "127.0.0.1")


def test_a_recording_is_fetched_whole_and_gets_a_name_of_ours(site: str, tmp_path: Path) -> None:
    seen: list[float] = []
    path = fetch(
        f"{site}/talks/a%20b.mp3?x=1", tmp_path, HERE, lambda stage, done, total: seen.append(done)
    )
    assert path.read_bytes() == SOUND
    assert (path.suffix, path.parent) == (".mp3", tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert seen[-1] == len(SOUND)
    assert Site.asked[-1] == "/talks/a%20b.mp3?x=1"


def test_redirects_are_followed_and_judged_again(site: str, tmp_path: Path) -> None:
    assert fetch(f"{site}/to//a.mp3", tmp_path, HERE).read_bytes() == SOUND
    for target in (
        "http://127.0.0.2/a.mp3",
        "http://localhost.:1/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a.mp3",
    ):
        with pytest.raises((SourceRefusedError, SourceFetchError)):
            fetch(f"{site}/to/{target}", tmp_path / "refused", HERE)
    with pytest.raises(SourceFetchError, match="redirects more than"):
        fetch(f"{site}/to/" + "/to/" * 9 + "a.mp3", tmp_path / "refused", HERE)
    assert list((tmp_path / "refused").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("/missing.mp3", SourceFetchError, "404"),
        ("/page", SourceFetchError, "web page"),
        ("/short.mp3", SourceFetchError, "of 102400 bytes|cannot be read"),
        ("/endless.mp3", SourceTooLargeError, "larger than the limit"),
    ],
)
def test_what_is_no_recording_leaves_nothing_behind(
    site: str, tmp_path: Path, path: str, error: type[SourceError], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        fetch(site + path, tmp_path, HERE)
    assert raised.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_announced_size_above_the_limit_is_refused_before_it_comes(
    site: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceTooLargeError):
        fetch(f"{site}/a.mp3", tmp_path, FetchLimits(max_bytes=1000, is_allowed=HERE.is_allowed))


def test_time_is_limited(site: str, tmp_path: Path) -> None:
    with pytest.raises(SourceFetchError, match="within 0 s"):
        fetch(
            f"{site}/a.mp3",
            tmp_path,
            FetchLimits(200_000, max_seconds=0, is_allowed=HERE.is_allowed),
        )


def test_fetching_can_be_stopped(site: str, tmp_path: Path) -> None:
    def stop(stage: str, done: float, total: float | None) -> None:
        raise CancelledError("enough")

    with pytest.raises(CancelledError):
        fetch(f"{site}/a.mp3", tmp_path, HERE, stop)
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_this_network_is_asked_for(site: str, tmp_path: Path) -> None:
    port = site.rpartition(":")[2]
    before = len(Site.asked)
    for host in (
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ):
        with pytest.raises((SourceRefusedError, SourceFetchError)):
            fetch(f"http://{host}:{port}/a.mp3", tmp_path, FetchLimits(max_bytes=10**6))
    assert len(Site.asked) == before


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "172.16.3.4", "192.168.1.1", "127.0.0.1", "169.254.169.254", "0.0.0.0",
        "224.0.0.1", "100.64.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1",
        "ff02::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
        "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "nonsense", "",
    ],
)  # fmt: skip
def test_no_address_of_a_private_network_is_public(address: str) -> None:
    assert not is_public(address)


def test_addresses_of_the_internet_are_public() -> None:
    assert all(
        map(is_public, ("1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::101:101"))
    )


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a.mp3", "http://user:secret@example.org/a.mp3", "http:///a.mp3",
        "http://example.org:99999/", "http://exa mple.org/", "http://example.org/\r\nHost: x",
        "gopher://x", "http://[::1", "http://" + "x" * 3000,
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_fetched_is_refused_without_showing_secrets(url: str) -> None:
    with pytest.raises(SourceRefusedError) as refused:
        require_url(url)
    assert "secret" not in str(refused.value) and refused.value.hint


@given(st.text(max_size=60).map("http://".__add__))
def test_no_text_whatever_breaks_the_check(url: str) -> None:
    try:
        assert require_url(url).hostname
    except SourceRefusedError as error:
        assert error.hint


def test_paths_are_no_addresses() -> None:
    assert not any(
        map(
            is_url,
            ("/a.wav", "C:\\a.wav", "c://a.wav", "file:///a.wav", "a.wav", "http:talk.wav", ""),
        )
    )
    assert all(map(is_url, ("http://x/a.wav", "HTTPS://x", "ftp://x")))
