"""One guard before every route: Host, Origin, token."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from asgi import ask
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from transcribe_mcp.errors import UsageError
from transcribe_mcp.frontends.host import Address
from transcribe_mcp.frontends.http.guard import SESSION_COOKIE, Area, Guard
from transcribe_mcp.frontends.http.models import find_model
from transcribe_mcp.frontends.http.refusals import Refused
from transcribe_mcp.frontends.http.server import build_app
from transcribe_mcp.frontends.http.sessions import Sessions
from transcribe_mcp.frontends.mcp.server import http_app
from transcribe_mcp.service.async_service import AsyncService
from transcribe_mcp.service.service import Service
from transcribe_mcp.settings import Settings, settings

TOKEN = "a-token-0123456789abcdef"
OBSIDIAN = "app://obsidian.md"
# None of them has anything in it that is anyone's.
PUBLIC = {"/health", "/", "/t/job_id", "/search", "/static", "/static/x", "/api/session"}


def server(data_dir: Path, token: str, *origins: str) -> Guard:
    service = AsyncService(Service(Settings(data_dir=data_dir, cache_dir=data_dir / "cache")))
    address = Address(allowed_origins=origins)
    return build_app(service, http_app, address, token, Sessions(token))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    return server(tmp_path_factory.mktemp("guarded"), TOKEN, OBSIDIAN)


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    return server(tmp_path_factory.mktemp("open"), "")


def all_routes(routes: Sequence[BaseRoute], before: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route of an application; parameters are filled in."""
    for route in routes:
        assert isinstance(route, Route | WebSocketRoute | Mount), route
        path = before + route.path.replace("{path:path}", "x").replace("{", "").replace("}", "")
        path = path.replace(":path", "")
        if isinstance(route, Mount):
            yield "GET", f"{path}/x"
            yield from all_routes(route.routes or (), path)
        elif isinstance(route, WebSocketRoute):
            yield "WEBSOCKET", path
        else:
            yield from ((method, path) for method in route.methods or ("GET", "POST", "DELETE"))


def test_every_route_is_behind_the_guard(guarded: Guard) -> None:
    found = list(all_routes(guarded.app.routes))
    paths = {path for _, path in found}
    assert {"/mcp", "/v1/models", "/v1/models/name", "/asr", "/api/jobs"} <= paths
    assert paths | {"/static"} >= PUBLIC
    for method, path in [*found, ("GET", "/nothing"), ("WEBSOCKET", "/nothing")]:
        key = {"authorization": f"Bearer {TOKEN}"}
        assert ask(guarded, method, path, host="evil.test", **key).status == 421, path
        assert ask(guarded, method, path, origin="http://evil.test", **key).status == 403, path
        if path not in PUBLIC:
            answer = ask(guarded, method, path)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key"), path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert ask(guarded, method, path, authorization=f"Bearer {TOKEN}x").status == 401, path


def test_a_refusal_says_which_check_failed_and_has_an_id(guarded: Guard) -> None:
    host = ask(guarded, "GET", "/v1/models", host="evil.test", origin="http://evil.test")
    origin = ask(guarded, "GET", "/v1/models", origin="http://evil.test")
    assert (host.error["code"], origin.error["code"]) == ("invalid_host", "invalid_origin")
    for answer in (host, origin):
        assert answer.error["type"] == "invalid_request_error" and answer.error["param"] is None
        assert answer.error["message"] and answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer  {TOKEN}"},
        {"api_key": TOKEN},
        {"x_api_key": TOKEN},
        {"authorization": "Bearer wrong", "x_api_key": TOKEN},
        {"sec_websocket_protocol": f"realtime, openai-insecure-api-key.{TOKEN}"},
    ],
)
def test_the_token_opens_wherever_a_client_puts_it(guarded: Guard, headers: dict[str, str]) -> None:
    assert ask(guarded, "GET", "/nothing", **headers).status == 404
    cookie = f"{SESSION_COOKIE}={TOKEN}"
    assert ask(guarded, "GET", "/nothing", cookie=cookie).status == 401
    for query in (f"?token={TOKEN}", f"?api_key={TOKEN}", f"?api-key={TOKEN}"):
        assert ask(guarded, "GET", f"/nothing{query}").status == 401


