"""Recordings in object storage, on a real S3 server."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command_line import FAKE, environment, run
from job_places import fake_options, finished, jobs, options, place
from local_hub import closed_port
from mcp_places import calling, home, stdio
from patience import PATIENCE_S
from s3_place import S3, SECRET, s3_server
from whisper_nano import SPEECH, kept_conversions

from transcribe_mcp import EngineSpec, Options, load_engine, transcribe
from transcribe_mcp.domain.progress import no_progress
from transcribe_mcp.errors import (
    CancelledError,
    SourceError,
    SourceFetchError,
    SourceNotFoundError,
    SourceRefusedError,
    SourceTooLargeError,
    SourceUnreadableError,
    TranscribeError,
    UsageError,
)
from transcribe_mcp.jobs.object_copies import copy_object
from transcribe_mcp.media import object_storage
from transcribe_mcp.media.download import FetchLimits
from transcribe_mcp.media.object_storage import (
    fetch_object,
    object_signature,
    require_allowed,
    require_object,
)
from transcribe_mcp.service.models import Batch, JobRequest, JobStatus
from transcribe_mcp.settings import Settings, settings

CLIP = SPEECH / "en_0.flac"
OTHER = SPEECH / "en_1.flac"
URL = "s3://talks/public/on a monday.flac"
LIMITS = FetchLimits(1 << 30)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as server:
        server.put("/talks/public/on a monday.flac", CLIP)
        server.put("/talks-private/public/secret.flac", OTHER)
        yield server


@pytest.fixture
def client(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """This process uses the server."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    object_storage._storage.cache_clear()
    settings.cache_clear()
    yield s3
    object_storage._storage.cache_clear()
    settings.cache_clear()


def fetch(url: str, folder: Path, limits: FetchLimits = LIMITS) -> Path:
    return fetch_object(url, object_signature(url), folder / "copy.flac", limits)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@talks/a.mp3",
        "s3://talks",
        "s3://talks/",
        "s3://talks/public/",
        "s3:///a.mp3",
        "s3://talks/public/../a.mp3",
        "s3://talks/./a.mp3",
        "s3://talks/a\x00.mp3",
        "s3://talks/" + "a" * 3000,
    ],
)
def test_a_url_that_names_no_object_is_refused_without_its_credentials(url: str) -> None:
    with pytest.raises(SourceRefusedError) as caught:
        require_object(url)
    assert "secret" not in f"{caught.value}{caught.value.hint}" and caught.value.hint


def test_a_server_reads_only_below_the_prefixes_that_it_allows() -> None:
    prefixes = Settings(allowed_sources="s3://talks/public s3://open").allowed_sources
    assert prefixes == ("s3://talks/public/", "s3://open/")
    assert require_allowed("S3://talks/public/a.mp3", prefixes) == "s3://talks/public/a.mp3"
    for url in ("s3://talks/a.mp3", "s3://talks/publicity/a.mp3", "s3://open-not/a", "gs://open/a"):
        with pytest.raises(SourceRefusedError, match="outside the prefixes"):
            require_allowed(url, prefixes)
    with pytest.raises(SourceRefusedError, match="does not read object storage"):
        require_allowed("s3://open/a.mp3", ())


