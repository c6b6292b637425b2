"""Servers that are killed while clients wait: every job that was begun is finished, once, by
whoever comes next.

Three kills by default; with TRANSCRIBE_MCP_SLOW_TESTS=1 twelve.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from mcp_places import MODERN, SERVE, Caller, Home, calling, home, stdio
from media import write_audio
from patience import PATIENCE_S
from slow import SLOW, slow
from whisper_nano import SPEECH

from transcribe_mcp.media.decode import SAMPLE_RATE_HZ, read

KILLS = 12 if SLOW else 3
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@contextmanager
def mortal_server(place: Home) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, *SERVE, "--http", "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, env=place.environment, cwd=place.path, text=True
    ) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        try:
            yield line.rpartition(" ")[2].strip(), server
        finally:
            server.kill()
            server.communicate()


def call_and_kill(url: str, server: subprocess.Popen[str], source: Path, moment: int) -> str | None:
    """Submit and wait, and kill the server: at once, when the job's id is known, or when progress
    was heard of.
    """
    heard = threading.Event()
    job_id: str | None = None

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.set()

    with suppress(Exception), calling(url, MODERN) as caller:  # the client finds its server gone
        if moment == 1:
            job_id = caller.answer("transcribe_audio", source=str(source), wait_s=0)["job_id"]
        arguments = {"source": str(source), "wait_s": 45}
        call = partial(
            caller.client.call_tool, "transcribe_audio", arguments, progress_callback=hear
        )
        waiting = caller.portal.start_task_soon(call)
        if moment == 2:
            assert heard.wait(PATIENCE_S)
        server.kill()
        waiting.result(PATIENCE_S)
    server.kill()
    server.wait(PATIENCE_S)
    return job_id


def texts_by_source(caller: Caller) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for job in caller.answer("list_transcription_history", limit=100)["jobs"]:
        done = caller.finished(job["job_id"])
        assert done["status"] == "completed", done
        text = caller.answer("get_transcription_result", job_id=job["job_id"], format="tsv")["text"]
        found.setdefault(job["source"], []).append(text)
    return found


@POSIX
@slow
def test_a_killed_server_costs_no_job_and_no_second_one_does_its_work_again(tmp_path: Path) -> None:
    samples = read(SPEECH / "en_0.flac")
    learned: list[str | None] = []
    with home(tmp_path / "home") as place:
        sources = [place.root / f"{number}.wav" for number in range(KILLS)]
        for number, source in enumerate(sources):
            write_audio(source, "pcm_s16le", samples[: (5 * SAMPLE_RATE_HZ) + 800 * number])
        for source in sources:
            with mortal_server(place) as (url, server):
                learned.append(call_and_kill(url, server, source, moment=len(learned) % 3))
        with calling(stdio(place)) as caller:
            after = texts_by_source(caller)
            listed = {
                job["job_id"]
                for job in caller.answer("list_transcription_history", limit=100)["jobs"]
            }
            assert {job_id for job_id in learned if job_id} <= listed
            assert all(len(texts) == 1 for texts in after.values())  # none was queued twice
            for source, (text,) in after.items():
                again = caller.answer(
                    "transcribe_audio", source=source, force=True, formats=["tsv"], wait_s=45
                )
                assert again["text"] == text  # and it is what an unbroken run hears
    assert sum(map(bool, learned)) == KILLS // 3 and len(after) >= 2 * KILLS // 3
