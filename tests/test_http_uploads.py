"""Uploads without a worker: forms of every kind, what is kept of them, and for how long."""

from __future__ import annotations

import base64
import hashlib
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from asgi import Answer, ask
from http_clients import form
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_http_guard import all_routes

from transcribe_mcp.frontends.host import Address
from transcribe_mcp.frontends.http.guard import Guard
from transcribe_mcp.frontends.http.server import build_app
from transcribe_mcp.frontends.http.uploads import shown_name
from transcribe_mcp.frontends.mcp.answers import job_answer
from transcribe_mcp.frontends.mcp.server import http_app
from transcribe_mcp.jobs.uploads import name_of
from transcribe_mcp.service.async_service import AsyncService
from transcribe_mcp.service.models import Job
from transcribe_mcp.service.service import Service
from transcribe_mcp.settings import Settings

URL = "/v1/audio/transcriptions"
MAX_BYTES = 1_000_000
LEFT = 499  # ``ask`` leaves after its upload, and the job stays


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(
        Settings(
            data_dir=tmp_path_factory.mktemp("uploads"),
            start_workers=False,
            max_file_gib=MAX_BYTES / 1024**3,
            max_queue_length=20,
        )
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def app(service: Service) -> Guard:
    shared = AsyncService(service)
    return build_app(shared, http_app, Address())


@pytest.fixture(autouse=True)
def emptied(service: Service) -> Iterator[None]:
    """Every test ends without jobs, and so without uploads."""
    yield
    delete_all(service)
    assert kept(service) == []


def delete_all(service: Service) -> None:
    """Jobs that several requests wait for, too."""
    for job in service.list_jobs(limit=500).jobs:
        service.cancel(job.job_id, for_all=True)
        service.delete(job.job_id)


def kept(service: Service) -> list[Path]:
    return sorted((service.settings.data_dir / "uploads").glob("*"))


def upload(
    app: Guard, recording: bytes | None, name: str = "a.wav", **fields: str | Sequence[str]
) -> Answer:
    body, content_type = form(recording, name, **fields)
    return ask(app, "POST", URL, body, content_type=content_type)


def job_of(answer: Answer) -> str:
    assert answer.status == LEFT, answer
    return answer.headers["x-transcribe-mcp-job"]


def test_an_upload_is_named_by_its_content_and_readable_by_its_owner_only(
    app: Guard, service: Service
) -> None:
    recording = b"RIFF" + bytes(1000)
    job = service.get_job(job_of(upload(app, recording, "My talk.WAV")))
    path = Path(getattr(job, "source", ""))
    assert path == kept(service)[1]
    assert path.name == f"{hashlib.sha256(recording).hexdigest()}.wav"
    assert path.read_bytes() == recording and name_of(str(path)) == "My talk.WAV"
    assert isinstance(job, Job) and job_answer(job).source == "My talk.WAV"  # for assistants too
    if sys.platform != "win32":
        modes = {stat.S_IMODE(each.stat().st_mode) for each in (*kept(service), path.parent)}
        assert modes == {0o600, 0o700}


def test_the_same_bytes_are_one_file_and_one_job(app: Guard, service: Service) -> None:
    """Clients send an upload again after an error, perhaps under another name."""
    first = job_of(upload(app, b"abc", "a.wav"))
    path = kept(service)[1]
    before = path.stat().st_mtime_ns
    assert job_of(upload(app, b"abc", "b.mp3")) == first
    assert [each for each in kept(service) if each.suffix != ".name"] == [path]
    assert path.stat().st_mtime_ns == before and name_of(str(path)) == "b.mp3"
    assert job_of(upload(app, b"abc", language="en")) != first  # other options
    assert job_of(upload(app, b"abd")) != first
    assert len(service.list_jobs().jobs) == 3


def test_an_upload_goes_with_the_last_job_that_names_it(app: Guard, service: Service) -> None:
    jobs = [job_of(upload(app, b"abc")), job_of(upload(app, b"abc", language="en"))]
    service.delete(jobs[0])
    assert len(kept(service)) == 2
    service.delete(jobs[1])
    assert kept(service) == []
    again = job_of(upload(app, b"abc"))  # its file has the same time, so that jobs stay equal
    assert job_of(upload(app, b"abc")) == again


def test_a_full_queue_is_refused_for_now_and_keeps_nothing(app: Guard, service: Service) -> None:
    for number in range(20):
        job_of(upload(app, b"%d" % number))
    refused = upload(app, b"one more")
    assert (refused.status, refused.error["code"]) == (429, "queue_full")
    assert refused.headers["retry-after"] == "10" and "x-should-retry" not in refused.headers
    assert "TRANSCRIBE" not in refused.error["message"]
    assert len(kept(service)) == 40
    job_of(upload(app, b"0"))  # joins its job, which has room


# --- forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 3, 5, 8, 30, 60, 90, 100])
def test_a_body_that_was_cut_off_is_refused_and_leaves_nothing(
    app: Guard, service: Service, cut: int
) -> None:
    body, content_type = form(b"abc" * 10, language="en")
    answer = ask(app, "POST", URL, body[:-cut], content_type=content_type)
    if cut == 1 or cut == 2:  # the end of the form is there; only a line break is missing
        job_of(answer)
        return
    assert (answer.status, answer.error["param"]) == (400, "file")
    assert "ended before" in answer.error["message"] or "no file" in answer.error["message"]
    assert kept(service) == [] and service.list_jobs().jobs == ()


def test_a_body_may_come_in_pieces_of_any_size(app: Guard) -> None:
    body, content_type = form(b"\r\n--x\r" * 20 + b"abc", language="en", prompt="a\r\n--b")
    whole = job_of(ask(app, "POST", URL, body, content_type=content_type))
    for size in (1, 7, 64):
        pieces = [body[i : i + size] for i in range(0, len(body), size)]
        assert job_of(ask(app, "POST", URL, pieces, content_type=content_type)) == whole


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"{}", "application/json", "multipart/form-data"),
        (b"file=abc", "application/x-www-form-urlencoded", "multipart/form-data"),
        (b"", "", "multipart/form-data"),
        (b"--x--\r\n", "multipart/form-data", "multipart/form-data"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", "no file"),
        (b"garbage", "multipart/form-data; boundary=x", "ended before"),
        (b"--x\r\n\r\nabc\r\n--x--\r\n", "multipart/form-data; boundary=x", "ended before"),
        (form(b"", language="en")[0], "multipart/form-data; boundary=x", "empty"),
        (form(None, language="en")[0], "multipart/form-data; boundary=x", "no file"),
    ],
)
def test_a_body_without_a_recording_is_refused_in_words(
    app: Guard, body: bytes, content_type: str, words: str
) -> None:
    answer = ask(app, "POST", URL, body, content_type=content_type)
    assert (answer.status, answer.error["param"]) == (400, "file")
    assert words in answer.error["message"]


