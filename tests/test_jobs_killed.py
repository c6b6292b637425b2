"""Workers that are killed without a word: nothing is lost, and hardly anything is done twice."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from job_places import Place, counting_worker, finished, options, place, request, until
from whisper_nano import join_speech, kept_conversions, speech_truths

from transcribe_mcp import EngineRequest, Options, Transcript, load_engine, transcribe
from transcribe_mcp.jobs import process
from transcribe_mcp.service import jobs
from transcribe_mcp.service.jobs import Job, JobStatus

SLOW = bool(os.environ.get("TRANSCRIBE_MCP_SLOW_TESTS"))
KILLS = 24 if SLOW else 6
RECORDINGS = 30 if SLOW else 12
SEED = 20261124


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "long.wav"
    names = sorted(name for name in speech_truths() if name.startswith("en"))
    join_speech(path, [names[i % len(names)] for i in range(RECORDINGS)])
    return path


@pytest.fixture(scope="module")
def expected(recording: Path) -> Iterator[Transcript]:
    with kept_conversions():
        engine = load_engine(EngineRequest(engine="ctranslate2", model=options().model, device="cpu"))
        yield transcribe(recording, engine, Options(language="en", temperatures=(0.0,), batch_size=1))
        engine.close()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with kept_conversions(), place(tmp_path / "data") as made:
        made.data_dir.mkdir(parents=True)
        yield made


def one_job(recording: Path) -> Job:
    """Queued where nobody starts a worker: tests bring their own."""
    job = jobs.submit(request(recording, options(language="en", batch_size=1)))
    assert isinstance(job, Job)
    return job


def gets_on(here: Place, job_id: str) -> Callable[[], bool]:
    """Whether a batch more is safe than when this was made, or the job is over."""
    before = here.checkpoints(job_id)
    return lambda: here.checkpoints(job_id) > before or jobs.get_job(job_id).status.is_final


def passed(seconds: float) -> Callable[[], bool]:
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() > moment


def test_a_worker_killed_at_many_points_costs_at_most_the_batch_that_it_was_in(
    here: Place, recording: Path, expected: Transcript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "start_worker", lambda chosen: False)
    log = tmp_path / "decoded"
    chance = random.Random(SEED)
    job = one_job(recording)
    end = ""
    for _ in range(KILLS):
        with counting_worker(here, log, end) as worker:
            until(gets_on(here, job.job_id), "a batch more is safe")
            until(passed(chance.uniform(0.0, 1.0)), "the moment has come")
            worker.kill()
            worker.wait()
        end = "died"
    with counting_worker(here, log, end):
        job = finished(job.job_id)

    transcript = jobs.get_transcript(job.job_id)
    decoded = Counter(log.read_text(encoding="utf-8").split())
    assert job.status is JobStatus.COMPLETED, job.error
    assert transcript.to_json()["segments"] == expected.to_json()["segments"]
    assert transcript.language_probability == expected.language_probability
    assert sum(decoded.values()) <= len(decoded) + KILLS
    assert max(decoded.values()) <= 2
