"""The transcript view of MCP Apps, in a real browser: a page plays the client of the conversation,
and calls the tools of a real server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from mcp.client.extension import ClientExtension
from mcp_places import Caller, calling, stdio
from web_place import Site, Tab, chromium, site, tab

from transcribe_mcp.frontends.mcp.transcript_view import ANSWER_BYTES, URI

APP_TYPE = "text/html;profile=mcp-app"
PAGE_BYTES = 100_000  # clients keep it in memory, some in the conversation
TOOLS = {"view_transcript", "view_audio"}
# What the extension demands of clients if a view declares nothing, and no inner frames.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; media-src 'self' data:; connect-src 'none'"
)
# A client as small as the extension allows. It keeps what the view tells it.
HOST = """([html, given, result]) => {
  const frame = document.createElement("iframe");
  window.told = [];
  window.asked = [];
  const answers = {
    "ui/initialize": () => ({
      protocolVersion: "2026-01-26", hostInfo: { name: "test", version: "1" },
      hostCapabilities: { openLinks: {}, serverTools: {} },
      hostContext: {
        theme: "dark", displayMode: "inline", availableDisplayModes: ["inline", "fullscreen"],
        containerDimensions: { width: 720, maxHeight: 500 },
      },
    }),
    "ui/open-link": () => ({}),
    "ui/update-model-context": () => ({}),
    "ui/request-display-mode": ({ mode }) => ({ mode }),
    "tools/call": (params) => window.callTool(params),
  };
  window.say = (message) => frame.contentWindow.postMessage({ jsonrpc: "2.0", ...message }, "*");
  addEventListener("message", async ({ source, data }) => {
    if (source !== frame.contentWindow) return;
    const { id, method, params } = data;
    if (!method || id === undefined) return window.told.push(data);
    window.asked.push(data);
    window.say({ id, result: await answers[method](params) });
  });
  addEventListener("message", ({ data }) => {
    if (data.method === "ui/notifications/size-changed") {
      frame.style.height = `${data.params.height}px`;
    }
    if (data.method !== "ui/notifications/initialized") return;
    window.say({ method: "ui/notifications/tool-input", params: { arguments: given } });
    window.say({ method: "ui/notifications/tool-result", params: result });
  });
  frame.sandbox = "allow-scripts";
  frame.style.cssText = "border: 0; width: 720px; height: 100px";
  frame.srcdoc = html;
  document.body.append(frame);
}"""


class ShowsViews(ClientExtension):
    identifier = "io.modelcontextprotocol/ui"

    def settings(self) -> dict[str, Any]:
        return {"mimeTypes": [APP_TYPE]}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("view")) as made:
        yield made


@pytest.fixture(scope="module")
def caller(here: Site) -> Iterator[Caller]:
    with calling(stdio(here.home), extensions=[ShowsViews()]) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def host(browser: Any) -> Iterator[Tab]:
    with tab(browser, "") as made:
        yield made
        assert not made.problems


def tools_of(caller: Caller) -> dict[str, Any]:
    return {tool.name: tool for tool in caller.portal.call(caller.client.list_tools).tools}


def call(caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
    result = caller.call(params["name"], **params["arguments"])
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


def show(host: Tab, caller: Caller, **given: Any) -> Any:
    """The frame of the view that shows a transcript."""
    contents = caller.portal.call(caller.client.read_resource, URI).contents
    assert contents[0].mime_type == APP_TYPE and len(contents[0].text.encode()) < PAGE_BYTES
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    html = contents[0].text.replace("<head>", f"<head>{policy}", 1)
    host.page.expose_function("callTool", lambda params: call(caller, params))
    result = call(caller, {"name": "show_transcript", "arguments": given})
    host.page.evaluate(HOST, [html, given, result])
    frame = host.page.frame_locator("iframe")
    frame.locator("html[data-ready]").wait_for()
    return frame


def asked(host: Tab, method: str) -> list[Any]:
    return [each["params"] for each in host.page.evaluate("asked") if each["method"] == method]


def test_only_clients_that_show_views_see_the_view_and_its_tools(
    here: Site, caller: Caller
) -> None:
    tools = tools_of(caller)
    assert tools["show_transcript"].meta["ui"]["resourceUri"] == URI
    assert {name for name, tool in tools.items() if tool.meta} == TOOLS | {"show_transcript"}
    assert all(tools[name].meta["ui"]["visibility"] == ["app"] for name in TOOLS)
    with calling(stdio(here.home)) as plain:
        seen = tools_of(plain)
    assert set(seen) == set(tools) - TOOLS
    assert not any(tool.meta for tool in seen.values())


def test_the_view_shows_the_text_and_goes_to_the_time(
    here: Site, caller: Caller, host: Tab
) -> None:
    frame = show(host, caller, job_id=here.talk, at_s=31)
    assert frame.locator("h1").inner_text() == "three-voices.opus"
    assert "apple trees" in frame.locator("#text").inner_text()
    assert {"Anna", "Speaker 2"} <= set(frame.locator(".who").all_inner_texts())
    assert frame.locator("html[data-theme=dark]").count()
    assert frame.locator(".clock b").inner_text() == "0:31"
    (size,) = (each for each in host.page.evaluate("told") if "height" in each["params"])
    assert size["params"]["height"] == 500

    frame.locator("#find-button").click()
    frame.locator(".find input").fill("apple trees")
    frame.locator(".find output", has_text=re.compile("1 of")).wait_for()


def test_the_sound_plays_from_the_word_that_is_clicked(
    here: Site, caller: Caller, host: Tab
) -> None:
    frame = show(host, caller, job_id=here.talk)
    frame.locator(".w", has_text="garden").first.click()
    before = frame.locator(".clock b").inner_text()
    frame.locator("#play").click()
    frame.locator("#play[aria-label=Pause]").wait_for()
    frame.locator(f".clock b:not(:text-is('{before}'))").wait_for()  # it goes on
    frame.locator("#play").click()
    frame.locator("#play[aria-label=Play]").wait_for()
    clips = [each for each in asked(host, "tools/call") if each["name"] == "view_audio"]
    assert clips and clips[0]["arguments"] == {"job_id": here.talk, "start_s": 0}

    host.page.evaluate("say({ id: 7, method: 'ui/resource-teardown', params: {} })")
    host.until("told.some((each) => each.id === 7 && each.result)")


def test_the_view_asks_the_client_for_the_browser_the_full_screen_and_the_model(
    here: Site, caller: Caller, host: Tab
) -> None:
    frame = show(host, caller, job_id=here.talk)
    frame.locator("#browser").click()
    host.until("asked.some((each) => each.method === 'ui/open-link')")
    assert asked(host, "ui/open-link") == [{"url": f"{here.url}/t/{here.talk}"}]
    frame.locator("#full").click()
    frame.locator("#full[aria-label='Back to the conversation']").wait_for()
    frame.locator(".turn > p").first.select_text()
    frame.locator("#text").dispatch_event("pointerup")
    host.until("asked.some((each) => each.method === 'ui/update-model-context')")
    (content,) = asked(host, "ui/update-model-context")[0]["content"]
    assert re.fullmatch(r"The user selected 0:\d\d to 0:\d\d of job \w+\.", content["text"])


def test_a_transcript_with_markup_is_text_in_the_view(
    here: Site, caller: Caller, host: Tab
) -> None:
    frame = show(host, caller, job_id=here.hostile)
    assert "<img src=x onerror=alert(1)>" in frame.locator("#text").inner_text()
    assert not frame.locator("#text img").count()


def test_a_transcript_that_is_gone_is_said_in_words(caller: Caller, host: Tab) -> None:
    frame = show(host, caller, job_id="nobody's")
    assert "nobody's" in frame.locator("#banners").inner_text()
    assert frame.locator(".dock").is_hidden()


def test_the_answers_of_the_view_are_whole_and_no_message_is_too_long(
    here: Site, caller: Caller
) -> None:
    part = caller.answer("view_transcript", job_id=here.talk)
    whole = caller.answer("get_transcription_result", job_id=here.talk, format="segments")
    assert [each["text"] for each in part["segments"]] == [
        each["text"] for each in whole["segments"]
    ]
    assert "next_first" not in part and len(json.dumps(part)) < ANSWER_BYTES
    rest = caller.answer("view_transcript", job_id=here.talk, first=2)
    assert rest["segments"] == part["segments"][2:]

    clip = caller.answer("view_audio", job_id=here.talk, start_s=90)
    assert clip["mime"].startswith("audio/ogg") and 40_000 < len(clip["base64"]) < ANSWER_BYTES
    assert caller.refusal("view_audio", job_id="nobody's")["code"] == "job_not_found"
