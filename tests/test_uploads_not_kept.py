"""Uploads that the disk or the data directory does not take: said in words, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from asgi import Answer, ask
from http_clients import form
from small_disk import fill, small_disk

from transcribe_mcp.frontends.host import Address
from transcribe_mcp.frontends.http.server import build_app
from transcribe_mcp.frontends.mcp.server import http_app
from transcribe_mcp.jobs import uploads
from transcribe_mcp.jobs.writer_protocol import hold_lock
from transcribe_mcp.service.async_service import AsyncService
from transcribe_mcp.service.service import Service
from transcribe_mcp.settings import Settings

URL = "/v1/audio/transcriptions"
DISK_BYTES = 8 * 2**20
LEFT = 499  # ``ask`` leaves after its upload, and the job stays


@contextmanager
def serving(data_dir: Path) -> Iterator[Service]:
    with closing(Service(Settings(data_dir=data_dir, start_workers=False))) as service:
        yield service


def upload(service: Service, recording: bytes) -> Answer:
    body, content_type = form(recording, "talk.wav")
    app = build_app(AsyncService(service), http_app, Address())
    return ask(app, "POST", URL, body, content_type=content_type)


def kept(service: Service) -> list[str]:
    return [path.name for path in (service.settings.data_dir / uploads.FOLDER).glob("*")]


def test_an_upload_that_the_disk_does_not_hold_is_refused_once(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk, serving(disk / "data") as service:
        assert upload(service, b"short").status == LEFT
        before = kept(service)
        fill(disk / "ballast", 4096)
        refused = upload(service, b"sound" * 100_000)
        assert (refused.status, refused.error["code"]) == (507, "store_full")
        assert "free some disk space" in refused.error["message"]
        assert refused.headers["x-should-retry"] == "false"
        assert kept(service) == before


def test_a_data_directory_that_takes_no_upload_is_said(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        service.list_jobs()
        (tmp_path / uploads.FOLDER).touch()
        refused = upload(service, b"sound")
    assert (refused.status, refused.error["code"]) == (503, "store")
    assert "check the permissions" in refused.error["message"]


def test_an_upload_whose_place_another_process_holds_is_to_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "LOCK_S", 0.0)
    with serving(tmp_path) as service:
        service.list_jobs()
        names = [f"uploads-{digit}.lock" for digit in "0123456789abcdef"]
        held = [hold_lock(tmp_path, 0.0, name) for name in names]
        refused = upload(service, b"sound")
        for lock in held:
            assert lock is not None
            lock.close()
        assert (refused.status, refused.error["code"]) == (503, "store_busy")
        assert upload(service, b"sound").status == LEFT