@given(st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=40))
def test_no_other_key_opens(guarded: Guard, key: str) -> None:
    for headers in ({"authorization": key}, {"authorization": f"Bearer {key}"}, {"api_key": key}):
        assert ask(guarded, "GET", "/nothing", **headers).status == 401


def test_without_a_token_any_key_is_accepted_and_none(open_server: Guard) -> None:
    """Some clients insist on sending one."""
    assert ask(open_server, "GET", "/nothing").status == 404
    assert ask(open_server, "GET", "/nothing", authorization="Bearer sk-x").status == 404


def test_without_a_token_transcripts_still_need_a_session(open_server: Guard) -> None:
    for headers in ({}, {"authorization": "Bearer sk-x"}, {"cookie": f"{SESSION_COOKIE}=x"}):
        assert ask(open_server, "GET", "/api/jobs", **headers).status == 401, headers


def test_unknown_paths_and_methods_are_refused_in_the_shape_of_openai(open_server: Guard) -> None:
    unknown = ask(open_server, "GET", "/v1/nothing")
    assert (unknown.status, unknown.error["code"]) == (404, "not_found")
    other = ask(open_server, "POST", "/health")
    assert (other.status, other.error["code"]) == (405, "method_not_allowed")
    assert "GET" in other.headers["allow"]


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_request_that_the_server_stops_is_refused_until_its_answer_begins(
    has_begun: bool,
) -> None:
    """uvicorn cancels requests that are under way when it stops."""

    async def slow(_scope: Scope, _receive: Receive, send: Send) -> None:
        if has_begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise asyncio.CancelledError

    app = Guard(Starlette(routes=[Mount("/", slow)]), [Area("/x", is_public=True)], Address())
    answer = ask(app, "POST", "/x", b"unread", content_length="6")
    if has_begun:
        assert (answer.status, answer.body) == (200, b""), "uvicorn has closed the connection"
    else:
        assert (answer.status, answer.error["code"]) == (503, "stopping")


def test_health_answers_without_a_token(guarded: Guard) -> None:
    answer = ask(guarded, "GET", "/health")
    assert answer.status == 200 and b'"status":"ok"' in answer.body


def test_models_here_come_before_the_names_of_hosted_ones(open_server: Guard) -> None:
    answer = ask(open_server, "GET", "/v1/models").json
    names = [row["id"] for row in answer["data"]]
    assert answer["object"] == "list" and {"tiny.en", "whisper-1", "default"} <= set(names)
    assert names.index("tiny.en") < names.index("whisper-1") and len(names) == len(set(names))
    for name in ("tiny.en", "whisper-1"):
        row = ask(open_server, "GET", f"/v1/models/{name}").json
        assert row in answer["data"] and set(row) == {"id", "object", "created", "owned_by"}
        assert row["object"] == "model" and isinstance(row["created"], int)
    for name in ("nothing", "openai/whisper-nothing", "../x", str(Path.home())):
        refused = ask(open_server, "GET", f"/v1/models/{name}")
        assert (refused.status, refused.error["code"]) == (404, "model_not_found")
    away = ask(open_server, "GET", "/v1/models/large-v3")
    with pytest.raises(Refused) as same:
        find_model("large-v3")
    assert (away.status, away.body) == (404, bytes(same.value.response.body))
    assert "models pull large-v3" in away.error["message"]


# --- pages of other origins -----------------------------------------------------------------------

PREFLIGHT = {
    "access_control_request_method": "POST",
    "access_control_request_headers": "authorization,x-stainless-os",
    "access_control_request_private_network": "true",
}