@pytest.mark.parametrize("prefix", ["talks/", "s3:/talks", "s3://", "s3://key@talks/", "/talks"])
def test_a_prefix_that_is_none_is_an_error_at_the_start(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSCRIBE_MCP_ALLOWED_SOURCES", prefix)
    settings.cache_clear()
    with pytest.raises(UsageError, match="TRANSCRIBE_MCP_ALLOWED_SOURCES"):
        settings()
    settings.cache_clear()


def test_workers_get_the_prefixes_as_they_were_set() -> None:
    given = Settings(allowed_sources=("s3://a/", "s3://b/c/"))
    assert given.to_environment()["TRANSCRIBE_MCP_ALLOWED_SOURCES"] == "s3://a/ s3://b/c/"


# --- copies ---------------------------------------------------------------------------------------


def test_an_object_is_copied_whole_and_its_signature_changes_with_its_content(
    client: S3, tmp_path: Path
) -> None:
    seen: list[float] = []
    before = object_signature(URL)
    path = fetch_object(
        URL, before, tmp_path / "a.flac", LIMITS, lambda stage, done, total: seen.append(done)
    )
    client.put("/talks/public/changing.flac", CLIP)
    first = object_signature("s3://talks/public/changing.flac")
    client.put("/talks/public/changing.flac", OTHER)
    second = object_signature("s3://talks/public/changing.flac")

    assert path.read_bytes() == CLIP.read_bytes()
    assert seen == [CLIP.stat().st_size] and [path] == list(tmp_path.iterdir())
    assert before == first != second == object_signature("s3://talks/public/changing.flac")


def test_what_cannot_be_read_is_an_error_with_a_way_out_and_leaves_nothing(
    client: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(kind: type[SourceError], url: str = URL, limits: FetchLimits = LIMITS) -> str:
        with pytest.raises(kind) as caught:
            fetch(url, tmp_path, limits)
        shown = f"{caught.value} {caught.value.hint}"
        assert type(caught.value) is kind and caught.value.hint and SECRET not in shown
        assert not list(tmp_path.iterdir())
        return shown

    def anew(name: str, value: str | None) -> None:
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
        object_storage._storage.cache_clear()

    assert "no such object" in refused(SourceNotFoundError, "s3://talks/public/none.flac")
    assert "no such object" in refused(SourceNotFoundError, "s3://nobody/none.flac")
    assert "is a directory" in refused(SourceNotFoundError, "s3://talks/public")
    assert "limit" in refused(SourceTooLargeError, limits=FetchLimits(1000))
    with client.closed():
        assert "access is denied" in refused(SourceUnreadableError)
    anew("AWS_ACCESS_KEY_ID", None)
    anew("AWS_SECRET_ACCESS_KEY", None)
    assert "AWS_PROFILE" in refused(SourceUnreadableError)
    anew("AWS_PROFILE", "nobody")
    assert "credentials" in refused(SourceUnreadableError)
    anew("AWS_PROFILE", None)
    anew("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    anew("AWS_SECRET_ACCESS_KEY", SECRET)
    anew("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    assert "AWS_ENDPOINT_URL" in refused(SourceFetchError)


@pytest.mark.parametrize("change", ["deleted", "bucket gone", "replaced", "cancelled"])
def test_an_object_that_changes_while_it_is_read_leaves_no_copy(
    client: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(object_storage, "CHUNK_BYTES", 4096)
    client.put("/passing")
    client.put("/passing/a.flac", bytes(10_000))

    def meanwhile(_stage: str, done: float, _total: float | None) -> None:
        if done > 4096:
            return
        if change == "cancelled":
            raise CancelledError("stopped")
        if change == "replaced":
            client.put("/passing/a.flac", bytes(9_999) + b"x")
            return
        client.delete("/passing/a.flac")
        if change == "bucket gone":
            client.delete("/passing")

    url = "s3://passing/a.flac"
    expected: dict[str, type[TranscribeError]] = {
        "replaced": SourceFetchError,
        "cancelled": CancelledError,
    }
    with pytest.raises(expected.get(change, SourceNotFoundError)):
        fetch_object(url, object_signature(url), tmp_path / "a.flac", LIMITS, meanwhile)
    assert not list(tmp_path.iterdir())


class Truncating(BaseHTTPRequestHandler):
    """Promises 5000 bytes of every object, and sends the first 1000."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(5000)

    def do_GET(self) -> None:
        found = bytes(1000) if self.headers["Range"].startswith("bytes=0-") else b""
        self._answer(len(found))
        self.wfile.write(found)

    def _answer(self, length: int) -> None:
        self.send_response(200 if length == 5000 else 206)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"abc"')
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 10:00:00 GMT")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_an_object_that_is_cut_off_is_an_error(
    client: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Truncating) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(SourceFetchError, match="of 5000 bytes arrived"):
            fetch(URL, tmp_path)
        object_storage._storage.cache_clear()
        server.shutdown()
    assert not list(tmp_path.iterdir())


def test_jobs_on_one_object_share_its_copy(client: S3, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    with ThreadPoolExecutor() as pool:
        copies = list(pool.map(lambda one: copy_object(URL, one, LIMITS, no_progress), folders))

    assert {copy.parent for copy in copies} == set(folders)
    assert {copy.stat().st_nlink for copy in copies} == {3}
    assert copies[0].read_bytes() == CLIP.read_bytes()


def test_a_program_transcribes_an_object(client: S3) -> None:
    engine = load_engine(EngineSpec(engine="fake"))
    expected = transcribe(CLIP, engine, Options(language="en"))
    found = transcribe(URL, engine, Options(language="en"))
    with pytest.raises(SourceNotFoundError):
        transcribe("s3://talks/none.flac", engine, Options(language="en"))
    engine.close()

    assert found.source == URL and found.segments == expected.segments


# --- front ends -----------------------------------------------------------------------------------


def test_the_command_transcribes_objects_and_says_what_is_missing(s3: S3, tmp_path: Path) -> None:
    variables = environment(tmp_path, **s3.environment)

    done = run(*FAKE, URL, cwd=tmp_path, env=variables)
    missing = run(*FAKE, "s3://talks/none.flac", cwd=tmp_path, env=variables)
    offline = run(*FAKE, URL, "--offline", cwd=tmp_path, env=variables)
    code = "import sys; sys.modules['s3fs'] = None; import transcribe_mcp.__main__ as m; m.main()"
    without = run(*FAKE, URL, cwd=tmp_path, env=variables, command=[sys.executable, "-c", code])

    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    assert missing.returncode == 1 and "no such object" in missing.stderr
    assert offline.returncode == 1 and "offline mode is on" in offline.stderr
    assert without.returncode == 1 and "pip install 'transcribe-mcp[cloud]'" in without.stderr
    assert SECRET not in missing.stderr + without.stderr


def test_a_job_on_an_object_says_the_same_as_one_on_the_file_and_keeps_no_copy(
    client: S3, tmp_path: Path
) -> None:
    wanted = options(language="en")
    with kept_conversions(), place(tmp_path / "data") as here:
        first = jobs.submit(JobRequest(URL, wanted))
        twin = jobs.submit(JobRequest(URL, wanted))
        batch = jobs.submit_batch([URL, "s3://talks/none.flac"], JobRequest("", wanted, force=True))
        done = finished(first.job_id)
        again = finished(jobs.submit(JobRequest(str(CLIP), wanted)).job_id)
        ended = jobs.wait_for(batch.job_id, PATIENCE_S)
        texts = {jobs.get_transcript(job.job_id).text for job in (done, again)}
        kept = list((here.data_dir / "fetched").glob("[!.]*"))
        log = here.log()

    assert first.job_id == twin.job_id and done.status is JobStatus.COMPLETED, done
    assert done.source == URL and again.from_job_id and len(texts) == 1
    assert isinstance(ended, Batch) and [job.status for job in ended.jobs] == [done.status]
    assert [refused.error.code for refused in ended.refused] == ["source_not_found"]
    assert not kept and SECRET not in log


def test_an_object_that_has_a_transcript_is_not_copied_again_until_it_changes(
    client: S3, tmp_path: Path
) -> None:
    wanted = fake_options(language="en")
    client.put("/talks/twice.flac", CLIP)
    url = "s3://talks/twice.flac"
    with place(tmp_path / "data"):
        first = finished(jobs.submit(JobRequest(url, wanted)).job_id)
        again = jobs.submit(JobRequest(url, wanted))
        client.put("/talks/twice.flac", OTHER)
        changed = jobs.submit(JobRequest(url, wanted))
        new = finished(changed.job_id)

    assert (again.status, again.job_id) == (JobStatus.COMPLETED, first.job_id)
    assert changed.status is JobStatus.QUEUED
    assert new.status is JobStatus.COMPLETED and new.job_id != first.job_id


def test_an_assistant_reaches_the_objects_that_its_user_allows_and_no_other(
    s3: S3, tmp_path: Path
) -> None:
    other = "s3://talks-private/public/secret.flac"
    allowed = ("--allowed-source", "s3://talks/public")
    with (
        home(tmp_path / "home") as here,
        calling(stdio(here, *allowed, **s3.environment)) as caller,
    ):
        outside = caller.refusal("transcribe_audio", source=other)
        missing = caller.refusal("transcribe_audio", source="s3://talks/public/none.mp3")
        job_id = caller.answer("transcribe_audio", source=URL, wait_s=0)["job_id"]
        done = caller.finished(job_id)

    assert outside["code"] == "source_refused"
    assert "TRANSCRIBE_MCP_ALLOWED_SOURCES" in outside["hint"]
    assert missing["code"] == "source_not_found" and done["status"] == "completed"
