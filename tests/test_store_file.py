"""The file of a store: earlier versions, files that go away, and who may read it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

import pytest
from job_places import Place, fake_options, fresh, jobs, place, request
from patience import PATIENCE_S
from whisper_nano import SPEECH

from transcribe_mcp.errors import StoreError, StoreReplacedError
from transcribe_mcp.jobs import worker_process
from transcribe_mcp.jobs.database import FILE_NAME, MIGRATION_LOOK_S
from transcribe_mcp.jobs.schema import SCHEMA_VERSION
from transcribe_mcp.jobs.store import Store
from transcribe_mcp.jobs.writer_protocol import hold_lock
from transcribe_mcp.service.models import Job

CLIP = SPEECH / "en_0.flac"


@pytest.fixture
def unattended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    with place(tmp_path / "data") as made:
        yield made


def queued(prompt: str = "") -> Job:
    return jobs.submit(request(CLIP, fake_options(prompt=prompt)))


def test_a_new_store_opens_once_its_tables_are_there_though_another_process_keeps_the_lock(
    tmp_path: Path,
) -> None:
    made, new = tmp_path / "made", tmp_path / "new"
    made.mkdir(), new.mkdir()
    Store(made).close()
    lock = hold_lock(new, 0.0)
    assert lock is not None

    with closing(lock), ThreadPoolExecutor(1) as pool:
        opening = pool.submit(Store, new)
        wait([opening], 2 * MIGRATION_LOOK_S)  # it has found no tables, most likely
        with (
            closing(sqlite3.connect(made / FILE_NAME)) as ours,
            closing(sqlite3.connect(new / FILE_NAME)) as theirs,
        ):
            ours.backup(theirs)
        opening.result(PATIENCE_S).close()


def test_a_store_of_the_first_version_opens_with_all_that_is_in_it(unattended: Place) -> None:
    job = queued()
    fresh()
    with closing(sqlite3.connect(unattended.database)) as connection:
        connection.execute("DROP TABLE store_requests")
        connection.execute("UPDATE store_about SET value = '1' WHERE name = 'schema_version'")
        connection.commit()

    assert [one.job_id for one in jobs.list_jobs().jobs] == [job.job_id]
    assert queued("another").job_id != job.job_id
    with closing(sqlite3.connect(unattended.database)) as connection:
        assert connection.execute("SELECT value FROM store_about").fetchall() == [
            (str(SCHEMA_VERSION),)
        ]


def delete(here: Place) -> None:
    shutil.rmtree(here.data_dir)


def put_another_in_its_place(here: Place) -> None:
    copy = here.database.with_suffix(".copy")
    shutil.copy(here.database, copy)
    copy.replace(here.database)


def list_jobs() -> object:
    return jobs.list_jobs()


@pytest.mark.skipif(
    os.name == "nt", reason="an open file can neither be deleted nor replaced there"
)
@pytest.mark.parametrize("change", [delete, put_another_in_its_place])
@pytest.mark.parametrize("call", [queued, list_jobs])
def test_a_store_that_goes_while_it_is_open_is_said_and_the_next_call_uses_what_is_there(
    unattended: Place, change: Callable[[Place], None], call: Callable[[], object]
) -> None:
    queued()
    change(unattended)

    with pytest.raises(StoreReplacedError, match="deleted, moved or replaced") as caught:
        call()

    assert "next call" in caught.value.hint
    job = queued("of the new store")
    fresh()
    assert job.job_id in {one.job_id for one in jobs.list_jobs().jobs}


def modes(folder: Path) -> dict[str, int]:
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    return {".": stat.S_IMODE(folder.stat().st_mode), **found}


@pytest.fixture
def lax() -> Iterator[None]:
    """A umask that lets others read, as most systems have it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="there are no such modes there")
@pytest.mark.usefixtures("lax")
def test_what_is_in_the_data_directory_is_its_owners_alone(tmp_path: Path) -> None:
    with place(tmp_path / "data") as here:
        job = queued()
        assert jobs.wait_for(job.job_id, PATIENCE_S).status.is_final
        found = modes(here.data_dir)

    assert {
        "transcribe-mcp.db",
        "transcribe-mcp.db-wal",
        "worker.log",
        "worker.lock",
    } <= found.keys()
    assert {name: oct(mode) for name, mode in found.items() if mode & 0o077} == {}


@pytest.mark.skipif(os.name == "nt", reason="there are no such modes there")
@pytest.mark.usefixtures("lax")
@pytest.mark.parametrize("others", [False, True])
def test_a_data_directory_that_others_may_read_is_tightened_but_not_their_files(
    unattended: Place, *, others: bool
) -> None:
    queued()
    fresh()
    unattended.data_dir.chmod(0o755)
    (unattended.data_dir / "worker.log").touch()
    for path in unattended.data_dir.iterdir():
        path.chmod(0o644)
    if others:
        (unattended.data_dir / "holiday.jpg").touch()

    jobs.list_jobs()
    found = modes(unattended.data_dir)

    assert found.pop("holiday.jpg", None) == (0o644 if others else None)
    assert found.pop(".") == (0o755 if others else 0o700)
    assert {name: oct(mode) for name, mode in found.items() if mode & 0o077} == {}


def test_a_database_made_on_any_python_takes_jobs_with_any_sqlite(unattended: Place) -> None:
    """The tables' defaults are those that dbos writes on Python 3.12 and newer, which SQLite knows
    since 3.42.
    """
    jobs.list_jobs()
    fresh()
    before, now = "strftime('%s','now')", "unixepoch('subsec')"
    with closing(sqlite3.connect(unattended.database)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ?, ?)", [before, now])
    with closing(sqlite3.connect(unattended.database)) as connection:
        found = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'workflow_status'")
        assert f"created_at INTEGER NOT NULL DEFAULT ({now} * 1000)" in found.fetchone()[0]

    job = queued()

    assert [one.job_id for one in jobs.list_jobs().jobs] == [job.job_id]


def test_a_sqlite_that_is_too_old_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")

    with pytest.raises(StoreError, match=r"needs SQLite 3\.35 or newer.* has 3\.34\.1") as caught:
        Store(tmp_path)

    assert "TRANSCRIBE_MCP_DATABASE_URL" in caught.value.hint
