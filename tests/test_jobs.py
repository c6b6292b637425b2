"""Jobs from submission to transcript, through the service and a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from job_places import (
    Place,
    fake_options,
    finished,
    fresh,
    jobs,
    options,
    place,
    request,
    second_worker,
)
from patience import PATIENCE_S, until
from postgres import new_database, server
from small_checkpoints import write_checkpoint, write_json
from whisper_nano import CONVERSATION, SPEECH, kept_conversions

from transcribe_mcp import EngineRequest, Options, Transcript, load_engine, transcribe
from transcribe_mcp.errors import (
    JobNotFoundError,
    JobStateError,
    QueueFullError,
    SourceNotFoundError,
    UnknownNameError,
    UsageError,
)
from transcribe_mcp.jobs import worker_process
from transcribe_mcp.service import models
from transcribe_mcp.service.models import Batch, Job, JobFilter, JobStatus

CLIP = SPEECH / "en_0.flac"
LONG = CONVERSATION / "three_voices.opus"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Empty for the file in the data directory."""
    if request.param == "sqlite":
        yield ""
        return
    with server() as url:
        yield url


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> Iterator[Place]:
    """A store with its worker; on a server with two, as on two machines."""
    folder = tmp_path_factory.mktemp("jobs")
    database = new_database(server_url) if server_url else ""
    with (
        kept_conversions(),
        place(folder / "first", DATABASE_URL=database) as made,
        ExitStack() as stack,
    ):
        if server_url:
            jobs.prepare()
            stack.enter_context(second_worker(folder / "second"))
        yield made


@pytest.fixture(scope="module")
def done(here: Place) -> Job:
    return finished(jobs.submit(request(CLIP)).job_id)


@cache  # the same for both databases
def unbroken(path: Path, **fields: object) -> Transcript:
    engine = load_engine(EngineRequest(engine="ctranslate2", model=options().model, device="cpu"))
    try:
        return transcribe(path, engine, Options(temperatures=(0.0,), **fields))  # type: ignore[arg-type]
    finally:
        engine.close()


def test_a_job_gives_what_the_pipeline_gives(done: Job) -> None:
    expected = unbroken(CLIP)

    transcript = jobs.get_transcript(done.job_id)

    assert done.status is JobStatus.COMPLETED
    assert done.error is None
    assert (done.percent, done.duration_s, done.language) == (100.0, expected.duration, "en")
    assert transcript.source == str(CLIP)
    assert transcript.to_json()["segments"] == expected.to_json()["segments"]


def test_the_same_recording_with_the_same_options_is_answered_from_the_library(
    done: Job, tmp_path: Path
) -> None:
    copy = tmp_path / "another name.flac"
    copy.write_bytes(CLIP.read_bytes())

    answered = jobs.submit(request(copy))

    assert (answered.status, answered.from_job_id, answered.attempts) == (
        JobStatus.COMPLETED,
        done.job_id,
        0,
    )
    transcript = jobs.get_transcript(answered.job_id)
    assert transcript.source == str(copy)
    assert transcript.segments == jobs.get_transcript(done.job_id).segments


def test_other_options_and_force_are_transcribed_anew(done: Job) -> None:
    other = jobs.submit(request(CLIP, options(words=False)))
    forced = jobs.submit(request(CLIP, force=True))

    assert {finished(job.job_id).from_job_id for job in (other, forced)} == {None}
    assert jobs.get_transcript(other.job_id).words == ()


def test_a_language_by_name_and_by_code_is_the_same_job(done: Job) -> None:
    first = finished(jobs.submit(request(CLIP, options(language="english"))).job_id)

    assert jobs.submit(request(CLIP, options(language="en"))).job_id == first.job_id


