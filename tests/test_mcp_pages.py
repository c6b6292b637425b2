"""Pages of any transcript: joined they are the whole, each fits, and no cursor leads astray."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transcribe_mcp.errors import UsageError
from transcribe_mcp.frontends.mcp.pages import View, cursor_to, segment_page, text_page
from transcribe_mcp.service.models import Segment, Transcript

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)


def spoken(texts: list[str]) -> Transcript:
    segments = tuple(Segment(float(n), n + 0.5, text) for n, text in enumerate(texts))
    return Transcript(segments, float(len(texts) + 1), "en", None, "fake", "fake", "cpu", "none")


@settings(max_examples=150)
@given(
    texts=st.lists(WORDS, max_size=12),
    form=st.sampled_from(["txt", "timed", "srt", "vtt", "tsv", "json", "md"]),
    size=st.integers(200, 900),
)
def test_pages_of_text_joined_are_the_whole(texts: list[str], form: str, size: int) -> None:
    transcript, view = spoken(texts), View("job", form)
    whole = view.text(transcript)
    assert text_page(whole, view, None, 10**9) == (whole, None)
    pages, cursor = [], None
    while True:
        page, cursor = text_page(whole, view, cursor, size)
        pages.append(page)
        if cursor is None:
            break
    assert "".join(pages) == whole
    assert all(0 < len(page) <= size for page in pages) or whole == ""


@settings(max_examples=100)
@given(texts=st.lists(WORDS, max_size=30), size=st.integers(200, 900))
def test_pages_of_segments_joined_are_the_whole(texts: list[str], size: int) -> None:
    transcript, view = spoken(texts), View("job", "segments")
    found: list[Segment] = []
    cursor = None
    while True:
        page, cursor = segment_page(transcript, view, cursor, size)
        found += page
        if cursor is None:
            break
        assert page
    assert tuple(found) == transcript.segments


@given(cursor=st.text(max_size=40))
def test_a_cursor_that_no_page_gave_is_refused_in_words(cursor: str) -> None:
    try:
        assert text_page("a\n", View("job", "txt"), cursor, 200)[0] == "a\n" or cursor == ""
    except UsageError as error:
        assert error.hint


def test_a_cursor_of_another_view_is_refused() -> None:
    view = View("job", "txt")
    for other in (
        View("other", "txt"),
        View("job", "srt"),
        View("job", "txt", 1.0),
        View("job", "txt", None, 9.0),
    ):
        with pytest.raises(UsageError, match="another view"):
            text_page("a", other, cursor_to(view, 0), 200)


def test_a_cursor_behind_the_end_gives_nothing_more() -> None:
    view = View("job", "txt")
    assert text_page("a", view, cursor_to(view, 999), 200) == ("", None)


def test_a_stretch_of_time_holds_what_is_said_in_it_wholly_or_in_part() -> None:
    transcript = spoken(["a", "b", "c", "d"])
    kept = View("job", "txt", 1.2, 2.1).of(transcript).segments
    assert [segment.text for segment in kept] == ["b", "c"]
    with pytest.raises(UsageError, match="ends at 1 s"):
        View("job", "txt", 2.0, 1.0)
