"""A store of jobs of one's own, the workers on it, and ways to end them badly."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from whisper_nano import CACHE, whisper_nano

from transcribe_mcp.jobs import process
from transcribe_mcp.jobs.database import FILE_NAME
from transcribe_mcp.service import jobs
from transcribe_mcp.service.jobs import Job, JobOptions, JobRequest
from transcribe_mcp.settings import settings

PATIENCE_S = 120.0
GREEDY = (0.0,)
PAUSE = threading.Event()  # never set: between two looks, others have the processor


def options(**fields: object) -> JobOptions:
    """The repository's model on the CPU, greedy, so that every run hears the same."""
    usual = {"engine": "ctranslate2", "model": str(whisper_nano()), "device": "cpu", "temperatures": GREEDY}
    return JobOptions(**{**usual, **fields})  # type: ignore[arg-type]


def fake_options(**fields: object) -> JobOptions:
    return JobOptions(**{"engine": "fake", **fields})  # type: ignore[arg-type]


def request(source: Path, wanted: JobOptions | None = None, *, force: bool = False) -> JobRequest:
    return JobRequest(str(source), wanted or options(), force=force)


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition, which has to become true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        PAUSE.wait(0.02)


def finished(job_id: str) -> Job:
    job = jobs.wait_for(job_id, PATIENCE_S)
    assert isinstance(job, Job)
    assert job.status.is_final, job
    return job


class Place:
    """A data directory with its store and workers."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.workers: list[subprocess.Popen[bytes]] = []

    @property
    def database(self) -> Path:
        return self.data_dir / FILE_NAME

    def worker_pid(self) -> int | None:
        """The process that works on this store, if it lives."""
        if not self.database.exists():
            return None
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)) as connection:
            try:
                row = connection.execute("SELECT pid FROM workers").fetchone()
            except sqlite3.OperationalError:
                return None
        return row[0] if row and _lives(row[0]) else None

    def kill_worker(self) -> None:
        """As the system would, without a word."""
        until(self.worker_pid, "there is a worker")
        pid = self.worker_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: not _lives(pid), "the worker is dead")

    def checkpoints(self, job_id: str) -> int:
        """Batches of a job that are safe."""
        return len(jobs._store().steps(job_id))

    def log(self) -> str:
        path = self.data_dir / process.LOG_NAME
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@contextmanager
def place(data_dir: Path, **variables: str) -> Iterator[Place]:
    """A store in ``data_dir`` for this process and the workers that it starts; none is left when it ends."""
    with pytest.MonkeyPatch.context() as patch:
        given = {"DATA_DIR": str(data_dir), "CACHE_DIR": str(CACHE / "cache"), "EXIT_AFTER_S": "60", **variables}
        for name, value in given.items():
            patch.setenv(f"TRANSCRIBE_MCP_{name}", value)
        fresh()
        here = Place(data_dir)
        try:
            yield here
        finally:
            end_workers(here)
            fresh()


def fresh() -> None:
    """Forget what this process knows of any store."""
    settings.cache_clear()
    jobs.close()


def end_workers(here: Place) -> None:
    """Ask every worker to end, and see it go."""
    for supervisor in process._started:
        supervisor.terminate()
    for supervisor in process._started:
        supervisor.wait(PATIENCE_S)
    process._started.clear()
    pid = here.worker_pid()
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        until(lambda: not _lives(pid), "the worker has ended")


@contextmanager
def worker(here: Place, engine: str, end_of_last: str = "", **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker without a supervisor, with the engine of a test in place of CTranslate2."""
    script = Path(__file__).with_name("worker_with_engine.py")
    with (here.data_dir / process.LOG_NAME).open("ab") as out:
        one = subprocess.Popen(
            [sys.executable, script, engine, end_of_last], stdout=out, stderr=out, env={**os.environ, **variables}
        )
    try:
        yield one
    finally:
        if one.poll() is None:
            one.terminate()
        code = one.wait(PATIENCE_S)
        if code not in (0, -signal.SIGKILL):
            with (here.data_dir / process.LOG_NAME).open("a") as out_again:  # as a supervisor does
                out_again.write(f"{process.ENDED}{process.how_it_ended(code)}\n")


@contextmanager
def counting_worker(here: Place, log: Path, end_of_last: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A worker that writes down which windows it decodes."""
    with worker(here, "counting_engine", end_of_last, COUNTING_ENGINE_LOG=str(log)) as one:
        yield one
