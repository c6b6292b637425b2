"""``/v1/audio`` of a real server, with the official client and with requests of others."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi import Answer
from http_clients import CLIENTS, connected, form, post, recorded, send
from job_places import Place
from mcp_places import Home, home, http_server
from media import write_audio
from patience import PATIENCE_S, until
from whisper_nano import NON_SPEECH, SPEECH

from transcribe_mcp import Transcript
from transcribe_mcp.frontends.http.asr import detected
from transcribe_mcp.frontends.http.refusals import Refused
from transcribe_mcp.media.decode import read
from transcribe_mcp.service.service import Service
from transcribe_mcp.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import openai

URL = "/v1/audio/transcriptions"
CLIP = SPEECH / "en_0.flac"
FORMATS = ("json", "text", "srt", "vtt", "verbose_json", "diarized_json")
NUMBERS = {"id", "seek", "start", "end", "temperature", "avg_logprob", "compression_ratio",
           "no_speech_prob"}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with home(tmp_path_factory.mktemp("audio")) as made:
        yield made


@pytest.fixture(scope="module")
def url(place: Home) -> Iterator[str]:
    with http_server(place) as address:
        yield address.removesuffix("/mcp")


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="sk-x", max_retries=2, timeout=PATIENCE_S
    ) as made:
        yield made


@pytest.fixture(scope="module")
def jobs(place: Home) -> Iterator[Service]:
    """The jobs of the server."""
    made = Service(Settings(data_dir=place.data, start_workers=False))
    yield made
    made.close()


def ask(url: str, path: Path = CLIP, **fields: str) -> Answer:
    return post(url, URL, *form(path.read_bytes(), path.name, **fields))


@pytest.fixture(scope="module")
def said(url: str) -> str:
    """The text of the clip."""
    text = ask(url, response_format="text").body.decode()
    assert len(text.split()) > 3
    return text.removesuffix("\n")


# --- the official client --------------------------------------------------------------------------


def test_the_official_client_gets_every_format(client: openai.OpenAI, said: str) -> None:
    found: dict[str, Any] = {}
    for name in FORMATS:
        with CLIP.open("rb") as file:
            found[name] = client.audio.transcriptions.create(
                file=file, model="whisper-1", response_format=name, chunking_strategy="auto"
            )
    assert found["json"].text == found["verbose_json"].text == found["diarized_json"].text == said
    assert found["text"].strip() == said
    assert found["srt"].startswith("1\n00:00:0") and found["vtt"].startswith("WEBVTT\n")
    verbose = found["verbose_json"]
    assert verbose.language == "english" and verbose.duration > 4 and verbose.words is None
    assert "".join(each.text for each in verbose.segments).strip() == said
    speakers = {each.speaker for each in found["diarized_json"].segments}
    assert speakers and all(re.fullmatch(r"[A-Z]+|unknown", speaker) for speaker in speakers)


def test_the_official_client_gets_words_and_segments(client: openai.OpenAI, said: str) -> None:
    def ask_for(*granularities: Any) -> Any:
        return client.audio.transcriptions.create(
            file=("a.flac", CLIP.read_bytes()),
            model="gpt-4o-transcribe",
            response_format="verbose_json",
            timestamp_granularities=list(granularities),
        )

    both = ask_for("word", "segment")
    assert [each.word for each in both.words] == said.split()
    assert all(before.end <= after.start for before, after in pairwise(both.words))
    assert both.segments
    words = ask_for("word")
    assert words.words == both.words and words.segments is None


def test_every_number_of_a_segment_is_one(url: str) -> None:
    for path in (CLIP, SPEECH / "de_0.flac"):
        answer = ask(url, path, response_format="verbose_json").json
        assert answer["usage"] == {"type": "duration", "seconds": answer["duration"]}
        assert answer["task"] == "transcribe" and isinstance(answer["warnings"], list)
        for segment in answer["segments"]:
            assert all(isinstance(segment[name], int | float) for name in NUMBERS)
            assert segment["tokens"] == [] and segment["text"].startswith(" ")


def test_the_official_client_translates(client: openai.OpenAI, url: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name in ("json", "text", "verbose_json"):
            found: Any = client.audio.translations.create(
                file=("de.flac", (SPEECH / "de_0.flac").read_bytes()), model="whisper-1",
                response_format=name,
            )  # fmt: skip
            if name == "verbose_json":
                assert found.language == "english"
    body, content_type = form(CLIP.read_bytes(), response_format="diarized_json")
    refused = post(url, "/v1/audio/translations", body, content_type)
    assert refused.status == 400 and refused.json["error"]["param"] == "response_format"


def test_the_official_client_raises_its_errors_after_one_request(
    client: openai.OpenAI, jobs: Service
) -> None:
    before = len(jobs.list_jobs(limit=500).jobs)
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.transcriptions.create(file=("a.wav", b"no recording"), model="whisper-1")
    error = refused.value
    assert (error.code, error.param, error.type) == ("not_media", "file", "invalid_request_error")
    assert error.request_id and "uploads" not in str(error)
    assert len(jobs.list_jobs(limit=500).jobs) == before + 1
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        client.audio.transcriptions.create(file=CLIP.read_bytes(), model="no-such-model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("Systran/faster-whisper-none")


def test_the_official_client_lists_models(client: openai.OpenAI, url: str) -> None:
    names = [model.id for model in client.models.list()]
    assert {"whisper-1", "gpt-4o-transcribe-diarize"} <= set(names)
    assert client.models.retrieve("whisper-1").owned_by == "local"
    listed = send(url, b"GET /v1/models/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert [row["id"] for row in listed.json["data"]] == names


# --- other clients --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIENTS, ids=lambda path: path.stem)
def test_requests_of_other_clients_are_answered(url: str, name: Path, said: str) -> None:
    reply = send(url, recorded(name, CLIP.read_bytes()))
    assert reply.status == 200, reply.body
    assert reply.json["text"].strip() == said
    if name.stem == "subtitle-edit":
        assert reply.json["segments"] and reply.json["words"]


def test_nothing_heard_is_an_empty_text_in_every_format(url: str) -> None:
    silence = NON_SPEECH / "00_silence.flac"
    for name in FORMATS:
        reply = ask(url, silence, response_format=name)
        assert reply.status == 200, reply.body
        if "json" in name:
            assert reply.json["text"] == "" and not reply.json.get("segments")
        assert reply.headers["content-type"].startswith(
            "application/json" if "json" in name else ("text/", "application/x-subrip")
        )


# --- a request is a job ---------------------------------------------------------------------------


def test_a_client_that_leaves_is_answered_when_it_comes_back(url: str, jobs: Service) -> None:
    path = SPEECH / "en_1.flac"
    body, content_type = form(path.read_bytes(), path.name, prompt="A new question.")
    head = (
        f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    before = {job.job_id for job in jobs.list_jobs(limit=500).jobs}
    with connected(url) as connection:
        connection.sendall(head + body)
        until(lambda: len(jobs.list_jobs(limit=500).jobs) > len(before), "the job is there")
    (job,) = [job for job in jobs.list_jobs(limit=500).jobs if job.job_id not in before]
    assert jobs.wait_for(job.job_id, PATIENCE_S).status == "completed"
    reply = post(url, URL, body, content_type)
    assert reply.status == 200 and reply.headers["x-transcribe-mcp-job"] == job.job_id


def test_two_uploads_of_the_same_bytes_at_once_are_one_job(url: str, jobs: Service) -> None:
    with ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(lambda _: ask(url, prompt="All at once."), range(4)))
    assert {reply.status for reply in replies} == {200}
    ids = {reply.headers["x-transcribe-mcp-job"] for reply in replies}
    assert len(ids) == 1 and len({reply.body for reply in replies}) == 1


def test_a_connection_that_ends_in_the_middle_leaves_nothing(
    url: str, jobs: Service, place: Home
) -> None:
    before = (len(jobs.list_jobs(limit=500).jobs), len(list(place.data.glob("uploads/*"))))
    body, content_type = form(CLIP.read_bytes(), prompt="Cut off.")
    head = (
        f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    with connected(url) as connection:
        connection.sendall(head + body[:-100])
        until(lambda: list(place.data.glob("uploads/new-*")), "the server reads it")
    until(lambda: not list(place.data.glob("uploads/new-*")), "nothing of it is left")
    assert before == (len(jobs.list_jobs(limit=500).jobs), len(list(place.data.glob("uploads/*"))))


def test_an_upload_that_is_too_large_is_refused_unread(url: str) -> None:
    head = (
        f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x"
        f"\r\nContent-Length: {6 * 1024**3}\r\nExpect: 100-continue\r\n\r\n"
    )
    reply = send(url, head.encode())
    assert reply.status == 413 and reply.json["error"]["code"] == "source_too_large"


def test_no_text_and_no_key_reaches_a_log(place: Home, said: str) -> None:
    """After all requests of a server with a token."""
    token = "a-token-0123456789abcdef"
    lines: list[str] = []
    with http_server(place, log=lines, TRANSCRIBE_MCP_TOKEN=token) as address:
        url = address.removesuffix("/mcp")
        body, content_type = form(CLIP.read_bytes(), "<b>name</b>.flac", prompt="Secret prompt.")
        assert post(url, URL, body, content_type).status == 401
        key = f"Authorization: Bearer {token}"
        assert said in post(url, URL, body, content_type, key).json["text"]
        assert post(url, URL, body[:-50], content_type, key).status == 400
        post(url, URL, *form(b"no recording", model="whisper-1"), key)
    log = "".join(lines) + Place(place.data).log()
    assert not [text for text in (token, said, "Secret prompt", "<b>") if text in log]
    assert "Traceback" not in log


def test_answers_are_utf_8_without_escapes_that_break(url: str) -> None:
    reply = ask(url, SPEECH / "de_0.flac", language="German")
    assert reply.headers["content-type"] == "application/json"
    assert json.loads(reply.body.decode("utf-8"))["languages"] == [{"code": "de"}]


# --- streaming ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech of several windows, so that the text grows."""
    path = tmp_path_factory.mktemp("long") / "long.flac"
    clips = [read(SPEECH / f"en_{number}.flac") for number in range(5)] * 3
    return write_audio(path, "flac", np.concatenate(clips))


