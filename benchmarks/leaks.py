"""What a long-lived process keeps: memory, file descriptors and threads while it does the same
thing again and again.

    jobs    short recordings, each of other content, through one worker
    calls   calls of every reading tool through one MCP server over stdio

python benchmarks/leaks.py [jobs] [calls] [--jobs 1000] [--calls 2000]

A figure is taken at rest, after the first hundred and then ten times. Memory may grow by a tenth
after the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from common import OWN_AUDIO, SAMPLE_RATE_HZ, Bar, own_model, read_samples, report, write_flac
from mcp import Client, StdioServerParameters

from transcribe_mcp.service import models
from transcribe_mcp.service.service import default_service as service
from transcribe_mcp.settings import settings

FIRST = 100
LOOKS = 10
PATIENCE_S = 1800.0
REST_S = 3.0  # time for the system to reclaim the memory of the last jobs
CLIP_S = 2.0
STEP_SAMPLES = 160  # by which one clip begins later than the one before


@dataclass(frozen=True, slots=True)
class Kept:
    """What a process holds after so many jobs or calls."""

    n_done: int
    rss_bytes: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, process: psutil.Process, n_done: int) -> Kept:
        time.sleep(REST_S)
        descriptors = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
        kept = cls(n_done, process.memory_info().rss, descriptors, process.num_threads())
        print(
            f"{n_done:>6}  {kept.rss_bytes / 1e6:8.1f} MB  {descriptors} descriptors  "
            f"{kept.threads} threads"
        )
        return kept


def bars(what: str, kept: Sequence[Kept]) -> list[Bar]:
    first, *later = kept
    return [
        Bar(f"{what}: memory at most, of that after the first {first.n_done}",
            max(each.rss_bytes for each in later) / first.rss_bytes, "<=", 1.1),
        Bar(f"{what}: descriptors more at the end",
            later[-1].descriptors - first.descriptors, "<=", 0),
        Bar(f"{what}: threads more at the end", later[-1].threads - first.threads, "<=", 0),
    ]  # fmt: skip


def steps(total: int) -> list[int]:
    """How many to do before each look: the first hundred, then the rest in ten parts."""
    first = min(FIRST, total // 2)
    rest = total - first
    return [first, *(rest * (n + 1) // LOOKS - rest * n // LOOKS for n in range(LOOKS))]


def child(module: str, data_dir: Path) -> psutil.Process:
    """The one process of this store that runs ``module``."""
    for process in psutil.process_iter():
        try:
            if module in process.cmdline() and process.environ().get(
                "TRANSCRIBE_MCP_DATA_DIR"
            ) == str(data_dir):
                return process
        except psutil.Error:
            continue  # it has gone meanwhile
    raise SystemExit(f"no process runs {module}")


def measure_jobs(folder: Path, total: int) -> tuple[dict[str, Any], list[Bar]]:
    data_dir = folder / "jobs"
    os.environ.update(
        {"TRANSCRIBE_MCP_DATA_DIR": str(data_dir), "TRANSCRIBE_MCP_EXIT_AFTER_S": "120"}
    )
    service.cache_clear()
    settings.cache_clear()
    samples = [read_samples(path) for path in sorted(OWN_AUDIO.glob("en_[0-9].flac"))]
    wanted = models.JobOptions(
        engine="ctranslate2",
        model=str(own_model()),
        device="cpu",
        language="en",
        temperatures=(0.0,),
    )
    kept = []
    number = 0
    for n in steps(total):
        clips = folder / f"clips {number}"
        clips.mkdir()
        for _ in range(n):
            source = samples[number % len(samples)]
            first = (
                number
                // len(samples)
                * STEP_SAMPLES
                % max(1, len(source) - round(CLIP_S * SAMPLE_RATE_HZ))
            )
            write_flac(
                clips / f"{number}.flac", [source[first : first + round(CLIP_S * SAMPLE_RATE_HZ)]]
            )
            number += 1
        batch = service().submit_batch([str(clips)], models.JobRequest("", wanted))
        done = service().wait_for(batch.job_id, PATIENCE_S)
        assert isinstance(done, models.Batch)
        states = {job.status for job in done.jobs}
        assert (len(done.jobs), states) == (n, {models.JobStatus.COMPLETED}), states
        assert not any(job.from_job_id for job in done.jobs), "each is of other content"
        kept.append(Kept.of(child("transcribe_mcp.jobs.worker", data_dir), number))
    service().close()
    return {"jobs": [asdict(each) for each in kept]}, bars("jobs", kept)


def answer_of(result: Any) -> dict[str, Any]:
    """What a tool answered: JSON in one text."""
    answer: dict[str, Any] = json.loads(result.content[0].text)
    return answer


async def call_tools(folder: Path, total: int) -> list[Kept]:
    """Through one server, one call after the other."""
    data_dir = folder / "calls"
    clip = OWN_AUDIO / "en_0.flac"
    chosen = {
        "DATA_DIR": data_dir,
        "ALLOWED_ROOTS": OWN_AUDIO,
        "MODEL": own_model(),
        "EXIT_AFTER_S": 60,
        "OFFLINE": 1,
    }
    environment = {
        **os.environ,
        **{f"TRANSCRIBE_MCP_{name}": str(value) for name, value in chosen.items()},
    }
    command = ["-m", "transcribe_mcp", "serve"]
    server = StdioServerParameters(
        command=sys.executable, args=command, env=environment, cwd=str(folder)
    )
    async with Client(server) as client:
        asked = {"source": str(clip), "language": "en", "wait_s": 45}
        job = {"job_id": answer_of(await client.call_tool("transcribe_audio", asked))["job_id"]}
        progress: dict[str, Any] = {}
        while progress.get("status") != "completed":
            progress = answer_of(
                await client.call_tool("get_transcription_progress", {**job, "wait_s": 45})
            )
        calls: list[tuple[str, dict[str, Any]]] = [
            ("get_transcription_progress", job),
            ("get_transcription_result", job),
            ("get_transcription_result", {**job, "format": "segments"}),
            ("list_transcription_history", {}),
            ("search_transcripts", {"query": "the"}),
            ("list_models", {}),
            ("get_transcription_result", {"job_id": "none"}),  # refused
        ]
        process = child("serve", data_dir)
        kept = []
        number = 0
        for n in steps(total):
            for _ in range(n):
                tool, arguments = calls[number % len(calls)]
                await client.call_tool(tool, arguments)
                number += 1
            kept.append(Kept.of(process, number))
    return kept


def measure_calls(folder: Path, total: int) -> tuple[dict[str, Any], list[Bar]]:
    kept = asyncio.run(call_tools(folder, total))
    return {"calls": [asdict(each) for each in kept]}, bars("calls", kept)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=("jobs", "calls"), default=["jobs", "calls"])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=2000)
    asked = parser.parse_args()
    os.environ.setdefault("TRANSCRIBE_MCP_CACHE_DIR", str(own_model().parent / "cache"))
    figures: dict[str, Any] = {}
    found: list[Bar] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        for what in dict.fromkeys(asked.what):
            measure, total = {
                "jobs": (measure_jobs, asked.jobs),
                "calls": (measure_calls, asked.calls),
            }[what]
            more, bars_of = measure(Path(name), total)
            figures |= more
            found += bars_of
    return report("leaks", figures, found)


if __name__ == "__main__":
    raise SystemExit(main())
