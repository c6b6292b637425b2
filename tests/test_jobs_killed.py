"""Workers that are killed without a word: nothing is lost, and hardly anything is done twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from job_places import (
    Place,
    counting_worker,
    finished,
    fresh,
    jobs,
    options,
    place,
    request,
    unbroken,
    worker,
)
from patience import PATIENCE_S, until
from slow import SLOW, slow
from whisper_nano import CONVERSATION, join_speech, kept_conversions, speech_truths

from transcribe_mcp import Transcript
from transcribe_mcp.jobs import worker_process
from transcribe_mcp.service.models import Job, JobStatus

KILLS = 24 if SLOW else 4
RECORDINGS = 30 if SLOW else 10
SEED = 20261124
LONG = CONVERSATION / "three_voices.opus"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "long.wav"
    names = sorted(name for name in speech_truths() if name.startswith("en"))
    join_speech(path, [names[i % len(names)] for i in range(RECORDINGS)])
    return path


@pytest.fixture(scope="module")
def expected(recording: Path) -> Iterator[Transcript]:
    with kept_conversions():
        yield unbroken(recording)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with kept_conversions(), place(tmp_path / "data") as made:
        made.data_dir.mkdir(parents=True)
        yield made


def one_job(recording: Path) -> Job:
    """Queued where nobody starts a worker: tests bring their own."""
    job = jobs.submit(request(recording, options(language="en", batch_size=1)))
    assert isinstance(job, Job)
    return job


def gets_on(here: Place, job_id: str) -> Callable[[], bool]:
    """Whether a batch more is safe than when this was made, or the job is over."""
    before = here.checkpoints(job_id)
    return lambda: here.checkpoints(job_id) > before or jobs.get_job(job_id).status.is_final


def looked(times: int) -> Callable[[], bool]:
    """Whether it has been asked so often: some moment or other, of no known length."""
    looks = count(1)
    return lambda: next(looks) > times


def test_a_worker_killed_at_many_points_costs_at_most_the_batch_that_it_was_in(
    here: Place,
    recording: Path,
    expected: Transcript,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    log = tmp_path / "decoded"
    chance = random.Random(SEED)
    job = one_job(recording)
    end = ""
    for _ in range(KILLS):
        with counting_worker(here, log, end) as worker:
            until(gets_on(here, job.job_id), "a batch more is safe")
            until(looked(chance.randrange(50)), "the moment has come")
            worker.kill()
            worker.wait()
        end = "died"
    with counting_worker(here, log, end):
        job = finished(job.job_id)

    transcript = jobs.get_transcript(job.job_id)
    decoded = Counter(log.read_text(encoding="utf-8").split())
    assert job.status is JobStatus.COMPLETED, job.error
    assert transcript.to_json()["segments"] == expected.to_json()["segments"]
    assert transcript.language_probability == expected.language_probability
    assert sum(decoded.values()) <= len(decoded) + KILLS
    assert max(decoded.values()) <= 2


@slow
def test_checkpoints_of_other_windows_are_decoded_anew_and_named(
    here: Place,
    recording: Path,
    expected: Transcript,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the next version cuts windows otherwise; killed once more after that, it goes on
    from the new ones.
    """
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    log = tmp_path / "decoded"
    job = one_job(recording)
    with counting_worker(here, log) as worker:
        until(lambda: here.checkpoints(job.job_id) >= 2, "two batches are safe")
        worker.kill()
        worker.wait()
    n_old = here.checkpoints(job.job_id)
    with closing(sqlite3.connect(here.database, timeout=PATIENCE_S)) as connection, connection:
        longer = (
            "UPDATE operation_outputs SET output = replace(output, 'durations_s\\\": "
            "[', 'durations_s\\\": [1')"
        )
        assert connection.execute(longer).rowcount >= n_old
    with counting_worker(here, log, "died") as worker:
        until(lambda: here.checkpoints(job.job_id) > n_old, "a batch was decoded anew")
        worker.kill()
        worker.wait()
    with counting_worker(here, log, "died"):
        job = finished(job.job_id)

    transcript = jobs.get_transcript(job.job_id)
    assert job.status is JobStatus.COMPLETED, job.error
    assert transcript.to_json()["segments"] == expected.to_json()["segments"]
    assert "checkpoints_differ" in {notice.code for notice in transcript.warnings}
    decoded = Counter(log.read_text(encoding="utf-8").split())
    assert sum(decoded.values()) <= len(decoded) + n_old + 2


