"""Workers on several machines with nothing shared but PostgreSQL and S3, while machines die.

    python benchmarks/scale_out.py [--seconds 300] [--jobs 200] [--machines 3] [--seed 1]

Every machine is a ``transcribe-mcp worker`` with a data directory of its own. The jobs come evenly
over the time. Every 10 s one machine is killed, with all its processes, and started again. Real
processes, the repository's own model, a PostgreSQL server and an S3 server of this benchmark.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from common import OWN_AUDIO, Bar, own_model, report

from transcribe_mcp import EngineSpec, Options, load_engine, transcribe
from transcribe_mcp.service.models import Job, JobOptions, JobRequest, JobStatus
from transcribe_mcp.service.service import Service
from transcribe_mcp.settings import Settings

TESTS = OWN_AUDIO.parents[1]
KILL_EVERY_S = 10.0
DRAIN_S = 600.0
CLEARED_S = 120.0  # workers look every 60 s for copies that no job needs
CONVERSATION = OWN_AUDIO.parent / "conversation" / "three_voices.opus"  # two minutes
RECORDINGS = [*sorted(OWN_AUDIO.glob("en_*.flac"))[:7], CONVERSATION]
GREEDY = (0.0,)


@dataclass
class Machine:
    """A worker with its own data directory."""

    data_dir: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.data_dir.mkdir(exist_ok=True)
        environment = self.environment | {"TRANSCRIBE_MCP_DATA_DIR": str(self.data_dir)}
        command = [sys.executable, "-m", "transcribe_mcp", "worker"]
        with (self.data_dir / "out.log").open("ab") as out:
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    def kill(self) -> None:
        """The command, its supervisor and its worker, at once."""
        assert self.process is not None
        with psutil.Process(self.process.pid).oneshot():
            own = psutil.Process(self.process.pid)
            for process in (own, *own.children(recursive=True)):
                process.kill()
        self.process.wait()

    def copies(self) -> int:
        return len(list((self.data_dir / "fetched").glob("[!.]*")))


@dataclass
class Run:
    """The jobs of a run, and what each has to say."""

    service: Service
    expected: dict[str, Any]
    submitted: dict[str, str] = field(default_factory=dict)  # job -> name of its recording
    kills: int = 0

    def submit(self, number: int) -> None:
        name = RECORDINGS[number % len(RECORDINGS)].name
        options = JobOptions(
            engine="ctranslate2", model=str(own_model()), device="cpu", language="en",
            temperatures=GREEDY, batch_size=1,
        )  # fmt: skip
        # Each job works, though the content of many is the same.
        request = JobRequest(f"s3://talks/{number}/{name}", options, force=True)
        self.submitted[self.service.submit(request).job_id] = name

    def jobs(self) -> list[Job]:
        found = [self.service.get_job(job_id) for job_id in self.submitted]
        return [job for job in found if isinstance(job, Job)]

    def wrong(self, jobs: list[Job]) -> int:
        """Completed jobs with another transcript than a run that nothing interrupts."""
        return sum(
            self.service.get_transcript(job.job_id).to_json()["segments"]
            != self.expected[self.submitted[job.job_id]]
            for job in jobs
            if job.status is JobStatus.COMPLETED
        )


def unbroken() -> dict[str, Any]:
    engine = load_engine(EngineSpec(engine="ctranslate2", model=str(own_model()), device="cpu"))
    options = Options(language="en", temperatures=GREEDY, batch_size=1)
    try:
        return {
            path.name: transcribe(path, engine, options).to_json()["segments"]
            for path in RECORDINGS
        }
    finally:
        engine.close()


@contextmanager
def servers(folder: Path, n_jobs: int) -> Iterator[dict[str, str]]:
    """PostgreSQL, and S3 with an object for every job; what processes need to use them."""
    sys.path.insert(0, str(TESTS))
    import postgres
    import s3_place

    with postgres.server() as url, s3_place.s3_server(folder / "s3.log") as s3:
        for number in range(n_jobs):
            recording = RECORDINGS[number % len(RECORDINGS)]
            s3.put(f"/talks/{number}/{recording.name}", recording)
        yield {
            **s3.environment,
            "TRANSCRIBE_MCP_DATABASE_URL": postgres.new_database(url),
            "TRANSCRIBE_MCP_CACHE_DIR": str(own_model().parent / "cache"),
            "TRANSCRIBE_MCP_START_WORKERS": "0",
            "TRANSCRIBE_MCP_EXIT_AFTER_S": "inf",
            "HF_HUB_OFFLINE": "1",
        }


def trouble(run: Run, machines: list[Machine], asked: argparse.Namespace) -> None:
    """Submit the jobs and kill machines until the time is over."""
    chance = random.Random(asked.seed)
    begin = time.monotonic()
    while (passed_s := time.monotonic() - begin) < asked.seconds:
        due = min(asked.jobs, round(asked.jobs * passed_s / asked.seconds) + 1)
        if len(run.submitted) < due:
            run.submit(len(run.submitted))
        if passed_s > (run.kills + 1) * KILL_EVERY_S:
            victim = chance.choice(machines)
            victim.kill()
            victim.start()
            run.kills += 1
            print(f"{passed_s:.0f} s: {victim.data_dir.name} killed", flush=True)
        time.sleep(0.1)
    for number in range(len(run.submitted), asked.jobs):
        run.submit(number)


def wait(is_over: Any, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not is_over() and time.monotonic() < deadline:
        time.sleep(1.0)


def bars(run: Run, machines: list[Machine], asked: argparse.Namespace) -> list[Bar]:
    jobs = run.jobs()
    completed = sum(job.status is JobStatus.COMPLETED for job in jobs)
    return [
        Bar("jobs", len(jobs), "==", asked.jobs),
        Bar("jobs that are not completed", len(jobs) - completed, "==", 0),
        Bar("wrong transcripts", run.wrong(jobs), "==", 0),
        Bar("machines killed", run.kills, ">=", asked.seconds // KILL_EVERY_S - 2),
        Bar("copies of objects left", sum(one.copies() for one in machines), "==", 0),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="of trouble")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--machines", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tmcp-scale-")))
        variables = stack.enter_context(servers(folder, asked.jobs))
        os.environ.update(variables, TRANSCRIBE_MCP_DATA_DIR=str(folder / "front end"))
        run = Run(Service(Settings()), unbroken())
        stack.callback(run.service.close)
        machines = [
            Machine(folder / f"machine {number}", {**os.environ})
            for number in range(asked.machines)
        ]
        for machine in machines:
            machine.start()
            stack.callback(machine.kill)
        begin = time.monotonic()
        trouble(run, machines, asked)
        wait(lambda: all(job.status.is_final for job in run.jobs()), DRAIN_S)
        took_s = time.monotonic() - begin
        wait(lambda: not any(machine.copies() for machine in machines), CLEARED_S)
        jobs = run.jobs()
        figures = {
            "seconds": round(took_s), "machines": asked.machines, "machines killed": run.kills,
            "jobs": dict(Counter(job.status.value for job in jobs)),
            "jobs begun again": sum(job.attempts - 1 for job in jobs),
            "failures": dict(Counter(job.error.message for job in jobs if job.error is not None)),
        }  # fmt: skip
        found = bars(run, machines, asked)
    return report("scale-out", {"seed": asked.seed, **figures}, found)


if __name__ == "__main__":
    raise SystemExit(main())