def test_a_page_of_an_allowed_origin_may_use_the_api_and_nothing_else(guarded: Guard) -> None:
    asked = ask(guarded, "OPTIONS", "/v1/models", origin=OBSIDIAN, **PREFLIGHT)
    assert asked.status == 200
    assert asked.headers["access-control-allow-origin"] == OBSIDIAN
    assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
    assert asked.headers["access-control-allow-private-network"] == "true"
    refused = ask(guarded, "GET", "/v1/models", origin=OBSIDIAN)  # the page can read why
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == OBSIDIAN
    for path in ("/mcp", "/health", "/", "/api/jobs"):
        assert ask(guarded, "OPTIONS", path, origin=OBSIDIAN, **PREFLIGHT).status == 403, path
        assert ask(guarded, "GET", path, origin=OBSIDIAN).status == 403, path


def test_a_page_of_another_origin_may_not(guarded: Guard, open_server: Guard) -> None:
    for app in (guarded, open_server):
        for origin in ("null", "app://obsidian.md.evil", "app://other", "https://obsidian.md"):
            assert ask(app, "OPTIONS", "/v1/models", origin=origin, **PREFLIGHT).status == 403
    assert ask(open_server, "OPTIONS", "/v1/models", origin=OBSIDIAN, **PREFLIGHT).status == 403


@pytest.mark.parametrize("origin", ["*", "null", "obsidian.md", "http://", "http://a.test/"])
def test_an_allowed_origin_is_an_origin(origin: str) -> None:
    with pytest.raises(UsageError, match="not an origin"):
        Address(allowed_origins=(origin,))


# --- areas ----------------------------------------------------------------------------------------


def test_the_longest_area_counts_and_a_session_opens_only_what_takes_it() -> None:
    areas = [Area("/api/*", takes_session=True), Area("/api/session", is_public=True), Area("/")]
    sessions = Sessions(TOKEN)
    app = Guard(Starlette(), areas, Address(), TOKEN, sessions)
    session = f"other=1; {SESSION_COOKIE}={sessions.begin(TOKEN)}"
    assert ask(app, "POST", "/api/session").status == 404  # no such route here, but no 401
    assert ask(app, "POST", "/api/session/x").status == 401
    assert ask(app, "GET", "/api/jobs").status == 401
    assert ask(app, "GET", "/api/jobs", cookie=session).status == 404
    assert ask(app, "GET", "/api/jobs", cookie=f"{SESSION_COOKIE}=none").status == 401
    assert ask(app, "GET", "/api/jobs", cookie="=;;\x01").status == 401
    assert ask(app, "GET", "/v1/models", cookie=session).status == 401


def test_the_token_that_was_made_for_the_page_opens_only_its_api() -> None:
    sessions = Sessions()
    areas = [Area("/api/*", takes_session=True), Area("/")]
    app = Guard(Starlette(), areas, Address(), sessions=sessions)
    key = f"Bearer {sessions.token}"
    assert ask(app, "GET", "/api/jobs").status == 401
    assert ask(app, "GET", "/api/jobs", authorization="Bearer no").status == 401
    assert ask(app, "GET", "/api/jobs", authorization=key).status == 404  # no such route here
    assert ask(app, "GET", "/v1/models").status == 404


def test_the_owner_names_models_and_may_let_clients_have_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(Refused):
        find_model("large-v3")
    monkeypatch.setenv("TRANSCRIBE_MCP_MODEL_ALIASES", "whisper-1=small mine=/models/mine")
    monkeypatch.setenv("TRANSCRIBE_MCP_ALLOW_MODEL_DOWNLOAD", "1")
    settings.cache_clear()
    try:
        found = [find_model(name) for name in ("whisper-1", "mine", "default", "large-v3")]
        assert found == ["small", "/models/mine", "auto", "large-v3"]
        for name in ("/models/mine", "no-such-model"):
            with pytest.raises(Refused):
                find_model(name)
        variables = settings().to_environment()
        assert variables["TRANSCRIBE_MCP_MODEL_ALIASES"] == "whisper-1=small mine=/models/mine"
        monkeypatch.setenv("TRANSCRIBE_MCP_MODEL_ALIASES", "whisper-1")
        settings.cache_clear()
        with pytest.raises(UsageError, match="MODEL_ALIASES"):
            settings()
    finally:
        settings.cache_clear()
