"""Several workers on one queue, as a machine with several GPUs has them: a supervisor and its
workers as users do.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from job_places import (
    Place,
    break_workers,
    counting_worker,
    finished,
    fresh,
    jobs,
    options,
    place,
    request,
)
from media import write_audio
from patience import PATIENCE_S, until
from slow import slow
from whisper_nano import (
    CONVERSATION,
    SPEECH,
    join_speech,
    kept_conversions,
    speech_truths,
    whisper_nano,
)

from transcribe_mcp import Transcript
from transcribe_mcp.compat import gather
from transcribe_mcp.jobs import worker_process
from transcribe_mcp.jobs.supervisor import slots_of
from transcribe_mcp.jobs.worker_process import WorkerSlot
from transcribe_mcp.jobs.worker_store import WorkerStore
from transcribe_mcp.media.decode import read
from transcribe_mcp.service.models import Batch, Job, JobStatus
from transcribe_mcp.settings import Settings

LONG = CONVERSATION / "three_voices.opus"
SHORT = SPEECH / "en_0.flac"
TWO = {"WORKERS": "2"}
MANY = 200  # short jobs; the third start comes after a few seconds
FIRST, SECOND = "device-0", "device-1"


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four minutes: no worker is done with them before the other one has begun."""
    path = tmp_path_factory.mktemp("longer") / "conversation.wav"
    return write_audio(path, "pcm_s16le", np.tile(read(LONG), 2))


@pytest.fixture(scope="module")
def expected(longer: Path, tmp_path_factory: pytest.TempPathFactory) -> Transcript:
    """What a worker with half of the cores says that nothing interrupts: how sums are rounded
    depends on the cores.
    """
    with kept_conversions(), place(tmp_path_factory.mktemp("unbroken"), **TWO):
        return jobs.get_transcript(finished(submit(1, longer)[0]).job_id)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with kept_conversions(), place(tmp_path / "data", **TWO) as made:
        yield made


def submit(n: int, recording: Path = LONG) -> list[str]:
    """So many long jobs, none of which is answered by another."""
    wanted = request(recording, options(language="en", batch_size=1), force=True)
    return [jobs.submit(wanted).job_id for _ in range(n)]


def at_work(here: Place) -> dict[str, str]:
    """Which worker runs a job, of those that run."""
    with closing(
        sqlite3.connect(f"file:{here.database}?mode=ro", uri=True, timeout=PATIENCE_S)
    ) as connection:
        return dict(
            connection.execute(
                "SELECT job_id, worker_id FROM jobs WHERE status = 'running'"
            ).fetchall()
        )


def one_each(here: Place, recording: Path) -> dict[str, str]:
    """Two jobs, begun in two workers and not yet done: the job of each worker."""
    ids = submit(2, recording)
    until(lambda: sorted(at_work(here).values()) == [FIRST, SECOND], "each worker runs a job")
    until(lambda: all(here.checkpoints(job_id) for job_id in ids), "each has got somewhere")
    return {worker: job for job, worker in at_work(here).items()}


def the_supervisor() -> subprocess.Popen[bytes]:
    """The one that lives; of several that are started at once all but one go again."""
    until(
        lambda: sum(one.poll() is None for one in worker_process._started) == 1,
        "there is one supervisor",
    )
    return next(one for one in worker_process._started if one.poll() is None)


def log_of(here: Place, number: int) -> str:
    return (here.data_dir / WorkerSlot(number).log_name).read_text(
        encoding="utf-8", errors="replace"
    )


@slow
def test_jobs_are_shared_out_evenly_among_the_workers_whoever_looks_first(here: Place) -> None:
    ids = submit(4)
    until(
        lambda: Counter(at_work(here).values()) == {FIRST: 2, SECOND: 2},
        "each worker runs two of the four jobs",
    )
    pids = here.worker_pids()
    ended = [finished(job_id) for job_id in ids]

    assert len(set(pids.values())) == 2
    assert [(job.status, job.attempts) for job in ended] == [(JobStatus.COMPLETED, 1)] * 4


def test_a_job_that_comes_later_goes_to_the_worker_that_has_none(here: Place) -> None:
    [first] = submit(1)
    until(
        lambda: here.worker_pids().keys() == {FIRST, SECOND} and at_work(here),
        "both are there and one works",
    )
    [second] = submit(1)
    until(lambda: len(at_work(here)) == 2, "the second job runs, too")

    assert len(set(at_work(here).values())) == 2
    assert [finished(job_id).attempts for job_id in (first, second)] == [1, 1]


