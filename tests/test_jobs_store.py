"""The store when things go wrong with it: said in words, nothing overwritten, nothing lost."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from job_places import Place, fake_options, finished, fresh, jobs, place, request
from patience import PATIENCE_S, until
from whisper_nano import SPEECH

from transcribe_mcp.errors import (
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreVersionError,
    UsageError,
)
from transcribe_mcp.jobs import database
from transcribe_mcp.jobs import worker_process as process
from transcribe_mcp.jobs.ids import is_id, new_id
from transcribe_mcp.service.models import Job, JobStatus

CLIP = SPEECH / "en_0.flac"


@pytest.fixture
def unattended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(process, "start_worker", lambda chosen: False)
    with place(tmp_path / "data") as made:
        yield made
    fresh()


def queued() -> Job:
    return jobs.submit(request(CLIP, fake_options()))


def test_a_file_that_is_no_store_is_left_as_it_is(unattended: Place) -> None:
    unattended.data_dir.mkdir()
    unattended.database.write_bytes(b"letters to my grandmother" * 400)
    before = unattended.database.read_bytes()

    with pytest.raises(StoreDamagedError, match="damaged or not a database") as caught:
        queued()

    assert "move it away" in caught.value.hint
    assert unattended.database.read_bytes() == before


def test_a_store_damaged_inside_is_said_to_be(unattended: Place) -> None:
    queued()
    fresh()
    with closing(sqlite3.connect(unattended.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    whole = bytearray(unattended.database.read_bytes())
    whole[4096:] = b"\xa5" * (len(whole) - 4096)
    unattended.database.write_bytes(whole)

    with pytest.raises(StoreDamagedError):
        jobs.list_jobs()
    assert unattended.database.read_bytes() == whole


def test_a_search_index_that_is_damaged_is_said_to_be(unattended: Place) -> None:
    queued()
    fresh()
    with closing(sqlite3.connect(unattended.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        tables = "SELECT rootpage FROM sqlite_master WHERE name LIKE 'segments_search_config%'"
        [page] = connection.execute(tables).fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
    with unattended.database.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)

    with pytest.raises(StoreDamagedError, match="vtable"):
        jobs.search("word")


def test_a_store_of_a_newer_version_is_left_as_it_is(unattended: Place) -> None:
    job = queued()
    fresh()
    with closing(sqlite3.connect(unattended.database)) as connection:
        connection.execute("UPDATE store_about SET value = '999' WHERE name = 'schema_version'")
        connection.commit()

    with pytest.raises(StoreVersionError, match="999") as caught:
        jobs.get_job(job.job_id)

    assert "update" in caught.value.hint


def test_a_store_that_another_program_holds_is_said_to_be_busy(
    unattended: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 100)
    job = queued()
    fresh()
    with closing(sqlite3.connect(unattended.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError) as caught:
            jobs.submit(request(SPEECH / "en_1.flac", fake_options()))
        assert jobs.get_job(job.job_id).status is JobStatus.QUEUED, (
            "who only looks is not in the way"
        )
        other.execute("ROLLBACK")

    assert "try again" in caught.value.hint
    assert [listed.job_id for listed in jobs.list_jobs().jobs] == [job.job_id]


def test_a_full_disk_is_said_and_nothing_is_half_done(unattended: Place) -> None:
    job = queued()
    with closing(sqlite3.connect(unattended.database)) as connection:
        [pages] = connection.execute("PRAGMA page_count").fetchone()
    store = jobs._store()
    with store.begin() as connection:
        connection.exec_driver_sql("BEGIN")  # from here on everything goes to the writer
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    with pytest.raises(StoreFullError, match="cannot write to") as caught:
        for n in range(2000):
            jobs.submit(request(CLIP, fake_options(prompt="long " * 500 + str(n))))

    assert "disk space" in caught.value.hint
    fresh()
    listed = jobs.list_jobs(limit=500).jobs
    assert job.job_id in {one.job_id for one in listed}
    assert all(one.status is JobStatus.QUEUED for one in listed)


def test_a_data_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")

    with place(tmp_path / "file" / "data"), pytest.raises(StoreError, match="cannot create"):
        jobs.list_jobs()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://root@localhost/x", "not a url", "sqlite:///elsewhere.db", "postgresql",
        "postgresql://localhost:port/x",
    ],
)  # fmt: skip
def test_a_database_that_is_no_postgresql_is_refused(tmp_path: Path, url: str) -> None:
    with (
        place(tmp_path / "data", DATABASE_URL=url),
        pytest.raises(UsageError, match="DATABASE_URL"),
    ):
        jobs.list_jobs()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_server_that_does_not_answer_is_said_without_its_password(
    tmp_path: Path, scheme: str
) -> None:
    url = f"{scheme}://someone:secret-word@127.0.0.1:1/nothing"

    with place(tmp_path / "data", DATABASE_URL=url), pytest.raises(StoreError) as caught:
        jobs.list_jobs()

    assert "127.0.0.1" in str(caught.value)
    assert "host, port" in caught.value.hint and "DATA_DIR" not in caught.value.hint
    assert "secret-word" not in str(caught.value) + caught.value.hint + str(caught.value.__cause__)


def test_many_processes_open_a_new_store_at_once(unattended: Place) -> None:
    code = (
        "from transcribe_mcp.service.service import Service; print(len(Service().list_jobs().jobs))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    answers = [process.communicate(timeout=PATIENCE_S) for process in started]

    assert [answer for answer, _ in answers] == ["0\n"] * 4, answers


def test_what_was_said_is_in_no_error_of_the_store(
    unattended: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 100)
    queued()
    fresh()
    jobs.list_jobs()
    with closing(sqlite3.connect(unattended.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError) as caught:
            jobs.submit(request(CLIP, fake_options(prompt="a word that nobody may read")))
        other.execute("ROLLBACK")

    assert "nobody may read" not in f"{caught.value} {caught.value.__cause__} {caught.value.hint}"


def test_a_copy_of_the_file_is_a_whole_store(unattended: Place, tmp_path: Path) -> None:
    job = queued()
    fresh()
    with closing(sqlite3.connect(unattended.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(unattended.database, tmp_path / "elsewhere" / database.FILE_NAME)

    with place(tmp_path / "elsewhere"):
        assert jobs.get_job(job.job_id).source == str(CLIP)


def test_ids_are_in_order_and_not_to_be_confused() -> None:
    ids = [new_id() for _ in range(5000)]

    assert ids == sorted(set(ids))
    assert all(map(is_id, ids))
    assert not any(map(is_id, ["", ids[0][:-1], ids[0].lower(), ids[0] + "0", "../" + ids[0][3:]]))


# --- who works on it ------------------------------------------------------------------------------


def test_a_killed_worker_is_followed_by_another_without_anybody_asking(tmp_path: Path) -> None:
    with place(tmp_path / "data") as here:
        first = queued()
        finished(first.job_id)
        pid = here.worker_pid()
        here.kill_worker()
        until(lambda: here.worker_pid() not in (None, pid), "there is another worker")
        assert "signal SIGKILL" in here.log()


def test_a_worker_with_nothing_to_do_ends_and_the_next_job_starts_another(tmp_path: Path) -> None:
    with place(tmp_path / "data", EXIT_AFTER_S="0.1") as here:
        finished(queued().job_id)
        until(lambda: here.worker_pid() is None, "the worker has ended")
        until(lambda: all(one.poll() is not None for one in process._started), "its supervisor too")
        assert (
            finished(jobs.submit(request(SPEECH / "en_1.flac", fake_options())).job_id).status
            == "completed"
        )


def test_many_front_ends_start_one_worker(tmp_path: Path) -> None:
    code = (
        "import sys; from transcribe_mcp.service import models; "
        "from transcribe_mcp.service.service import Service; jobs = Service(); "
        "request = models.JobRequest(sys.argv[1], models.JobOptions("
        "engine='fake', prompt=sys.argv[2])); "
        "job = jobs.wait_for(jobs.submit(request).job_id, 100); print(job.status)"
    )
    with place(tmp_path / "data") as here:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code, CLIP, str(n)], stdout=subprocess.PIPE, text=True
            )
            for n in range(3)
        ]
        answers = [one.communicate(timeout=PATIENCE_S)[0] for one in started]
        here.worker_pid()

        assert answers == ["completed\n"] * 3
        assert here.log().count(process.STARTED) == 1
        assert len(jobs.list_jobs().jobs) == 3
