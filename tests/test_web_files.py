"""The page's files keep to its policy: no inline code or style, no markup made from text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

WEB = Path(__file__).parents[1] / "src" / "transcribe_mcp" / "frontends" / "web"
PAGES = sorted(WEB.glob("*.html"))
SCRIPTS = sorted(WEB.glob("*.js"))
VOID = {"meta", "link", "input", "hr", "br"}
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
)


class Elements(HTMLParser):
    """Checks that elements nest, and collects ids and the files that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.files: list[str] = []
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._look(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")

    def _look(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "style" or name.startswith("on"):
                self.problems.append(f"{name} of <{tag}> at {self.getpos()}")
            if name == "id":
                self.ids.append(value or "")
            if value and value.startswith("/static/"):
                self.files.append(value.removeprefix("/static/").partition("#")[0])


def elements(page: Path) -> Elements:
    parser = Elements()
    parser.feed(page.read_text(encoding="utf-8"))
    parser.close()
    return parser


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_well_formed_and_load_only_files_that_exist(page: Path) -> None:
    found = elements(page)
    assert not found.problems and not found.open
    assert len(found.ids) == len(set(found.ids))
    assert all((WEB / file).is_file() for file in found.files)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_make_no_markup_and_import_only_each_other(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert not FORBIDDEN.search(text)
    for name in re.findall(r'from "([^"]+)"', text):
        assert name.startswith("./") and (WEB / name).is_file()
    assert max(map(len, text.splitlines())) <= 110 and len(text.splitlines()) <= 400