@slow
def test_a_worker_that_is_killed_costs_the_other_nothing_and_its_job_goes_on_as_if_nothing_had_been(
    here: Place, longer: Path, expected: Transcript
) -> None:
    job_of = one_each(here, longer)
    other = here.worker_pids()[FIRST]
    here.kill_worker(SECOND)
    ended = {worker: finished(job_id) for worker, job_id in job_of.items()}

    assert [(job.status, job.attempts) for job in (ended[FIRST], ended[SECOND])] == [
        (JobStatus.COMPLETED, 1),
        (JobStatus.COMPLETED, 2),
    ]
    for job in ended.values():
        assert (
            jobs.get_transcript(job.job_id).to_json()["segments"] == expected.to_json()["segments"]
        )
    assert here.worker_pids()[FIRST] == other
    assert f"{worker_process.ENDED}signal SIGKILL" in log_of(here, 1)
    assert worker_process.ENDED not in log_of(here, 0)


@slow
def test_work_of_a_worker_that_there_is_no_more_another_finishes(
    here: Place, longer: Path, expected: Transcript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power is lost, and when the machine is back it has a GPU less."""
    job_of = one_each(here, longer)
    supervisor = the_supervisor()
    supervisor.kill()
    supervisor.wait()
    for worker in (FIRST, SECOND):
        here.kill_worker(worker)
    worker_process._started.clear()
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    for name, value in slots_of(gather(), Settings())[
        1
    ].items():  # as many threads as they had; see ``expected``
        monkeypatch.setenv(name, value)
    with counting_worker(here, tmp_path / "decoded", silent_s=1.0):
        ended = {worker: finished(job_id) for worker, job_id in job_of.items()}

    assert [(job.status, job.attempts) for job in ended.values()] == [(JobStatus.COMPLETED, 2)] * 2
    for job in ended.values():
        assert (
            jobs.get_transcript(job.job_id).to_json()["segments"] == expected.to_json()["segments"]
        )


@slow
def test_a_cancelled_job_of_one_worker_leaves_that_of_the_other_alone(
    here: Place, longer: Path
) -> None:
    job_of = one_each(here, longer)
    pids = here.worker_pids()
    jobs.cancel(job_of[SECOND])
    spared = finished(job_of[FIRST])
    jobs.delete(job_of[SECOND])

    assert (spared.status, spared.attempts) == (JobStatus.COMPLETED, 1)
    assert [job.job_id for job in jobs.list_jobs().jobs] == [spared.job_id]
    assert here.worker_pids()[FIRST] == pids[FIRST]


def test_a_worker_that_cannot_start_costs_no_job_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_workers(tmp_path, monkeypatch, "--number=1")
    with kept_conversions(), place(tmp_path / "data", **TWO) as here:
        done = [finished(submit(1, SHORT)[0])]
        while log_of(here, 1).count(worker_process.ENDED) < 3:  # it is started while there are jobs
            done.append(finished(submit(1, SHORT)[0]))
            assert len(done) < MANY, "the second has failed to start again and again"
        done.append(finished(submit(1, SHORT)[0]))

        assert {each.status for each in done} == {JobStatus.COMPLETED}
        assert here.worker_pids().keys() == {FIRST}


@pytest.mark.parametrize("asked", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=slow)])
def test_a_supervisor_that_is_told_to_end_takes_its_workers_along_and_gives_their_jobs_back(
    here: Place, longer: Path, asked: signal.Signals
) -> None:
    job_of = one_each(here, longer)
    supervisor = the_supervisor()
    supervisor.send_signal(asked)

    assert supervisor.wait(PATIENCE_S) == worker_process.EXIT_DONE
    assert here.worker_pids() == {}
    assert {jobs._store().row(job_id).status for job_id in job_of.values()} == {"queued"}


@slow
def test_workers_with_nothing_to_do_end_together_and_come_back_with_the_next_job(
    tmp_path: Path,
) -> None:
    with kept_conversions(), place(tmp_path / "data", **TWO, EXIT_AFTER_S="0.5") as here:
        [job_id] = submit(1)
        first = the_supervisor()
        assert finished(job_id).status is JobStatus.COMPLETED
        assert first.wait(PATIENCE_S) == worker_process.EXIT_DONE
        assert here.worker_pids() == {}
        assert finished(submit(1)[0]).status is JobStatus.COMPLETED
        assert (
            len(here.log().split(worker_process.STARTED))
            == len(log_of(here, 1).split(worker_process.STARTED))
            == 3
        )


def test_nobody_starts_a_second_supervisor_while_a_worker_of_the_first_one_lives(
    here: Place, longer: Path
) -> None:
    one_each(here, longer)
    supervisor = the_supervisor()
    supervisor.kill()
    supervisor.wait()
    here.kill_worker(FIRST)

    assert here.worker_pids().keys() == {SECOND}
    assert not worker_process.start_worker(jobs_settings())


def jobs_settings() -> Settings:
    fresh()
    return Settings()


@slow
def test_many_short_recordings_are_each_transcribed_once(here: Place) -> None:
    clips = sorted(SPEECH.glob("*.flac"))[:12]
    batch = jobs.submit_batch([str(path) for path in clips], request(clips[0]))
    ended = jobs.wait_for(batch.job_id, PATIENCE_S)

    assert isinstance(ended, Batch)
    assert [(job.status, job.attempts) for job in ended.jobs] == [(JobStatus.COMPLETED, 1)] * len(
        clips
    )


def test_the_time_until_a_waiting_job_is_done_is_that_of_all_workers_together(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    [job_id] = submit(1)
    first, second = (WorkerStore(jobs._store(), worker) for worker in (FIRST, SECOND))
    first.set_duration(job_id, 120.0)
    first.record_speed("a model", audio_s=60.0, work_s=10.0)
    first.register(0)
    alone_s = jobs.get_job(job_id).eta_s
    second.register(0)

    assert (alone_s, jobs.get_job(job_id).eta_s) == (20.0, 10.0)


def test_workers_measure_their_speed_at_the_same_moment_and_none_is_lost(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    [job_id] = submit(1)
    workers = [WorkerStore(jobs._store(), f"device-{n}") for n in range(8)]
    with ThreadPoolExecutor(len(workers)) as pool:
        list(
            pool.map(
                lambda worker: worker.record_speed("a model", audio_s=60.0, work_s=1e-6), workers
            )
        )
    workers[0].set_duration(job_id, 120.0)

    with closing(sqlite3.connect(here.database)) as connection:
        [(audio_s, work_s)] = connection.execute("SELECT audio_s, work_s FROM speeds").fetchall()
    assert (audio_s, work_s) == (pytest.approx(480.0, rel=1e-6), pytest.approx(8e-6, rel=1e-6))


def test_a_job_that_a_vanished_worker_took_and_never_began_is_queued_again(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    [job_id] = submit(1)
    worker = WorkerStore(jobs._store(), FIRST)
    with closing(sqlite3.connect(here.database)) as connection, connection:
        took = (
            "UPDATE workflow_status SET status = 'PENDING', executor_id = ? WHERE workflow_uuid = ?"
        )
        assert connection.execute(took, [SECOND, job_id]).rowcount == 1

    WorkerStore(jobs._store(), SECOND).register(0)
    worker.requeue_unclaimed(older_s=0.0, silent_s=20.0)
    assert workflow(here, job_id) == "PENDING", "it may still begin it"
    WorkerStore(jobs._store(), SECOND).unregister()
    worker.requeue_unclaimed(older_s=0.0, silent_s=20.0)
    assert workflow(here, job_id) == "ENQUEUED"


def workflow(here: Place, job_id: str) -> str:
    with closing(sqlite3.connect(here.database)) as connection:
        query = "SELECT status FROM workflow_status WHERE workflow_uuid = ?"
        return str(connection.execute(query, [job_id]).fetchone()[0])


def test_two_gpus_are_at_work_for_two_jobs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.device_count() < 2:
        pytest.skip("takes two GPUs")
    recordings = [tmp_path / f"{name}.wav" for name in ("one", "two")]
    names = sorted(name for name in speech_truths() if name.startswith("en"))
    for i, path in enumerate(recordings):
        join_speech(path, [names[(k + i) % len(names)] for k in range(40)])
    wanted = options(engine="whisper", model=str(whisper_nano()), device="auto", language="en")
    with place(tmp_path / "data") as here:
        finished(jobs.submit(request(recordings[0], wanted)).job_id)
        until(
            lambda: here.worker_pids().keys() >= {FIRST, SECOND}, "there is a worker for each GPU"
        )
        ended = [jobs.submit(request(path, wanted, force=True)) for path in recordings]
        done = [finished(job.job_id) for job in ended if isinstance(job, Job)]
        again = finished(
            jobs.submit(
                request(recordings[0], options(engine="whisper", device="cuda:0"), force=True)
            ).job_id
        )

    assert [job.status for job in done] == [JobStatus.COMPLETED] * 2, [job.error for job in done]
    assert {job.device for job in done} == {"cuda", "cuda:1"}
    assert again.device == "cuda:0", (
        "a GPU that was asked for by its number is meant in every worker"
    )
