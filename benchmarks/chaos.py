"""Durable jobs while everything around them is killed: nothing is lost, failed, wrong, or done
twice without need.

    postgres   three machines (data directories) on one server: workers, supervisors and front ends
               are killed, workers are stopped and continued, connections are cut, the server is
               restarted every 40 s
    sqlite     three front ends on one file: workers, supervisors, front ends and the store's writer
               process are killed, also while they start, and now and then all of them at once

python benchmarks/chaos.py postgres [--seconds 600] [--seed 1]
python benchmarks/chaos.py sqlite [--kills 200] [--seed 1]

Real processes, the repository's own model. What happened, with its time, is printed as it happens.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
from chaos_parts.world import FRONT_ENDS, SUPERVISOR, WORKER, WRITER, World, recordings
from common import OWN_AUDIO, Bar, own_model, report

from transcribe_mcp import EngineSpec, Options, transcribe
from transcribe_mcp.engines import (
    Decoded,
    DecodingOptions,
    GpuModel,
    RetryPolicy,
    accept,
    load_recognizers,
)
from transcribe_mcp.service import models
from transcribe_mcp.service.service import default_service as service
from transcribe_mcp.settings import settings

TESTS = OWN_AUDIO.parents[1]
RESTART_EVERY_S = 40.0
DRAIN_S = 900.0


def drain(world: World) -> None:
    """No more trouble: wait until every front end has seen its jobs end."""
    world.let_go_on(all_of_them=True)
    world.stop_file.touch()
    deadline = time.monotonic() + DRAIN_S
    while any(client.poll() is None for client in world.clients) or any(
        client.poll() for client in world.clients
    ):
        world.start_clients_again()
        if time.monotonic() > deadline:
            world.did("front ends that wait for ever")
            break
        time.sleep(0.5)


def do_one_of(chance: random.Random, acts: Sequence[tuple[float, Callable[[], bool]]]) -> None:
    weights, works = zip(*acts, strict=True)
    with suppress(psutil.Error):  # it has gone meanwhile
        chance.choices(works, weights)[0]()


# --- the two runs ---------------------------------------------------------------------------------


def postgres_chaos(world: World, server: Any, seconds: float) -> None:
    chance = world.chance
    acts: list[tuple[float, Callable[[], bool]]] = [
        (0.35, lambda: world.kill(WORKER, "worker")),
        (0.15, world.kill_supervisor),
        (0.18, world.kill_client),
        (0.10, world.cut_connections),
        (0.07, world.stop_worker),
    ]
    begin = time.monotonic()
    restart_at = begin + min(RESTART_EVERY_S, seconds) / 2
    while (now := time.monotonic()) < begin + seconds:
        time.sleep(chance.uniform(1.0, 5.0))
        world.let_go_on()
        world.start_clients_again()
        if now < restart_at:
            do_one_of(chance, acts)
            continue
        restart_at += RESTART_EVERY_S
        mode = chance.choice(("fast", "immediate"))
        server.stop(mode)
        time.sleep(chance.uniform(0.0, 6.0))
        server.start()
        world.did(f"server restarted ({mode})")


def sqlite_chaos(world: World, kills: int) -> None:
    chance = world.chance
    acts: list[tuple[float, Callable[[], bool]]] = [
        (0.45, lambda: world.kill(WORKER, "worker")),
        (0.20, world.kill_supervisor),
        (0.15, lambda: world.kill(WRITER, "writer")),
        (0.17, world.kill_client),
        (0.03, world.kill_all),
    ]
    while world.done.total() < kills:
        time.sleep(chance.uniform(0.2, 3.0))
        world.start_clients_again()
        do_one_of(chance, acts)


# --- what came of it ------------------------------------------------------------------------------


def look(world: World) -> tuple[dict[str, Any], list[Bar]]:
    """Compare every job with an unbroken run of its recording."""
    os.environ.update(world.environment(world.data_dirs[0]) | {"TRANSCRIBE_MCP_START_WORKERS": "0"})
    service.cache_clear()
    settings.cache_clear()
    promised, errors = logged(world)
    found = {job.job_id: job for job in every_job()}
    states = Counter(job.status.value for job in found.values())
    failures = Counter(job.error.message for job in found.values() if job.error is not None)
    right = expected()
    completed = [job for job in found.values() if job.status is models.JobStatus.COMPLETED]
    wrong = [
        j.job_id
        for j in completed
        if service().get_transcript(j.job_id).to_json()["segments"] != right[j.source]
    ]
    decoded = Counter((world.folder / "decoded").read_text(encoding="ascii").split())
    begun_again = sum(job.attempts - 1 for job in found.values())
    once = sum(n_windows(job.source) for job in found.values())
    figures = {
        "done": dict(world.done), "jobs": dict(states), "errors of calls": dict(errors),
        "failures": dict(failures), "windows decoded": decoded.total(), "windows of the jobs": once,
        "jobs begun again": begun_again,
    }  # fmt: skip
    return figures, [
        Bar("jobs that were promised", len(promised), ">=", 1),
        Bar("promised jobs that are lost", len(promised - found.keys()), "==", 0),
        Bar("jobs that are not completed", len(found) - states["completed"], "==", 0),
        Bar("wrong transcripts", len(wrong), "==", 0),
        Bar("windows decoded again, beyond one for each time that a job was begun again",
            max(0, decoded.total() - once - begun_again), "==", 0),
        Bar("calls that failed with no error of ours", errors["foreign"], "==", 0),
        Bar("front ends that wait for ever", world.done["front ends that wait for ever"], "==", 0),
    ]  # fmt: skip


def logged(world: World) -> tuple[set[str], Counter[str]]:
    """The ids that were given out, and the codes of the calls that failed."""
    promised: set[str] = set()
    errors: Counter[str] = Counter()
    for path in world.folder.glob("client*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the front end was killed while it wrote that
            if "job" in entry:
                promised.add(entry["job"])
            elif "error" in entry:
                errors[entry["error"]] += 1
                if entry["error"] == "foreign":
                    print(f"no error of ours: {entry['message']}")
    return promised, errors


def every_job() -> Iterator[models.Job]:
    cursor = None
    while True:
        page = service().list_jobs(cursor=cursor, limit=500)
        yield from page.jobs
        cursor = page.next_cursor
        if cursor is None:
            return


_windows: dict[str, int] = {}


def n_windows(source: str) -> int:
    return _windows[source]


def expected() -> dict[str, Any]:
    """The segments of each recording, transcribed without a break; also counts its windows."""
    spec = EngineSpec(engine="ctranslate2", model=str(own_model()), device="cpu")
    [engine] = load_recognizers(spec)
    assert not isinstance(engine, GpuModel)
    options = Options(language="en", temperatures=(0.0,), batch_size=1)
    right = {}
    for source in recordings():
        counting = Counting(engine)
        right[source] = transcribe(source, counting, options).to_json()["segments"]  # type: ignore[arg-type]
        _windows[source] = counting.n_windows
    engine.close()
    return right


class Counting:
    """An engine that counts the windows that it decodes."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.n_windows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def decode(
        self,
        encoded: Any,
        languages: Sequence[str],
        options: DecodingOptions,
        retry: RetryPolicy = accept,
    ) -> list[Decoded]:
        self.n_windows += len(encoded)
        decoded: list[Decoded] = self._engine.decode(encoded, languages, options, retry)
        return decoded


