"""The page in a real browser, on a real server: what a reader does, and what must not happen."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from web_place import MARKUP, TOKEN, Site, Tab, chromium, saved, site, tab
from whisper_nano import SPEECH

CLOSE_S = 0.05  # from a click to the time of the sound
DROP = """([name, content, types]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  for (const type of types) {
    const given = { bubbles: true, cancelable: true, dataTransfer: data };
    document.body.dispatchEvent(new DragEvent(type, given));
  }
}"""
# [time of the sound, start and end of the highlighted word]
SPOKEN = """() => {
  const [range] = CSS.highlights.get("spoken");
  const { word } = range.startContainer.parentElement;
  return [document.querySelector("audio").currentTime, word.start, word.end];
}"""
NOW = "document.querySelector('audio').currentTime"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("web")) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def reader(browser: Any, here: Site) -> Iterator[Tab]:
    """A tab; its console stays empty."""
    with tab(browser, here.url) as made:
        yield made
        assert not made.problems


def word(page: Any, text: str) -> Any:
    return page.locator(".w", has_text=text).first


def sound(reader: Tab) -> None:
    """Wait until the sound can be played."""
    reader.until("document.querySelector('audio').readyState >= 1")


def test_a_click_on_a_word_seeks_to_it(reader: Tab, here: Site) -> None:
    page = reader.open(f"/t/{here.talk}")
    assert page.url == f"{here.url}/t/{here.talk}"  # without the token
    sound(reader)
    for text in ("garden", "bench"):
        word(page, text).click()
        at, start, _ = page.evaluate(SPOKEN)
        assert 0 <= at - start < CLOSE_S
        assert page.evaluate("document.querySelector('audio').seekable.length") == 1


def test_the_highlight_follows_the_sound_at_double_speed(reader: Tab, here: Site) -> None:
    page = reader.open(f"/t/{here.talk}")
    sound(reader)
    word(page, "garden").click()
    page.keyboard.press(">")  # 1.25, 1.5, 1.75, 2
    for _ in range(3):
        page.keyboard.press(">")
    page.locator("#speed:text-is('2×')").wait_for()
    page.keyboard.press("Space")
    seen = set()
    for _ in range(8):
        page.wait_for_timeout(150)
        at, start, end = page.evaluate(SPOKEN)
        assert start <= at + CLOSE_S and at - end < 1.5  # a pause of the conversation
        seen.add(start)
    page.keyboard.press("Space")
    assert len(seen) >= 3 and page.evaluate("document.querySelector('audio').paused")
    assert page.locator(".turn[aria-current=true]").count() == 1


def test_a_renamed_speaker_is_in_every_export_and_two_can_be_joined(
    browser: Any, reader: Tab, here: Site
) -> None:
    page = reader.open(f"/t/{here.talk}")
    page.locator(".who", has_text="Speaker 2").first.click()
    page.keyboard.type("Ben")
    page.keyboard.press("Enter")
    page.wait_for_selector(".who >> text=Ben")
    assert page.locator(".who", has_text="Speaker 2").count() == 0
    saved(page)
    export = f"{here.url}/api/jobs/{here.talk}/export?format=srt"
    text = page.request.get(export).text()
    assert "Ben: Good morning" in text and "Speaker 2" not in text

    page.locator(".people button", has_text="Speaker 3").click()
    page.keyboard.type("Anna")
    assert page.inner_text("#speaker-hint") == "Joins Speaker 3 with Anna."
    page.keyboard.press("Enter")
    reader.until("document.querySelectorAll('.people li').length === 2")
    saved(page)
    assert "Speaker 3" not in page.request.get(export).text()

    page.click("#export-button")
    with page.expect_download() as download:
        page.click("#export a[href$=srt]")
    assert download.value.suggested_filename == "three-voices.srt"


def test_a_hit_of_the_search_opens_at_its_time(reader: Tab, here: Site) -> None:
    page = reader.open("/search")
    page.fill("input[name=q]", "apple trees")
    page.locator(".hit mark").first.wait_for()
    assert [each.lower() for each in page.locator(".hit mark").all_inner_texts()] == [
        "apple",
        "trees",
    ]
    page.locator(".hit").first.click()
    page.wait_for_selector("html[data-ready] .turn")
    reader.until("CSS.highlights.get('spoken')?.size === 1")
    at, start, _ = page.evaluate(SPOKEN)
    assert abs(at - start) < CLOSE_S and start == pytest.approx(31.867)
    shown = page.locator(".turn[aria-current=true]").bounding_box()
    assert 0 < shown["y"] < 860


def test_a_dropped_file_becomes_a_job_that_every_list_shows_live(
    browser: Any, reader: Tab, here: Site
) -> None:
    page = reader.open("/")
    with tab(browser, here.url) as other:
        watching = other.open("/")
        content = base64.b64encode((SPEECH / "en_silent_after.flac").read_bytes()).decode()
        page.evaluate(DROP, ["a talk.flac", content, ["dragenter", "dragover"]])
        page.locator("#drop[data-on=true]").wait_for()  # it fades in
        page.evaluate(DROP, ["a talk.flac", content, ["drop"]])
        assert page.inner_text("#chosen") == "a talk.flac"
        page.keyboard.press("Enter")
        for each in (page, watching):
            each.locator(".job[data-status=completed]", has_text="a talk.flac").wait_for()
        assert not other.problems
    page.locator("#uploads").wait_for(state="hidden")
    page.locator(".job a", has_text="a talk.flac").click()
    page.locator(".w").first.wait_for()
    sound(reader)
    page.locator(".w").last.click()
    at, start, _ = page.evaluate(SPOKEN)
    assert 0 <= at - start < CLOSE_S


def test_a_job_that_fails_says_why_and_rows_are_found_by_name(reader: Tab) -> None:
    page = reader.open("/")
    page.set_input_files(
        "#files", [{"name": "Broken.mp3", "mimeType": "audio/mpeg", "buffer": b"no sound"}]
    )
    page.click("#upload .main")
    failed = page.locator(".job[data-status=failed]", has_text="Broken.mp3")
    failed.locator("button", has_text="Try again").wait_for()
    assert failed.locator(".job-bad").inner_text().startswith("Not audio or video")
    page.fill("#name", "broken")
    page.locator(".job", has_text="three-voices.opus").wait_for(state="detached")
    assert page.locator(".job").count() == 1
    page.fill("#name", "nothing of this name")
    page.locator("#list", has_text="Clear it to see all").wait_for()


def test_the_link_of_the_server_opens_the_page_over_its_form(browser: Any, here: Site) -> None:
    with tab(browser, here.url) as stranger:
        page = stranger.open("/", "")
        page.wait_for_selector("#token")
        page.goto(f"{here.url}/#token={TOKEN}")  # another hash only: nothing is loaded again
        page.wait_for_selector("#list")
        assert page.url == f"{here.url}/"


def test_without_the_token_there_is_a_form_and_no_transcript(browser: Any, here: Site) -> None:
    for token in ("", "wrong"):
        with tab(browser, here.url) as stranger:
            page = stranger.open(f"/t/{here.talk}", token)
            page.wait_for_selector("#door")
            assert "garden" not in page.content() and not page.locator("#app").count()
            assert page.locator("#token-error").is_visible() == bool(token)
            assert "#" not in page.url
            page.fill("#token", "still wrong")
            page.keyboard.press("Enter")
            page.wait_for_selector("#token-error:visible")
            page.fill("#token", TOKEN)
            page.keyboard.press("Enter")
            word(page, "garden").wait_for()
            refusals = [each for each in stranger.problems if "401" not in each]
            assert not refusals


def test_markup_and_marks_of_direction_are_text(reader: Tab, here: Site) -> None:
    page = reader.open(f"/t/{here.hostile}")
    word(page, MARKUP).wait_for()
    assert page.locator("#text img, #text script, #text b, .rail b").count() == 0
    assert page.locator(".who").first.inner_text() == "<b>Eve</b>"
    assert page.locator(".turn p").nth(1).evaluate("p => getComputedStyle(p).direction") == "rtl"
    assert "\u202e" not in page.inner_text("h1") and "<b>" in page.inner_text("h1")
    page.goto(f"{here.url}/")
    name = page.locator(".job-name", has_text="<b>")
    assert name.inner_text() == "<b>gnp.opus"
    page.goto(f"{here.url}/search?q=onerror")
    page.locator(".hit").first.wait_for()
    assert page.locator("#hits img, #hits script").count() == 0


@pytest.mark.parametrize("width", [320, 360, 380])
def test_no_page_is_wider_than_a_phone(reader: Tab, here: Site, width: int) -> None:
    reader.page.set_viewport_size({"width": width, "height": 700})
    shown = {"/": "#add:visible", f"/t/{here.talk}": ".turn", "/search": "h1"}
    for path, content in shown.items():
        reader.open(path).wait_for_selector(content)
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_can_be_done_by_keyboard(reader: Tab, here: Site) -> None:
    page = reader.open(f"/t/{here.talk}")
    sound(reader)
    stops = []
    for _ in range(40):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.className"))
        if page.evaluate("document.activeElement === document.body"):
            break
    assert stops.count("at") == 1 and len(stops) < 25  # the whole text is one stop
    page.locator(".at[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    second = page.locator(".turn").nth(1).locator(".w").nth(1)
    assert page.inner_text("#live") == second.inner_text()
    page.keyboard.press("Enter")
    reader.until("!document.querySelector('audio').paused")
    page.keyboard.press("k")
    at = page.evaluate(NOW)
    page.keyboard.press("Alt+ArrowLeft")
    assert page.evaluate(NOW) == pytest.approx(max(0, at - 5), abs=0.1)
    page.keyboard.press("Alt+n")
    assert page.evaluate("CSS.highlights.get('doubt').size") >= 1
    page.keyboard.press("/")
    page.keyboard.type("trees")
    reader.until("document.querySelector('.find output').textContent.startsWith('1 of')")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.locator(".find").wait_for(state="hidden")
    page.keyboard.press("Control+g")
    page.keyboard.type("1:02.5")
    page.keyboard.press("Enter")
    reader.until(f"Math.abs({NOW} - 62.5) < {CLOSE_S}")
    page.keyboard.press("?")
    page.locator("#help").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    assert page.evaluate("document.activeElement.id") == "speaker-name"
    page.keyboard.press("Escape")


def test_a_deleted_job_leaves_every_open_list(browser: Any, reader: Tab, here: Site) -> None:
    page = reader.open("/")
    rows = page.locator(".job", has_text="<b>gnp.opus")
    rows.wait_for()
    with tab(browser, here.url) as other:
        second = other.open("/")
        second.locator(".job", has_text="<b>gnp.opus").locator(".btn.icon").click()
        second.locator("#row-menu .danger").click()
        second.click("#sure-yes")
        rows.wait_for(state="detached")
        assert not other.problems
