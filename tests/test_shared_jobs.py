"""Jobs that several ask for: one work, and whoever cancels or deletes takes nothing from the
others.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from job_places import Place, fake_options, finished, fresh, jobs, options, place, request
from mcp_places import calling, home, stdio
from whisper_nano import CONVERSATION, SPEECH, kept_conversions

from transcribe_mcp.errors import JobNotFoundError, JobStateError, QueueFullError, UsageError
from transcribe_mcp.jobs import worker_process
from transcribe_mcp.service.acting import acting_for
from transcribe_mcp.service.models import Batch, JobFilter, JobStatus

CLIP, OTHER, THIRD = (SPEECH / f"en_{n}.flac" for n in range(3))
LONG = CONVERSATION / "three_voices.opus"


@pytest.fixture
def unattended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A store that no worker works on."""
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    with place(tmp_path / "data", MAX_QUEUE_LENGTH="3") as made:
        yield made
    fresh()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with kept_conversions(), place(tmp_path_factory.mktemp("shared") / "data") as made:
        yield made


def batch_of(*recordings: Path) -> Batch:
    return jobs.submit_batch([str(path) for path in recordings], request(CLIP, fake_options()))


def states(batch: Batch) -> list[JobStatus]:
    found = jobs.get_job(batch.job_id)
    assert isinstance(found, Batch)
    return [job.status for job in found.jobs]


def test_a_recording_that_waits_is_one_job_however_it_is_asked_for(unattended: Place) -> None:
    alone = jobs.submit(request(CLIP, fake_options()))
    first, second = batch_of(CLIP, OTHER), batch_of(OTHER, CLIP)

    assert first.jobs[0].job_id == second.jobs[1].job_id == alone.job_id
    assert first.jobs[1].job_id == second.jobs[0].job_id
    assert {job.batch_id for job in first.jobs} == {first.job_id}
    assert {job.batch_id for job in second.jobs} == {second.job_id}
    for batch in (first, second):
        listed = {job.job_id for job in jobs.list_jobs(JobFilter(batch_id=batch.job_id)).jobs}
        assert listed == {job.job_id for job in batch.jobs}
    assert len(jobs.list_jobs().jobs) == 2


def test_shared_jobs_take_no_room_in_a_full_queue(unattended: Place) -> None:
    batch = batch_of(CLIP, OTHER, THIRD)

    assert jobs.submit(request(OTHER, fake_options())).job_id == batch.jobs[1].job_id
    assert [job.job_id for job in batch_of(THIRD, CLIP).jobs] == [
        batch.jobs[2].job_id,
        batch.jobs[0].job_id,
    ]
    with pytest.raises(QueueFullError):
        jobs.submit(request(CLIP, fake_options(), force=True))


def test_a_shared_job_ends_when_its_last_owner_cancels(unattended: Place) -> None:
    for owner in ("first", "first", "second"):  # asked again, a client is one owner all the same
        with acting_for(owner):
            job_id = jobs.submit(request(CLIP, fake_options())).job_id

    with acting_for("first"):
        assert jobs.cancel(job_id).status is JobStatus.CANCELLED
        assert jobs.get_job(job_id).status is JobStatus.CANCELLED
        assert jobs.cancel(job_id).status is JobStatus.CANCELLED
    with acting_for("second"):
        assert jobs.get_job(job_id).status is JobStatus.QUEUED
        assert jobs.cancel(job_id).status is JobStatus.CANCELLED
    assert jobs.get_job(job_id).status is JobStatus.CANCELLED


def test_callers_without_a_name_own_each_of_their_submissions(unattended: Place) -> None:
    job_id = {jobs.submit(request(CLIP, fake_options())).job_id for _ in range(3)}.pop()

    after = []
    for _ in range(3):
        assert jobs.cancel(job_id).status is JobStatus.CANCELLED
        after.append(jobs.get_job(job_id).status)

    assert after == [JobStatus.QUEUED, JobStatus.QUEUED, JobStatus.CANCELLED]


def test_a_batch_gives_up_its_own_share_alone(unattended: Place) -> None:
    first, second = batch_of(CLIP, OTHER), batch_of(OTHER, THIRD)

    jobs.cancel(first.job_id)

    assert states(first) == [JobStatus.CANCELLED, JobStatus.CANCELLED]
    assert states(second) == [JobStatus.QUEUED, JobStatus.QUEUED]
    assert jobs.get_job(first.jobs[0].job_id).status is JobStatus.CANCELLED
    jobs.cancel(second.job_id)
    assert jobs.get_job(second.jobs[0].job_id).status is JobStatus.CANCELLED


def test_cancelling_for_all_stops_it_for_everybody(unattended: Place) -> None:
    batch = batch_of(CLIP)
    with acting_for("other"):
        jobs.submit(request(CLIP, fake_options()))

    jobs.cancel(batch.jobs[0].job_id, for_all=True)

    assert states(batch) == [JobStatus.CANCELLED]