@contextmanager
def world_of(what: str, seed: int, database_url: str) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="tmcp-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        each = [
            folder / (f"machine {number}" if what == "postgres" else "däta")
            for number in range(FRONT_ENDS)
        ]
        world = World(folder, each, database_url, random.Random(seed))
        try:
            yield world
        finally:
            service().close()
            for client in world.clients:
                client.kill()
                client.wait()
            for module in (SUPERVISOR, WORKER, WRITER):
                for process in world.processes(module):
                    process.kill()


def postgres_server() -> AbstractContextManager[Any]:
    sys.path.insert(0, str(TESTS))
    import postgres

    where = postgres.programs()
    if where is None:
        raise SystemExit("PostgreSQL's programs are not installed")
    return postgres.running(where)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("postgres", "sqlite"))
    parser.add_argument("--seconds", type=float, default=600.0, help="of trouble, for postgres")
    parser.add_argument("--kills", type=int, default=200, help="for sqlite")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with ExitStack() as stack:
        server = stack.enter_context(
            postgres_server() if asked.what == "postgres" else nullcontext()
        )
        url = ""
        if server is not None:
            from postgres import new_database

            url = new_database(server.url)
        world = stack.enter_context(world_of(asked.what, asked.seed, url))
        world.start_clients()
        if server is None:
            sqlite_chaos(world, asked.kills)
        else:
            postgres_chaos(world, server, asked.seconds)
        drain(world)
        figures, bars = look(world)
    return report(f"chaos {asked.what}", {"seed": asked.seed, **figures}, bars)


if __name__ == "__main__":
    raise SystemExit(main())
