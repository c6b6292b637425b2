"""All writes to a SQLite store go through one process. What it acknowledged is safe, whatever
happens to it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from job_places import Place, fake_options, fresh, jobs, place, request
from patience import until
from whisper_nano import SPEECH

from transcribe_mcp.errors import QueueFullError, StoreWriterError
from transcribe_mcp.jobs import database, worker_process, writer_link, writer_protocol
from transcribe_mcp.jobs.schema import speeds
from transcribe_mcp.jobs.store import Store
from transcribe_mcp.jobs.writer_link import RequirementError, WriterLink
from transcribe_mcp.service.models import Job

CLIP = SPEECH / "en_0.flac"
ADD = "INSERT INTO speeds (model, audio_s, work_s) VALUES (?, 1, 1)"


@pytest.fixture
def unattended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    with place(tmp_path / "data") as made:
        yield made


def queued(prompt: str = "") -> Job:
    return jobs.submit(request(CLIP, fake_options(prompt=prompt)))


def writers(data_dir: Path) -> list[psutil.Process]:
    """The processes that write to the store in this directory, or are about to."""
    found = []
    for one in psutil.process_iter(["cmdline"]):
        words = one.info["cmdline"] or []
        if "transcribe_mcp.jobs.writer" in words and str(data_dir / database.FILE_NAME) in words:
            found.append(one)
    return found


def the_writer(data_dir: Path) -> psutil.Process:
    [found] = writers(data_dir)
    return found


def ask(here: Place, *statements: list[Any]) -> None:
    """Have the writer apply a transaction."""
    with closing(link(here)) as one:
        one.ask(statements, commit=True)


def link(here: Place) -> WriterLink:
    return WriterLink(here.database, 5.0)


def models(here: Place) -> list[str]:
    with closing(sqlite3.connect(here.database)) as connection:
        return [model for (model,) in connection.execute("SELECT model FROM speeds ORDER BY model")]


# --- one process writes ---------------------------------------------------------------------------


def test_processes_that_write_at_once_share_one_writer_and_lose_nothing(unattended: Place) -> None:
    code = (
        "import sys; from transcribe_mcp.jobs import worker_process\n"
        "worker_process.start_worker = lambda chosen: False\n"
        "from transcribe_mcp.service import models\n"
        "from transcribe_mcp.service.service import Service\n"
        "jobs = Service()\n"
        "for n in range(10): print(jobs.submit(models.JobRequest(sys.argv[1], "
        "models.JobOptions(engine='fake', prompt=sys.argv[2] + str(n)))).job_id)"
    )
    command = [sys.executable, "-c", code, str(CLIP)]
    clients = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(4)
    ]
    until(lambda: writers(unattended.data_dir), "there is a writer")
    given = [one.communicate()[0].split() for one in clients]
    given.append([queued("here").job_id])

    assert [len(ids) for ids in given] == [10, 10, 10, 10, 1]
    assert {job.job_id for job in jobs.list_jobs(limit=500).jobs} == {
        job_id for ids in given for job_id in ids
    }
    assert len(writers(unattended.data_dir)) == 1


def test_a_writer_that_is_killed_again_and_again_loses_nothing_and_does_nothing_twice(
    unattended: Place,
) -> None:
    done, kills, given = threading.Event(), 6, []

    def submit(number: int) -> None:
        n = 0
        while not done.is_set():
            given.append(queued(f"{number} {n}").job_id)
            n += 1

    queued("before the others")
    with ThreadPoolExecutor(4) as threads:
        clients = [threads.submit(submit, number) for number in range(4)]
        for _ in range(kills):
            n_before = len(given)
            until(lambda n=n_before: len(given) > n + 4, "more are given out")  # type: ignore[misc]
            for one in writers(unattended.data_dir):
                one.kill()
        done.set()
        for client in clients:
            client.result()

    with closing(sqlite3.connect(unattended.database)) as connection:
        kept = [job_id for (job_id,) in connection.execute("SELECT job_id FROM jobs")]
        [queued_once] = connection.execute("SELECT count(*) FROM workflow_status").fetchone()
    assert set(given) <= set(kept)
    assert len(kept) == len(given) + 1 == queued_once


def test_a_request_that_is_sent_again_is_applied_once_and_answered_alike(unattended: Place) -> None:
    queued()
    message = {
        "client": "c",
        "number": 1,
        "commit": True,
        "patience_s": 5.0,
        "statements": [[ADD, ["a"], "one", None]],
    }

    def answer(*, again: bool) -> Any:
        with closing(writer_protocol.connect(unattended.data_dir, 5.0)) as connection:
            connection.sendall(writer_protocol.dumps({**message, "again": again}))
            return writer_protocol.receive(writer_protocol.Inbox(), connection)

    first = answer(again=False)
    the_writer(unattended.data_dir).kill()
    until(lambda: not writers(unattended.data_dir), "the writer is dead")
    queued("starts another writer")

    assert answer(again=True) == first
    assert first["results"][0]["count"] == 1
    assert models(unattended) == ["a"]


def test_a_request_that_fails_costs_no_other_that_shares_its_commit(unattended: Place) -> None:
    queued()
    statements: list[list[Any]] = [
        [[ADD, ["good"], "one", None]],
        [[ADD, ["undone"], "one", None], ["INSERT INTO nowhere VALUES (1)", [], "one", None]],
        [[ADD, ["too large"], "one", None], [ADD, [2**70], "one", None]],
        [[ADD, ["undone too"], "one", None], ["SELECT 1 = 2", [], "require", None]],
        [[ADD, ["also good"], "one", None]],
    ]
    with (
        closing(sqlite3.connect(unattended.database, isolation_level=None)) as other,
        ThreadPoolExecutor(5) as threads,
    ):
        other.execute("BEGIN IMMEDIATE")  # so that all of them wait
        asked = [threads.submit(ask, unattended, *each) for each in statements]
        until(lambda: sum(one.running() for one in asked) == len(asked), "all have begun to ask")
        other.execute("ROLLBACK")
        errors = [type(one.exception()) for one in asked]

    assert errors == [
        type(None),
        sqlite3.OperationalError,
        sqlite3.DataError,
        RequirementError,
        type(None),
    ]
    assert models(unattended) == ["also good", "good"]


def test_a_transaction_that_acted_on_what_another_changed_is_done_again(unattended: Place) -> None:
    queued()
    store, seen = jobs._store(), []

    def double(connection: Any) -> None:
        database.write_from_now(connection)
        found = connection.execute(database.sa.select(speeds.c.audio_s)).scalar()
        seen.append(found)
        if len(seen) == 1:
            ask(unattended, ["UPDATE speeds SET audio_s = 10", [], "one", None])
        connection.execute(speeds.update().values(audio_s=2 * found))

    ask(unattended, [ADD, ["a"], "one", None])
    store.transact(double)

    assert seen == [1.0, 10.0]
    with store.begin() as connection:
        assert connection.execute(database.sa.select(speeds.c.audio_s)).scalar() == 20.0


def test_a_batch_asks_the_writer_as_often_however_many_jobs_it_has(
    unattended: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask_writer = WriterLink.ask

    def counted(one: WriterLink, statements: Any, *, commit: bool) -> Any:
        asked.append("commit" if commit else "try")
        return ask_writer(one, statements, commit=commit)

    monkeypatch.setattr(WriterLink, "ask", counted)

    def asked_for(n: int) -> list[int]:
        folder = tmp_path / str(n)
        folder.mkdir()
        for number in range(n):
            shutil.copy(CLIP, folder / f"{number}.flac")
        wanted = request(folder, fake_options())
        counts = []
        for call in (
            lambda: ids.append(jobs.submit_batch([str(folder)], wanted).job_id),
            lambda: ids.append(jobs.submit_batch([str(folder)], wanted).job_id),
            lambda: jobs.cancel(ids[1]),
            lambda: jobs.cancel(ids[0]),
            lambda: jobs.delete(ids[0]),
        ):
            asked.clear()
            call()
            counts.append(len(asked))
        return counts

    ids: list[str] = []
    few = asked_for(2)
    ids.clear()

    assert asked_for(12) == few
    assert few[0] == 1


def test_the_queue_takes_as_many_jobs_as_may_wait_whoever_submits_them(tmp_path: Path) -> None:
    with (
        place(tmp_path / "data", MAX_QUEUE_LENGTH="3") as here,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(worker_process, "start_worker", lambda chosen: False)
        queued("first")
        new = jobs._submission(request(CLIP, fake_options())).prepare(
            str(CLIP), request(CLIP, force=True)
        )
        stores = [Store(here.data_dir) for _ in range(6)]
        with ThreadPoolExecutor(6) as threads:
            asked = [threads.submit(store.add, new, 3) for store in stores]
            refused = [one.exception() for one in asked if one.exception()]
        for store in stores:
            store.close()

        assert [type(error) for error in refused] == [QueueFullError] * 4
        assert str(refused[0]) == "the queue is full: 3 jobs wait; the limit is 3"
        assert len(jobs.list_jobs().jobs) == 3


# --- its process ----------------------------------------------------------------------------------


def test_who_only_reads_starts_no_writer(
    unattended: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_link, "IDLE_S", 0.05)
    job = queued()
    fresh()
    until(lambda: not writers(unattended.data_dir), "the writer without clients has ended")

    assert jobs.get_job(job.job_id).job_id == job.job_id
    assert [one.job_id for one in jobs.list_jobs().jobs] == [job.job_id]
    assert jobs.search("anything").hits == ()
    assert not writers(unattended.data_dir)
    assert queued("another").job_id != job.job_id, "who writes starts another"
    assert len(writers(unattended.data_dir)) == 1


def test_ten_thousand_requests_leave_the_writer_as_large_as_before(
    unattended: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)  # large pages come in steps of 2 MiB
    queued()
    links = [link(unattended) for _ in range(10)]

    def change(one: WriterLink, n: int) -> None:
        for number in range(n):
            one.ask([["UPDATE speeds SET audio_s = ?", [float(number)], "one", None]], commit=True)

    def ask_all(n: int) -> tuple[int, int]:
        with ThreadPoolExecutor(len(links)) as threads:
            list(threads.map(change, links, [n // len(links)] * len(links)))
        running = the_writer(unattended.data_dir)
        return (
            running.memory_info().rss,
            running.num_fds() if os.name == "posix" else running.num_handles(),
        )

    links[0].ask([[ADD, ["a"], "one", None]], commit=True)
    rss_before, files_before = ask_all(2000)
    rss_after, files_after = ask_all(8000)
    for one in links:
        one.close()

    assert files_after == files_before
    assert rss_after - rss_before < 2 * 2**20


def test_a_writer_that_cannot_be_started_is_said(
    unattended: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.list_jobs()
    broken = tmp_path / "broken"
    broken.mkdir()
    code = (
        "import sys\nif 'transcribe_mcp.jobs.writer' in sys.orig_argv: raise "
        "SystemExit('no such luck')\n"
    )
    (broken / "sitecustomize.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(broken))

    with pytest.raises(StoreWriterError, match="no such luck") as caught:
        queued()

    assert "writer.log" in caught.value.hint
    assert jobs.list_jobs().jobs == ()


def test_the_writer_has_normal_priority_whoever_starts_it(unattended: Place) -> None:
    if not hasattr(os, "setpriority"):
        pytest.skip("a process here has no such priority")
    jobs.list_jobs()
    code = (
        "import sys; from transcribe_mcp.jobs.writer_link import WriterLink; from pathlib "
        "import Path\n"
        "import os; os.nice(5)\nlink = WriterLink(Path(sys.argv[1]), 5.0)\n"
        "link.ask([], commit=True)\n"
        "print('asked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(unattended.database)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "asked\n"
        for prompt in (
            "first",
            "second",
        ):  # where a process may not raise its priority, we start another writer
            queued(prompt)
        nice = the_writer(unattended.data_dir).nice()
        starter.communicate("")

    assert nice <= os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.parametrize("secret", ["right", "wrong"])
def test_a_path_too_long_for_a_socket_is_served_on_a_port_with_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setattr(worker_process, "start_worker", lambda chosen: False)
    monkeypatch.setattr(writer_link, "START_S", 2.0)
    with place(tmp_path / ("long " * 30) / "data") as here:
        job = queued()
        address = here.data_dir / writer_protocol.ADDRESS_NAME
        fresh()
        if secret == "wrong":
            address.write_text(address.read_text().replace('"secret": "', '"secret": "00'))
            with pytest.raises(StoreWriterError):
                queued("of a stranger")
            for one in writers(here.data_dir):
                one.kill()
        else:
            queued("another")

        assert stat.S_IMODE(address.stat().st_mode) == 0o600 or os.name == "nt"
        assert len(jobs.list_jobs().jobs) == (2 if secret == "right" else 1)
        assert jobs.get_job(job.job_id).job_id == job.job_id


def test_a_process_that_is_killed_while_it_writes_holds_nobody_up(unattended: Place) -> None:
    if not hasattr(signal, "SIGSTOP"):
        pytest.skip("processes cannot be stopped there")
    queued()
    code = (
        "import sys, sqlalchemy as sa; from transcribe_mcp.jobs.store import Store; from "
        "pathlib import Path\n"
        "from transcribe_mcp.jobs.database import write_from_now\n"
        "with Store(Path(sys.argv[1])).begin() as connection:\n"
        "    write_from_now(connection); connection.execute(sa.text('SELECT 1')).scalar()\n"
        "    print('in the middle', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(unattended.data_dir)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in the middle\n"
        other.send_signal(signal.SIGSTOP)
        job = queued("while it sleeps")
        other.kill()

    assert jobs.get_job(job.job_id).job_id == job.job_id
