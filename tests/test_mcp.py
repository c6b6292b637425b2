"""The MCP server tested with the official client: stdio and HTTP, both eras of the protocol."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from job_places import Place
from mcp import types
from mcp_places import LEGACY, MODERN, Caller, Home, answer_of, calling, home, http_server, stdio
from whisper_nano import SPEECH

SNAPSHOT = Path(__file__).parent / "data" / "mcp_tools.json"
CONNECTIONS = ("stdio 2026", "stdio 2025", "http 2026", "http 2025")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with home(tmp_path_factory.mktemp("mcp")) as made:
        for name in ("en_0", "en_1", "es_0"):
            shutil.copy(SPEECH / f"{name}.flac", made.root)
        yield made


@pytest.fixture(scope="module")
def callers(place: Home) -> Iterator[dict[str, Caller]]:
    """Two stdio servers and one HTTP server at once, on one store; four clients."""
    with ExitStack() as stack:
        url = stack.enter_context(http_server(place))
        servers = {
            "stdio 2026": stdio(place),
            "stdio 2025": stdio(place),
            "http 2026": url,
            "http 2025": url,
        }
        yield {
            name: stack.enter_context(calling(server, MODERN if "2026" in name else LEGACY))
            for name, server in servers.items()
        }


@pytest.fixture(params=CONNECTIONS)
def caller(request: pytest.FixtureRequest, callers: dict[str, Caller]) -> Caller:
    return callers[request.param]


@pytest.fixture(scope="module")
def job(place: Home, callers: dict[str, Caller]) -> dict[str, Any]:
    """One recording, transcribed through one of the servers."""
    answer = callers["stdio 2026"].answer(
        "transcribe_audio", source=str(place.root / "en_0.flac"), wait_s=45
    )
    return (
        answer
        if answer["status"] == "completed"
        else callers["stdio 2026"].finished(answer["job_id"])
    )


def test_each_client_speaks_the_protocol_that_it_asked_for(callers: dict[str, Caller]) -> None:
    spoken = {name: caller.client.protocol_version for name, caller in callers.items()}
    assert all((version == MODERN) == ("2026" in name) for name, version in spoken.items()), spoken


def test_the_tools_are_those_of_the_snapshot(caller: Caller) -> None:
    listed = caller.portal.call(caller.client.list_tools).tools
    tools = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed]
    expected = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert tools == expected, "if the change is meant, run: python tests/test_mcp_docs.py"


def test_reading_tools_say_that_they_only_read_and_ending_ones_that_they_destroy(
    caller: Caller,
) -> None:
    hints = {
        tool.name: tool.annotations for tool in caller.portal.call(caller.client.list_tools).tools
    }
    reading = {name for name, hint in hints.items() if hint and hint.read_only_hint}
    ending = {name for name, hint in hints.items() if hint and hint.destructive_hint}
    assert reading == {
        "get_transcription_progress", "list_transcription_history", "search_transcripts",
        "list_models", "diagnose_system", "show_transcript",
    }  # fmt: skip
    assert ending == {"cancel_transcription", "delete_transcription"}
    assert all(hint and hint.idempotent_hint for name, hint in hints.items() if name not in reading)


def every_answer(
    caller: Caller, place: Home, job: dict[str, Any]
) -> Iterator[tuple[str, types.CallToolResult]]:
    """Every tool, called as it should be and as it should not."""
    job_id, source = job["job_id"], str(place.root / "en_1.flac")
    forced = caller.call("transcribe_audio", source=source, force=True, wait_s=0)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("transcribe_audio", {"source": source, "formats": ["srt", "json"], "wait_s": 45}),
        ("transcribe_audio", {"source": str(place.outside)}),
        ("transcribe_audio", {"source": source, "wait_s": "soon"}),
        ("batch_transcribe", {"sources": [str(place.root), "/nowhere"], "wait_s": 45}),
        ("get_transcription_progress", {"job_id": job_id}),
        ("get_transcription_result", {"job_id": job_id}),
        ("get_transcription_result", {"job_id": job_id, "format": "segments"}),
        ("get_transcription_result", {"job_id": "nobody's"}),
        ("list_transcription_history", {}),
        ("list_transcription_history", {"statuses": ["completed"], "days": 1, "limit": 1}),
        ("search_transcripts", {"query": "the"}),
        ("show_transcript", {"job_id": job_id}),
        ("name_speakers", {"job_id": job["job_id"], "names": ["Speaker 1=Anna"]}),
        ("search_transcripts", {"query": ""}),
        ("cancel_transcription", {"job_id": answer_of(forced)["job_id"]}),
        ("delete_transcription", {"job_id": answer_of(forced)["job_id"]}),
        ("list_models", {}),
        ("diagnose_system", {}),
    ]
    yield "transcribe_audio", forced
    yield from ((tool, caller.call(tool, **arguments)) for tool, arguments in calls)


def test_every_answer_is_one_text_and_a_status_in_it_is_that_of_a_job(
    caller: Caller, place: Home, job: dict[str, Any]
) -> None:
    seen = set()
    for tool, result in every_answer(caller, place, job):
        seen.add(tool)
        answer = answer_of(result)  # holds more
        assert result.is_error == (set(answer) == {"error"}), (tool, answer)
        if "error" in answer:
            assert (
                answer["error"]["code"] and answer["error"]["message"] and answer["error"]["hint"]
            )
    assert seen == {tool.name for tool in caller.portal.call(caller.client.list_tools).tools}


def test_a_refused_call_says_nothing_of_a_healthy_job(
    caller: Caller, place: Home, job: dict[str, Any]
) -> None:
    target = place.root / "there.txt"
    target.write_text("old", encoding="utf-8")
    for arguments, code in (
        ({"save_as": str(target)}, "output_exists"),
        ({"format": "docx"}, "unknown_name"),
        ({"format": "docx", "save_as": str(place.root / "new.docx")}, "unknown_name"),
        ({"cursor": "nonsense"}, "usage"),
        ({"start_s": 9, "end_s": 1}, "usage"),
    ):
        assert (
            caller.refusal("get_transcription_result", job_id=job["job_id"], **arguments)["code"]
            == code
        )
    target.unlink()
    waiting = caller.answer(
        "transcribe_audio", source=str(place.root / "es_0.flac"), force=True, wait_s=0
    )
    state = caller.answer("get_transcription_result", job_id=waiting["job_id"], wait_s=0)
    assert state["status"] in ("queued", "running", "completed") and "error" not in state
    caller.finished(waiting["job_id"])


def test_a_recording_that_fails_is_an_error_of_the_call_that_waited_for_its_text(
    caller: Caller, place: Home
) -> None:
    (place.root / "words.flac").write_text("no sound", encoding="utf-8")
    result = caller.call("transcribe_audio", source=str(place.root / "words.flac"))
    failed = answer_of(result)
    assert (
        result.is_error and failed["status"] == "failed" and failed["error"]["code"] == "not_media"
    )
    assert "force" not in json.dumps(failed) and "next_step" not in failed, "it can only fail again"
    result = caller.call("get_transcription_result", job_id=failed["job_id"])
    assert result.is_error and answer_of(result) == failed
    assert caller.answer("get_transcription_progress", job_id=failed["job_id"]) == failed


def test_a_recording_becomes_text_with_its_facts(
    job: dict[str, Any], caller: Caller, place: Home
) -> None:
    assert (job["status"], job["language"]) == ("completed", "en") and job["submitted"].startswith(
        "20"
    )
    assert job["duration_s"] == pytest.approx(9, abs=1)
    answer = caller.answer(
        "transcribe_audio", source=str(place.root / "en_0.flac"), formats=["vtt", "txt"]
    )
    assert answer["text"].startswith("WEBVTT")
    assert answer["resources"] == {
        form: f"transcript://{answer['job_id']}.{form}" for form in ("vtt", "txt")
    }


def test_all_servers_see_all_jobs_and_one_worker_does_them(
    callers: dict[str, Caller], place: Home
) -> None:
    pids = set()
    jobs = set()
    for name, caller in callers.items():
        source = place.root / f"{name}.flac"
        shutil.copy(SPEECH / "es_0.flac", source)
        started = caller.answer("transcribe_audio", source=str(source), force=True, wait_s=45)
        jobs.add(started["job_id"])
        pids.add(Place(place.data).worker_pid())
    assert len(pids) == 1 and None not in pids
    for caller in callers.values():
        listed = caller.answer("list_transcription_history", limit=100)["jobs"]
        assert jobs <= {line["job_id"] for line in listed}


def test_a_waiting_call_reports_progress(caller: Caller, place: Home) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    async def transcribe() -> types.CallToolResult:
        arguments = {"source": str(place.root / "es_0.flac"), "force": True, "wait_s": 45}
        return await caller.client.call_tool("transcribe_audio", arguments, progress_callback=hear)

    assert answer_of(caller.portal.call(transcribe))["status"] == "completed"
    assert heard and all(total == 100 and message for _, total, message in heard)
    assert [done for done, _, _ in heard] == sorted({done for done, _, _ in heard})


def test_a_result_waits_for_its_job_and_tells_how_far_it_is(caller: Caller, place: Home) -> None:
    """A long recording takes two calls: the first starts it, the second asks for its text."""
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async def result(job_id: str) -> types.CallToolResult:
        arguments = {"job_id": job_id, "format": "timed", "wait_s": 500}
        return await caller.client.call_tool(
            "get_transcription_result", arguments, progress_callback=hear
        )

    started = caller.answer(
        "transcribe_audio", source=str(place.root / "es_0.flac"), force=True, wait_s=0
    )
    assert "get_transcription_result" in started["next_step"]
    answer = answer_of(caller.portal.call(result, started["job_id"]))
    assert answer["status"] == "completed" and answer["text"].startswith("[0:0")
    assert heard == sorted(set(heard)) and heard


def test_a_call_that_does_not_wait_gives_the_id_and_the_job_goes_on(
    caller: Caller, place: Home
) -> None:
    started = caller.answer(
        "transcribe_audio", source=str(place.root / "en_1.flac"), force=True, wait_s=0
    )
    assert started["status"] in ("queued", "running")
    assert caller.finished(started["job_id"])["status"] == "completed"


def test_the_pages_of_a_transcript_joined_are_the_whole(
    caller: Caller, job: dict[str, Any]
) -> None:
    for form in ("txt", "json"):
        whole = caller.answer(
            "get_transcription_result", job_id=job["job_id"], format=form, max_chars=100_000
        )
        pages, cursor = [], None
        while True:
            page = caller.answer(
                "get_transcription_result",
                job_id=job["job_id"],
                format=form,
                max_chars=200,
                cursor=cursor,
            )
            pages.append(page["text"])
            cursor = page.get("next_cursor")
            if cursor is None:
                break
        assert "".join(pages) == whole["text"] and all(len(page) <= 200 for page in pages)
    assert len(pages) > 1


def test_segments_come_in_pages_and_by_time(caller: Caller, job: dict[str, Any]) -> None:
    def segments(**arguments: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = caller.answer(
                "get_transcription_result",
                job_id=job["job_id"],
                format="segments",
                cursor=cursor,
                **arguments,
            )
            found += page["segments"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return found

    whole = segments()
    assert segments(max_chars=200) == whole and len(whole) > 1
    assert segments(start_s=whole[1]["start"]) == whole[1:]
    assert segments(end_s=whole[0]["end"]) == whole[:1]


def test_a_result_is_written_to_a_new_file_and_never_over_an_old_one(
    caller: Caller, job: dict[str, Any], place: Home, request: pytest.FixtureRequest
) -> None:
    target = place.root / f"{request.node.callspec.id}.srt"
    answer = caller.answer(
        "get_transcription_result", job_id=job["job_id"], format="srt", save_as=str(target)
    )
    assert (
        answer["written"] == str(target)
        and answer["status"] == "completed"
        and "text" not in answer
    )
    written = target.read_text(encoding="utf-8")
    assert written.startswith("1\n00:00:")
    error = caller.refusal(
        "get_transcription_result", job_id=job["job_id"], format="srt", save_as=str(target)
    )
    assert error["code"] == "output_exists"
    source = place.root / "en_0.flac"
    before = source.read_bytes()
    caller.refusal(
        "get_transcription_result", job_id=job["job_id"], format="txt", save_as=str(source)
    )
    assert (target.read_text(encoding="utf-8"), source.read_bytes()) == (written, before)


def first_word(text: str) -> str:
    return text.split()[1]


def test_a_recording_that_is_asked_for_again_has_one_row_and_one_resource_with_its_date(
    caller: Caller, place: Home, request: pytest.FixtureRequest
) -> None:
    source = place.root / f"again {request.node.callspec.id}.flac"
    shutil.copy(SPEECH / "en_1.flac", source)
    first = caller.answer("transcribe_audio", source=str(source))
    first = caller.answer("get_transcription_result", job_id=first["job_id"])
    again = [caller.answer("transcribe_audio", source=str(source)) for _ in range(2)]
    assert {(each["job_id"], each["submitted"]) for each in again} == {
        (first["job_id"], first["submitted"])
    }
    batch = caller.answer("batch_transcribe", sources=[str(source)], wait_s=45)
    assert batch["status"] == "completed" and len(batch["jobs"]) == 1

    def rows() -> list[str]:
        return [
            row["job_id"]
            for row in caller.answer("list_transcription_history", source_contains=source.name)[
                "jobs"
            ]
        ]

    assert rows() == [first["job_id"]]
    found = caller.answer(
        "search_transcripts", query=first_word(first["text"]), source_contains=source.name
    )
    assert {hit["job_id"] for hit in found["hits"]} == {first["job_id"]}
    resources = caller.portal.call(caller.client.list_resources).resources
    (resource,) = [each for each in resources if each.name == source.name]
    assert f"of {first['submitted'][:10]}" in (resource.description or "")
    caller.answer("delete_transcription", job_id=first["job_id"])
    assert rows() == [], "what was deleted does not come back"


def test_what_was_said_is_found_with_its_time(caller: Caller, job: dict[str, Any]) -> None:
    page = caller.answer("get_transcription_result", job_id=job["job_id"], format="segments")
    sentence = page["segments"][0]
    hits = caller.answer("search_transcripts", query=f'"{sentence["text"].strip(" .")}"')["hits"]
    assert any(
        hit["text"].strip() == sentence["text"].strip() and hit["start"] == sentence["start"]
        for hit in hits
    )


def test_transcripts_are_resources_in_every_format(caller: Caller, job: dict[str, Any]) -> None:
    async def run() -> tuple[Any, Any, dict[str, str]]:
        listed = await caller.client.list_resources()
        templates = (await caller.client.list_resource_templates()).resource_templates
        read = {}
        for template in templates:
            uri = template.uri_template.replace("{job_id}", job["job_id"])
            (content,) = (await caller.client.read_resource(uri)).contents
            assert (
                isinstance(content, types.TextResourceContents)
                and content.mime_type == template.mime_type
            )
            read[uri] = content.text
        return listed, templates, read

    listed, templates, read = caller.portal.call(run)
    uri = f"transcript://{job['job_id']}"
    assert uri in {resource.uri for resource in listed.resources}
    assert len(templates) == 9
    text = caller.answer("get_transcription_result", job_id=job["job_id"])["text"]
    assert read[uri] == read[f"{uri}.txt"] == text
    assert (
        read[f"{uri}.vtt"].startswith("WEBVTT")
        and json.loads(read[f"{uri}.json"])["language"] == "en"
    )


def test_every_prompt_is_about_a_job_that_there_is(caller: Caller, job: dict[str, Any]) -> None:
    more = {
        "correct_with_vocabulary": {"vocabulary": "Fraser, Zürich"},
        "translate_subtitles": {"language": "Welsh"},
    }

    async def run(job_id: str) -> dict[str, str]:
        texts = {}
        for prompt in (await caller.client.list_prompts()).prompts:
            result = await caller.client.get_prompt(
                prompt.name, {"job_id": job_id, **more.get(prompt.name, {})}
            )
            (message,) = result.messages
            assert isinstance(message.content, types.TextContent)
            texts[prompt.name] = message.content.text
        return texts

    texts = caller.portal.call(run, job["job_id"])
    assert set(texts) == {
        "minutes",
        "action_items",
        "chapters",
        "correct_with_vocabulary",
        "translate_subtitles",
    }
    assert all(job["job_id"] in text and "follow no instruction" in text for text in texts.values())
    in_format = {
        name: re.findall(r"get_transcription_result \(format (\w+)\)", text)
        for name, text in texts.items()
    }
    timed = ("minutes", "action_items", "chapters", "correct_with_vocabulary")
    assert in_format == {**{name: ["timed"] for name in timed}, "translate_subtitles": ["srt"]}, (
        "what they ask for is there"
    )
    assert (
        "- Zürich" in texts["correct_with_vocabulary"] and "Welsh" in texts["translate_subtitles"]
    )
    with pytest.raises(Exception, match="no job"):
        caller.portal.call(run, "nobody's")


def test_a_cancelled_job_stops_and_a_deleted_one_is_forgotten(caller: Caller, place: Home) -> None:
    source = str(place.root / "en_1.flac")
    job_id = caller.answer("transcribe_audio", source=source, force=True, wait_s=0)["job_id"]
    assert caller.answer("cancel_transcription", job_id=job_id)["status"] in (
        "cancelled",
        "completed",
    )
    deleted = caller.answer("delete_transcription", job_id=job_id)
    assert (deleted["job_id"], deleted["deleted"], deleted.get("status")) == (job_id, True, None)
    assert caller.refusal("get_transcription_progress", job_id=job_id)["code"] == "job_not_found"
    assert caller.refusal("delete_transcription", job_id=job_id)["code"] == "job_not_found"
