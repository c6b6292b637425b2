"""Jobs from the command line, with a worker that it starts by itself."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import COMMAND, clip, environment, run
from job_places import Place, _lives
from patience import PATIENCE_S, until


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's home with recordings; the worker that was started for it is gone afterwards."""
    home = tmp_path_factory.mktemp("home")
    for n in range(3):
        clip(home / f"talk{n}.wav", 3.0 + n)
    (home / "bad.mp3").write_bytes(b"no sound in here")
    yield home
    pid = Place(home / "data").worker_pid()
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        until(lambda: not _lives(pid), "the worker has ended")


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(
        *arguments, cwd=home, env=environment(home, TRANSCRIBE_MCP_DATA_DIR=str(home / "data"))
    )


def queue(home: Path, *arguments: str) -> list[str]:
    done = command(home, "transcribe", "--queue", "--engine", "fake", "--no-vad", *arguments)
    return [line.split()[0] for line in done.stdout.splitlines()]


def test_recordings_are_queued_followed_and_printed(home: Path) -> None:
    ids = queue(home, "talk0.wav", "talk1.wav")

    shown = command(home, "jobs", "show", ids[0], "--wait", "--format", "srt", "--quiet")
    facts = command(home, "jobs", "show", ids[1], "--wait")
    listed = command(home, "jobs", "list", "--status", "completed", "--json")

    assert shown.stdout.startswith("1\n00:00:0")
    assert "word0000" in shown.stdout
    assert re.search(r"^status: +completed$", facts.stdout, re.MULTILINE)
    assert {row["job_id"] for row in map(json.loads, listed.stdout.splitlines())} >= set(ids)


def test_what_cannot_be_queued_is_named_and_the_rest_is_queued(home: Path) -> None:
    done = command(home, "transcribe", "--queue", "--engine", "fake", "missing.wav", "talk2.wav")

    assert done.returncode == 1
    assert "missing.wav: no such file" in done.stderr
    assert "hint:" in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_failed_job_says_why_and_is_retried_and_removed(home: Path) -> None:
    [job] = queue(home, "bad.mp3")

    shown = command(home, "jobs", "show", job, "--wait", "--json")
    retried = command(home, "jobs", "retry", job)
    cancelled = command(home, "jobs", "cancel", job)
    removed = command(home, "jobs", "rm", job)
    gone = command(home, "jobs", "show", job)

    assert json.loads(shown.stdout)["error"]["code"] == "not_media"
    assert retried.returncode == 0
    assert cancelled.stdout.split()[0] == job
    assert (removed.returncode, gone.returncode) == (0, 1)
    assert f"there is no job '{job}'" in gone.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("jobs", "list", "--status", "sleeping"), "--status is 'sleeping'"),
        (("jobs", "list", "--cursor", "x"), "the cursor 'x' is unknown"),
        (("jobs", "rm"), "no job was named"),
        (
            ("transcribe", "--queue", "talk0.wav", "--format", "srt"),
            "--format with --queue needs an output file",
        ),
        (
            ("transcribe", "talk0.wav", "--skip-existing"),
            "--skip-existing needs an output directory",
        ),
        (("jobs", "rm", "--keep-days", "nan"), "jobs cannot be kept for nan days"),
        (("jobs", "rm", "--keep-days", "-1"), "jobs cannot be kept for -1 days"),
        (
            ("transcribe", "--queue", "talk0.wav", "--language", "klingon"),
            "there is no language 'klingon'",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_way_out(
    home: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = command(home, *arguments)

    assert done.returncode == 2
    assert message in done.stderr
    assert "hint:" in done.stderr


def test_a_worker_in_the_foreground_works_and_ends(home: Path) -> None:
    """Where no other works: in a data directory of its own."""
    variables = {
        "TRANSCRIBE_MCP_DATA_DIR": str(home / "other"),
        "TRANSCRIBE_MCP_EXIT_AFTER_S": "0.2",
    }
    own = environment(home, **variables)
    with subprocess.Popen(
        [*COMMAND, "worker"], cwd=home, env=own, stderr=subprocess.PIPE, text=True
    ) as worker:
        queued = run("transcribe", "--queue", "--engine", "fake", "talk0.wav", cwd=home, env=own)
        _, said = worker.communicate(timeout=PATIENCE_S)

    assert worker.returncode == 0, said
    assert queued.returncode == 0


def test_a_search_or_a_list_without_results_says_so(home: Path) -> None:
    found = command(home, "jobs", "search", "xylophone")
    listed = command(home, "jobs", "list", "--status", "cancelled")

    assert (found.stdout, listed.stdout) == ("", "")
    assert found.stderr == "no sentence of a finished transcript has all these words\n"
    assert listed.stderr == "no jobs with status cancelled\n"