def test_deleting_takes_nothing_from_others(unattended: Place) -> None:
    first, second = batch_of(CLIP, OTHER), batch_of(OTHER)
    with acting_for("client"):
        shared = jobs.submit(request(OTHER, fake_options())).job_id
        assert jobs.delete(shared) == 0

    assert jobs.delete(first.job_id) == 1

    assert states(second) == [JobStatus.QUEUED]
    for gone in (first.job_id, first.jobs[0].job_id):
        with pytest.raises(JobNotFoundError):
            jobs.get_job(gone)
    assert jobs.delete(second.job_id) == 1
    assert jobs.list_jobs().jobs == ()


def test_who_cancelled_may_join_again(unattended: Place) -> None:
    job_id = jobs.submit(request(CLIP, fake_options())).job_id
    with acting_for("first"):
        jobs.submit(request(CLIP, fake_options()))
        jobs.cancel(job_id)

        assert jobs.retry(job_id).status is JobStatus.QUEUED
        with pytest.raises(JobStateError):
            jobs.retry(job_id)
        jobs.cancel(job_id)
        assert jobs.submit(request(CLIP, fake_options())).status is JobStatus.QUEUED
    jobs.cancel(job_id, for_all=True)
    assert jobs.retry(job_id).status is JobStatus.QUEUED
    assert jobs.cancel(job_id).status is JobStatus.CANCELLED
    assert jobs.get_job(job_id).status is JobStatus.CANCELLED


def test_a_finished_job_is_there_for_a_client_that_had_cancelled_it_and_asks_again(
    unattended: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner in ("first", "second"):
        with acting_for(owner):
            job_id = jobs.submit(request(OTHER, fake_options())).job_id
    with acting_for("first"):
        jobs.cancel(job_id)
    monkeypatch.undo()  # workers start from here on
    with acting_for("second"):
        assert finished(job_id).status is JobStatus.COMPLETED

    with acting_for("first"):
        before = jobs.get_job(job_id).status
        again = jobs.submit(request(OTHER, fake_options()))

        assert (before, again.job_id, again.status) == (
            JobStatus.CANCELLED,
            job_id,
            JobStatus.COMPLETED,
        )
        assert jobs.get_job(job_id).status is JobStatus.COMPLETED


@pytest.mark.parametrize("days", [-1.0, float("-inf"), float("nan")])
def test_a_number_of_days_that_is_none_is_refused(unattended: Place, days: float) -> None:
    with pytest.raises(UsageError) as caught:
        jobs.delete_old(days)
    assert "0 keeps" in caught.value.hint


def test_a_store_of_version_1_keeps_its_batches(unattended: Place) -> None:
    batch = batch_of(CLIP, OTHER)
    jobs.cancel(batch.jobs[0].job_id)
    jobs.close()
    with closing(sqlite3.connect(unattended.database)) as connection:
        connection.executescript(
            "DROP TABLE job_outputs; DROP TABLE job_owners; DROP INDEX jobs_by_source;"
            "UPDATE store_about SET value = '1' WHERE name = 'schema_version';"
        )

    assert states(batch) == [JobStatus.CANCELLED, JobStatus.QUEUED]
    assert jobs.submit(request(OTHER, fake_options())).job_id == batch.jobs[1].job_id


def test_the_same_content_under_another_name_is_answered_when_the_first_ends(
    here: Place, tmp_path: Path
) -> None:
    names = [tmp_path / f"copy{n}.flac" for n in range(8)]
    for name in names:
        name.write_bytes(CLIP.read_bytes())

    batch = jobs.submit_batch([str(name) for name in names], request(CLIP, options(language="en")))
    ended = [finished(job.job_id) for job in batch.jobs]

    assert [job.status for job in ended] == [JobStatus.COMPLETED] * 8
    assert len({job.job_id for job in ended}) == 8
    assert len({job.from_job_id for job in ended} - {None}) == 1
    assert [job.from_job_id for job in ended].count(None) == 1


def test_a_running_job_goes_on_for_the_other_client(tmp_path: Path) -> None:
    """Two assistants, each with a server of its own."""
    with home(tmp_path) as here:
        recording = here.root / "talk.opus"
        recording.write_bytes(LONG.read_bytes())
        with calling(stdio(here)) as first, calling(stdio(here)) as second:
            asked = {"source": str(recording), "language": "en", "wait_s": 0}
            job_id = first.answer("transcribe_audio", **asked)["job_id"]
            assert second.answer("transcribe_audio", **asked)["job_id"] == job_id

            assert first.answer("cancel_transcription", job_id=job_id)["status"] == "cancelled"
            assert first.answer("cancel_transcription", job_id=job_id)["status"] == "cancelled"
            assert (
                first.answer("get_transcription_progress", job_id=job_id)["status"] == "cancelled"
            )

            assert second.finished(job_id)["status"] == "completed"
