"""Durable jobs: what they cost, what many of them at once do to those who ask, and how they
survive.

    overhead   a 5 s clip as a job on a warm worker, against the pipeline called directly, in turns
    load       300 short jobs from 8 client processes; every call's time while the worker is busy
    and while it is idle survival   one recording, its worker killed again and again: nothing lost,
    how much was decoded twice cancel     a long job cancelled in the middle: when its worker rests,
    what memory it keeps, the next job gpus       ten-minute recordings on a worker for every GPU,
    against one worker alone; only if named

python benchmarks/jobs.py [overhead] [load] [survival] [cancel] [--jobs 300] [--clients 8] [--kills
24] [--runs 15] python benchmarks/jobs.py gpus [--jobs 64] [--model DIRECTORY]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from common import OWN_AUDIO, SAMPLE_RATE_HZ, Bar, own_model, read_samples, report, write_flac

from transcribe_mcp import EngineRequest, Options, load_engine, transcribe
from transcribe_mcp.compat import choose_runtime, gather
from transcribe_mcp.service import models
from transcribe_mcp.service.service import default_service as service
from transcribe_mcp.settings import settings

TESTS = OWN_AUDIO.parents[1]
CLIP_S = 5.0
PATIENCE_S = 1800.0
STEP_S = 0.25  # between two rounds of questions of one client


def options(**fields: Any) -> models.JobOptions:
    usual = {"engine": "ctranslate2", "model": str(own_model()), "device": "cpu", "language": "en"}
    return models.JobOptions(**{**usual, "temperatures": (0.0,), **fields})


def use(data_dir: Path) -> None:
    """Work in a store of our own."""
    os.environ["TRANSCRIBE_MCP_DATA_DIR"] = str(data_dir)
    os.environ["TRANSCRIBE_MCP_EXIT_AFTER_S"] = "30"
    service().close()
    service.cache_clear()
    settings.cache_clear()


def timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- overhead -------------------------------------------------------------------------------------


def measure_overhead(folder: Path, runs: int) -> tuple[dict[str, Any], list[Bar]]:
    use(folder / "overhead")
    clip = folder / "clip.flac"
    write_flac(clip, [read_samples(OWN_AUDIO / "en_0.flac")[: round(CLIP_S * SAMPLE_RATE_HZ)]])
    engine = load_engine(EngineRequest(engine="ctranslate2", model=str(own_model()), device="cpu"))
    request = models.JobRequest(str(clip), options(), force=True)

    def as_job() -> None:
        job = service().wait_for(service().submit(request).job_id, PATIENCE_S)
        assert job.status is models.JobStatus.COMPLETED, job

    def directly() -> None:
        transcribe(clip, engine, Options(language="en", temperatures=(0.0,)))

    as_job(), directly()
    pairs = [(timed(directly), timed(as_job)) for _ in range(runs)]
    direct_s, job_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    more_s = statistics.median(job - direct for direct, job in pairs)
    engine.close()
    print(
        f"5 s clip directly    {direct_s * 1000:8.0f} ms\n"
        f"5 s clip as a job    {job_s * 1000:8.0f} ms"
    )
    figures = {"direct_s": round(direct_s, 4), "job_s": round(job_s, 4), "more_s": round(more_s, 4)}
    return figures, [Bar("a job costs more than the pipeline, s", more_s, "<=", 0.25)]


# --- load -----------------------------------------------------------------------------------------


def be_a_client(names: Sequence[str]) -> None:
    """Submit recordings, ask for them until they are done, and print the seconds of every call by
    its name.
    """
    taken: dict[str, list[float]] = {}

    def call(name: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = work()
        taken.setdefault(name, []).append(time.perf_counter() - begin)
        return result

    service().prepare()
    service().list_jobs(limit=1)
    mine = [
        call(
            "submit", lambda name=name: service().submit(models.JobRequest(name, options()))
        ).job_id
        for name in names
    ]
    waiting = list(mine)
    deadline = time.monotonic() + PATIENCE_S
    while waiting and time.monotonic() < deadline:
        job = call("get_job", lambda: service().get_job(waiting[0]))
        if job.status.is_final:
            call("get_transcript", lambda: service().get_transcript(waiting.pop(0)))
        call("list_jobs", lambda: service().list_jobs(limit=20))
        call("search", lambda: service().search("captain"))
        time.sleep(STEP_S)
    done = sum(service().get_job(job_id).status is models.JobStatus.COMPLETED for job_id in mine)
    print(json.dumps({"done": done, "taken": taken}))


def run_clients(parts: Sequence[Sequence[str]]) -> tuple[int, dict[str, list[float]]]:
    command = [sys.executable, __file__, "--client"]
    clients = [
        subprocess.Popen([*command, *part], stdout=subprocess.PIPE, text=True) for part in parts
    ]
    done = 0
    taken = {}
    for client in clients:
        answer = json.loads(client.communicate()[0])
        done += answer["done"]
        for name, seconds in answer["taken"].items():
            taken.setdefault(name, []).extend(seconds)
    return done, taken


def measure_load(folder: Path, n_jobs: int, n_clients: int) -> tuple[dict[str, Any], list[Bar]]:
    use(folder / "load")
    speech = [read_samples(path) for path in sorted(OWN_AUDIO.glob("en_?.flac"))]
    chance = random.Random(0)
    names = []
    for n in range(n_jobs):
        samples = chance.choice(speech)
        first = chance.randrange(len(samples) - 3 * SAMPLE_RATE_HZ)
        names.append(str(folder / f"short{n:03d}.flac"))
        write_flac(Path(names[-1]), [samples[first : first + 2 * SAMPLE_RATE_HZ + n]])
    service().wait_for(
        service().submit(models.JobRequest(str(OWN_AUDIO / "en_0.flac"), options())).job_id,
        PATIENCE_S,
    )
    begin = time.perf_counter()
    done, busy = run_clients([names[i::n_clients] for i in range(n_clients)])
    took_s = time.perf_counter() - begin
    listed = sum(1 for _ in all_jobs())
    _, idle = run_clients(
        [names[i::n_clients][:6] for i in range(n_clients)]
    )  # answered from the library
    figures: dict[str, Any] = {
        "jobs": n_jobs,
        "clients": n_clients,
        "seconds": round(took_s, 1),
        "calls": {},
    }
    for name, seconds in busy.items():
        figures["calls"][name] = {
            "n": len(seconds),
            "median_ms": round(1000 * statistics.median(seconds), 1),
            "p99_ms": round(1000 * percentile(seconds, 0.99), 1),
            "idle_p99_ms": round(1000 * percentile(idle.get(name, [0.0]), 0.99), 1),
        }
        print(f"{name:<16}{figures['calls'][name]}")
    everything = [second for seconds in busy.values() for second in seconds]
    at_rest = [second for seconds in idle.values() for second in seconds]
    p99_s = percentile(everything, 0.99)
    idle_p99_s = percentile(at_rest, 0.99)
    worst_s = max(percentile(seconds, 0.99) for seconds in busy.values())
    figures |= {"p99_ms": round(1000 * p99_s, 1), "idle_p99_ms": round(1000 * idle_p99_s, 1)}
    figures["ratio"] = round(p99_s / idle_p99_s, 2)
    return figures, [
        Bar("jobs lost", n_jobs - done, "==", 0),
        Bar("jobs too many or too few", listed - n_jobs - 1, "==", 0),
        Bar("99th percentile of the slowest kind of call while busy, s", worst_s, "<=", 0.2),
    ]


def all_jobs() -> Any:
    cursor = None
    while True:
        page = service().list_jobs(cursor=cursor, limit=200)
        yield from page.jobs
        cursor = page.next_cursor
        if cursor is None:
            return


# --- survival -------------------------------------------------------------------------------------


def measure_survival(folder: Path, kills: int) -> tuple[dict[str, Any], list[Bar]]:
    from transcribe_mcp.jobs import worker_process as process

    use(folder / "survival")
    (folder / "survival").mkdir()
    process.start_worker = lambda chosen: False  # the workers here are our own
    recording = folder / "long.flac"
    log = folder / "decoded"
    clips = [read_samples(path) for path in sorted(OWN_AUDIO.glob("en_*.flac"))]
    write_flac(recording, [clips[i % len(clips)] for i in range(3 * kills)])
    engine = load_engine(EngineRequest(engine="ctranslate2", model=str(own_model()), device="cpu"))
    expected = transcribe(
        recording, engine, Options(language="en", temperatures=(0.0,), batch_size=1)
    )
    engine.close()
    job_id = service().submit(models.JobRequest(str(recording), options(batch_size=1))).job_id
    store = service()._store()
    chance = random.Random(1)
    end = ""
    script = [sys.executable, str(TESTS / "worker_with_engine.py"), "counting_engine"]
    environment = {**os.environ, "COUNTING_ENGINE_LOG": str(log)}
    for _ in range(kills):
        before = len(store.steps(job_id))
        with subprocess.Popen(
            [*script, f"--after={end}"], env=environment, stderr=subprocess.DEVNULL
        ) as worker:
            while (
                len(store.steps(job_id)) <= before and not service().get_job(job_id).status.is_final
            ):
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 1.0))
            worker.kill()
        end = "died"
    with subprocess.Popen(
        [*script, f"--after={end}"], env=environment, stderr=subprocess.DEVNULL
    ) as worker:
        job = service().wait_for(job_id, PATIENCE_S)
        worker.terminate()
    decoded = Counter(log.read_text(encoding="utf-8").split())
    twice = sum(decoded.values()) - len(decoded)
    kept = job.status is models.JobStatus.COMPLETED
    same = (
        kept
        and service().get_transcript(job_id).to_json()["segments"] == expected.to_json()["segments"]
    )
    figures = {
        "kills": kills,
        "windows": len(decoded),
        "decoded_twice": twice,
        "status": str(job.status),
    }
    print(
        f"{kills} kills, {len(decoded)} windows, {twice} decoded twice, {job.status} "
        f"{job.error or ''}"
    )
    return figures, [
        Bar("same transcript as an unbroken run", float(same), "==", 1),
        Bar("windows decoded twice, per kill", twice / kills, "<=", 1),
        Bar("times that one window was decoded at most", max(decoded.values()), "<=", 2),
    ]


# --- cancel ---------------------------------------------------------------------------------------

RESTING_SHARE = 0.2  # of a core: less is the worker's heartbeat and queue
RESTED_S = 0.5


def the_worker(data_dir: Path) -> psutil.Process:
    """The process that works on this store."""
    for process in psutil.process_iter(["cmdline"]):
        if "transcribe_mcp.jobs.worker" in (process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.Error):
                if process.environ().get("TRANSCRIBE_MCP_DATA_DIR") == str(data_dir):
                    return process
    raise SystemExit("there is no worker")


def seconds_until_rest(process: psutil.Process) -> float:
    """Seconds of work from now until the process, or the one that came in its place, uses hardly
    any time.
    """

    def used_s() -> float:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system)

    begin = time.perf_counter()
    worked_until = begin
    looked_at = begin
    used = used_s()
    while time.perf_counter() - worked_until < RESTED_S:
        time.sleep(0.05)
        now = time.perf_counter()
        more = used_s()
        if more - used > RESTING_SHARE * (now - looked_at):
            worked_until = now
        looked_at = now
        used = more
    return worked_until - begin


def measure_cancel(folder: Path, runs: int) -> tuple[dict[str, Any], list[Bar]]:
    data_dir = folder / "cancel"
    use(data_dir)
    long = folder / "half hour.flac"
    clip = str(OWN_AUDIO / "en_1.flac")
    clips = [read_samples(path) for path in sorted(OWN_AUDIO.glob("en_*.flac"))]
    write_flac(long, [clips[i % len(clips)] for i in range(90)])
    request = models.JobRequest(clip, options(), force=True)
    service().wait_for(service().submit(request).job_id, PATIENCE_S)
    rows = []
    for _ in range(runs):
        job_id = service().submit(models.JobRequest(str(long), options(), force=True)).job_id
        while not service().get_job(job_id).percent:
            time.sleep(0.05)
        worker = the_worker(data_dir)
        busy_bytes = worker.memory_info().rss
        service().cancel(job_id)
        stopped_s = seconds_until_rest(worker)
        worker = the_worker(data_dir)  # the one in its place, which may still be starting
        seconds_until_rest(worker)
        kept_bytes = worker.memory_info().rss
        next_s = timed(lambda: service().wait_for(service().submit(request).job_id, PATIENCE_S))
        rows.append(
            {
                "stopped_s": stopped_s,
                "busy_bytes": busy_bytes,
                "kept_bytes": kept_bytes,
                "next_s": next_s,
            }
        )
        print({name: round(value, 2) for name, value in rows[-1].items()})
    return {"cancelled": rows}, [
        Bar(
            "seconds from cancelling to rest, the longest",
            max(row["stopped_s"] for row in rows),
            "<=",
            2,
        ),
        Bar(
            "memory kept, of what it was first",
            rows[-1]["kept_bytes"] / rows[0]["kept_bytes"],
            "<=",
            1.1,
        ),
        Bar("jobs that came after and are done", len(rows), "==", runs),
    ]


# --- gpus -----------------------------------------------------------------------------------------


def measure_gpus(folder: Path, n_jobs: int, model: str) -> tuple[dict[str, Any], list[Bar]]:
    long = folder / "ten minutes.flac"
    clip = str(OWN_AUDIO / "en_1.flac")
    clips = [read_samples(path) for path in sorted(OWN_AUDIO.glob("en_*.flac"))]
    long_s = write_flac(long, [clips[i % len(clips)] for i in range(64)])
    wanted = options(engine="whisper", model=model, device="auto")
    n_gpus = max(1, len(choose_runtime(gather()).gpus))
    figures: dict[str, Any] = {"audio_s": long_s * n_jobs}

    def worked_on(path: str, n: int) -> Counter[str]:
        ids = [
            service().submit(models.JobRequest(path, wanted, force=True)).job_id for _ in range(n)
        ]
        done = [service().wait_for(job_id, PATIENCE_S) for job_id in ids]
        assert all(job.status is models.JobStatus.COMPLETED for job in done), done
        return Counter(str(job.device) for job in done)

    for name, n_workers in (("one worker", 1), ("one for every GPU", 0)):
        os.environ["TRANSCRIBE_MCP_WORKERS"] = str(n_workers)
        use(folder / name)
        devices: set[str] = set()
        deadline = time.monotonic() + PATIENCE_S
        while len(devices) < (
            n_workers or n_gpus
        ):  # not all have started yet, and loaded the model
            assert time.monotonic() < deadline, f"of {n_gpus} GPUs only {devices} are at work"
            devices |= worked_on(clip, 8).keys()
        worked_on(str(long), 2 * len(devices))
        begin = time.perf_counter()
        figures[name] = {"jobs": worked_on(str(long), n_jobs), "s": time.perf_counter() - begin}
        print(name, figures[name])
    gained = figures["one worker"]["s"] / figures["one for every GPU"]["s"]
    return figures, [Bar("times as fast with a worker for every GPU", gained, ">=", 1.0)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", nargs="*", help="overhead, load, survival, cancel, gpus; without, all but the last"
    )
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--model", default=str(own_model()))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        be_a_client(arguments.what)
        return 0
    os.environ.setdefault("TRANSCRIBE_MCP_CACHE_DIR", str(own_model().parent / "cache"))
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        measures: dict[str, Callable[[], tuple[dict[str, Any], list[Bar]]]] = {
            "overhead": lambda: measure_overhead(Path(name), arguments.runs),
            "load": lambda: measure_load(Path(name), arguments.jobs, arguments.clients),
            "survival": lambda: measure_survival(Path(name), arguments.kills),
            "cancel": lambda: measure_cancel(Path(name), min(5, arguments.runs)),
            "gpus": lambda: measure_gpus(Path(name), arguments.jobs, arguments.model),
        }
        for what in arguments.what or [what for what in measures if what != "gpus"]:
            figures[what], more = measures[what]()
            bars += more
    return report("jobs", figures, bars)


if __name__ == "__main__":
    raise SystemExit(main())
