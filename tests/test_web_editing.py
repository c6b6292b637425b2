"""Editing in the page, in a real browser on a real server: no text is lost, and nothing that is
unsaved is shown as saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from mcp_places import http_server
from web_place import MARKUP, TOKEN, Site, Tab, chromium, conversation, saved, site, tab

# A recording for each test that edits.
COPIES = ("structure", "conflict", "stopped", "keys", "windows")
CARET = "document.activeElement.isContentEditable"
PEAKS = """performance.getEntriesByType("resource").some(
  ({ name, responseEnd }) => name.endsWith("/peaks") && responseEnd)"""
# What the browser itself reports of answers that the page handles.
EXPECTED = ("412", "401", "ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET",
            "ERR_FAILED", "503", "ERR_INCOMPLETE_CHUNKED")  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    more = [(f"{name}.opus", conversation()) for name in COPIES]
    with site(tmp_path_factory.mktemp("web"), *more) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def reader(browser: Any, here: Site) -> Iterator[Tab]:
    with tab(browser, here.url) as made:
        yield made
        no_problem(made)


def no_problem(reader: Tab) -> None:
    assert not [each for each in reader.problems if not any(name in each for name in EXPECTED)]


def editing(reader: Tab, job_id: str) -> Any:
    page = reader.open(f"/t/{job_id}")
    page.click("#edit")
    return page


def turn(page: Any, n: int) -> Any:
    return page.locator(".turn").nth(n)


def sentence(page: Any, n: int) -> str:
    """The text of a paragraph, without its conflict."""
    text: str = turn(page, n).locator("p").first.inner_text()
    return text


def type_first(page: Any, n: int, text: str) -> None:
    """Type at the beginning of a paragraph."""
    turn(page, n).locator(".w").first.click()
    page.keyboard.press("Home")
    page.keyboard.type(text)


def document(page: Any, url: str, job_id: str, query: str = "") -> dict[str, Any]:
    answer: dict[str, Any] = page.request.get(f"{url}/api/jobs/{job_id}/transcript{query}").json()
    return answer


def test_an_edited_sentence_is_saved_with_the_times_of_its_words(reader: Tab, here: Site) -> None:
    page = editing(reader, here.talk)
    before = document(page, here.url, here.talk)["segments"][0]
    type_first(page, 0, "Well ")
    assert page.locator("#saved").inner_text() in ("Not saved yet", "Saving…", "Saved")
    saved(page)
    assert page.evaluate(CARET)  # one may type on
    after = document(page, here.url, here.talk)["segments"][0]
    assert after["text"].split() == ["Well", *before["text"].split()]
    times = {word["start"]: word["word"].strip() for word in before["words"]}
    assert all(times.get(word["start"]) == word["word"].strip() for word in after["words"][2:])
    page.reload()
    page.locator(".w", has_text="Well").first.wait_for()
    page.locator(".w").nth(2).click()
    at = page.evaluate("document.querySelector('audio').currentTime")
    assert 0 <= at - after["words"][2]["start"] < 0.05

    page.click("#edit")
    type_first(page, 1, f"{MARKUP} ")
    page.keyboard.press("Control+s")
    saved(page)
    page.keyboard.press("Tab")
    assert MARKUP in sentence(page, 1) and not page.locator("#text img").count()


def test_split_join_undo_and_an_earlier_version(reader: Tab, here: Site) -> None:
    job_id = here.more[0]
    page = editing(reader, job_id)
    page.locator(".s").first.wait_for()
    original = document(page, here.url, job_id)
    count = len(original["segments"])

    def segments() -> list[str]:
        found = document(page, here.url, job_id)["segments"]
        return [" ".join(each["text"].split()) for each in found]

    first = segments()[0]
    turn(page, 0).locator(".w").nth(3).click()
    page.keyboard.press("Control+ArrowLeft")  # the caret is before the word, or in it
    page.keyboard.press("Enter")
    saved(page)
    assert len(segments()) == count + 1 and " ".join(segments()[:2]) == first
    page.keyboard.press("Backspace")
    saved(page)
    assert len(segments()) == count and segments()[0] == first
    page.keyboard.press("Control+z")
    saved(page)
    assert len(segments()) == count + 1
    page.keyboard.press("Control+Shift+z")
    saved(page)
    assert len(segments()) == count
    type_first(page, 0, "Well ")
    page.keyboard.press("ArrowDown")
    saved(page)
    page.keyboard.press("Control+z")  # a sentence that was left
    saved(page)
    restored = document(page, here.url, job_id)["segments"][0]
    assert restored["words"] == original["segments"][0]["words"]  # with their probabilities

    type_first(page, 1, "Later ")
    page.click("#saved")
    page.locator("#versions summary").last.click()
    page.locator("#versions ins", has_text="Later").wait_for()
    page.locator("#versions button", has_text="Restore").last.click()
    page.locator("#versions").wait_for(state="hidden")
    reader.until("!document.querySelector('#text').textContent.includes('Later')")
    assert document(page, here.url, job_id)["segments"] == original["segments"]


def test_two_tabs_lose_no_text(browser: Any, reader: Tab, here: Site) -> None:
    """They learn of each other when they save: no events come."""
    job_id = here.more[1]
    with tab(browser, here.url) as other:
        for each in (reader, other):
            each.page.route("**/api/events*", lambda route: route.abort())
        first, second = editing(reader, job_id), editing(other, job_id)
        type_first(first, 0, "Mine ")
        type_first(first, 2, "Both ")
        saved(first)
        type_first(second, 0, "Yours ")
        type_first(second, 3, "Also ")
        saved(second, "conflict")
        assert second.locator(".turn .banner").count() == 1
        texts = second.locator(".versions p").all_inner_texts()
        assert [text.split()[0] for text in texts] == ["Yours", "Mine"]
        stored = [each["text"] for each in document(second, here.url, job_id)["segments"]]
        assert "Mine" in stored[0] and "Yours" not in stored[0]  # nothing is decided yet
        assert any("Also" in text for text in stored) and any("Both" in text for text in stored)
        second.click("#saved")
        assert second.evaluate("document.activeElement.textContent") == "Keep mine"
        second.keyboard.press("Enter")
        saved(second)
        assert sentence(second, 0).startswith("Yours") and sentence(second, 2).startswith("Both")

        type_first(first, 0, "Again ")
        saved(first, "conflict")
        first.locator("button", has_text="Use the other").click()
        saved(first)
        assert sentence(first, 0) == sentence(second, 0)
        assert sentence(first, 3).startswith("Also")
        no_problem(other)


def test_another_window_shows_an_edit_at_once_and_keeps_what_it_has_not_saved(
    browser: Any, reader: Tab, here: Site
) -> None:
    job_id = here.more[4]
    with tab(browser, here.url) as other:
        first, second = editing(reader, job_id), editing(other, job_id)
        type_first(first, 1, "Seen ")
        second.locator(".toast", has_text="Changed in another window").wait_for()
        assert sentence(second, 1).startswith("Seen ")
        saved(second)

        def refuse(route: Any) -> None:
            if route.request.method == "PATCH":
                route.fulfill(status=503, body="")
            else:
                route.continue_()

        second.route("**/transcript", refuse)
        type_first(second, 0, "Mine ")
        type_first(second, 2, "Kept ")
        saved(second, "failed")
        type_first(first, 0, "Theirs ")
        saved(first)
        second.locator(".turn .banner").wait_for()
        texts = second.locator(".versions p").all_inner_texts()
        assert [text.split()[0] for text in texts] == ["Mine", "Theirs"]
        second.unroute("**/transcript")
        second.locator("button", has_text="Keep mine").click()
        saved(second)
        first.locator(".toast", has_text="Changed in another window").wait_for()
        reader.until("document.querySelector('.turn p').textContent.startsWith('Mine ')")
        assert sentence(first, 2).startswith("Kept ")
        no_problem(other)


def test_what_is_typed_while_the_server_is_gone_is_saved_when_it_is_back(
    browser: Any, here: Site
) -> None:
    job_id = here.more[2]
    with tab(browser, "") as reader:
        with http_server(here.home, TRANSCRIBE_MCP_TOKEN=TOKEN) as address:
            reader.url = address.removesuffix("/mcp")
            page = editing(reader, job_id)
            type_first(page, 0, "Before ")
            saved(page)
            reader.until(PEAKS)  # nothing else is on its way
        page.keyboard.type("meanwhile ")
        saved(page, "failed")
        assert page.inner_text("#saved") == "Not saved, trying again"
        page.keyboard.type("and more ")
        assert page.locator("#saved").get_attribute("data-state") != "saved"
        port = str(urlsplit(reader.url).port)
        with http_server(here.home, "--port", port, TRANSCRIBE_MCP_TOKEN=TOKEN):
            page.locator("#door").wait_for()  # its sessions are gone, what was typed is not
            page.fill("#token", TOKEN)
            page.keyboard.press("Enter")
            saved(page)
            assert sentence(page, 0).startswith("Before meanwhile and more ")
            text = document(page, reader.url, job_id)["segments"][0]["text"]
            assert text.split()[:4] == ["Before", "meanwhile", "and", "more"]
        no_problem(reader)


def test_a_transcript_is_corrected_by_keyboard_alone(reader: Tab, here: Site) -> None:
    job_id = here.more[3]
    page = reader.open(f"/t/{job_id}")
    page.locator(".at[tabindex='0']").focus()
    page.keyboard.press("e")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.evaluate(CARET)
    page.keyboard.type("really ")
    page.keyboard.press("Escape")  # plays, and typing goes on
    reader.until("!document.querySelector('audio').paused")
    page.keyboard.press("Escape")
    assert page.evaluate(CARET) and sentence(page, 1).split()[1] == "really"
    page.keyboard.press("Alt+s")
    page.locator("#speaker-name").wait_for()
    page.keyboard.type("Dora")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.value") == "here"
    page.keyboard.press("Enter")
    saved(page)
    segments = document(page, here.url, job_id)["segments"]
    edited = [each for each in segments if each["speaker"] == "Dora"]
    assert edited and edited[0]["text"].split()[1] == "really"
    assert page.evaluate("document.activeElement.className") == "at"
    page.keyboard.press("Control+z")
    saved(page)
    assert page.locator(".who", has_text="Dora").count() == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.dock') !== null")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.className") == "at"