def test_two_recordings_or_too_many_fields_are_refused(app: Guard) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n'
    many = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 201
    huge = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + bytes(25 << 20)
    for body, status in ((part * 2, 400), (many, 400), (huge + b"\r\n", 413)):
        answer = ask(
            app, "POST", URL, body + b"--x--\r\n", content_type="multipart/form-data; boundary=x"
        )
        assert answer.status == status and "; send " in answer.error["message"]


def test_a_form_that_cannot_be_read_is_in_no_log(
    app: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    for body in (b"--y\r\n", b"\x1f\x8b", b"--x\nContent-Disposition: form-data\n\nabc\n--x--\n"):
        answer = ask(app, "POST", URL, body, content_type="multipart/form-data; boundary=x")
        assert answer.status == 400
    assert caplog.messages == []


def test_a_recording_without_a_name_is_taken(app: Guard, service: Service) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--x--\r\n'
    job_of(ask(app, "POST", URL, part, content_type="multipart/form-data; boundary=x"))
    (path,) = kept(service)
    assert path.suffix == ".bin" and name_of(str(path)) == ""


def test_a_recording_that_is_too_large_is_refused_before_it_is_read(
    app: Guard, service: Service
) -> None:
    body, content_type = form(b"abc")
    answer = ask(app, "POST", URL, [], content_type=content_type, content_length=str(5 * 1024**3))
    assert (answer.status, answer.error["code"]) == (413, "source_too_large")
    assert f"size limit ({MAX_BYTES}) exceeded" in answer.error["message"]
    unannounced = [body[:-9], *[bytes(1 << 20)] * 28]
    assert ask(app, "POST", URL, unannounced, content_type=content_type).status == 413
    assert kept(service) == []


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("a.wav", "a.wav"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\Talk.MP3", "Talk.MP3"),
        ("=?utf-8?B?SsO8cmdlbi53YXY=?=", "Jürgen.wav"),
        ("=?utf-8?Q?../J=C3=BCrgen.wav?=", "Jürgen.wav"),
        ("=?no-such-charset?B?SsO8?=", "=?no-such-charset?B?SsO8?="),
        ("Ünïcödé – 会議.m4a", "Ünïcödé – 会議.m4a"),
        ("<img src=x onerror=alert(1)>.wav", "<img src=x onerror=alert(1)>.wav"),
        ("a\u202egpj.wav", "agpj.wav"),
        ("a\x00b\x1b[31m.wav", "ab[31m.wav"),
        ("Ingolf" * 100 + ".flac", ("Ingolf" * 100)[:190] + ".flac"),
        ("", ""),
        ("..", ".."),
    ],
)
def test_names_are_only_for_showing(written: str, shown: str) -> None:
    assert shown_name(written.encode()) == shown
    assert shown_name("Jürgen.wav".encode("latin-1")) == "Jürgen.wav"


