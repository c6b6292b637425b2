"""Edited transcripts in the database and in ``/api``: nothing is lost or half saved."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from job_places import Place, fresh, jobs, place
from page_places import Browser, logged_in, stored
from patience import PATIENCE_S
from postgres import place_on
from starlette.requests import Request
from typer.testing import CliRunner

from transcribe_mcp import Transcript
from transcribe_mcp.domain.transcript import Segment, Turn, Word
from transcribe_mcp.errors import EditConflictError, JobNotFoundError, RevisionNotFoundError
from transcribe_mcp.frontends.cli.app import app
from transcribe_mcp.frontends.http.transcriptions import finished_transcript
from transcribe_mcp.frontends.mcp.handlers import Handlers
from transcribe_mcp.frontends.mcp.pages import View
from transcribe_mcp.jobs.revisions import KEPT
from transcribe_mcp.jobs.schema import revisions, segments
from transcribe_mcp.service.async_service import AsyncService
from transcribe_mcp.service.editing import Editing
from transcribe_mcp.service.formats import render
from transcribe_mcp.service.models import Job, SpeakerChange
from transcribe_mcp.service.service import default_service


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def here(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    with place_on(request.param, tmp_path_factory.mktemp("revisions")) as made:
        yield made


@pytest.fixture(scope="module")
def browser(here: Place) -> Browser:
    return logged_in()


@pytest.fixture
def job_id(here: Place) -> str:
    return stored(talk())


def talk(n_sentences: int = 6) -> Transcript:
    """Sentences of three words by two speakers, with unique last words."""
    found = []
    for number in range(n_sentences):
        speaker = f"Speaker {1 + number % 2}"
        words = tuple(
            Word(2.0 * number + 0.5 * i, 2.0 * number + 0.5 * i + 0.4, text, 0.9, speaker)
            for i, text in enumerate((" This", " is", f" number{number}."))
        )
        text = "".join(word.text for word in words)
        found.append(Segment(words[0].start, words[-1].end, text, words, "en", speaker))
    turns = tuple(Turn(s.start, s.end, str(s.speaker)) for s in found)
    duration = 2.0 * n_sentences
    return Transcript(tuple(found), duration, "en", 1.0, "e", "m", "cpu", "int8", turns=turns)


def patch(browser: Browser, job_id: str, revision: int, *ops: dict[str, Any]) -> Any:
    path = f"/api/jobs/{job_id}/transcript"
    return browser.ask("PATCH", path, {"ops": ops}, if_match=f'"r{revision}"')


def saved(browser: Browser, job_id: str, revision: int, *ops: dict[str, Any]) -> Any:
    answer = patch(browser, job_id, revision, *ops)
    assert answer.status == 200, answer.body
    assert answer.headers["etag"] == f'"r{answer.json["revision"]}"'
    return answer.json


def text(number: int, text: str) -> dict[str, Any]:
    return {"op": "text", "segment": number, "text": text}


async def unheard(_job: Any) -> None:
    """Nobody follows the progress."""


def read(browser: Browser, job_id: str, query: str = "") -> Any:
    return browser.read(f"/api/jobs/{job_id}/transcript{query}")


def indexed(job_id: str) -> list[tuple[Any, ...]]:
    store = default_service().read_store()
    query = sa.select(
        segments.c.number, segments.c.start_s, segments.c.text, segments.c.speaker
    ).where(segments.c.transcript_id == store.row(job_id).transcript_id)
    with store.begin() as connection:
        return [tuple(row) for row in connection.execute(query.order_by(segments.c.number))]


def require_whole(browser: Browser, job_id: str) -> None:
    """Another process reads what this one has in memory, and the index of sentences agrees."""
    before = jobs.get_transcript(job_id)
    default_service().close()
    after = jobs.get_transcript(job_id)
    assert after == before
    assert indexed(job_id) == [
        (number, s.start, s.text.strip(), s.speaker) for number, s in enumerate(after.segments)
    ]


def test_an_edit_is_what_everybody_reads_and_the_original_stays(
    browser: Browser, job_id: str
) -> None:
    before = read(browser, job_id)
    answer = saved(browser, job_id, 0, text(2, "This is marmalade."))

    assert (answer["revision"], answer["n_segments"], answer["renamed"]) == (1, 6, {})
    assert [row["id"] for row in answer["segments"]] == [2]
    found = read(browser, job_id)
    assert found["revision"] == 1 and found["segments"][2] == answer["segments"][0]
    words = found["segments"][2]["words"]
    assert words[:2] == before["segments"][2]["words"][:2]
    assert (words[2]["word"], words[2]["start"], words[2]["probability"]) == (
        " marmalade.", 5.0, None,
    )  # fmt: skip
    assert read(browser, job_id, "?revision=0") == before
    assert [hit.job_id for hit in jobs.search("marmalade").hits] == [job_id]
    assert job_id not in {hit.job_id for hit in jobs.search("number2").hits}
    for query, word in (("", b"marmalade"), ("&revision=0", b"number2"), ("&revision=1", b"marm")):
        assert word in browser.ask("GET", f"/api/jobs/{job_id}/export?format=srt{query}").body
    require_whole(browser, job_id)
    back = saved(browser, job_id, 1, text(2, "This is number2."))
    assert back["segments"] == [before["segments"][2]]


def test_an_edit_that_changes_nothing_makes_no_revision(browser: Browser, job_id: str) -> None:
    answer = saved(browser, job_id, 0, text(1, " This  is number1."))
    assert (answer["revision"], answer["segments"]) == (0, [])


def test_an_edit_of_an_older_revision_is_refused_with_the_newest(
    browser: Browser, job_id: str
) -> None:
    saved(browser, job_id, 0, text(0, "First."))
    late = patch(browser, job_id, 0, text(0, "Second."))

    assert (late.status, late.error["code"], late.json["revision"]) == (412, "edited_elsewhere", 1)
    assert late.headers["etag"] == '"r1"' and "1" in late.error["message"]
    assert read(browser, job_id)["segments"][0]["text"] == " First."
    restore = f"/api/jobs/{job_id}/revisions/0/restore"
    assert browser.ask("POST", restore, if_match='"r0"').status == 412
    path = f"/api/jobs/{job_id}/transcript"
    assert browser.ask("PATCH", path, {"ops": []}).status == 428
    assert browser.ask("PATCH", path, {"ops": []}, if_match="*").status == 400
    bare = browser.ask("PATCH", path, {"ops": []}, if_match="r3")
    assert bare.status == 400 and 'If-Match: "r3"' in bare.error["message"]


def test_of_edits_at_the_same_time_one_is_saved(browser: Browser, job_id: str) -> None:
    def edit(number: int) -> bool:
        try:
            Editing(default_service()).edit(job_id, [text(0, f"Writer {number}.")], 0)
        except EditConflictError as error:
            assert error.revision == 1
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(edit, range(6))) == 1
    assert jobs.get_revision(job_id) == 1
    require_whole(browser, job_id)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ops": {}},
        {"ops": ["text"]},
        {"ops": [{"op": "text", "segment": 0, "text": "New"}, {"op": "text", "segment": 9}]},
        {"ops": [{"op": "merge", "segment": 0}, {"op": "text", "segment": 5, "text": "New"}]},
        {"ops": [{"op": "merge", "segment": 0}] * 1001},
    ],
)
def test_bad_edits_change_nothing(browser: Browser, job_id: str, body: Any) -> None:
    answer = browser.ask("PATCH", f"/api/jobs/{job_id}/transcript", body, if_match='"r0"')

    assert (answer.status, answer.error["code"]) == (400, "usage")
    deep = browser.send("PATCH", f"/api/jobs/{job_id}/transcript", b"[" * 200_000, if_match='"r0"')
    assert (deep.status, deep.error["code"]) == (400, "usage")
    assert "; " in answer.error["message"]
    assert read(browser, job_id)["revision"] == 0


def test_sentences_and_speakers_are_found_as_they_are_now(browser: Browser, job_id: str) -> None:
    answer = saved(
        browser,
        job_id,
        0,
        {"op": "split", "segment": 1, "word": 2},
        {"op": "rename", "from": "Speaker 1", "to": " Zoë "},
        {"op": "merge", "segment": 4},
        {"op": "speaker", "segments": [0], "speaker": "Ann"},
        text(5, "\ud800The\x00 end"),
    )

    assert [row["id"] for row in answer["segments"]] == [0, 1, 2, 4, 5]
    assert answer["renamed"] == {"Speaker 1": "Zoë"}
    assert [each["id"] for each in answer["speakers"]] == ["Ann", "Speaker 2", "Zoë"]
    found = read(browser, job_id)
    assert [row["text"] for row in found["segments"]] == [
        " This is number0.", " This is", " number1.", " This is number2.",
        " This is number3. This is number4.", " The end",
    ]  # fmt: skip
    assert found["speakers"] == answer["speakers"]
    assert {hit.job_id for hit in jobs.search("number2", speaker="zoë").hits} == {job_id}
    require_whole(browser, job_id)


def test_revisions_are_listed_and_restored_as_new_ones(browser: Browser, job_id: str) -> None:
    saved(browser, job_id, 0, text(0, "One."))
    saved(browser, job_id, 1, {"op": "merge", "segment": 0})
    listed = browser.read(f"/api/jobs/{job_id}/revisions")["revisions"]
    assert [each["revision"] for each in listed] == [2, 1, 0]
    times = [datetime.fromisoformat(each["created_at"]) for each in listed]
    assert all(each.utcoffset() == timedelta(0) for each in times)
    assert sorted(times, reverse=True) == times

    restored = browser.ask("POST", f"/api/jobs/{job_id}/revisions/1/restore", if_match='"r2"')

    assert restored.status == 200 and restored.headers["etag"] == '"r3"'
    assert restored.json == read(browser, job_id, "?revision=1") | {"revision": 3}
    require_whole(browser, job_id)
    browser.ask("POST", f"/api/jobs/{job_id}/revisions/0/restore")
    original = read(browser, job_id, "?revision=0")
    assert read(browser, job_id) == original | {"revision": 4}
    require_whole(browser, job_id)
    for path in ("transcript?revision=9", "export?revision=9"):
        missing = browser.ask("GET", f"/api/jobs/{job_id}/{path}")
        assert (missing.status, missing.error["code"]) == (404, "revision_not_found")
    assert browser.ask("GET", f"/api/jobs/{job_id}/transcript?revision=-1").status == 400


def test_the_newest_revisions_are_kept(browser: Browser, job_id: str) -> None:
    for number in range(KEPT + 2):
        Editing(default_service()).edit(job_id, [text(0, f"Edit {number}.")], number)

    listed = Editing(default_service()).history(job_id)
    assert [each.revision for each in listed] == [*range(KEPT + 2, 2, -1), 0]
    default_service().close()
    assert jobs.get_transcript(job_id, 3).segments[0].text == " Edit 2."
    with pytest.raises(RevisionNotFoundError):
        jobs.get_transcript(job_id, 2)


def test_changes_of_speakers_are_revisions_too(browser: Browser, job_id: str) -> None:
    saved(browser, job_id, 0, text(0, "One."))
    path = f"/api/jobs/{job_id}/speakers"
    renamed = browser.ask("POST", path, {"names": {"Speaker 1": "Ann", "Speaker 2": "Ben"}})
    assert renamed.json["revision"] == 2
    require_whole(browser, job_id)
    jobs.change_speakers(job_id, SpeakerChange(names={"Ann": "Ben", "Ben": "Ann"}))
    assert [s.speaker for s in jobs.get_transcript(job_id).segments] == ["Ben", "Ann"] * 3
    require_whole(browser, job_id)
    saved(browser, job_id, 3, text(3, ""))  # a sentence without text has no words, and no one
    jobs.change_speakers(job_id, SpeakerChange(merge=(("Ann", "Ben"),)))
    require_whole(browser, job_id)

    assert len(jobs.get_transcript(job_id).speakers) == 1
    assert jobs.get_transcript(job_id).text.startswith("One. This is number1.")
    assert [s.speaker for s in jobs.get_transcript(job_id, 0).segments[:2]] == [
        "Speaker 1", "Speaker 2",
    ]  # fmt: skip


def test_jobs_with_the_same_transcript_share_edits_and_the_last_takes_them(
    browser: Browser, job_id: str
) -> None:
    twin = stored(talk(), "/other.wav", of=job_id)
    saved(browser, job_id, 0, text(0, "Shared."))
    assert read(browser, twin)["segments"][0]["text"] == " Shared."

    def n_revisions() -> int:
        store = default_service().read_store()
        of_it = revisions.c.transcript_id == transcript_id
        with store.begin() as connection:
            query = sa.select(sa.func.count()).select_from(revisions).where(of_it)
            return int(connection.execute(query).scalar_one())

    transcript_id = default_service().read_store().row(job_id).transcript_id
    jobs.delete(job_id)
    assert n_revisions() == 1
    jobs.delete(twin)
    assert n_revisions() == 0
    with pytest.raises(JobNotFoundError):
        Editing(default_service()).history(twin)


def test_assistants_and_commands_read_the_newest_or_the_original(
    here: Place, browser: Browser, job_id: str
) -> None:
    saved(browser, job_id, 0, text(0, "Edited here."), text(5, "The end."))
    handlers = Handlers(AsyncService(default_service()))

    def page(form: str, cursor: str = "", **view: Any) -> dict[str, Any]:
        asked = handlers.result(View(job_id, form, **view), (cursor or None, 200), 0, unheard)
        return asdict(asyncio.run(asked))

    assert page("txt")["text"].startswith("Speaker 1: Edited here.")
    assert page("segments")["segments"][0]["text"] == " Edited here."
    assert page("txt", revision=0)["text"].startswith("Speaker 1: This is number0.")
    assert "number0" in page("segments", revision=0)["segments"][0]["text"]


def test_the_answer_to_the_same_file_is_the_original_on_all_pages(
    here: Place, browser: Browser
) -> None:
    job_id = stored(talk(900))
    before = jobs.get_transcript(job_id)
    saved(browser, job_id, 0, text(0, "Edited here, and longer than it was."))
    handlers = Handlers(AsyncService(default_service()))

    first = asdict(asyncio.run(handlers.finished_answer(jobs.get_job(job_id), ["txt"])))
    asked = handlers.result(View(job_id, "txt"), (first["next_cursor"], 100_000), 0, unheard)
    rest = asdict(asyncio.run(asked))

    assert first["text"] + rest["text"] == render(before, "txt")

    async def staying() -> Any:
        return await asyncio.Event().wait()

    client = Request({"type": "http"}, staying)
    job = jobs.get_job(job_id)
    uploaded_again = finished_transcript(handlers.service, client, cast(Job, job), {})
    assert asyncio.run(uploaded_again) == before


def test_an_edit_between_two_pages_loses_no_text(
    here: Place, browser: Browser, job_id: str
) -> None:
    handlers = Handlers(AsyncService(default_service()))
    before = render(jobs.get_transcript(job_id), "txt")

    def page(cursor: str | None) -> Any:
        asked = handlers.result(View(job_id, "txt"), (cursor, 60), 0, unheard)
        return asdict(asyncio.run(asked))

    first = page(None)
    saved(browser, job_id, 0, text(0, "Short."))
    texts, cursor = [first["text"]], first["next_cursor"]
    while cursor:
        following = page(cursor)
        texts.append(following["text"])
        cursor = following["next_cursor"]
    assert len(texts) > 1 and "".join(texts) == before
    assert page(None)["text"].startswith("Speaker 1: Short.")

    whole = asdict(asyncio.run(handlers.view_transcript(job_id, 0, None)))
    old = asdict(asyncio.run(handlers.view_transcript(job_id, 1, 0)))
    assert (whole["revision"], old["revision"]) == (1, 0)
    assert "Short." in whole["segments"][0]["text"] and len(old["segments"]) > 1


def test_the_command_line_shows_the_newest_or_the_original(
    here: Place, browser: Browser, job_id: str
) -> None:
    saved(browser, job_id, 0, text(0, "Edited here."))
    command = ["jobs", "show", job_id, "--format", "txt", "--quiet"]
    newest = CliRunner().invoke(app, command)
    original = CliRunner().invoke(app, [*command, "--original"])
    assert CliRunner().invoke(app, ["jobs", "show", job_id, "--original"]).exit_code == 2
    assert newest.stdout.startswith("Speaker 1: Edited here.")
    assert original.stdout.startswith("Speaker 1: This is number0.")


def test_word_documents_have_times_speakers_and_all_text(
    here: Place, browser: Browser, job_id: str
) -> None:
    saved(browser, job_id, 0, text(0, "<b>Edited</b> \ufffe & here."))
    path = f"/api/jobs/{job_id}/export?format=docx"
    offered = {each["name"] for each in browser.read("/api/config")["formats"]}
    if "docx" not in offered:
        answer = browser.ask("GET", path)
        assert (answer.status, answer.error["code"]) == (400, "usage")
        assert "transcribe-mcp[docx]" in answer.error["message"]
        pytest.skip("python-docx is not installed")
    import docx

    answer = browser.ask("GET", path)
    assert "wordprocessingml" in answer.headers["content-type"]
    lines = [each.text for each in docx.Document(io.BytesIO(answer.body)).paragraphs]
    assert lines[:3] == [
        "talk.wav",
        "[00:00:00] Speaker 1: <b>Edited</b> \ufffd & here.",
        "[00:00:02] Speaker 2: This is number1.",
    ]


SAVER = """
import sys
from transcribe_mcp.service.async_service import AsyncService
from transcribe_mcp.service.editing import Editing
from transcribe_mcp.service.formats import render
from transcribe_mcp.service.service import default_service
editing = Editing(default_service())
for number in range(1, 10_000):
    op = {"op": "text", "segment": 0, "text": f"Revision {number}."}
    print(editing.edit(sys.argv[1], [op], number - 1).revision, flush=True)
