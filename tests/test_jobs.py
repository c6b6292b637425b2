"""Jobs from submission to transcript, through the service and a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from job_places import Place, fake_options, finished, options, place, request, until
from whisper_nano import CONVERSATION, SPEECH, kept_conversions

from transcribe_mcp import EngineRequest, Options, Transcript, load_engine, transcribe
from transcribe_mcp.errors import (
    JobNotFoundError,
    JobStateError,
    QueueFullError,
    SourceNotFoundError,
    UnknownNameError,
    UsageError,
)
from transcribe_mcp.service import jobs
from transcribe_mcp.service.jobs import Batch, Job, JobFilter, JobStatus

CLIP = SPEECH / "en_0.flac"
LONG = CONVERSATION / "three_voices.opus"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with kept_conversions(), place(tmp_path_factory.mktemp("jobs")) as made:
        yield made


@pytest.fixture(scope="module")
def done(here: Place) -> Job:
    return finished(jobs.submit(request(CLIP)).job_id)


def unbroken(path: Path, **fields: object) -> Transcript:
    engine = load_engine(EngineRequest(engine="ctranslate2", model=options().model, device="cpu"))
    try:
        return transcribe(path, engine, Options(temperatures=(0.0,), **fields))  # type: ignore[arg-type]
    finally:
        engine.close()


def test_a_job_gives_what_the_pipeline_gives(done: Job) -> None:
    expected = unbroken(CLIP)

    transcript = jobs.get_transcript(done.job_id)

    assert done.status is JobStatus.COMPLETED
    assert done.error is None
    assert (done.percent, done.duration_s, done.language) == (100.0, expected.duration, "en")
    assert transcript.source == str(CLIP)
    assert transcript.to_json()["segments"] == expected.to_json()["segments"]
