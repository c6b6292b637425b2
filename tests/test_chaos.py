"""Jobs while everything around them is killed, stopped and restarted, as in the benchmark, but for
less time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from job_places import fake_options, jobs, place
from patience import PAUSE, until
from postgres import programs
from slow import SLOW, slow
from whisper_nano import SPEECH, kept_conversions

from transcribe_mcp.service import models

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SECONDS = 600 if SLOW else 25
KILLS = 200 if SLOW else 6
CLIP = SPEECH / "en_0.flac"
ROUNDS = 3
LOOKS = 500  # for what the jobs of a round held


def chaos(*arguments: str) -> dict[str, Any]:
    """What the benchmark's last line says."""
    command = [sys.executable, str(BENCHMARKS / "chaos.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip(), done.stderr
    whole: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return whole


@pytest.mark.timeout(3600)
@pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed")
def test_three_machines_lose_nothing_while_they_and_their_server_are_killed() -> None:
    whole = chaos("postgres", "--seconds", str(SECONDS), "--seed", "7")

    assert [bar for bar in whole["bars"] if not bar["passed"]] == [], whole["figures"]


@pytest.mark.timeout(3600)
@slow
def test_one_store_loses_nothing_while_all_its_processes_are_killed() -> None:
    whole = chaos("sqlite", "--kills", str(KILLS), "--seed", "7")

    assert [bar for bar in whole["bars"] if not bar["passed"]] == [], whole["figures"]


def test_a_worker_keeps_no_descriptor_and_no_thread_of_jobs_that_are_done(tmp_path: Path) -> None:
    """The pool of threads may still grow to its size while others keep the machine busy: one of
    the rounds adds nothing. What stays of each job would show in all of them.
    """
    with kept_conversions(), place(tmp_path / "data", EXIT_AFTER_S="600") as here:
        wanted = models.JobRequest(str(CLIP), fake_options(), force=True)

        def work_through(n: int) -> None:
            ids = [jobs.submit(wanted).job_id for _ in range(n)]
            until(
                lambda: all(jobs.get_job(i).status == "completed" for i in ids), "the jobs are done"
            )

        for _ in range(3):  # a pool of threads grows until as many jobs run at once as may
            work_through(20)
        worker = psutil.Process(here.worker_pid())

        def held() -> tuple[int, int]:
            descriptors = worker.num_fds() if hasattr(worker, "num_fds") else worker.num_handles()
            return descriptors, worker.num_threads()

        def a_round_adds_nothing() -> bool:
            before = held()
            work_through(30)
            for _ in range(LOOKS):
                if held()[0] <= before[0] and held()[1] <= before[1]:
                    return True
                PAUSE.wait(0.02)
            return False

        assert any(a_round_adds_nothing() for _ in range(ROUNDS)), held()
        assert here.worker_pid() == worker.pid
