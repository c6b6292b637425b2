"""Machines whose workers cannot start, or die in ways that no job is to blame for: nothing fails,
everything waits.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from command_line import COMMAND, run
from job_places import (
    PATIENCE_S,
    WORKER_MODULE,
    Place,
    break_workers,
    fake_options,
    finished,
    jobs,
    options,
    place,
    request,
    until,
    worker,
)
from mcp_places import Home, calling, stdio
from slow import slow
from whisper_nano import CONVERSATION, kept_conversions, speech_truths

from transcribe_mcp.jobs import schema, worker_process
from transcribe_mcp.jobs.worker_store import WorkerStore
from transcribe_mcp.service import models
from transcribe_mcp.service.models import Job, JobStatus
from transcribe_mcp.service.service import WAKE_S, default_service

LONG = CONVERSATION / "three_voices.opus"
FAKE = fake_options(vad=False)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with kept_conversions(), place(tmp_path / "data") as made:
        made.data_dir.mkdir(parents=True)
        yield made


def clip() -> Path:
    return speech_truths()["en_0"].path


def waiting(job_id: str) -> str:
    """What a job waits for."""
    job = jobs.get_job(job_id)
    assert isinstance(job, Job)
    assert not job.status.is_final, job.error
    return job.waiting_for or ""


def command(*arguments: str) -> str:
    """What a command of the same store prints."""
    done = run(*arguments, cwd=Path.cwd(), env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout


def stored(here: Place, query: str) -> list[tuple[object, ...]]:
    """Rows of the database, read without any call that would start a worker."""
    with closing(
        sqlite3.connect(f"file:{here.database}?mode=ro", uri=True, timeout=PATIENCE_S)
    ) as connection:
        return connection.execute(query).fetchall()


def the_supervisor() -> subprocess.Popen[bytes]:
    until(
        lambda: sum(one.poll() is None for one in worker_process._started) == 1,
        "there is one supervisor",
    )
    return next(one for one in worker_process._started if one.poll() is None)


def test_where_no_worker_can_start_jobs_wait_and_say_why_until_one_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = break_workers(tmp_path, monkeypatch)
    with place(tmp_path / "data") as here:
        job_id = jobs.submit(request(clip(), FAKE)).job_id
        until(lambda: here.log().count(worker_process.ENDED) >= 3, "three starts have failed")
        until(lambda: "failed starts" in waiting(job_id), "the job says so")
        listed, shown = command("jobs", "list"), command("jobs", "show", job_id)
        as_json = json.loads(command("jobs", "show", job_id, "--json"))
        with calling(stdio(Home(tmp_path))) as caller:
            answer = caller.answer("get_transcription_progress", job_id=job_id, wait_s=0)
        broken.unlink()
        ended = finished(job_id)

    for text in (listed, shown, as_json["waiting_for"], answer["waiting_for"]):
        assert re.search(
            (
                r"no worker: signal SIGABRT \(\d failed starts since 20[^)]+\); (next try in \d+ "
                r"s|trying again now)"
            ),
            text,
        )
    assert as_json["status"] == "queued"
    assert (ended.status, ended.attempts, ended.waiting_for) == (JobStatus.COMPLETED, 1, None)


def test_workers_that_are_killed_while_they_start_cost_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four in a row, as where the system has no memory for a while."""
    killed = tmp_path / "killed"
    killed.mkdir()
    code = (
        "import os, signal, sys, pathlib\n"
        f"folder = pathlib.Path({str(killed)!r})\n"
        f"if {WORKER_MODULE!r} in sys.orig_argv and len(list(folder.iterdir())) < 4:\n"
        "    (folder / str(os.getpid())).touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (break_workers(tmp_path, monkeypatch)).write_text(code, encoding="utf-8")
    with place(tmp_path / "data"):
        ids = [jobs.submit(request(clip(), FAKE, force=True)).job_id for _ in range(2)]
        until(lambda: len(list(killed.iterdir())) >= 3, "three were killed")
        assert waiting(ids[0]).startswith("no worker: signal SIGKILL")
        ended = [finished(job_id) for job_id in ids]

    assert [(job.status, job.attempts) for job in ended] == [(JobStatus.COMPLETED, 1)] * 2


def test_a_worker_of_a_broken_installation_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = break_workers(tmp_path, monkeypatch)
    broken.write_text(
        f"import sys\nif {WORKER_MODULE!r} in sys.orig_argv: sys.modules['dbos'] = None\n",
        encoding="utf-8",
    )
    with place(tmp_path / "data"):
        job_id = jobs.submit(request(clip(), FAKE)).job_id
        reason = "no worker: exit code 1: ModuleNotFoundError: import of dbos halted"
        until(lambda: waiting(job_id).startswith(reason), "the job says why it waits")
        jobs.cancel(job_id)
        code = the_supervisor().wait(PATIENCE_S)

    assert code == 1, "nothing is left, and it could not start a worker"


def test_a_worker_whose_data_directory_is_not_writable_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = subprocess.run(
        [sys.executable, "-m", "transcribe_mcp", "worker"],
        env=os.environ | {"TRANSCRIBE_MCP_DATA_DIR": str(tmp_path / "file" / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    error, hint = ended.stderr.splitlines()
    assert error.startswith("error: the data directory") and hint.startswith("hint: check its")
    assert ended.returncode != 0


def test_a_job_that_cannot_run_fails_though_others_wait_for_a_worker(here: Place) -> None:
    wrong = jobs.submit(
        request(clip(), options(model="auto", engine="fake", device="cuda:7", vad=False))
    )
    right = jobs.submit(request(clip(), FAKE))

    assert finished(right.job_id).status is JobStatus.COMPLETED
    assert finished(wrong.job_id).status in (JobStatus.COMPLETED, JobStatus.FAILED)


@slow
def test_a_job_is_not_blamed_for_workers_that_are_killed_from_outside(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    job = jobs.submit(request(clip(), options(model="auto")))
    for n in range(4):
        inside = tmp_path / f"inside{n}"
        with worker(here, "stuck_engine", "died" if n else "", STUCK=str(inside)) as one:
            until(inside.exists, "the engine is in a call")
            one.kill()
            one.wait()
    with worker(here, "stuck_engine", "died"):
        ended = finished(job.job_id)

    assert (ended.status, ended.attempts) == (JobStatus.COMPLETED, 5)


@pytest.mark.parametrize("look", ["jobs list", "search"])
def test_whoever_looks_at_the_queue_starts_the_workers_again(
    here: Place, look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as nobody:
        nobody.setattr(worker_process, "start_worker", lambda chosen: False)
        done = jobs.submit(request(clip(), FAKE)).job_id
        with worker(here, "counting_engine", COUNTING_ENGINE_LOG=os.devnull):
            finished(done)
        left = jobs.submit(request(clip(), FAKE, force=True)).job_id
    default_service()._woken_at = -WAKE_S
    looks = {
        "jobs list": lambda: jobs.list_jobs(models.JobFilter(statuses=(JobStatus.COMPLETED,))),
        "jobs show": lambda: jobs.get_job(done),
        "search": lambda: jobs.search("anything"),
        "history": lambda: jobs.get_transcript(done),
    }
    looks[look]()

    state = f"SELECT status FROM jobs WHERE job_id = '{left}'"
    until(lambda: stored(here, state) == [("completed",)], "the other job is done")
    assert len(worker_process._started) == 1


def test_after_worker_and_supervisor_were_killed_a_list_of_jobs_starts_them(here: Place) -> None:
    job_id = jobs.submit(request(LONG, options(language="en", batch_size=1), force=True)).job_id
    until(lambda: here.worker_pid(), "a worker is there")
    killed = here.worker_pid()
    supervisor = the_supervisor()
    supervisor.kill()
    supervisor.wait()
    here.kill_worker()
    worker_process._started.clear()

    command("jobs", "list", "--status", "failed")
    until(lambda: here.worker_pid(), "a worker is there again")
    assert here.worker_pid() != killed
    assert jobs.cancel(job_id).status is JobStatus.CANCELLED


def test_commands_of_a_machine_that_leaves_the_work_to_a_service_start_no_worker(
    tmp_path: Path,
) -> None:
    with place(tmp_path / "data", START_WORKERS="0"):
        job_id = jobs.submit(request(clip(), FAKE)).job_id
        jobs.list_jobs()
        assert not worker_process._started
        with subprocess.Popen([*COMMAND, "worker"], stderr=subprocess.DEVNULL) as service:
            ended = finished(job_id)
            service.send_signal(signal.SIGTERM)

    assert ended.status is JobStatus.COMPLETED
    assert service.returncode == 0


def test_an_error_of_the_queue_in_the_heartbeat_ends_the_process_and_its_jobs_go_on(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orphan is adopted where the queue's table has gone: as a connection that breaks in that
    moment.
    """
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    orphan = jobs.submit(request(clip(), options(model="auto"))).job_id
    jobs.cancel(orphan)
    healthy = jobs.submit(request(LONG, options(model="auto"))).job_id
    inside = tmp_path / "inside"
    with worker(here, "stuck_engine", STUCK=str(inside)) as one:
        until(inside.exists, "it is at work")
        with closing(sqlite3.connect(here.database, timeout=PATIENCE_S)) as connection, connection:
            connection.execute("ALTER TABLE workflow_status RENAME TO hidden").close()
            change = "UPDATE jobs SET status = 'running', worker_id = 'gone' WHERE job_id = ?"
            connection.execute(change, [orphan]).close()
        code = one.wait(PATIENCE_S)
    states = stored(here, "SELECT status FROM jobs")
    with closing(sqlite3.connect(here.database, timeout=PATIENCE_S)) as connection, connection:
        connection.execute("ALTER TABLE hidden RENAME TO workflow_status").close()
    with worker(here, "stuck_engine", "store", WORKER_SILENT_S="1"):
        ended = [finished(job_id) for job_id in (healthy, orphan)]

    assert code == worker_process.EXIT_STORE_FAILED
    assert states == [("queued",)] * 2, "given back"
    assert [job.status for job in ended] == [JobStatus.COMPLETED] * 2


def test_a_job_whose_options_a_worker_cannot_read_fails_and_says_so(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    job_id = jobs.submit(request(clip(), FAKE)).job_id
    with jobs._store().begin() as connection:
        options = json.dumps({"option_of_tomorrow": 1})
        connection.execute(
            schema.jobs.update().where(schema.jobs.c.job_id == job_id).values(options=options)
        )

    assert WorkerStore(jobs._store(), "device-0").claim(job_id) is None
    error = stored(here, "SELECT status, error_code, error_message FROM jobs")[0]
    assert error[:2] == ("failed", "usage") and "option_of_tomorrow" in error[2]


def test_a_store_of_the_version_before_opens_with_what_is_in_it(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    job_id = jobs.submit(request(clip(), FAKE)).job_id
    jobs.close()
    with closing(sqlite3.connect(here.database)) as connection, connection:
        connection.execute("DROP TABLE failed_starts").close()
        connection.execute(
            "UPDATE store_about SET value = '1' WHERE name = 'schema_version'"
        ).close()

    assert jobs.get_job(job_id).job_id == job_id
    assert stored(here, "SELECT value FROM store_about WHERE name = 'schema_version'") == [("4",)]
