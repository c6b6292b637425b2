"""Several machines on one queue: what only a server of PostgreSQL can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from job_places import Place, counting_worker, finished, options, place, request, until
from postgres import new_database, server
from whisper_nano import CONVERSATION, SPEECH, kept_conversions

from transcribe_mcp import EngineRequest, Options, load_engine, transcribe
from transcribe_mcp.jobs import process
from transcribe_mcp.service import jobs
from transcribe_mcp.service.jobs import Job, JobStatus

LONG = CONVERSATION / "three_voices.opus"
CLIPS = sorted(SPEECH.glob("*.flac"))[:12]


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with server() as url:
        yield url


@pytest.fixture
def machines(tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Place, Place]]:
    """Two data directories, as of two machines, and one database."""
    monkeypatch.setattr(process, "start_worker", lambda chosen: False)
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


def test_two_workers_share_a_queue_and_no_recording_is_transcribed_twice(
    machines: tuple[Place, Place], tmp_path: Path
) -> None:
    one, two = machines
    batch = jobs.submit_batch([str(path) for path in CLIPS], request(CLIPS[0]))
    logs = [tmp_path / "first", tmp_path / "second"]
    with counting_worker(one, logs[0]), counting_worker(two, logs[1]):
        ended = jobs.wait_for(batch.job_id, 200)

    assert isinstance(ended, jobs.Batch)
    assert [job.status for job in ended.jobs] == [JobStatus.COMPLETED] * len(CLIPS)
    assert [job.attempts for job in ended.jobs] == [1] * len(CLIPS)
    shares = Counter(workers_of(database_url()))
    assert len(shares) == 2, shares
    assert sum(len(log.read_text(encoding="utf-8").split()) for log in logs) == len(CLIPS)


def test_what_a_dead_machine_began_another_finishes(machines: tuple[Place, Place], tmp_path: Path) -> None:
    one, two = machines
    job = jobs.submit(request(LONG, options(language="en", batch_size=1)))
    before, after = tmp_path / "before", tmp_path / "after"
    with counting_worker(one, before) as first:
        until(lambda: one.checkpoints(job.job_id) >= 2, "two batches are safe")
        first.kill()
        first.wait()
    n_kept = one.checkpoints(job.job_id)
    with counting_worker(two, after, silent_s=1.0):
        ended = finished(job.job_id)
    with closing(load_engine(EngineRequest(engine="ctranslate2", model=options().model, device="cpu"))) as engine:
        expected = transcribe(LONG, engine, Options(language="en", temperatures=(0.0,), batch_size=1))

    assert isinstance(ended, Job)
    assert (ended.status, ended.attempts) == (JobStatus.COMPLETED, 2)
    assert jobs.get_transcript(job.job_id).to_json()["segments"] == expected.to_json()["segments"]
    decoded = [log.read_text(encoding="utf-8").split() for log in (before, after)]
    assert len(decoded[1]) == len(set(decoded[0]) | set(decoded[1])) - n_kept
