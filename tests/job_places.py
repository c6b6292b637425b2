"""A store of jobs of one's own, the workers on it, and ways to end them badly."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from patience import PATIENCE_S, until
from whisper_nano import CACHE, whisper_nano

from transcribe_mcp import EngineRequest, Options, Transcript, load_engine, transcribe
from transcribe_mcp.jobs import supervisor, worker_process
from transcribe_mcp.jobs.database import FILE_NAME
from transcribe_mcp.service.models import Job, JobOptions, JobRequest
from transcribe_mcp.service.service import Service, default_service
from transcribe_mcp.settings import settings


class _Current:
    """The service of the settings that are set now."""

    def __getattr__(self, name: str) -> Any:
        return getattr(default_service(), name)


jobs = cast(Service, _Current())

WORKER_MODULE = "transcribe_mcp.jobs.worker"
GREEDY = (0.0,)


def options(**fields: object) -> JobOptions:
    """The repository's model on the CPU, greedy, so that every run hears the same."""
    usual = {
        "engine": "ctranslate2",
        "model": str(whisper_nano()),
        "device": "cpu",
        "temperatures": GREEDY,
    }
    return JobOptions(**{**usual, **fields})  # type: ignore[arg-type]


def fake_options(**fields: object) -> JobOptions:
    return JobOptions(**{"engine": "fake", **fields})  # type: ignore[arg-type]


def request(source: Path, wanted: JobOptions | None = None, *, force: bool = False) -> JobRequest:
    return JobRequest(str(source), wanted or options(), force=force)


def unbroken(recording: Path) -> Transcript:
    """What a job in English says of it, one window a batch, that nothing interrupts."""
    engine = load_engine(EngineRequest(engine="ctranslate2", model=options().model, device="cpu"))
    try:
        return transcribe(
            recording, engine, Options(language="en", temperatures=GREEDY, batch_size=1)
        )
    finally:
        engine.close()


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

    def worker_pids(self) -> dict[str, int]:
        """The processes that work on this store and live, by the ids of their workers."""
        if not self.database.exists():
            return {}
        with closing(
            sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=PATIENCE_S)
        ) as connection:
            try:
                rows = connection.execute("SELECT worker_id, pid FROM workers").fetchall()
            except sqlite3.DatabaseError:  # not there yet, or a test has damaged it
                return {}
        return {worker_id: pid for worker_id, pid in rows if _lives(pid)}

    def worker_pid(self) -> int | None:
        """The only process that works on this store, if it lives."""
        return next(iter(self.worker_pids().values()), None)

    def kill_worker(self, worker_id: str = "device-0") -> None:
        """As the system would, without a word."""
        until(lambda: worker_id in self.worker_pids(), "there is a worker")
        pid = self.worker_pids()[worker_id]
        os.kill(pid, signal.SIGKILL)
        until(lambda: not _lives(pid), "the worker is dead")

    def checkpoints(self, job_id: str) -> int:
        """Batches of a job that are safe."""
        return len(jobs._store().steps(job_id))

    def log(self) -> str:
        path = self.data_dir / worker_process.LOG_NAME
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@contextmanager
def place(data_dir: Path, **variables: str) -> Iterator[Place]:
    """A store in ``data_dir`` for this process and the workers that it starts; none is left when it
    ends.
    """
    with pytest.MonkeyPatch.context() as patch:
        given = {
            "DATA_DIR": str(data_dir),
            "CACHE_DIR": str(CACHE / "cache"),
            "EXIT_AFTER_S": "60",
            "DATABASE_URL": "",  # not that of another place in this process
            **variables,
        }
        for name, value in given.items():
            patch.setenv(f"TRANSCRIBE_MCP_{name}", value)
        fresh()
        here = Place(data_dir)
        try:
            yield here
        finally:
            end_workers(here)
            fresh()


@contextmanager
def second_worker(data_dir: Path) -> Iterator[None]:
    """Another supervisor and its worker, as on another machine: of the same database, if that is a
    server's.
    """
    data_dir.mkdir()
    with (data_dir / worker_process.LOG_NAME).open("ab") as out:
        other = subprocess.Popen(
            [sys.executable, "-m", supervisor.__name__],
            stdout=out,
            stderr=out,
            env={**os.environ, "TRANSCRIBE_MCP_DATA_DIR": str(data_dir)},
        )
    try:
        yield
    finally:
        other.terminate()
        other.wait(PATIENCE_S)


def break_workers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, argument: str = WORKER_MODULE
) -> Path:
    """Something on this machine ends a worker, of those with this argument, while its modules load,
    as a broken native library does: the file that does it.
    """
    broken = folder / "broken"
    broken.mkdir()
    code = (
        f"import os, sys\nif {{{WORKER_MODULE!r}, {argument!r}}} <= set(sys.orig_argv): "
        "os.abort()\n"
    )
    cause = broken / "sitecustomize.py"
    cause.write_text(code, encoding="utf-8")
    paths = [str(broken), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return cause


def fresh() -> None:
    """Forget what this process knows of any store."""
    settings.cache_clear()
    if default_service.cache_info().currsize:
        default_service().close()
        default_service.cache_clear()


def end_workers(here: Place) -> None:
    """Ask every worker to end, and see it go."""
    for started in worker_process._started:
        started.terminate()
    for started in worker_process._started:
        started.wait(PATIENCE_S)
    worker_process._started.clear()
    for pid in here.worker_pids().values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until(lambda: not here.worker_pids(), "the workers have ended")


@contextmanager
def worker(
    here: Place, engine: str, end_of_last: str = "", **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker without a supervisor, with the engine of a test in place of CTranslate2."""
    script = Path(__file__).with_name("worker_with_engine.py")
    environment = {**os.environ, "TRANSCRIBE_MCP_DATA_DIR": str(here.data_dir), **variables}
    with (here.data_dir / worker_process.LOG_NAME).open("ab") as out:
        command = [sys.executable, script, engine, f"--after={end_of_last}"]
        one = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        yield one
    finally:
        if one.poll() is None:
            one.terminate()
        code = one.wait(PATIENCE_S)
        if code not in (0, -signal.SIGKILL):
            with (here.data_dir / worker_process.LOG_NAME).open(
                "a"
            ) as out_again:  # as a supervisor does
                out_again.write(f"{worker_process.ENDED}{worker_process.how_it_ended(code)}\n")


@contextmanager
def counting_worker(
    here: Place, log: Path, end_of_last: str = "", silent_s: float = 20.0
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that writes down which windows it decodes, and takes others for dead that are silent
    for so long.
    """
    variables = {"COUNTING_ENGINE_LOG": str(log), "WORKER_SILENT_S": str(silent_s)}
    with worker(here, "counting_engine", end_of_last, **variables) as one:
        yield one
