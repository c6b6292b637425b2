"""The service as an object: several in one process, each with its own settings; one supervisor for
each.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_places import Place, end_workers, fake_options, fresh, place, request
from patience import PATIENCE_S, until
from whisper_nano import SPEECH

from transcribe_mcp.errors import JobNotFoundError, SourceRefusedError
from transcribe_mcp.jobs import worker_process
from transcribe_mcp.service.models import JobRequest
from transcribe_mcp.service.sandbox import Sandbox
from transcribe_mcp.service.service import WAKE_S, Service
from transcribe_mcp.settings import Settings

CLIP = SPEECH / "en_0.flac"


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Service, Service]]:
    """Services with a directory of recordings and a database each."""
    services = []
    for name in ("first", "second"):
        root = tmp_path / name / "root"
        root.mkdir(parents=True)
        shutil.copy(CLIP, root / f"{name}.flac")
        data_dir = tmp_path / name / "data"
        services.append(Service(Settings(data_dir=data_dir, allowed_roots=(root,))))
    first, second = services
    yield first, second
    for service in services:
        end_workers(Place(service.settings.data_dir))
        service.close()
    fresh()


def test_two_services_in_one_process_share_nothing(two: tuple[Service, Service]) -> None:
    recordings = [next(one.settings.allowed_roots[0].iterdir()) for one in two]
    submitted = [
        Sandbox.of(service).submit(JobRequest(str(recording), fake_options()))
        for service, recording in zip(two, recordings, strict=True)
    ]
    ended = [
        service.wait_for(job.job_id, PATIENCE_S)
        for service, job in zip(two, submitted, strict=True)
    ]

    assert [job.status for job in ended] == ["completed", "completed"]
    for service, other, job, recording in zip(
        two, reversed(two), submitted, recordings, strict=True
    ):
        assert [one.job_id for one in service.list_jobs().jobs] == [job.job_id]
        assert service.get_transcript(job.job_id).text
        assert Place(service.settings.data_dir).worker_pid()
        with pytest.raises(JobNotFoundError):
            other.get_job(job.job_id)
        with pytest.raises(SourceRefusedError):
            Sandbox.of(other).submit(JobRequest(str(recording), fake_options()))


def test_a_worker_gets_the_settings_of_its_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSCRIBE_MCP_MODEL", "small")
    monkeypatch.setenv("TRANSCRIBE_MCP_TOKEN", "not for workers")
    chosen = Settings(data_dir=tmp_path, model="tiny", allowed_roots=(tmp_path, Path("talks")))

    variables = worker_process.environment_of(chosen)
    with monkeypatch.context() as there:
        for name in [name for name in os.environ if name.startswith("TRANSCRIBE_MCP_")]:
            there.delenv(name)
        for name, value in variables.items():
            there.setenv(name, value)
        read = Settings()

    assert (read.data_dir, read.model) == (tmp_path, "tiny")
    assert read.allowed_roots == (tmp_path, Path("talks").absolute())
    assert "TRANSCRIBE_MCP_TOKEN" not in variables
    assert "TRANSCRIBE_MCP_THREADS" not in variables  # workers of several GPUs share the cores


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_one_supervisor_starts_however_often_its_job_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, gate = tmp_path / "starts", tmp_path / "gate"
    os.mkfifo(gate)
    code = (
        "import sys\n"
        "if 'transcribe_mcp.jobs.supervisor' in sys.orig_argv:\n"
        f"    open({str(starts)!r}, 'a').write('one ')\n"
        f"    open({str(gate)!r}).read()\n"
    )
    (tmp_path / "sitecustomize.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with place(tmp_path / "data"):
        service = Service()
        job_id = service.submit(request(CLIP, fake_options())).job_id
        until(starts.exists, "the supervisor starts")
        for _ in range(3):
            service._woken_at = -WAKE_S
            service.get_job(job_id)
            service.list_jobs()
        gate.write_text("go", encoding="utf-8")
        ended = service.wait_for(job_id, PATIENCE_S)
        service.close()

    assert ended.status == "completed"
    assert starts.read_text(encoding="utf-8").split() == ["one"]
