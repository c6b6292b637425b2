"""``show_transcript``: a look at a transcript, and where the user reads and hears it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from http_clients import send
from mcp import MCPError
from mcp_places import Caller, calling, calling_with_token, http_server, stdio
from web_place import TOKEN, Site, site

from transcribe_mcp.frontends import page_address

CRASH = """
import os, sys
from pathlib import Path
from transcribe_mcp.frontends import page_address

with page_address.announced(Path(sys.argv[1]), "http://127.0.0.1:1"):
    os._exit(1)
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("show")) as made:
        yield made


@pytest.fixture(scope="module")
def caller(here: Site) -> Iterator[Caller]:
    with calling(stdio(here.home)) as made:
        yield made


def test_an_assistant_in_another_process_gets_the_first_lines_and_the_address(
    here: Site, caller: Caller
) -> None:
    answer = caller.answer("show_transcript", job_id=here.talk)
    assert answer["status"] == "completed" and answer["format"] == "timed"
    assert answer["text"].startswith("[0:0")
    assert answer["page"] == f"{here.url}/t/{here.talk}"
    with urlopen(answer["page"]) as page:
        assert page.status == 200 and "text/html" in page.headers["content-type"]

    later = caller.answer("show_transcript", job_id=here.talk, at_s="0:31")
    assert later["page"] == f"{here.url}/t/{here.talk}?at=31"
    assert "apple trees" in later["text"] and later["text"] != answer["text"]


def test_a_client_of_the_http_server_gets_the_address_that_it_knows(here: Site) -> None:
    url = here.url.replace("127.0.0.1", "localhost")
    with calling_with_token(f"{url}/mcp", TOKEN) as remote:
        answer = remote.answer("show_transcript", job_id=here.talk)
    assert answer["page"] == f"{url}/t/{here.talk}"


def test_without_a_page_there_is_text_and_no_address(here: Site, tmp_path: Path) -> None:
    elsewhere = here.home.environment | {"TRANSCRIBE_MCP_DATA_DIR": str(tmp_path)}
    with http_server(here.home, "--no-web", **elsewhere):
        assert page_address.find(tmp_path) is None


def test_a_page_whose_server_was_killed_is_not_named(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", CRASH, str(tmp_path)], check=False)
    assert (tmp_path / page_address.FILE_NAME).exists()
    assert page_address.find(tmp_path) is None

    with (
        page_address.announced(tmp_path, "http://127.0.0.1:2"),
        page_address.announced(tmp_path, "http://127.0.0.1:3"),
    ):
        assert page_address.find(tmp_path) == "http://127.0.0.1:2"
    assert page_address.find(tmp_path) is None


def test_a_page_is_served_though_its_address_cannot_be_announced(
    here: Site, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    variables = {"TRANSCRIBE_MCP_DATA_DIR": str(tmp_path / "file" / "data")}
    log: list[str] = []
    with http_server(here.home, log=log, **variables) as address:
        answer = send(address, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer.status == 200
    [link] = log[0].splitlines()
    assert link.startswith("open http://")


def test_prompts_that_do_not_exist_or_lack_an_argument_are_refused_in_words(
    caller: Caller,
) -> None:
    for name, given, words in (
        ("minute", {"job_id": "x"}, "no prompt 'minute'; did you mean minutes"),
        ("minutes", {}, "minutes needs job_id; "),
        ("translate_subtitles", {"job_id": "x"}, "needs language; "),
    ):
        with pytest.raises(MCPError, match=words):
            caller.portal.call(caller.client.get_prompt, name, given)


def test_a_transcript_that_does_not_exist_is_refused_in_words(caller: Caller) -> None:
    assert caller.refusal("show_transcript", job_id="nobody's")["code"] == "job_not_found"
