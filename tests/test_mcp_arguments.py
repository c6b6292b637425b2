"""Arguments as clients send them, and schemas that every client takes."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mcp import MCPError, types
from mcp_places import MODERN, Caller, Home, answer_of, calling, home, stdio
from whisper_nano import SPEECH

from transcribe_mcp.compat import gather, make_plan
from transcribe_mcp.compat.env_build import with_source
from transcribe_mcp.errors import UsageError
from transcribe_mcp.frontends.mcp.answers import job_answer
from transcribe_mcp.frontends.mcp.hints import for_assistant, next_step
from transcribe_mcp.frontends.mcp.reading import read_arguments
from transcribe_mcp.frontends.mcp.tools import TOOLS
from transcribe_mcp.service.models import Job, JobFailure, JobStatus

SOURCE = Path(__file__).parents[1] / "src" / "transcribe_mcp"
TOKENS, CHARS_A_TOKEN = 3_500, 4
# Gemini refuses a server for any other keyword (exclusiveMinimum, $ref, additionalProperties,
# default, ...), OpenAI's strict mode for unions, and both for an object without properties.
KEYWORDS = {"type", "description", "properties", "required", "items", "enum"}
KINDS = {"object", "string", "number", "integer", "boolean", "array"}
FOREIGN = re.compile(
    r"(?<![\w-])--[a-z]|transcribe-mcp [a-z]|pydantic|validation error|input_value", re.IGNORECASE
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with home(tmp_path_factory.mktemp("arguments")) as made:
        shutil.copy(SPEECH / "en_0.flac", made.root)
        yield made


@pytest.fixture(scope="module")
def caller(place: Home) -> Iterator[Caller]:
    with calling(stdio(place), MODERN) as made:
        yield made


@pytest.fixture(scope="module")
def source(place: Home) -> str:
    return str(place.root / "en_0.flac")


@pytest.fixture(scope="module")
def job_id(caller: Caller, source: str) -> str:
    answer = caller.answer("transcribe_audio", source=source)
    return str(caller.finished(answer["job_id"])["job_id"])


def listed(caller: Caller) -> list[types.Tool]:
    return list(caller.portal.call(caller.client.list_tools).tools)


# --- schemas --------------------------------------------------------------------------------------


def test_the_list_of_tools_is_short(caller: Caller) -> None:
    tools = [
        tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed(caller)
    ]
    assert len(json.dumps({"tools": tools}, ensure_ascii=False)) <= TOKENS * CHARS_A_TOKEN


def schemas_in(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for each in (
        *schema.get("properties", {}).values(),
        *([schema["items"]] if "items" in schema else []),
    ):
        yield from schemas_in(each)


def test_schemas_hold_nothing_that_any_client_refuses(caller: Caller) -> None:
    for tool in listed(caller):
        assert tool.output_schema is None
        for schema in schemas_in(tool.input_schema):
            assert set(schema) <= KEYWORDS and schema["type"] in KINDS, (tool.name, schema)
            assert all(isinstance(value, str) and value for value in schema.get("enum", ["-"]))
            assert ("items" in schema) == (schema["type"] == "array")
            assert ("properties" in schema) == (schema["type"] == "object")
        assert (
            tool.input_schema["properties"]
            and set(tool.input_schema.get("required", ["-"])) != set()
        )
        assert all(each["description"] for each in tool.input_schema["properties"].values())


# --- what was not given ---------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, "", "  ", []])
def test_null_and_empty_are_not_given_in_every_optional_argument_of_every_tool(
    nothing: Any,
) -> None:
    for name, entry in TOOLS.items():
        optional = [each for each, (_, is_required) in entry.arguments.items() if not is_required]
        required = {each: "x" for each, (_, is_required) in entry.arguments.items() if is_required}
        given = {**required, **dict.fromkeys(optional, nothing)}
        assert set(read_arguments(name, given, entry.arguments)) == set(required), name
        for each in required:
            with pytest.raises(UsageError, match=f"{name} needs {each}"):
                read_arguments(name, {**given, each: nothing}, entry.arguments)


def test_a_client_that_fills_everything_with_null_is_served(
    caller: Caller, source: str, job_id: str
) -> None:
    given: dict[str, dict[str, Any]] = {
        "transcribe_audio": {"source": source},
        "batch_transcribe": {"sources": [source], "wait_s": 45},
        "get_transcription_progress": {"job_id": job_id},
        "get_transcription_result": {"job_id": job_id},
        "show_transcript": {"job_id": job_id},
        "search_transcripts": {"query": "soup"},
        "name_speakers": {"job_id": job_id},
    }
    for tool in listed(caller):
        if tool.name in ("cancel_transcription", "delete_transcription"):
            continue
        nulls = dict.fromkeys(tool.input_schema["properties"])
        assert caller.answer(tool.name, **{**nulls, **given.get(tool.name, {})})


# --- what is meant --------------------------------------------------------------------------------


def test_numbers_and_lists_as_text_and_other_spellings_are_taken(
    caller: Caller, source: str, job_id: str
) -> None:
    answer = caller.answer(
        "transcribe_audio", source=source, formats="SRT, json", vocabulary="Fraser, Zürich",
        force="false",
        diarize=0, wait_s="45 s", task=" Transcribe ", language="en-US",
    )  # fmt: skip
    assert answer["text"].startswith("1\n00:00:") and list(answer["resources"]) == ["srt", "json"]
    page = caller.answer(
        "get_transcription_result", jobId=job_id, max_chars="200", format=".timed", start_s="0:03"
    )
    assert page["text"].startswith("[0:03]") or page["text"].startswith("[0:00]")
    assert (
        len(
            caller.answer(
                "list_transcription_history", limit="1", statuses="Completed", days="1.5"
            )["jobs"]
        )
        == 1
    )
    assert caller.answer("batch_transcribe", sources=json.dumps([source]), wait_s="45")["jobs"]


def test_names_that_are_too_long_are_refused_in_words(
    caller: Caller, place: Home, source: str, job_id: str
) -> None:
    name = "n" * 300
    failed = caller.call("transcribe_audio", source=source, model=name)
    assert answer_of(failed)["error"]["code"] == "unknown_name"
    target = str(place.root / f"{name}.txt")
    error = caller.refusal("get_transcription_result", job_id=job_id, save_as=target)
    assert error["code"] == "output" and error["hint"].startswith("shorten")


def test_times_of_subtitles_are_times(caller: Caller, job_id: str) -> None:
    plain = caller.answer("get_transcription_result", job_id=job_id, start_s=1.5)
    assert caller.answer("get_transcription_result", job_id=job_id, start_s="00:00:01,500") == plain


def test_a_number_of_speakers_is_never_replaced_by_another(
    caller: Caller, source: str, job_id: str
) -> None:
    unknown = caller.answer("transcribe_audio", source=source, speakers=0, min_speakers="0")
    assert unknown["job_id"] == job_id and "speakers" not in unknown
    assert "at least 1" in caller.refusal("transcribe_audio", source=source, speakers=-2)["hint"]


@pytest.mark.parametrize("arguments", ['{"cached_only": true}', "", "[]", [], None])
def test_arguments_may_be_an_object_as_text_or_nothing(caller: Caller, arguments: Any) -> None:
    assert answer_of(sent(caller, "list_models", arguments))["models"] is not None


@pytest.mark.parametrize("arguments", ["tiny", 5, ["tiny"], True])
def test_arguments_that_are_no_object_are_refused_with_the_way_out(
    caller: Caller, arguments: Any
) -> None:
    with pytest.raises(MCPError, match=r"arguments is .*; give an object"):
        sent(caller, "list_models", arguments)


def sent(caller: Caller, tool: str, arguments: Any) -> types.CallToolResult:
    """The result of a call whose arguments are sent as they are."""

    async def send() -> types.CallToolResult:
        params = types.CallToolRequestParams.model_construct(name=tool, arguments=arguments)
        request = types.CallToolRequest.model_construct(method="tools/call", params=params)
        return await caller.client.session.send_request(request, types.CallToolResult)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydantic, on values of another type
        return caller.portal.call(send)


def test_speakers_of_a_transcript_without_any_cannot_be_named(caller: Caller, job_id: str) -> None:
    error = caller.refusal("name_speakers", job_id=job_id, names="A=B")
    assert "no speakers" in error["message"] and "diarize: true" in error["hint"]


def test_a_search_that_is_limited_says_so_if_nothing_is_found(caller: Caller, job_id: str) -> None:
    assert "speaker" not in caller.answer("search_transcripts", query="zyzzyva")["note"]
    note = caller.answer("search_transcripts", query="zyzzyva", speaker="Anna")["note"]
    assert "leave out speaker" in note


def test_a_batch_without_any_text_names_no_call_for_it(caller: Caller, place: Home) -> None:
    missing = caller.answer("batch_transcribe", sources=[str(place.root / "missing.wav")])
    assert missing["counts"] == {"refused": 1} and "next_step" not in missing


@pytest.mark.parametrize(
    ("wait_s", "waits"), [(-5, 0.0), (60, 45.0), ("600", 45.0), (10**400, 45.0), ("1:00", 45.0)]
)
def test_a_wait_beyond_what_clients_tolerate_is_shortened(wait_s: Any, waits: float) -> None:
    arguments = TOOLS["transcribe_audio"].arguments
    assert (
        read_arguments("transcribe_audio", {"source": "a", "wait_s": wait_s}, arguments)["wait_s"]
        == waits
    )


@pytest.mark.parametrize(
    "extra",
    [
        {"tool": "x", "toolCallId": "call_1"},
        {"sessionId": "s", "action": "sendMessage", "chatInput": "hello"},
        {"tool_call_id": "x", "session_id": "s", "_meta": {}, "__user__": {}},
        {"request_heartbeat": True, "security_risk": "low"},
        {"unheard_of": None},
    ],
)
def test_bookkeeping_of_known_clients_is_dropped(
    caller: Caller, job_id: str, extra: dict[str, Any]
) -> None:
    for tool, arguments in (
        ("get_transcription_progress", {"job_id": job_id}),
        ("list_models", {"cached_only": True}),
    ):
        result = caller.portal.call(caller.client.call_tool, tool, {**arguments, **extra})
        assert not result.is_error, result.content


@pytest.mark.parametrize(
    ("tool", "arguments", "message", "hint"),
    [
        ("transcribe_audio", {"path": "a.mp3"}, "no argument 'path'", "did you mean source?"),
        (
            "transcribe_audio",
            {"source": "a", "langauge": "de"},
            "no argument 'langauge'",
            "did you mean language?",
        ),
        ("get_transcription_result", {"id": "x"}, "no argument 'id'", "did you mean job_id?"),
        (
            "search_transcripts",
            {"query": "a", "nonsense": 1},
            "no argument 'nonsense'",
            "arguments: query, ",
        ),
        ("transcribe_audio", {}, "needs source", "Path of an audio"),
        ("transcribe_audio", {"source": "a", "wait_s": "soon"}, 'wait_s is "soon"', "seconds"),
        ("transcribe_audio", {"source": "a", "wait_s": True}, "wait_s is true", "seconds"),
        (
            "transcribe_audio",
            {"source": "a", "task": "translte"},
            "task is 'translte'",
            "did you mean translate?",
        ),
        ("transcribe_audio", {"source": {"a": 1}}, 'source is {"a": 1}', "one text"),
        (
            "transcribe_audio",
            {"source": "a", "force": "maybe"},
            'force is "maybe"',
            "true or false",
        ),
        ("list_transcription_history", {"limit": 2.5}, "limit is 2.5", "whole number"),
        ("list_transcription_history", {"days": 0}, "days is 0", "above 0"),
        ("list_transcription_history", {"statuses": ["done"]}, "statuses is 'done'", "completed"),
        ("batch_transcribe", {"sources": 5}, "sources is 5", "list of texts"),
        ("transcribe", {}, "no tool 'transcribe'", "did you mean transcribe_audio?"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_way_out(
    caller: Caller, tool: str, arguments: dict[str, Any], message: str, hint: str
) -> None:
    error = caller.refusal(tool, **arguments)
    assert (
        message in error["message"]
        and hint in error["hint"]
        and not FOREIGN.search(json.dumps(error))
    ), error


def test_a_message_that_quotes_what_looks_like_an_option_is_kept(caller: Caller) -> None:
    assert caller.refusal("say --now")["message"] == "there is no tool 'say --now'"


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.just("9" * 5000)
    | st.sampled_from(["null", "[", '["a"]', "1:2:3", "-1", "1e999", "inf", "nan", "\0", "０"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(data=st.data(), tool=st.sampled_from(sorted(TOOLS)))
def test_hostile_arguments_are_read_or_refused_in_words(data: st.DataObject, tool: str) -> None:
    arguments = TOOLS[tool].arguments
    names = st.sampled_from(sorted(arguments)) | st.text(max_size=12)
    given_values = data.draw(st.dictionaries(names, VALUES, max_size=4))
    assume(not FOREIGN.search(json.dumps(given_values)))  # messages quote what was given
    try:
        read = read_arguments(tool, given_values, arguments)
    except UsageError as error:
        assert error.hint and not FOREIGN.search(f"{error} {error.hint}")
        return
    for name, value in read.items():
        argument, _ = arguments[name]
        if isinstance(value, float | int) and not isinstance(value, bool):
            assert argument.least <= value <= argument.most


@pytest.mark.parametrize("value", ["x" * 5000, {"a": []}, [[1]], -1, 1e308, True, "\u202e"])
def test_no_tool_answers_odd_values_with_anything_but_words(caller: Caller, value: Any) -> None:
    for tool in listed(caller):
        if tool.name in ("list_models", "diagnose_system"):
            continue
        for name in tool.input_schema["properties"]:
            needed = dict.fromkeys(tool.input_schema.get("required", []), "gone")
            if "wait_s" in tool.input_schema["properties"]:
                needed["wait_s"] = 0
            result = caller.call(tool.name, **{**needed, name: value})
            answer = answer_of(result)
            if "error" in answer and "status" not in answer:
                assert answer["error"]["code"] not in ("error", "store") and answer["error"]["hint"]
                assert not FOREIGN.search(json.dumps(answer["error"])), answer


# --- this machine ---------------------------------------------------------------------------------


def test_models_say_what_a_default_run_needs_and_what_is_not_known(caller: Caller) -> None:
    answer = caller.answer("list_models")
    models = {model["name"]: model for model in answer["models"]}
    assert {model["fits"] for model in models.values()} <= {"yes", "no", "unknown"}
    assert all(("needs_gb" in model) == (model["fits"] != "unknown") for model in models.values())
    assert (
        0.4
        < models["tiny"]["needs_gb"]
        < models["small"]["needs_gb"]
        < models["large-v3"]["needs_gb"]
        < 20
    )
    assert models["tiny"]["needs_gb"] < 2, "not that of the largest batch that fits"
    assert models["large-v1"]["fits"] == "unknown" and answer["runs_on"]


def test_a_diagnosis_has_a_plan_only_for_a_problem_and_installs_this_program_from_its_source(
    caller: Caller,
) -> None:
    answer = caller.answer("diagnose_system", details=True)
    wrong = any(finding["severity"] not in ("ok", "info") for finding in answer["findings"])
    assert ("plan" in answer) == wrong and answer["report"] and answer["fit"] == (not wrong)
    commands = [step.command for step in with_source(make_plan(gather())).steps]
    installing = [command for command in commands if "ctranslate2" in command]
    assert installing and all(str(SOURCE.parents[1]) in command for command in installing)
    assert not any(" transcribe-mcp " in command for command in commands)


# --- words ----------------------------------------------------------------------------------------


def test_the_next_step_leads_out_of_waiting_and_never_to_what_can_only_fail_again() -> None:
    queued = Job("a" * 26, "talk.mp3", JobStatus.QUEUED)
    stuck = replace(
        queued, waiting_for="no worker: out of memory; next try in 8 s; see transcribe-mcp doctor"
    )
    answer = job_answer(stuck)
    assert "diagnose_system" in (answer.next_step or "") and not FOREIGN.search(
        answer.waiting_for or "--none"
    )
    assert "get_transcription_result" in (next_step(queued) or "")
    for code, leads_on in {
        "not_media": False,
        "source_too_large": False,
        "worker_failed": True,
        "download": True,
    }.items():
        failed = replace(queued, status=JobStatus.FAILED, error=JobFailure(code, "it failed"))
        assert ("starts again" in (next_step(failed) or "")) == leads_on, code


def hints_in_the_source() -> set[str]:
    """Every text of the package that names an option or a command of the command line in what may
    be a hint.
    """
    found = set()
    for path in SOURCE.rglob("*.py"):
        if "compat" in path.parts or path.name in (
            "arguments.py",
            "serving.py",
            "cli.py",
            "mcp_hints.py",
        ):
            continue
        for text in re.findall(r'"([^"\n]*)"', path.read_text(encoding="utf-8")):
            if FOREIGN.search(text):
                found.add(text)
    return found


def test_an_assistant_is_never_told_of_options_of_the_command_line() -> None:
    hints = hints_in_the_source()
    assert any("--device cpu" in hint for hint in hints), "the search finds them"
    left = {hint: for_assistant(hint) for hint in hints}
    assert not {hint: words for hint, words in left.items() if FOREIGN.search(words)}
    assert (
        for_assistant("use a smaller model, or --device cpu")
        == "use a smaller model; see list_models"
    )
    assert for_assistant("do this; or add --unheard-of option, then that") == "do this; then that"
