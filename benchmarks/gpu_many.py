"""Parts of ``gpu.py`` with many recordings: memory that stays reserved, jobs."""

from __future__ import annotations

import os
import time

import numpy as np
import torch
from common import SAMPLE_RATE_HZ, write_flac
from gpu_parts import GREEDY, Figures, Setup, loaded, seconds

from transcribe_mcp.pipeline.offline import transcribe

MANY = 30  # recordings
JOB_PARTS = 6  # of ten minutes
WARM_JOBS = 96  # the second worker of a GPU starts meanwhile
QUEUED_JOBS = 64


def reserved(setup: Setup, name: str) -> Figures:
    """Memory that PyTorch reserves over recordings of 10 s to an hour in random order, against the
    longest alone, each in a fresh model.
    """
    samples = setup.hour()
    random = np.random.default_rng(5)
    longest_s = len(samples) / SAMPLE_RATE_HZ
    lengths = np.exp(random.uniform(np.log(10), np.log(longest_s), MANY - 1)).tolist()
    lengths.append(longest_s)
    random.shuffle(lengths)
    found = {}
    for what, all_s in (("longest", [longest_s]), ("many", lengths)):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        with loaded(setup, name) as engine:
            for length_s in all_s:
                n_samples = round(length_s * SAMPLE_RATE_HZ)
                first = int(random.integers(0, max(1, len(samples) - n_samples)))
                transcribe(samples[first : first + n_samples], engine, GREEDY)
            found[what] = {
                "recordings": len(all_s),
                "s": time.perf_counter() - start,
                "reserved": torch.cuda.max_memory_reserved(),
                "allocated": torch.cuda.max_memory_allocated(),
            }
    return found


def queue(setup: Setup, name: str) -> Figures:
    """The decoded hour in this process, then parts of it as jobs, × real time."""
    from transcribe_mcp.service.models import JobOptions, JobRequest, JobStatus
    from transcribe_mcp.service.service import default_service as service
    from transcribe_mcp.settings import settings

    samples = setup.hour()
    hour_s = len(samples) / SAMPLE_RATE_HZ
    with loaded(setup, name) as engine:
        for part in (8, 2, 1):
            transcribe(samples[: len(samples) // part], engine, GREEDY)
        alone_s = seconds(lambda: transcribe(samples, engine, GREEDY), setup.runs, 0)
    paths = []
    for number, part in enumerate(np.array_split(samples, JOB_PARTS)):
        paths.append(setup.folder / f"part{number}.flac")
        write_flac(paths[-1], [part])
    os.environ["TRANSCRIBE_MCP_DATA_DIR"] = str(setup.folder / "data")
    os.environ["TRANSCRIBE_MCP_EXIT_AFTER_S"] = "10"
    settings.cache_clear()
    service.cache_clear()
    options = JobOptions(
        engine=setup.engine, model=str(setup.model(name)), language="en", temperatures=(0.0,)
    )

    def work(n_jobs: int) -> float:
        start = time.perf_counter()
        requests = (
            JobRequest(str(paths[n % JOB_PARTS]), options, force=True) for n in range(n_jobs)
        )
        ids = [service().submit(request).job_id for request in requests]
        ends = {service().wait_for(job_id, 600).status for job_id in ids}
        assert ends == {JobStatus.COMPLETED}, ends
        return time.perf_counter() - start

    work(WARM_JOBS)  # the model is loaded, and what is captured has been captured
    jobs_s = work(QUEUED_JOBS)
    service().close()
    jobs = QUEUED_JOBS * hour_s / JOB_PARTS / jobs_s
    return {"hour": hour_s / alone_s, "jobs": jobs, "share": jobs / (hour_s / alone_s)}
