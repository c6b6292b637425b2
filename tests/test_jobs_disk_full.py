"""A disk that fills up under a job: said in words, nothing lost, and the job goes on when there is
room again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from job_places import finished, jobs, options, place, request
from patience import until
from slow import slow
from small_disk import fill, small_disk
from whisper_nano import CONVERSATION, SPEECH, kept_conversions

from transcribe_mcp.errors import StoreFullError
from transcribe_mcp.jobs import worker_process
from transcribe_mcp.service.models import JobStatus

LONG = CONVERSATION / "three_voices.opus"
DISK_BYTES = 24 * 2**20
BLOCK_BYTES = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as where:
        yield where


def workers_come_and_go(n: int) -> None:
    """Wait until the supervisor has started so many workers, each of which has ended."""
    [supervisor] = worker_process._started
    seen: set[int] = set()

    def all_gone() -> bool:
        now = {child.pid for child in psutil.Process(supervisor.pid).children()}
        seen.update(now)
        return len(seen) >= n and not now

    until(all_gone, f"{n} workers have come and gone")


@slow
def test_a_job_whose_disk_fills_up_goes_on_after_its_last_checkpoint(disk: Path) -> None:
    with kept_conversions(), place(disk / "data") as here:
        job = jobs.submit(request(LONG, options(language="en", batch_size=1)))
        until(lambda: here.checkpoints(job.job_id) >= 1, "something of it is safe")

        fill(disk / "ballast", BLOCK_BYTES)
        fill(
            here.data_dir / worker_process.LOG_NAME, 1
        )  # up to the end of its last block: nobody can say anything there
        with pytest.raises(StoreFullError, match="cannot write to") as caught:
            for n in range(1000):  # until what was set aside for changes is used up
                jobs.submit(request(SPEECH / "en_1.flac", options(prompt=f"{n} {'word ' * 100}")))
        workers_come_and_go(2)
        waiting = jobs.get_job(job.job_id)
        kept = here.checkpoints(job.job_id)
        (disk / "ballast").unlink()
        for other in jobs.list_jobs(limit=500).jobs:
            if other.job_id != job.job_id:
                jobs.delete(other.job_id)
        done = finished(job.job_id)
        supervisor_ended = worker_process._started[0].poll()

        assert "disk space" in caught.value.hint
        assert not waiting.status.is_final
        assert (done.status, done.error) == (JobStatus.COMPLETED, None)
        assert kept >= 1
        assert done.attempts >= 2
        assert "worker_failed" not in {notice.code for notice in done.warnings}
        assert jobs.get_transcript(done.job_id).segments[-1].end > 60
        assert supervisor_ended is None
