"""Parts of ``gpu_scale.py``: recordings, workers on a number of GPUs, and what they use."""

from __future__ import annotations

import io
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import OWN_AUDIO, SAMPLE_RATE_HZ, Samples, read_samples, write_flac
from gpu_prepare import hour_of, write_mp3

from transcribe_mcp.domain.transcript import Transcript
from transcribe_mcp.jobs.worker_process import READY
from transcribe_mcp.media.decode import read_blocks
from transcribe_mcp.service.models import Job, JobOptions, JobRequest, JobStatus
from transcribe_mcp.service.service import Service
from transcribe_mcp.settings import Settings

try:
    import pynvml  # type: ignore[import-not-found]
except ImportError:
    pynvml = None

Figures = dict[str, Any]
PARTS = 6  # different recordings of the queue
SAMPLE_S = 0.25  # between two looks at GPUs and processes
IDLE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Scale:
    """The settings of a run.

    Attributes:
        folder: where recordings and databases lie.
        model: its directory.
        device: ``cuda`` or ``cpu``; on the CPU a worker stands for a GPU.
        counts: numbers of GPUs.
        density: share of speech in the talks.
    """

    folder: Path
    model: Path
    engine: str
    device: str
    counts: tuple[int, ...]
    jobs: int
    job_minutes: float
    hours: float
    rounds: int
    density: float = 0.7924148

    @property
    def parts(self) -> list[Path]:
        return [self.folder / f"part{number}.flac" for number in range(PARTS)]

    @property
    def long(self) -> Path:
        return self.folder / "long.mp3"

    @property
    def warm_up(self) -> Path:
        return self.folder / "warm.mp3"


# --- recordings -----------------------------------------------------------------------------------


def prepare_recordings(scale: Scale) -> None:
    """Parts of an hour as FLAC; the same as MP3, over and over, as one long recording."""
    talks = [read_samples(path) for path in sorted(OWN_AUDIO.glob("*_?.flac"))]
    part_s = scale.job_minutes * 60
    samples = np.array_split(hour_of(talks, PARTS * part_s, scale.density), PARTS)
    with ThreadPoolExecutor(2 * PARTS) as pool:
        flacs = [
            pool.submit(write_flac, path, [part])
            for path, part in zip(scale.parts, samples, strict=True)
        ]
        mp3s = list(pool.map(mp3_of, samples))
        for written in flacs:
            written.result()
    for path, hours in ((scale.long, scale.hours), (scale.warm_up, min(2.0, scale.hours / 2))):
        n_parts = max(1, round(hours * 3600 / part_s))
        with path.open("wb") as out:
            for number in range(n_parts):
                out.write(mp3s[number % PARTS])


def mp3_of(samples: Samples) -> bytes:
    """Of one bit rate and without a header, so that files can be joined."""
    target = io.BytesIO()
    write_mp3(target, samples, write_xing="0", id3v2_version="0")
    return target.getvalue()


def reading(path: Path, threads: int) -> Figures:
    """Nothing but media decoding, with so many threads: × real time."""
    begin = time.perf_counter()
    n_samples = sum(map(len, read_blocks(path, threads=threads)))
    seconds = time.perf_counter() - begin
    return {"threads": threads, "times_real_time": n_samples / SAMPLE_RATE_HZ / seconds}


# --- what they use --------------------------------------------------------------------------------


@dataclass(slots=True)
class Usage:
    """Maxima and sums over samples of GPUs and processes."""

    gpu_busy: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    gpu_bytes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    host_bytes: int = 0

    def figures(self) -> Figures:
        return {
            "gpu_busy": [float(np.mean(self.gpu_busy[gpu])) for gpu in sorted(self.gpu_busy)],
            "gpu_mb": [round(self.gpu_bytes[gpu] / 1e6) for gpu in sorted(self.gpu_bytes)],
            "host_mb": round(self.host_bytes / 1e6),
        }


class Meter:
    """Watches processes, and their GPUs, from another thread."""

    def __init__(self, workers: Sequence[psutil.Process]) -> None:
        self._workers = workers
        self._usage = Usage()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meter", daemon=True)

    def __enter__(self) -> Usage:
        self._thread.start()
        return self._usage

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            rss = sum(worker.memory_info().rss for worker in self._workers if worker.is_running())
            self._usage.host_bytes = max(self._usage.host_bytes, rss)
            self._look_at_gpus({worker.pid for worker in self._workers})

    def _look_at_gpus(self, pids: set[int]) -> None:
        for number, handle in enumerate(gpus()):
            running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            held = [one.usedGpuMemory or 0 for one in running if one.pid in pids]
            if held:
                busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
                self._usage.gpu_busy[number].append(busy)
                self._usage.gpu_bytes[number] = max(self._usage.gpu_bytes[number], sum(held))


def gpus() -> list[Any]:
    """Handles of the GPUs; empty where the driver cannot be asked."""
    if pynvml is None:
        return []
    try:
        pynvml.nvmlInit()
        return [
            pynvml.nvmlDeviceGetHandleByIndex(number)
            for number in range(pynvml.nvmlDeviceGetCount())
        ]
    except pynvml.NVMLError:
        return []


def gpu_names() -> list[str]:
    return [str(pynvml.nvmlDeviceGetName(handle)) for handle in gpus()]