def test_power_lost_in_the_middle_loses_no_more_than_a_batch(
    here: Place,
    recording: Path,
    expected: Transcript,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What lies on the disk at some moment, write-ahead log and all, is copied and worked on
    elsewhere.
    """
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    log, after = tmp_path / "decoded", tmp_path / "after"
    job = one_job(recording)
    with counting_worker(here, tmp_path / "before") as running:
        until(lambda: here.checkpoints(job.job_id) >= 2, "two batches are safe")
        with closing(
            sqlite3.connect(here.database)
        ) as reader:  # holds both files at one moment while they are copied
            reader.execute("BEGIN").close()
            reader.execute("SELECT count(*) FROM jobs").fetchone()
            shutil.copytree(here.data_dir, after, ignore=shutil.ignore_patterns("*.sock"))
        running.kill()
        running.wait()
    monkeypatch.setenv("TRANSCRIBE_MCP_DATA_DIR", str(after))
    fresh()
    kept = Place(after)
    n_checkpoints = kept.checkpoints(job.job_id)

    with counting_worker(kept, log, "died"):
        job = finished(job.job_id)

    assert n_checkpoints >= 2
    assert jobs.get_transcript(job.job_id).to_json()["segments"] == expected.to_json()["segments"]
    decoded = log.read_text(encoding="utf-8").split()
    assert len(decoded) == len(set(decoded))
    assert len(decoded) + n_checkpoints == len(
        set((tmp_path / "before").read_text(encoding="utf-8").split()) | set(decoded)
    )


def deadly_job(device: str) -> Job:
    job = jobs.submit(request(LONG, options(device=device, model="auto")))
    assert isinstance(job, Job)
    return job


def killed_twice(here: Place) -> None:
    for end in ("", "died"):
        with worker(here, "deadly_engine", end) as one:
            until(lambda one=one: one.poll() is not None, "the engine has ended its process")  # type: ignore[misc]


def test_a_job_that_brings_the_worker_down_on_the_gpu_is_finished_on_the_cpu(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    job = deadly_job("auto")
    killed_twice(here)

    with worker(here, "deadly_engine", "died"):
        job = finished(job.job_id)

    assert (job.status, job.device, job.attempts) == (JobStatus.COMPLETED, "cpu", 3)
    [notice] = [notice for notice in job.warnings if notice.code == "worker_failed"]
    assert "cuda:0" in notice.message
    assert "SIGABRT" in notice.message
    assert "cuDNN" in notice.message
    assert jobs.get_transcript(job.job_id).segments[-1].end > 60


def test_a_job_that_brings_the_worker_down_on_the_cpu_is_set_aside_and_costs_no_other_its_result(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    monkeypatch.setenv("DEADLY_ENGINE_ON", "cpu")
    guilty = deadly_job("cpu")
    innocent = jobs.submit(
        request(speech_truths()["en_0"].path, options(device="cpu", model="auto"))
    )
    killed_twice(here)

    with worker(here, "deadly_engine", "died"):
        ended, spared = finished(guilty.job_id), finished(innocent.job_id)

    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert ended.error.code == "worker_failed"
    assert "SIGABRT" in ended.error.message
    assert jobs.get_transcript(guilty.job_id).segments, "what was finished stays readable"
    assert spared.status is JobStatus.COMPLETED


def test_a_job_under_which_the_engine_dies_twice_is_set_aside_by_the_next_worker(
    here: Place,
) -> None:
    """Model, worker and supervisor as users have them; the signal is the one of a broken native
    library.
    """
    guilty = jobs.submit(request(LONG, options(language="en")))

    def at_work(attempt: int) -> bool:
        job = jobs.get_job(guilty.job_id)
        return (
            isinstance(job, Job) and job.attempts == attempt and job.stage in ("speech", "windows")
        )

    for attempt in (1, 2):
        until(lambda attempt=attempt: at_work(attempt), "the engine is at work")  # type: ignore[misc]
        pid = here.worker_pid()
        assert pid is not None
        os.kill(pid, signal.SIGSEGV)
    ended = finished(guilty.job_id)
    spared = finished(jobs.submit(request(speech_truths()["en_0"].path)).job_id)

    assert (ended.status, spared.status) == (JobStatus.FAILED, JobStatus.COMPLETED)
    assert ended.error is not None
    assert ended.error.code == "worker_failed"
    assert "ended 2 times" in ended.error.message
    assert "SIGSEGV" in ended.error.message
    assert "Fatal Python error" in here.log(), "where it died is in the log"


def test_a_call_that_cannot_be_interrupted_is_ended_with_its_process_and_nobody_is_blamed(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    inside = tmp_path / "inside"
    stuck = jobs.submit(request(LONG, options(model="auto")))
    with worker(here, "stuck_engine", STUCK=str(inside)) as one:
        until(inside.exists, "the engine is in a call")
        other = jobs.submit(request(speech_truths()["en_0"].path, options(model="auto")))
        until(
            lambda: jobs.get_job(other.job_id).status is JobStatus.RUNNING,
            "another waits for the engine",
        )
        jobs.cancel(stuck.job_id)
        code = one.wait(PATIENCE_S)

    with worker(here, "stuck_engine", "restart"):
        ended = finished(other.job_id)

    assert code == worker_process.EXIT_RESTART
    assert (ended.status, ended.attempts) == (JobStatus.COMPLETED, 2)
    assert jobs.get_job(stuck.job_id).status is JobStatus.CANCELLED
