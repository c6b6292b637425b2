"""Fetching from a model hub: continued, verified, refused, unreachable, forbidden."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants, scan_cache_dir
from local_hub import COMMIT, TINY, Hub, closed_port, hub_cache_with
from patience import PATIENCE_S
from small_checkpoints import Recipe

from transcribe_mcp import models
from transcribe_mcp.domain.progress import no_progress
from transcribe_mcp.errors import (
    CancelledError,
    DownloadError,
    ModelFormatError,
    ModelUnavailableError,
)
from transcribe_mcp.models.catalogue import Machine

pytestmark = pytest.mark.usefixtures("hub_cache")


def resolve(name: str, *, offline: bool = False) -> models.Checkpoint:
    return models.resolve(name, offline=offline, progress=no_progress)


def test_a_model_is_fetched_once_and_only_what_is_needed(hub: Hub, hub_cache: Path) -> None:
    steps: list[tuple[str, float, float | None]] = []
    found = models.resolve("tiny", offline=False, progress=lambda *step: steps.append(step))
    needed = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
    }
    assert {path.name for path in found.directory.iterdir()} == needed
    assert (found.name, found.repo, found.can_translate) == ("tiny", TINY, True)
    assert all((found.directory / name).read_bytes() == hub.files[name] for name in needed)
    total = sum(len(hub.files[name]) for name in needed)
    assert {stage for stage, _, _ in steps} == {"download"}
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)
    assert steps[-1] == ("download", total, total)
    asked = len(hub.requests)
    assert resolve("tiny") == found == resolve(TINY, offline=True)
    assert len(hub.requests) == asked


def test_the_cache_is_as_the_hubs_own_tools_expect_it(hub: Hub, hub_cache: Path) -> None:
    found = resolve("tiny")
    cached = scan_cache_dir(hub_cache)
    assert not cached.warnings
    (repository,) = cached.repos
    (revision,) = repository.revisions
    assert (repository.repo_id, revision.commit_hash, revision.refs) == (TINY, COMMIT, {"main"})
    assert revision.snapshot_path == found.directory


def test_a_broken_connection_is_continued_where_it_broke(hub: Hub) -> None:
    hub.breaks["model.safetensors"] = [1000, 500]
    found = resolve("tiny")
    assert (found.directory / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert hub.ranges("model.safetensors") == [None, "bytes=1000-", "bytes=1500-"]


def test_a_stopped_download_is_continued_by_the_next_run(hub: Hub) -> None:
    size = len(hub.files["model.safetensors"])

    def stop(stage: str, done: float, total: float | None) -> None:
        if total and done > total - size // 2:
            raise CancelledError("stopped")

    hub.breaks["model.safetensors"] = [size - 100]
    with pytest.raises(CancelledError):
        models.resolve("tiny", offline=False, progress=stop)
    assert models.find_cached("tiny") is None
    resolve("tiny")
    assert hub.ranges("model.safetensors") == [None, f"bytes={size - 100}-"]


def test_a_connection_that_breaks_for_good_says_how_far_it_came(hub: Hub) -> None:
    hub.breaks["model.safetensors"] = [1000] + [0] * 10
    with pytest.raises(DownloadError, match="stopped at 1000 of") as caught:
        resolve("tiny")
    assert "to resume it" in caught.value.hint


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_with_a_wrong_checksum_is_deleted(hub: Hub, hub_cache: Path, name: str) -> None:
    hub.corrupt = {name}
    with pytest.raises(DownloadError, match=f"{name} of {TINY} arrived with a wrong checksum"):
        resolve("tiny")
    assert models.find_cached("tiny") is None
    assert not list(hub_cache.rglob("*.incomplete"))
    hub.corrupt = set()
    assert (resolve("tiny").directory / name).read_bytes() == hub.files[name]


def test_a_repository_that_does_not_exist_and_one_with_terms_are_told_apart(hub: Hub) -> None:
    with pytest.raises(ModelUnavailableError, match="nobody/nothing") as caught:
        resolve("nobody/nothing")
    assert caught.value.code == "model_unavailable"
    hub.list_status, hub.headers = 403, {"X-Error-Code": "GatedRepo"}
    with pytest.raises(ModelUnavailableError, match="accept its terms") as caught:
        resolve("tiny")
    assert "HF_TOKEN" in caught.value.hint
    hub.list_status, hub.headers = 401, {"X-Error-Code": "RepoNotFound"}
    with pytest.raises(ModelUnavailableError, match="has no model") as caught:
        resolve("tiny")


def test_a_refused_file_says_why(hub: Hub) -> None:
    hub.file_status = 403
    with pytest.raises(DownloadError, match="HTTP status 403") as caught:
        resolve("tiny")
    assert "HF_TOKEN" in caught.value.hint


def test_a_repository_with_only_a_pickle_is_refused_before_anything_is_fetched(hub: Hub) -> None:
    for name in [name for name in hub.files if name.endswith(".safetensors")]:
        del hub.files[name]
    with pytest.raises(ModelFormatError, match="only pickled weights"):
        resolve("tiny")
    assert len(hub.requests) == 1


def test_something_else_that_answers_is_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (
        b"<html>Log in to the network</html>",
        b"[]",
        b'{"sha": "../..", "siblings": []}',
    ):
        monkeypatch.setattr(hub, "listing", lambda answer=answer: answer)
        with pytest.raises(ModelUnavailableError, match=f"from {hub.endpoint}"):
            resolve("tiny")


def test_a_model_larger_than_the_disk_is_refused_before_it_fills_it(
    hub: Hub, hub_cache: Path
) -> None:
    hub.claimed_bytes = 10**18
    with pytest.raises(DownloadError, match=r"needs 1000000000\d+ MB, but"):
        resolve("tiny")
    assert hub.ranges("model.safetensors") == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_write_that_fails_midway_is_told_in_words(hub: Hub, hub_cache: Path) -> None:
    program = (
        "import resource, sys; from transcribe_mcp import models;"
        "from transcribe_mcp.domain.progress import no_progress; from transcribe_mcp.errors "
        "import DownloadError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        "try: models.resolve('tiny', offline=False, progress=no_progress)\n"
        "except DownloadError as error: print(error)"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(hub_cache)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout.startswith(f"cannot write to {hub_cache}")
    assert done.stderr == ""


# --- no hub ---------------------------------------------------------------------------------------


def test_a_hub_that_refuses_or_never_answers_is_given_up(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.silent = True  # until the test ends: whoever waits for it waits forever
    with pytest.raises(ModelUnavailableError, match="no answer within") as caught:
        models.choose_model(Machine("cpu", 4, 16 * 2**30), offline=False, packages=False)
    assert "transcribe-mcp models pull small" in caught.value.hint
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(ModelUnavailableError, match="cannot get"):
        resolve("tiny")


COUNTING = """
import sys
calls = []
def audit(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        calls.append(event)
sys.addaudithook(audit)
from transcribe_mcp import models
from transcribe_mcp.models.catalogue import this_machine
from transcribe_mcp.errors import ModelUnavailableError
from transcribe_mcp.domain.progress import no_progress
offline = sys.argv[1] == "option"
raised = 0
for attempt in (
    lambda: models.resolve("base", offline=offline, progress=no_progress),
    lambda: models.resolve("somebody/something", offline=offline, progress=no_progress),
    lambda: models.choose_model(this_machine(), language="de", offline=offline),
):
    try:
        attempt()
    except ModelUnavailableError:
        raised += 1
found = models.resolve("tiny.en", offline=offline, progress=no_progress)
cached = [row.name for row in models.list_models() if row.path]
models.remove("tiny.en")
print(raised, found.name, cached, calls)
"""


@pytest.mark.parametrize("way", ["option", "HF_HUB_OFFLINE", "TRANSCRIBE_MCP_OFFLINE", "neither"])
def test_offline_makes_not_one_network_call(way: str, hub_cache: Path) -> None:
    hub_cache_with(hub_cache, "tiny.en", Recipe(multilingual=False))
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(hub_cache),
        "HF_ENDPOINT": str(constants.ENDPOINT),
    }
    if way.isupper():
        environment[way] = "1"
    command = [sys.executable, "-c", COUNTING, way]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    raised, name, listed, calls = done.stdout.rstrip().split(maxsplit=3)
    assert (raised, name, listed) == ("3", "tiny.en", "['tiny.en']")
    assert (calls == "[]") == (way != "neither")  # with neither, the count sees the attempts