def used_s(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds of processes that run."""
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


# --- workers --------------------------------------------------------------------------------------


@dataclass
class Pool:
    """A database with workers on the first ``n_gpus`` GPUs. The threads of each share the cores."""

    scale: Scale
    n_gpus: int

    @cached_property
    def service(self) -> Service:
        chosen = Settings(
            data_dir=self.scale.folder / f"pool{self.n_gpus}",
            cache_dir=self.scale.folder / "cache",
            workers=self.n_gpus,
            exit_after_s=IDLE_S,
            unload_after_s=IDLE_S,
            max_duration_hours=10 * max(24.0, self.scale.hours),
            offline=True,
        )
        return Service(chosen)

    def options(self, *, device: str = "auto", diarize: bool = False) -> JobOptions:
        device = device if self.scale.device == "cuda" else "cpu"
        return JobOptions(
            engine=self.scale.engine,
            model=str(self.scale.model),
            device=device,
            language="en",
            temperatures=(0.0,),
            diarize=diarize,
        )

    def run(self, paths: Sequence[Path], options: JobOptions, within_s: float) -> list[Job]:
        """Submit all and wait for all.

        Raises:
            TimeoutError: they are not done in time.
        """
        deadline = time.monotonic() + within_s
        requests = [JobRequest(str(path), options, force=True) for path in paths]
        ids = [self.service.submit(request).job_id for request in requests]
        done = [self.service.wait_for(one, max(0.0, deadline - time.monotonic())) for one in ids]
        if not all(job.status.is_final for job in done):
            raise TimeoutError(f"{len(paths)} jobs took more than {within_s:.0f} s")
        failed = [job for job in done if job.status is not JobStatus.COMPLETED]
        assert not failed, failed[0]
        return [job for job in done if isinstance(job, Job)]

    def start(self, within_s: float) -> None:
        """Run a few jobs, until every worker has loaded the model and done some.

        Raises:
            TimeoutError: a worker is missing.
        """
        deadline = time.monotonic() + within_s
        devices: set[str] = set()
        short = 2 * self.scale.parts
        while True:
            within_s = deadline - time.monotonic()
            done = self.run(short * self.n_gpus, self.options(), within_s)
            devices |= {str(job.device) for job in done}
            on_all = self.scale.device != "cuda" or len(devices) == self.n_gpus
            if on_all and len(self.workers()) == self.n_gpus and self._n_ready() == self.n_gpus:
                return

    def _n_ready(self) -> int:
        logs = self.service.settings.data_dir.glob("worker*.log")
        return sum(READY in log.read_text(encoding="utf-8", errors="replace") for log in logs)

    def workers(self) -> list[psutil.Process]:
        return self._processes("transcribe_mcp.jobs.worker")

    def writers(self) -> list[psutil.Process]:
        return self._processes("transcribe_mcp.jobs.writer")

    def _processes(self, module: str) -> list[psutil.Process]:
        found = []
        name = str(self.service.settings.data_dir)
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or ()
            with suppress(psutil.Error):
                if module in words and (
                    name in " ".join(words)
                    or process.environ().get("TRANSCRIBE_MCP_DATA_DIR") == name
                ):
                    found.append(process)
        return found

    @contextmanager
    def measured(self, figures: Figures) -> Iterator[None]:
        """CPU seconds of workers, the store's writer and this client; GPUs; memory."""
        workers = self.workers()
        roles = {"workers": workers, "store": self.writers(), "client": [psutil.Process()]}
        before = {role: used_s(processes) for role, processes in roles.items()}
        with Meter(workers) as usage:
            yield
        figures["cpu_s"] = {
            role: round(used_s(processes) - before[role], 2) for role, processes in roles.items()
        }
        figures.update(usage.figures())

    def transcripts(self, jobs: Sequence[Job]) -> list[Transcript]:
        return [self.service.get_transcript(job.job_id) for job in jobs]

    def close(self) -> None:
        for process in [*self._processes("transcribe_mcp.jobs.supervisor"), *self.workers()]:
            with suppress(psutil.Error):
                process.terminate()
        self.service.close()


# --- figures --------------------------------------------------------------------------------------


def audio_s(jobs: Sequence[Job]) -> float:
    return sum(job.duration_s or 0.0 for job in jobs)


def stages(transcripts: Sequence[Transcript]) -> dict[str, float]:
    """Seconds of each stage, summed up. Stages overlap."""
    total: dict[str, float] = defaultdict(float)
    for transcript in transcripts:
        for stage, seconds in transcript.timings.items():
            total[stage] += seconds
    return {stage: round(seconds, 2) for stage, seconds in total.items()}


Words = frozenset[tuple[float, float, str, str | None]]


def words_of(transcript: Transcript) -> Words:
    """Each word with its times and its speaker."""
    return frozenset(
        (round(word.start, 3), round(word.end, 3), word.text, word.speaker)
        for word in transcript.words
    )


def shared_words(pairs: Sequence[tuple[Words, Words]]) -> float:
    """Share of the words that pairs of transcripts have in common, of all in either."""
    common = sum(len(one & other) for one, other in pairs)
    either = sum(len(one | other) for one, other in pairs)
    return common / either if either else 1.0
