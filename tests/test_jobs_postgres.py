"""Several machines on one queue: what only a server of PostgreSQL can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from command_line import environment, run
from job_places import (
    Place,
    break_workers,
    counting_worker,
    finished,
    jobs,
    options,
    place,
    request,
    second_worker,
    worker,
)
from patience import PATIENCE_S, until
from postgres import new_database, server
from slow import slow
from whisper_nano import CONVERSATION, SPEECH, kept_conversions

from transcribe_mcp import EngineRequest, Options, load_engine, transcribe
from transcribe_mcp.errors import StoreBusyError
from transcribe_mcp.jobs import database, worker_process
from transcribe_mcp.service import models
from transcribe_mcp.service.models import Job, JobStatus

LONG = CONVERSATION / "three_voices.opus"
CLIPS = sorted(SPEECH.glob("*.flac"))[:12]


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with server() as url:
        yield url


@pytest.fixture
def machines(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Place, Place]]:
    """Two data directories, as of two machines, and one database."""
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    with kept_conversions(), place(tmp_path / "one", DATABASE_URL=new_database(server_url)) as one:
        jobs.prepare()
        both = (one, Place(tmp_path / "two"))
        for each in both:
            each.data_dir.mkdir(exist_ok=True)
        yield both


def workers_of(url: str) -> list[str]:
    with closing(psycopg.connect(url)) as connection:
        return [row[0] for row in connection.execute("SELECT worker_id FROM jobs").fetchall()]


def database_url() -> str:
    return jobs._store().url.set(drivername="postgresql").render_as_string(hide_password=False)


@slow
def test_two_workers_share_a_queue_and_no_recording_is_transcribed_twice(
    machines: tuple[Place, Place], tmp_path: Path
) -> None:
    one, two = machines
    batch = jobs.submit_batch([str(path) for path in CLIPS], request(CLIPS[0]))
    logs = [tmp_path / "first", tmp_path / "second"]
    with counting_worker(one, logs[0]), counting_worker(two, logs[1]):
        ended = jobs.wait_for(batch.job_id, PATIENCE_S)

    assert isinstance(ended, models.Batch)
    assert [job.status for job in ended.jobs] == [JobStatus.COMPLETED] * len(CLIPS)
    assert [job.attempts for job in ended.jobs] == [1] * len(CLIPS)
    shares = Counter(workers_of(database_url()))
    assert len(shares) == 2, shares
    assert sum(len(log.read_text(encoding="utf-8").split()) for log in logs) == len(CLIPS)


@slow
def test_what_a_dead_machine_began_another_finishes(
    machines: tuple[Place, Place], tmp_path: Path
) -> None:
    one, two = machines
    job = jobs.submit(request(LONG, options(language="en", batch_size=1)))
    before, after = tmp_path / "before", tmp_path / "after"
    with counting_worker(one, before) as first:
        until(lambda: one.checkpoints(job.job_id) >= 2, "two batches are safe")
        first.kill()
        first.wait()
    n_checkpoints = one.checkpoints(job.job_id)
    with counting_worker(two, after, silent_s=1.0):
        ended = finished(job.job_id)
    with closing(
        load_engine(EngineRequest(engine="ctranslate2", model=options().model, device="cpu"))
    ) as engine:
        expected = transcribe(
            LONG, engine, Options(language="en", temperatures=(0.0,), batch_size=1)
        )

    assert isinstance(ended, Job)
    assert (ended.status, ended.attempts) == (JobStatus.COMPLETED, 2)
    assert jobs.get_transcript(job.job_id).to_json()["segments"] == expected.to_json()["segments"]
    decoded = [log.read_text(encoding="utf-8").split() for log in (before, after)]
    assert len(decoded[1]) == len(set(decoded[0]) | set(decoded[1])) - n_checkpoints


def states(ids: list[str]) -> set[tuple[JobStatus, str | None]]:
    found = [jobs.get_job(job_id) for job_id in ids]
    return {(job.status, job.waiting_for) for job in found if isinstance(job, Job)}


def test_a_machine_whose_workers_cannot_start_leaves_the_jobs_of_others_alone(
    machines: tuple[Place, Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machines
    ids = [
        jobs.submit(request(clip, options(model="auto"), force=True)).job_id for clip in CLIPS[:12]
    ]
    inside = tmp_path / "inside"
    with worker(one, "stuck_engine", STUCK=str(inside)):
        until(inside.exists, "the healthy machine is at work")
        break_workers(tmp_path, monkeypatch)
        broken = two.data_dir.with_name("three")
        with second_worker(broken):
            log = broken / worker_process.LOG_NAME
            until(
                lambda: log.read_text().count("no worker: signal SIGABRT") >= 3,
                "three starts have failed",
            )
            before = states(ids)
            with closing(psycopg.connect(database_url())) as connection:
                failed = connection.execute("SELECT reason, failures FROM failed_starts").fetchall()
            inside.unlink()
            ended = [finished(job_id) for job_id in ids]

    [(reason, failures)] = failed
    assert (reason, failures >= 2) == ("signal SIGABRT", True)
    assert before == {(JobStatus.RUNNING, None), (JobStatus.QUEUED, None)}, (
        "another machine works on them"
    )
    assert [(job.status, job.attempts) for job in ended] == [(JobStatus.COMPLETED, 1)] * len(ids)
    with closing(psycopg.connect(database_url())) as connection:
        assert connection.execute("SELECT count(*) FROM failed_starts").fetchone() == (0,)


def test_a_worker_whose_heartbeat_stands_still_is_ended_and_its_job_goes_on(
    machines: tuple[Place, Place], tmp_path: Path
) -> None:
    """A lock in the database that nobody gives back: the main thread waits for it without end."""
    one, _ = machines
    job = jobs.submit(request(LONG, options(model="auto")))
    inside = tmp_path / "inside"
    with worker(one, "stuck_engine", STUCK=str(inside), WORKER_HEARTBEAT_LIMIT_S="10") as stuck:
        until(inside.exists, "it is at work")
        with closing(psycopg.connect(database_url())) as holder:
            holder.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            code = stuck.wait(PATIENCE_S)
    with worker(one, "stuck_engine", "died"):
        ended = finished(job.job_id)

    assert code == 1
    assert "worker.py" in one.log(), "where it stood is in the log"
    assert (ended.status, ended.attempts) == (JobStatus.COMPLETED, 2)


def test_a_table_that_another_program_locks_is_an_error_and_is_not_waited_for(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_MS", 100)
    url = new_database(server_url)
    with place(tmp_path / "data", DATABASE_URL=url, START_WORKERS="0"):
        job = jobs.submit(request(CLIPS[0], options()))
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreBusyError, match="lock timeout") as busy:
                jobs.list_jobs()
            assert "try again" in busy.value.hint
            other.rollback()
        assert [each.job_id for each in jobs.list_jobs().jobs] == [job.job_id]


def test_a_server_that_refuses_to_make_tables_is_an_error_of_the_store(
    server_url: str, tmp_path: Path
) -> None:
    """As one that goes down while the tables are made: the error is one of ours, and standard
    output stays empty.
    """
    url = new_database(server_url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE reader LOGIN")
    refused = {
        "TRANSCRIBE_MCP_DATABASE_URL": url.replace("tester", "reader"),
        "TRANSCRIBE_MCP_DATA_DIR": str(tmp_path),
    }
    done = run("jobs", "list", cwd=tmp_path, env=environment(tmp_path, **refused))

    assert done.returncode == 1
    assert done.stdout == ""
    assert "cannot use the database" in done.stderr
    assert "permission denied" in done.stderr
    assert "hint:" in done.stderr