"""


def test_a_save_of_a_killed_process_is_there_whole_or_not_at_all(
    here: Place, browser: Browser, job_id: str
) -> None:
    """The process is killed right after it was told of a revision, while it saves the next one."""
    command = [sys.executable, "-c", SAVER, job_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as saver:
        assert saver.stdout is not None
        told = 0
        while told < 20:
            told = int(saver.stdout.readline())
        os.kill(saver.pid, signal.SIGKILL)
        told = max([told, *map(int, saver.stdout.read().split())])
        saver.wait(PATIENCE_S)

    newest = jobs.get_revision(job_id)
    assert told <= newest <= told + 1
    assert jobs.get_transcript(job_id).segments[0].text == f" Revision {newest}."
    require_whole(browser, job_id)
    saved(browser, job_id, jobs.get_revision(job_id), text(0, "After."))


def test_renamed_transcripts_of_version_3_become_originals(tmp_path: Path) -> None:
    with place(tmp_path) as here:
        job_id = stored(talk())
        default_service().close()
        fresh()
        with closing(sqlite3.connect(here.database)) as connection:
            connection.execute("DROP TABLE revisions")
            connection.execute("UPDATE transcripts SET revision = 2")
            connection.execute("UPDATE store_about SET value = '3' WHERE name = 'schema_version'")
            connection.commit()

        assert jobs.get_revision(job_id) == 0
        assert json.loads(jobs.get_transcript(job_id).dumps()) == json.loads(
            jobs.get_transcript(job_id, 0).dumps()
        )