def test_no_name_leads_out_of_the_folder(app: Guard, service: Service, tmp_path: Path) -> None:
    before = sorted(service.settings.data_dir.parent.rglob("*.evil"))
    for name in ("../../x.evil", "/tmp/x.evil", "..\\x.evil", ".", "..", "a/../../b.evil", "\\"):
        job_of(upload(app, name.encode(), name))
    found = [path for path in kept(service) if path.suffix != ".name"]
    assert all(len(path.stem) == 64 and path.is_file() for path in found) and len(found) == 7
    assert sorted(service.settings.data_dir.parent.rglob("*.evil")) == sorted(
        path for path in found if path.suffix == ".evil"
    )
    assert before == []


# --- fields ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("model", "no-such-model", "model_not_found"),
        ("model", "/etc", "model_not_found"),
        ("model", "x" * 300, "model_not_found"),
        ("model", "../data", "model_not_found"),
        ("model", ".", "model_not_found"),
        ("model", "large-v3", "model_not_found"),  # not on this machine
        ("language", "klingon", "unknown_name"),
        ("temperature", "1.1", "usage"),
        ("temperature", "-0.1", "usage"),
        ("temperature", "nan", "usage"),
        ("temperature", "hot", "usage"),
        ("response_format", "xml", "unsupported_value"),
        ("timestamp_granularities__", "phoneme", "unsupported_value"),
        ("include__", "logprobs", "unsupported_value"),
        ("known_speaker_names__", "Anna", "invalid_value"),
        ("known_speaker_references__", "data:audio/wav;base64,AAAA", "invalid_value"),
        ("stream", "maybe", "usage"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_field(
    app: Guard, service: Service, field: str, value: str, code: str
) -> None:
    answer = upload(app, b"abc", **{field: value})
    param = field.removesuffix("__")
    assert (answer.error["code"], answer.error["param"]) == (code, param), answer
    assert answer.status == (404 if code == "model_not_found" else 400)
    assert service.list_jobs().jobs == () and kept(service) == []


@pytest.mark.parametrize("nothing", ["null", "undefined", " None "])
def test_a_value_that_a_script_does_not_have_is_not_given(
    app: Guard, service: Service, nothing: str
) -> None:
    names = ("model", "language", "temperature", "response_format", "stream")
    job = job_of(upload(app, b"abc", **dict.fromkeys(names, nothing), prompt="undefined"))
    plain = job_of(upload(app, b"abc", prompt="undefined", response_format="JSON"))
    other = job_of(upload(app, b"abc"))
    assert plain == job != other, "a prompt may be any word"


def test_every_field_reaches_the_job(app: Guard, service: Service) -> None:
    fields = {
        "model": "tiny.en",
        "language": "en-US",
        "prompt": "Hello, world.",
        "keywords__": "Kubernetes",
        "hotwords": "Anna, Ben ,",
        "temperature": "0.4",
        "response_format": "diarized_json",
        "chunking_strategy[type]": "server_vad",
    }
    job = service.get_job(job_of(upload(app, b"abc", **fields)))
    options = getattr(job, "options", None)
    assert options is not None and options.model == "tiny.en" and options.language == "en"
    assert options.prompt == "Hello, world." and options.temperatures == (0.4,)
    assert options.vocabulary == ("Kubernetes", "Anna", "Ben") and options.diarize


CLIPS = [f"data:audio/wav;base64,{base64.b64encode(clip).decode()}" for clip in (b"one", b"two")]


def upload_with(app: Guard, names: Sequence[str], clips: Sequence[str], **fields: str) -> Answer:
    """An upload with known speakers."""
    shown = {"response_format": "diarized_json", **fields}
    known = {"known_speaker_names__": names, "known_speaker_references__": clips}
    return upload(app, b"abc", **known, **shown)


def test_clips_of_known_speakers_belong_to_their_job(app: Guard, service: Service) -> None:
    first = job_of(upload_with(app, ["Anna", "Ben"], CLIPS))
    assert job_of(upload_with(app, ["Anna", "Ben"], CLIPS)) == first
    swapped = job_of(upload_with(app, ["Ben", "Anna"], CLIPS))
    unnamed = job_of(upload(app, b"abc", response_format="diarized_json"))
    assert len({first, swapped, unnamed}) == 3
    clips = [path for path in kept(service) if path.name.startswith("voice-")]
    assert [path.read_bytes() for path in clips] in ([b"one", b"two"], [b"two", b"one"])
    assert not (service.settings.data_dir / "voices.json").exists()
    service.cancel(first, for_all=True)
    service.delete(first)
    assert set(clips) < set(kept(service))
    service.delete(swapped)
    assert len(service.list_jobs().jobs) == 1 and set(clips).isdisjoint(kept(service))


@pytest.mark.parametrize(
    ("names", "clips", "fields"),
    [
        (["Anna"], CLIPS, {}),
        (["Anna", "Ben"], CLIPS[:1], {}),
        ([], CLIPS, {}),
        (["A", "B", "C", "D", "E"], CLIPS[:1] * 5, {}),
        (["Anna", "anna"], CLIPS, {}),
        (["all", "Ben"], CLIPS, {}),
        (["Anna"], ["https://example.com/anna.wav"], {}),
        (["Anna"], ["data:audio/wav;base64,=!"], {}),
        (["Anna"], ["data:audio/wav;base64,"], {}),
        (["Anna"], CLIPS[:1], {"response_format": "json"}),
    ],
)
def test_known_speakers_that_cannot_be_are_refused(
    app: Guard, service: Service, names: list[str], clips: list[str], fields: dict[str, str]
) -> None:
    answer = upload_with(app, names, clips, **fields)
    assert answer.status == 400 and answer.error["param"].startswith("known_speaker_"), answer
    assert service.list_jobs().jobs == () and kept(service) == []


@pytest.mark.parametrize("model", ["", "whisper-1", "gpt-4o-transcribe", "default", "auto"])
def test_names_of_hosted_models_mean_the_default(app: Guard, service: Service, model: str) -> None:
    usual = service.get_job(job_of(upload(app, b"abc")))
    same = service.get_job(job_of(upload(app, b"abc", model=model, temperature="0", language="")))
    assert usual.job_id == same.job_id


def test_fields_without_effect_are_named(app: Guard) -> None:
    body, content_type = form(b"abc", vad_filter="true", user="me", ünknown="1", languages__="de")
    twice = body.replace(b"--x--", b'--x\r\nContent-Disposition: form-data; name="languages[]"'
                                   b"\r\n\r\nen\r\n--x--")  # fmt: skip
    answer = ask(app, "POST", URL, twice, content_type=content_type)
    ignored = answer.headers["x-transcribe-mcp-ignored"].split(", ")
    assert ignored == ["vad_filter", "user", "?nknown", "languages"]
    assert "x-transcribe-mcp-ignored" not in upload(app, b"abc", chunking_strategy="auto").headers


# --- anything -------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["file", "model", "language", "languages[]", "prompt", "keywords[]", "hotwords", "temperature",
     "response_format", "timestamp_granularities[]", "stream", "include[]", "chunking_strategy",
     "x", "", "a[b][c]", "audio_file"]
)  # fmt: skip
VALUES = st.sampled_from(
    ["", "en", "xx", "true", "1", "0.5", "json", "word", "whisper-1", "tiny.en", "../x", "\0", "é",
     "x" * 5000, "../../etc/passwd"]
) | st.text(max_size=20)  # fmt: skip
FORMS = st.lists(st.tuples(NAMES, VALUES, st.none() | VALUES), max_size=8)


def built(parts: list[tuple[str, str, str | None]], ending: bytes) -> bytes:
    lines = []
    for name, value, file_name in parts:
        more = "" if file_name is None else f'; filename="{file_name}"'
        lines.append(
            f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'
        )
    return "".join(lines).encode("utf-8", "replace") + ending


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_request_breaks_the_server(app: Guard, service: Service, data: st.DataObject) -> None:
    routes = [*all_routes(app.app.routes), ("GET", "/v1/nothing")]
    method, path = data.draw(st.sampled_from([("POST", URL), *routes]))
    if path == "/mcp":  # the SDK's own
        return
    parts = data.draw(FORMS)
    body = built(parts, data.draw(st.sampled_from([b"--x--\r\n", b"--x--", b"--x", b"", b"\xff"])))
    kind = data.draw(st.sampled_from(["multipart/form-data; boundary=x", "text/plain", "é", ""]))
    headers = {"content_type": kind, "content_length": data.draw(st.sampled_from(["0", "-1", "é"]))}
    answer = ask(app, method, path, body, **headers)
    assert answer.status < 500, answer
    delete_all(service)