def test_a_batch_isolates_its_files(here: Place, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "good.flac").write_bytes((SPEECH / "en_1.flac").read_bytes())
    (folder / "bad.mp3").write_bytes(b"no media at all")
    (folder / "empty.wav").write_bytes(b"")

    batch = jobs.submit_batch(
        [str(folder), str(tmp_path / "missing.wav")], request(CLIP, fake_options())
    )
    ended = jobs.wait_for(batch.job_id, PATIENCE_S)

    assert isinstance(ended, Batch)
    outcome = {
        Path(job.source).name: job.error.code if job.error else str(job.status)
        for job in ended.jobs
    }
    assert outcome == {"good.flac": "completed", "bad.mp3": "not_media", "empty.wav": "not_media"}
    assert all(job.error is None or job.error.hint for job in ended.jobs)
    assert [(refused.source, refused.error.code) for refused in ended.refused] == [
        (str(tmp_path / "missing.wav"), "source_not_found")
    ]
    assert (ended.status, ended.percent) == (JobStatus.COMPLETED, 100.0)


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (options(language="klingon"), UnknownNameError),
        (options(engine="nonsense"), UnknownNameError),
        (options(task="summarise"), UsageError),
        (options(multilingual=True, language="en"), UsageError),
        (options(temperatures=(3.0,)), UsageError),
        (options(beam_size=0), UsageError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_wrong_options_are_refused_when_a_job_is_submitted(
    here: Place, wanted: models.JobOptions, error: type[UsageError]
) -> None:
    before = jobs.list_jobs(limit=1)

    with pytest.raises(error) as caught:
        jobs.submit(request(CLIP, wanted))

    assert caught.value.hint
    assert jobs.list_jobs(limit=1) == before


def test_a_recording_that_is_not_there_is_refused_when_it_is_submitted(
    here: Place, tmp_path: Path
) -> None:
    with pytest.raises(SourceNotFoundError):
        jobs.submit(request(tmp_path / "missing.wav"))
    with pytest.raises(UsageError):
        jobs.submit_batch([], request(CLIP))


def test_an_engine_that_fails_is_the_jobs_error_and_the_next_job_runs(here: Place) -> None:
    failed = finished(jobs.submit(request(CLIP, fake_options(model="fake-failing"))).job_id)
    next_one = finished(jobs.submit(request(CLIP, fake_options())).job_id)

    assert failed.error is not None
    assert (failed.status, failed.error.code) == (JobStatus.FAILED, "engine_failed")
    assert next_one.status is JobStatus.COMPLETED
    with pytest.raises(JobStateError, match="failed") as caught:
        jobs.get_transcript(failed.job_id)
    assert failed.error.message in str(caught.value)
    assert f"jobs retry {failed.job_id}" in caught.value.hint


def test_a_job_names_the_speaker_of_each_word(here: Place) -> None:
    job = finished(jobs.submit(request(CLIP, fake_options(diarize=True))).job_id)
    transcript = jobs.get_transcript(job.job_id)

    speakers = [speaker.id for speaker in transcript.speakers]
    assert transcript.words[0].speaker == speakers[0] == "Speaker 1"
    assert {word.speaker for word in transcript.words} <= set(speakers)


def test_jobs_are_listed_newest_first_in_pages(here: Place, done: Job) -> None:
    whole = jobs.list_jobs(limit=500).jobs
    pages: list[Job] = []
    cursor = None
    while True:
        page = jobs.list_jobs(cursor=cursor, limit=2)
        pages += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            break

    assert [job.job_id for job in pages] == [job.job_id for job in whole]
    assert [job.job_id for job in whole] == sorted((job.job_id for job in whole), reverse=True)
    assert done.job_id in {
        job.job_id for job in jobs.list_jobs(JobFilter(source_contains="EN_0")).jobs
    }
    assert jobs.list_jobs(JobFilter(statuses=(JobStatus.QUEUED,))).jobs == ()
    assert jobs.list_jobs(JobFilter(since=whole[0].created_at + 1)).jobs == ()


def test_sentences_are_found_with_their_times_and_neighbours(done: Job) -> None:
    segments = jobs.get_transcript(done.job_id).segments
    second = segments[1]

    hits = jobs.search('"captain looked" MAP!').hits

    assert hits
    for hit in hits:  # the newest job of each transcript: some are of other tests
        assert jobs.get_transcript(hit.job_id).segments[1].text == second.text
        assert (hit.start, hit.text) == (second.start, second.text.strip())
        assert hit.before == segments[0].text.strip()
        assert hit.source == jobs.get_transcript(hit.job_id).source
    assert jobs.search("captain spaceship").hits == ()


@pytest.mark.parametrize("query", ["", '" "', "* - ( )", "'"])
def test_a_query_without_words_is_refused(here: Place, query: str) -> None:
    with pytest.raises(UsageError):
        jobs.search(query)


@pytest.mark.parametrize(
    "query", ['soup" OR "1', "NEAR(soup hot)", "text:soup", "soup*", "^soup", "a" * 5000]
)
def test_a_query_is_words_and_never_code(done: Job, query: str) -> None:
    assert isinstance(jobs.search(query).hits, tuple)


@pytest.mark.parametrize(
    "cursor", ["", "x", "-1", "9" * 30, "../../etc/passwd", "01ARZ3NDEKTSV4RRFFQ69G5FAV\n"]
)
def test_a_made_up_cursor_is_refused(here: Place, cursor: str) -> None:
    with pytest.raises(UsageError):
        jobs.list_jobs(cursor=cursor)
    with pytest.raises(UsageError):
        jobs.search("soup", cursor=cursor)


@pytest.mark.parametrize("use", ["get_job", "get_transcript", "cancel", "delete", "retry"])
@pytest.mark.parametrize(
    "job_id", ["", "nothing", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "'; DROP TABLE jobs; --", "x" * 9999]
)
def test_an_id_of_no_job_is_refused(here: Place, use: str, job_id: str) -> None:
    with pytest.raises(JobNotFoundError) as caught:
        getattr(jobs, use)(job_id)

    assert len(str(caught.value)) < 200


def test_a_deleted_job_is_gone_with_its_text(here: Place, tmp_path: Path) -> None:
    job = finished(jobs.submit(request(SPEECH / "es_0.flac")).job_id)
    copy = tmp_path / "copy.flac"
    copy.write_bytes((SPEECH / "es_0.flac").read_bytes())
    twin = jobs.submit(request(copy))
    word = max(jobs.get_transcript(job.job_id).text.split(), key=len)

    jobs.delete(job.job_id)
    hits_of_twin = {hit.job_id for hit in jobs.search(word).hits}
    jobs.delete(twin.job_id)

    assert hits_of_twin == {twin.job_id}
    assert jobs.search(word).hits == ()
    for gone in (job, twin):
        with pytest.raises(JobNotFoundError):
            jobs.get_job(gone.job_id)


def test_a_recording_transcribed_again_is_found_in_its_newest_transcript_alone(here: Place) -> None:
    first = finished(jobs.submit(request(SPEECH / "es_1.flac")).job_id)
    again = finished(jobs.submit(request(SPEECH / "es_1.flac", force=True)).job_id)
    word = max(jobs.get_transcript(first.job_id).text.split(), key=len)

    found = [hit.job_id for hit in jobs.search(word).hits]
    jobs.delete(again.job_id)

    assert set(found) == {again.job_id}
    assert [hit.job_id for hit in jobs.search(word).hits] == [first.job_id] * len(found)


def test_finished_jobs_stay_finished(done: Job) -> None:
    assert jobs.cancel(done.job_id) == jobs.get_job(done.job_id)
    with pytest.raises(JobStateError, match="completed"):
        jobs.retry(done.job_id)


def test_a_running_job_is_cancelled_soon_its_text_stays_and_retrying_goes_on_from_there(
    here: Place,
) -> None:
    job_id = jobs.submit(request(LONG, options(batch_size=1))).job_id
    until(lambda: here.checkpoints(job_id), "something of it is done")
    until(lambda: jobs.get_job(job_id).percent, "the store knows of it")
    assert jobs.get_job(job_id).eta_s is not None
    running = jobs.get_transcript(job_id)

    n_safe = here.checkpoints(job_id)
    cancelled = jobs.cancel(job_id)
    following = finished(jobs.submit(request(CLIP, fake_options(words=False))).job_id)

    assert cancelled.status is JobStatus.CANCELLED
    assert following.status is JobStatus.COMPLETED
    assert here.checkpoints(job_id) <= n_safe + 1, "the worker did not go on with cancelled work"
    partial = jobs.get_transcript(job_id)
    assert partial.segments[: len(running.segments) - 1] == running.segments[:-1]
    assert partial.warnings[0].code == "partial"
    n_checkpoints = here.checkpoints(job_id)
    jobs.retry(job_id)
    ended = finished(job_id)
    assert ended.status is JobStatus.COMPLETED
    # Begun twice; or three times on a slow machine, where the cancelled call ends with its process
    # when the job is already claimed again.
    assert ended.attempts in (2, 3)
    assert here.checkpoints(job_id) > n_checkpoints
    assert (
        jobs.get_transcript(job_id).to_json()["segments"]
        == unbroken(LONG, batch_size=1).to_json()["segments"]
    )


def test_a_job_deleted_while_it_runs_leaves_nothing_and_the_worker_goes_on(here: Place) -> None:
    job_id = jobs.submit(request(LONG, options(batch_size=2), force=True)).job_id
    until(lambda: jobs.get_job(job_id).status is JobStatus.RUNNING, "it runs")

    jobs.delete(job_id)

    assert (
        finished(jobs.submit(request(CLIP, fake_options(vad=False))).job_id).status
        is JobStatus.COMPLETED
    )
    with pytest.raises(JobNotFoundError):
        jobs.get_job(job_id)


def test_waiting_tells_of_every_change_and_ends_in_time(here: Place) -> None:
    seen: list[JobStatus] = []
    job_id = jobs.submit(request(SPEECH / "en_2.flac", fake_options())).job_id

    jobs.wait_for(job_id, PATIENCE_S, lambda job: seen.append(job.status))

    assert seen[-1] is JobStatus.COMPLETED
    assert seen == sorted(seen, key=list(JobStatus).index)


def test_nothing_that_was_said_is_in_the_log(here: Place, done: Job) -> None:
    said = {word.text.strip(" .,").lower() for word in jobs.get_transcript(done.job_id).words}
    failed = finished(
        jobs.submit(request(CLIP, fake_options(model="fake-failing", prompt="zanzibar"))).job_id
    )
    written = here.log().lower()

    assert failed.error is not None
    assert {word for word in {*said, "zanzibar"} if len(word) > 4 and word in written} == set()


# --- without a worker -----------------------------------------------------------------------------


@pytest.fixture
def unattended(tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A store that no worker works on."""
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    database = new_database(server_url) if server_url else ""
    with place(tmp_path / "data", MAX_QUEUE_LENGTH="3", DATABASE_URL=database) as made:
        yield made
    fresh()


def test_a_job_that_waits_already_is_given_instead_of_another(unattended: Place) -> None:
    first = jobs.submit(request(CLIP, fake_options()))

    assert jobs.submit(request(CLIP, fake_options())).job_id == first.job_id
    assert jobs.submit(request(CLIP, fake_options(), force=True)).job_id != first.job_id


def test_a_full_queue_refuses_what_does_not_fit_and_keeps_what_does(unattended: Place) -> None:
    names = [str(SPEECH / f"en_{n}.flac") for n in range(5)]

    batch = jobs.submit_batch(names, request(CLIP, fake_options()))

    assert {job.queue_position for job in batch.jobs} == {1, 2, 3}
    assert {refused.error.code for refused in batch.refused} == {"queue_full"}
    assert len(batch.refused) == 2
    with pytest.raises(QueueFullError):
        jobs.submit(request(LONG, fake_options()))
    jobs.cancel(batch.job_id)
    assert {job.status for job in jobs.get_job(batch.job_id).jobs} == {JobStatus.CANCELLED}
    assert jobs.submit(request(LONG, fake_options())).queue_position == 1


def test_shorter_recordings_come_before_longer_ones(unattended: Place) -> None:
    long = jobs.submit(request(LONG, fake_options()))
    short = jobs.submit(request(SPEECH / "en_silent_after.flac", fake_options()))

    positions = {job.job_id: job.queue_position for job in jobs.list_jobs().jobs}

    assert positions == {short.job_id: 1, long.job_id: 2}


def test_old_jobs_are_forgotten_and_running_ones_never(unattended: Place) -> None:
    old = jobs.submit(request(CLIP, fake_options()))
    jobs.cancel(old.job_id)
    waiting = jobs.submit(request(LONG, fake_options()))

    assert jobs.delete_old(keep_days=1) == 0
    assert jobs.delete_old(keep_days=0) == 0, "0 keeps them for good"
    assert jobs.delete_old(keep_days=1e-9) == 1
    assert [job.job_id for job in jobs.list_jobs().jobs] == [waiting.job_id]


def test_a_model_that_is_damaged_fails_its_job_by_name_and_no_other(
    here: Place, tmp_path: Path
) -> None:
    model = write_checkpoint(tmp_path / "model")
    write_json(model / "generation_config.json", {"lang_to_id": {"<|en|>": 999_999}})

    failed = finished(jobs.submit(request(CLIP, options(model=str(model)))).job_id)
    healthy = finished(jobs.submit(request(CLIP, fake_options(), force=True)).job_id)

    assert failed.error is not None
    assert (failed.error.code, failed.attempts) == ("model_format", 1)
    assert str(model / "generation_config.json") in failed.error.message
    assert failed.error.hint
    assert healthy.status is JobStatus.COMPLETED
