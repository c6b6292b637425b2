"""What clients hear without asking, tasks, and the directories that a client works in; in the era
that has each.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from mcp import MCPError, types
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.session import ClientRequestContext
from mcp.client.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_places import LEGACY, MODERN, Caller, Home, answer_of, calling, home, http_server, stdio
from patience import PATIENCE_S
from whisper_nano import SPEECH

TASKS = "io.modelcontextprotocol/tasks"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with home(tmp_path_factory.mktemp("notices")) as made:
        shutil.copy(SPEECH / "en_0.flac", made.root)
        shutil.copy(SPEECH / "es_0.flac", made.outside)
        yield made


@pytest.fixture(scope="module")
def url(place: Home) -> Iterator[str]:
    with http_server(place) as address:
        yield address


@pytest.fixture(params=["stdio", "http"])
def server(request: pytest.FixtureRequest, place: Home, url: str) -> Any:
    return stdio(place) if request.param == "stdio" else url


def start(place: Home) -> dict[str, Any]:
    return {"source": str(place.root / "en_0.flac"), "force": True, "wait_s": 0}


def test_a_client_of_2026_hears_on_its_stream_when_a_transcript_comes_and_goes(
    server: Any, place: Home
) -> None:
    async def listen(client: Any) -> list[Any]:
        job_id = answer_of(await client.call_tool("transcribe_audio", start(place)))["job_id"]
        uri = f"transcript://{job_id}"
        heard: list[Any] = []
        async with client.listen(
            resources_list_changed=True, resource_subscriptions=[uri]
        ) as events:
            while ResourceUpdated(uri) not in heard or ResourcesListChanged() not in heard:
                heard.append(await asyncio.wait_for(anext(events), PATIENCE_S))
            heard.clear()
            await client.call_tool("delete_transcription", {"job_id": job_id})
            while ResourcesListChanged() not in heard:
                heard.append(await asyncio.wait_for(anext(events), PATIENCE_S))
        return heard

    with calling(server, MODERN) as caller:
        assert caller.portal.call(listen, caller.client)


@pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")  # the old way, on purpose
def test_a_client_of_2025_hears_on_its_connection(server: Any, place: Home) -> None:
    heard: list[str] = []
    news = asyncio.Event()

    async def hear(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            heard.append(str(message.params.uri))
        elif isinstance(message, types.ResourceListChangedNotification):
            heard.append("list")
        news.set()

    async def run(client: Any) -> str:
        job_id = answer_of(await client.call_tool("transcribe_audio", start(place)))["job_id"]
        uri = f"transcript://{job_id}"
        await client.subscribe_resource(uri)
        while uri not in heard or "list" not in heard:
            news.clear()
            await asyncio.wait_for(news.wait(), PATIENCE_S)
        await client.unsubscribe_resource(uri)
        return uri

    with calling(server, LEGACY, message_handler=hear) as caller:
        assert caller.client.server_capabilities.resources == types.ResourcesCapability(
            subscribe=True, list_changed=True
        )
        assert caller.portal.call(run, caller.client) in heard


# --- tasks ----------------------------------------------------------------------------------------


class Task(types.Result):
    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    ttl_ms: int | None
    poll_interval_ms: int


class TaskState(types.Result):
    task_id: str
    status: str
    result: dict[str, Any] | None = None


class TaskRequest(types.Request[Any, str]):
    method: str
    params: Any


class KnowsTasks(ClientExtension):
    """A client that takes a task for an answer and asks until it has the tool's own."""

    identifier = TASKS

    def __init__(self) -> None:
        self.created: list[Task] = []

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Task, resolve=self.resolve)]

    async def resolve(self, created: Task, context: ClaimContext) -> types.CallToolResult:
        self.created.append(created)
        while True:
            state = await ask(context.session, "tasks/get", created.task_id)
            if state.status != "working":
                return types.CallToolResult.model_validate(state.result or {"content": []})


async def ask(session: Any, method: str, task_id: str) -> TaskState:
    request = TaskRequest(method=method, params={"taskId": task_id})
    state: TaskState = await session.send_request(request, TaskState)
    return state


def in_session(caller: Caller, use: Callable[[Any], Awaitable[Any]]) -> Any:
    return caller.portal.call(use, caller.client.session)


def test_a_long_call_of_a_client_that_knows_tasks_is_a_task_and_the_task_is_the_job(
    url: str, place: Home
) -> None:
    knows = KnowsTasks()
    with calling(url, MODERN, extensions=[knows]) as caller:
        answer = answer_of(caller.call("transcribe_audio", **start(place)))
        (created,) = knows.created
        assert (created.status, created.ttl_ms, answer["status"]) == ("working", None, "completed")
        assert answer["job_id"] == created.task_id and answer["text"]
        progress = caller.answer("get_transcription_progress", job_id=created.task_id)
        assert progress["status"] == "completed"