def events(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    """(name, data) of each event; comments are left out."""
    found = []
    for block in body.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            name, data = (line.partition(": ")[2] for line in lines)
            found.append((name, json.loads(data)))
    return found


def test_the_deltas_of_the_official_client_are_the_text(
    client: openai.OpenAI, long_clip: Path
) -> None:
    with long_clip.open("rb") as file:
        stream = client.audio.transcriptions.create(
            file=file, model="gpt-4o-transcribe", stream=True, language="en"
        )
        found: list[Any] = list(stream)
    *deltas, done = found
    assert done.type == "transcript.text.done" and len(done.text.split()) > 50
    assert {each.type for each in deltas} == {"transcript.text.delta"}
    assert "".join(each.delta for each in deltas) == done.text


def test_events_have_names_times_and_speakers(url: str, said: str) -> None:
    reply = ask(url, stream="true", response_format="diarized_json")
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-accel-buffering"] == "no" and reply.headers["x-transcribe-mcp-job"]
    found = events(reply.body)
    assert all(name == data["type"] for name, data in found)
    deltas = [data["delta"] for name, data in found if name == "transcript.text.delta"]
    segments = [data for name, data in found if name == "transcript.text.segment"]
    name, done = found[-1]
    assert name == "transcript.text.done" and "".join(deltas) == done["text"] == said
    assert [each["text"] for each in segments] == [each["text"] for each in done["segments"]]
    assert all(each["speaker"] for each in segments)
    assert [each["start"] for each in segments] == [each["start"] for each in done["segments"]]


def test_an_error_after_the_head_is_raised_by_the_official_client(client: openai.OpenAI) -> None:
    stream = client.audio.transcriptions.create(
        file=("a.wav", b"no recording, streamed"), model="whisper-1", stream=True
    )
    with pytest.raises(openai.APIError, match="not audio or video"):
        list(stream)


def test_a_client_that_leaves_a_stream_leaves_the_job(
    url: str, jobs: Service, long_clip: Path
) -> None:
    body, content_type = form(long_clip.read_bytes(), stream="true", prompt="Left behind.")
    head = f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
    with connected(url) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        first = b""
        while b"x-transcribe-mcp-job: " not in first:
            first += connection.recv(1)  # one byte at a time
    (job,) = (one for one in jobs.list_jobs(limit=1).jobs)
    assert job.options.prompt == "Left behind."
    assert jobs.wait_for(job.job_id, PATIENCE_S).status == "completed"


# --- /asr -----------------------------------------------------------------------------------------


def ask_asr(url: str, path: str, recording: bytes, name: str = "Film é.mkv") -> Answer:
    body, content_type = form(recording, name)
    body = body.replace(b'name="file"', b'name="audio_file"')
    return post(url, path, body, content_type)


@pytest.mark.parametrize("output", ["txt", "vtt", "srt", "tsv", "json"])
def test_asr_answers_in_every_format_as_a_file(url: str, said: str, output: str) -> None:
    reply = ask_asr(url, f"/asr?output={output}&language=en&vad_filter=true", CLIP.read_bytes())
    assert reply.status == 200, reply.body
    name = reply.headers["content-disposition"]
    assert name == f"attachment; filename*=utf-8''Film%20%C3%A9.{output}"
    if output == "json":
        assert reply.json["text"] == said and reply.json["language"] == "en"
        assert reply.json["segments"] and reply.json["words"]
        return
    text = reply.body.decode()
    assert said.split()[0] in text
    assert text.startswith({"vtt": "WEBVTT", "srt": "1\n", "tsv": "start\t"}.get(output, said[:5]))


def test_bazarr_sends_samples_without_a_header(url: str, said: str) -> None:
    samples = (read(CLIP) * 32767).astype("<i2").tobytes()
    reply = ask_asr(
        url, "/asr?task=transcribe&language=en&output=srt&encode=false&video_file=x", samples
    )
    assert reply.status == 200 and said.split()[1] in reply.body.decode(), reply.body
    found = ask_asr(url, "/detect-language?encode=false&video_file=x", samples).json
    assert (found["detected_language"], found["language_code"]) == ("english", "en")
    assert 0.5 < found["confidence"] <= 1


def test_a_model_of_one_language_detects_none() -> None:
    transcript = Transcript((), 1.0, "en", None, "e", "tiny.en", "cpu", "int8")
    with pytest.raises(Refused) as refused:
        detected(transcript, {})
    error = json.loads(bytes(refused.value.response.body))["error"]
    assert error["code"] == "unsupported_task" and "tiny.en supports English only" in str(error)
    silence = replace(transcript, language=None)
    assert detected(silence, {})["language_code"] == ""


def test_what_asr_cannot_do_is_refused_in_words(url: str) -> None:
    for query, param in (
        ("output=docx", "output"),
        ("language=klingon", "language"),
        ("encode=perhaps", "encode"),
    ):
        reply = ask_asr(url, f"/asr?{query}", CLIP.read_bytes())
        assert (reply.status, reply.json["error"]["param"]) == (400, param), reply.body
    wrong_field = post(url, "/asr", *form(CLIP.read_bytes()))
    assert wrong_field.status == 400 and "audio_file" in wrong_field.json["error"]["message"]
