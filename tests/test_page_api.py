"""``/api``, which the page reads: real jobs, behind the guard, as a browser asks."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi import ask
from http_clients import form
from job_places import Place, fake_options, finished, jobs, place, request
from media import speechlike, write_audio
from page_places import ORIGIN, Browser
from whisper_nano import CONVERSATION

from transcribe_mcp.frontends.host import Address
from transcribe_mcp.frontends.http.guard import SESSION_COOKIE
from transcribe_mcp.frontends.http.server import build_app
from transcribe_mcp.frontends.http.sessions import Sessions
from transcribe_mcp.frontends.mcp.server import http_app
from transcribe_mcp.media.decode import read
from transcribe_mcp.media.playback import PEAKS_PER_S, played_type
from transcribe_mcp.service.async_service import AsyncService
from transcribe_mcp.service.service import default_service


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("page")
    talks = tmp_path_factory.mktemp("talks")
    with place(folder, CACHE_DIR=str(folder / "cache"), ALLOWED_ROOTS=str(talks)) as made:
        yield made


@pytest.fixture(scope="module")
def browser(here: Place) -> Browser:
    sessions = Sessions()
    service = AsyncService(default_service())
    app = build_app(service, http_app, Address(), sessions=sessions)
    for wrong in (b'{"token": "wrong"}', b'{"token": "\\ud800"}', b'{"token": 1}', b"{}", b""):
        assert ask(app, "POST", "/api/session", wrong).status == 401, wrong
    login = ask(app, "POST", "/api/session", json.dumps({"token": sessions.token}).encode())
    assert login.status == 204 and not login.body
    cookie, *rest = login.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(rest)
    return Browser(app, cookie.partition("=")[2])


@pytest.fixture(scope="module")
def talk(here: Place) -> Path:
    recording = here.data_dir / "recordings" / "three \u202evoices.opus"
    recording.parent.mkdir()
    shutil.copy(CONVERSATION / "three_voices.opus", recording)
    return recording


@pytest.fixture(scope="module")
def job_id(talk: Path) -> str:
    return finished(jobs.submit(request(talk, fake_options(diarize=True))).job_id).job_id


@pytest.fixture(scope="module")
def of_mp3(here: Place) -> str:
    recording = here.data_dir / "tone.mp3"
    write_audio(recording, "libmp3lame", speechlike(12.0))
    return finished(jobs.submit(request(recording, fake_options())).job_id).job_id


def submitted(browser: Browser, content: object) -> tuple[int, dict[str, Any]]:
    answer = browser.ask("POST", "/api/jobs", content, **{"content-type": "application/json"})
    return answer.status, json.loads(answer.body)


def test_a_recording_of_the_server_is_queued_with_options_by_name(browser: Browser) -> None:
    (root,) = default_service().settings.allowed_roots
    talk = root / "talk.wav"
    write_audio(talk, "pcm_s16le", speechlike(2.0))

    options = {"language": "German", "diarize": True, "speakers": 2, "vocabulary": ["Anna"]}
    status, row = submitted(browser, {"source": str(talk), "options": options})
    try:
        assert status == 201 and row["name"] == "talk.wav"
        kept = jobs.row(row["job_id"]).options
        assert {
            "language": "de",
            "diarize": True,
            "speakers": 2,
            "vocabulary": ["Anna"],
        }.items() <= (json.loads(kept).items())
    finally:
        browser.ask("DELETE", f"/api/jobs/{row['job_id']}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "source is not a path or URL"),
        ({"source": 3}, "source is not a path or URL"),
        ({"source": "talk.wav", "options": []}, "options is not an object"),
        ({"source": "talk.wav", "options": {"colour": 1}}, "there is no option 'colour'"),
        ({"source": "talk.wav", "options": {"references": ["Ann=/a"]}}, "no option 'references'"),
        ({"source": "talk.wav", "options": {"model": 5}}, "model is '5'"),
        ({"source": "talk.wav", "options": {"diarize": "maybe"}}, "diarize"),
        ({"source": "/etc/passwd"}, "outside the directories that may be read"),
        ({"source": "https://localhost/talk.mp3"}, "does not download URLs"),
    ],
)
def test_other_recordings_and_options_are_refused_in_words(
    browser: Browser, content: object, reason: str
) -> None:
    status, answer = submitted(browser, content)
    assert 400 <= status < 500
    assert reason in json.dumps(answer)


def test_a_row_shows_name_first_words_and_speakers(browser: Browser, job_id: str) -> None:
    (row,) = (row for row in browser.read("/api/jobs")["jobs"] if row["job_id"] == job_id)
    transcript = jobs.get_transcript(job_id)
    assert row["name"] == "three \u202evoices.opus" and row["status"] == "completed"
    assert row["preview"] and transcript.text.startswith(row["preview"][:20])
    assert row["n_speakers"] == len(transcript.speakers)
    assert browser.read(f"/api/jobs/{job_id}") == row


def test_the_list_has_pages_and_filters(browser: Browser, job_id: str, of_mp3: str) -> None:
    first = browser.read("/api/jobs?limit=1")
    second = browser.read(f"/api/jobs?limit=1&cursor={first['next_cursor']}")
    assert [page["jobs"][0]["job_id"] for page in (first, second)] == [of_mp3, job_id]
    assert second["next_cursor"] is None
    found = browser.read("/api/jobs?source=THREE&status=completed&status=failed")["jobs"]
    assert [row["job_id"] for row in found] == [job_id]
    assert browser.read("/api/jobs?status=queued")["jobs"] == []


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/jobs?limit=0", 400, "usage"),
        ("/api/jobs?limit=%C2%B2", 400, "usage"),
        ("/api/jobs?status=done", 400, "usage"),
        ("/api/jobs?cursor=x", 400, "usage"),
        ("/api/search?q=%20", 400, "usage"),
        ("/api/jobs/none", 404, "job_not_found"),
        ("/api/jobs/none/transcript", 404, "job_not_found"),
        ("/api/jobs/none/audio", 404, "job_not_found"),
        ("/api/jobs/none/peaks", 404, "job_not_found"),
    ],
)
def test_bad_requests_say_what_is_wrong(
    browser: Browser, path: str, status: int, code: str
) -> None:
    answer = browser.ask("GET", path)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["message"]


def test_a_batch_is_named_with_the_way_to_its_jobs(browser: Browser, talk: Path) -> None:
    batch = jobs.submit_batch([str(talk)], request(talk, fake_options(diarize=True)))
    for path in ("", "/transcript", "/audio", "/peaks"):
        answer = browser.ask("GET", f"/api/jobs/{batch.job_id}{path}")
        assert (answer.status, answer.error["code"]) == (409, "job_state"), path
        [way] = re.findall(r"GET (/api/\S+)", answer.error["message"])
        assert [row["job_id"] for row in browser.read(way)["jobs"]] == [batch.jobs[0].job_id]


def test_the_transcript_has_the_schema_of_the_json_format_and_a_revision(
    browser: Browser, job_id: str
) -> None:
    found = browser.read(f"/api/jobs/{job_id}/transcript")
    assert found.pop("revision") == jobs.get_revision(job_id)
    assert found == json.loads(jobs.get_transcript(job_id).dumps())


def test_speakers_are_renamed_and_exports_have_the_name(browser: Browser, job_id: str) -> None:
    before = browser.read(f"/api/jobs/{job_id}/transcript")
    path = f"/api/jobs/{job_id}/speakers"
    refused = browser.ask("POST", path, {"names": ["Anna"]})
    assert (refused.status, refused.error["code"]) == (400, "usage")
    assert browser.ask("POST", path, {"names": {"Nobody": "Anna"}}).error["code"] == "unknown_name"
    answer = browser.ask("POST", path, {"names": {"Speaker 1": "Anna <b>"}})
    changed = json.loads(answer.body)
    assert changed["revision"] == before["revision"] + 1
    assert answer.headers["etag"] == f'"r{changed["revision"]}"'
    export = browser.ask("GET", f"/api/jobs/{job_id}/export?format=srt")
    assert "Anna <b>:" in export.body.decode()
    assert "filename*=utf-8''three%20%E2%80%AEvoices.srt" in export.headers["content-disposition"]
    assert browser.ask("GET", f"/api/jobs/{job_id}/export?format=pdf").status == 400


def test_hits_name_the_recording_and_the_time(browser: Browser, job_id: str) -> None:
    segment = jobs.get_transcript(job_id).segments[1]
    word = max(segment.text.split(), key=len).strip(".,?!")
    hits = browser.read(f"/api/search?q={word}")["hits"]
    [hit] = [hit for hit in hits if (hit["job_id"], hit["start"]) == (job_id, segment.start)]
    job = browser.read(f"/api/jobs/{job_id}")
    assert hit["created_at"] == job["created_at"]
    for name in ("created_at", "started_at", "finished_at"):
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", job[name]), name


def test_files_that_browsers_seek_are_sent_as_they_are_in_ranges(
    browser: Browser, job_id: str, talk: Path
) -> None:
    content = talk.read_bytes()
    whole = browser.ask("GET", f"/api/jobs/{job_id}/audio")
    assert (whole.status, whole.body) == (200, content)
    assert whole.headers["content-type"] == "audio/ogg"
    part = browser.ask("GET", f"/api/jobs/{job_id}/audio", range="bytes=100-199")
    assert (part.status, part.body) == (206, content[100:200])
    beyond = browser.ask("GET", f"/api/jobs/{job_id}/audio", range=f"bytes={len(content)}-")
    assert beyond.status == 416
    for ignored in ("bytes=a-b", "bytes=200-100", "items=0-9", "bytes=", "bytes=-"):
        answer = browser.ask("GET", f"/api/jobs/{job_id}/audio", range=ignored)
        assert (answer.status, answer.body) == (200, content)


def test_an_mp3_is_played_from_a_copy_on_the_clock_of_the_transcript(
    browser: Browser, of_mp3: str, tmp_path: Path
) -> None:
    answer = browser.ask("GET", f"/api/jobs/{of_mp3}/audio")
    assert (answer.status, answer.headers["content-type"]) == (200, "audio/mp4")
    copy = tmp_path / "copy.m4a"
    copy.write_bytes(answer.body)
    assert played_type(copy) == "audio/mp4"
    source = read(Path(browser.read(f"/api/jobs/{of_mp3}")["source"]))
    sound = read(copy)[: len(source)]
    shifts = range(-400, 401, 16)  # of 25 ms
    middle = slice(1_000, len(sound) - 1_000)
    match = {by: float(source[middle] @ np.roll(sound, by)[middle]) for by in shifts}
    assert abs(max(match, key=match.__getitem__)) <= 32


def test_peaks_have_one_byte_for_each_50_ms(browser: Browser, job_id: str, of_mp3: str) -> None:
    for each in (job_id, of_mp3):
        answer = browser.ask("GET", f"/api/jobs/{each}/peaks")
        seconds = jobs.get_job(each).duration_s
        assert abs(len(answer.body) - seconds * PEAKS_PER_S) <= 1
        assert 0 < max(answer.body) <= 127


def test_a_recording_that_has_changed_is_not_played(browser: Browser, here: Place) -> None:
    recording = here.data_dir / "changing.wav"
    write_audio(recording, "pcm_s16le", speechlike(3.0))
    job = finished(jobs.submit(request(recording, fake_options())).job_id)
    write_audio(recording, "pcm_s16le", speechlike(4.0))
    answer = browser.ask("GET", f"/api/jobs/{job.job_id}/audio")
    assert (answer.status, answer.error["code"]) == (409, "source_changed")
    recording.unlink()
    answer = browser.ask("GET", f"/api/jobs/{job.job_id}/peaks")
    assert (answer.status, answer.error["code"]) == (404, "source_not_found")


def test_an_upload_is_a_job_with_its_name_and_options(browser: Browser, talk: Path) -> None:
    body, kind = form(
        talk.read_bytes(), "../talk <b>.opus",
        diarize="true", speakers="2", language="en", vocabulary="Elbe, Alster",
    )  # fmt: skip
    cookie = f"{SESSION_COOKIE}={browser.cookie}"
    headers = {"cookie": cookie, "origin": ORIGIN, "content_type": kind}
    answer = ask(browser.app, "POST", "/api/jobs", body, **headers)
    row = json.loads(answer.body)
    assert (answer.status, row["name"]) == (201, "talk <b>.opus"), row
    options = jobs.get_job(row["job_id"]).options
    assert (options.diarize, options.speakers, options.language) == (True, 2, "en")
    assert options.vocabulary == ("Elbe", "Alster")
    again = json.loads(ask(browser.app, "POST", "/api/jobs", body, **headers).body)
    assert again["job_id"] == row["job_id"]
    for part in ("LK%20%3Cb", row["source"][-20:]):
        found = browser.read(f"/api/jobs?source={part}")["jobs"]
        assert [each["job_id"] for each in found] == [row["job_id"]]
    cancelled = json.loads(browser.ask("POST", f"/api/jobs/{row['job_id']}/cancel").body)
    assert cancelled["status"] in ("cancelled", "failed", "completed")
    wrong, _ = form(b"RIFF", speakers="two")
    refused = ask(browser.app, "POST", "/api/jobs", wrong, **headers)
    assert (refused.status, refused.error["param"]) == (400, "speakers")


def test_a_deleted_job_takes_the_copy_of_its_sound_with_it(browser: Browser, here: Place) -> None:
    recording = here.data_dir / "gone.mp3"
    write_audio(recording, "libmp3lame", speechlike(5.0))
    job = finished(jobs.submit(request(recording, fake_options())).job_id)
    folder = here.data_dir / "cache" / "playback"
    before = set(folder.glob("*"))
    assert browser.ask("GET", f"/api/jobs/{job.job_id}/audio").status == 200
    assert len(set(folder.glob("*")) - before) == 2  # the copy and its peaks
    assert browser.ask("DELETE", f"/api/jobs/{job.job_id}").status == 204
    assert set(folder.glob("*")) <= before
    assert browser.ask("DELETE", f"/api/jobs/{job.job_id}").status == 404


def test_a_cancelled_job_can_be_retried(browser: Browser, job_id: str) -> None:
    refused = browser.ask("POST", f"/api/jobs/{job_id}/retry")
    assert (refused.status, refused.error["code"]) == (409, "job_state")
    row = json.loads(browser.ask("POST", f"/api/jobs/{job_id}/cancel").body)
    assert row["status"] == "completed"  # a final job does not change


def test_a_change_needs_the_origin_of_the_page(browser: Browser, job_id: str) -> None:
    cookie = f"{SESSION_COOKIE}={browser.cookie}"
    path = f"/api/jobs/{job_id}"
    for headers in ({}, {"origin": "http://evil.test"}, {"origin": "null"}):
        assert ask(browser.app, "DELETE", path, cookie=cookie, **headers).status == 403
    assert browser.read(path)["status"] == "completed"


def test_pages_and_their_files_have_a_strict_policy_and_no_secret(browser: Browser) -> None:
    for path in ("/", "/t/anything", "/search", "/static/index.html"):
        answer = ask(browser.app, "GET", path)
        assert answer.status == 200 and browser.cookie.encode() not in answer.body
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("/static/../server.py", "/static/%2e%2e/guard.py", "/static/__init__.py"):
        assert ask(browser.app, "GET", path).status == 404