def test_a_task_is_cancelled_as_the_job_that_it_is(url: str, place: Home) -> None:
    knows = KnowsTasks()
    with calling(url, MODERN, extensions=[knows]) as caller:
        job_id = caller.answer("transcribe_audio", **start(place))["job_id"]
        assert job_id
        in_session(caller, lambda session: ask_only(session, "tasks/cancel", job_id))
        in_session(caller, lambda session: ask_only(session, "tasks/update", job_id))
        state = in_session(caller, lambda session: ask(session, "tasks/get", job_id))
        assert state.status in ("completed", "cancelled")
        with pytest.raises(MCPError) as unknown:
            in_session(caller, lambda session: ask(session, "tasks/get", "nobody's"))
        assert unknown.value.error.code == types.INVALID_PARAMS


async def ask_only(session: Any, method: str, task_id: str) -> None:
    request = TaskRequest(method=method, params={"taskId": task_id, "inputResponses": {}})
    await session.send_request(request, types.EmptyResult)


def test_a_client_that_does_not_know_tasks_gets_none_and_may_not_ask_for_any(
    url: str, place: Home
) -> None:
    with calling(url, MODERN) as caller:
        answer = caller.answer("transcribe_audio", **start(place))
        assert answer["status"] in ("queued", "running")
        with pytest.raises(MCPError) as refused:
            in_session(caller, lambda session: ask(session, "tasks/get", answer["job_id"]))
        assert refused.value.error.code == types.MISSING_REQUIRED_CLIENT_CAPABILITY
        caller.finished(answer["job_id"])


def test_the_server_says_that_it_knows_tasks(url: str) -> None:
    for mode in (MODERN, "auto"):
        with calling(url, mode) as caller:
            extensions = caller.client.server_capabilities.extensions
            assert mode == MODERN or (extensions is not None and TASKS in extensions)


# --- the directories of a client ------------------------------------------------------------------


def roots_at(*folders: Path) -> Callable[[ClientRequestContext], Awaitable[types.ListRootsResult]]:
    async def list_roots(context: ClientRequestContext) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri=folder.as_uri()) for folder in folders])

    return list_roots


def unset(place: Home) -> Home:
    """The same store, with the home directory for a root and none set."""
    settings = {"ALLOWED_ROOTS": "", "DATA_DIR": str(place.data)}
    return Home(place.root, settings)


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
def test_a_client_on_this_machine_may_name_recordings_of_its_own_directories(
    tmp_path: Path, place: Home, mode: str
) -> None:
    elsewhere = place.outside / "es_0.flac"
    server = stdio(unset(place), HOME=str(place.root), USERPROFILE=str(place.root))
    with calling(server, mode, list_roots_callback=roots_at(place.outside)) as caller:
        for source in (str(elsewhere), "es_0.flac"):
            answer = caller.answer("transcribe_audio", source=source, wait_s=45)
            assert (answer["status"], answer["source"]) == ("completed", str(elsewhere))
        assert (
            caller.answer("batch_transcribe", sources=[str(place.outside)], wait_s=45)["counts"][
                "completed"
            ]
            == 1
        )
        assert (
            caller.refusal("transcribe_audio", source=str(tmp_path / "x.wav"))["code"]
            == "source_refused"
        )
    with calling(server, mode, list_roots_callback=roots_at(Path(place.root.anchor))) as caller:
        assert caller.refusal("transcribe_audio", source=str(elsewhere))["code"] == "source_refused"
        assert caller.answer("transcribe_audio", source=str(place.root / "en_0.flac"), wait_s=45)


def test_a_client_over_http_does_not_say_what_may_be_read(place: Home) -> None:
    with http_server(unset(place), HOME=str(place.root), USERPROFILE=str(place.root)) as address:
        for mode in (MODERN, LEGACY):
            with calling(address, mode, list_roots_callback=roots_at(place.outside)) as caller:
                refused = caller.refusal(
                    "transcribe_audio", source=str(place.outside / "es_0.flac")
                )
                assert refused["code"] == "source_refused"


def test_roots_of_a_client_do_not_widen_what_the_settings_allow(place: Home) -> None:
    with calling(stdio(place), LEGACY, list_roots_callback=roots_at(place.outside)) as caller:
        refused = caller.refusal("transcribe_audio", source=str(place.outside / "es_0.flac"))
        assert refused["code"] == "source_refused"
