"""A command uses the model that a worker has loaded, and its results are those of its own model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, environment, left_in, run
from job_places import Place, finished, jobs, options, place, request
from patience import PATIENCE_S, until
from whisper_nano import CONVERSATION, SPEECH, kept_conversions, whisper_nano

from transcribe_mcp.jobs.model_client import WorkerLostError, WorkerModel, find_model

CLIP, OTHER, *_ = sorted(SPEECH.glob("*.flac"))
LONG = CONVERSATION / "three_voices.opus"
USED = "using the model that a worker has loaded"
SAME = ("--engine", "ctranslate2", "--device", "cpu")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A worker that has the small model loaded and no job."""
    with kept_conversions(), place(tmp_path_factory.mktemp("warm") / "data") as here:
        assert finished(jobs.submit(request(CLIP)).job_id).error is None
        yield here


def variables(here: Place) -> dict[str, str]:
    names = ("TRANSCRIBE_MCP_DATA_DIR", "TRANSCRIBE_MCP_CACHE_DIR")
    return {name: os.environ[name] for name in names} | {"TRANSCRIBE_MCP_START_WORKERS": "0"}


def command(here: Place, cwd: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    model = ("--model", str(whisper_nano()))
    env = environment(cwd, **variables(here))
    return run("transcribe", "-v", *SAME, *model, *arguments, cwd=cwd, env=env)


def taken_model() -> WorkerModel:
    """The model of the worker, taken as soon as it works for nobody else."""
    taken: list[WorkerModel] = []

    def take() -> bool:
        with suppress(WorkerLostError):
            taken.append(find_model(Path(os.environ["TRANSCRIBE_MCP_DATA_DIR"]), options()))
        return bool(taken)

    until(take, "the worker is idle")
    return taken[0]


def wait_for_idle_worker() -> None:
    taken_model().close()


def without_times(text: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in text.splitlines()]
    for row in rows:
        del row["transcript"]["timings"], row["transcript"]["realtime_factor"]
    return rows


def test_results_are_those_of_a_model_of_its_own(warm: Place, tmp_path: Path) -> None:
    wait_for_idle_worker()
    for arguments in (
        ("--language", "german", "--vocabulary", "one, two", "--json", CLIP, OTHER),
        ("--format", "srt", "--max-line-chars", "20", CLIP),
    ):
        found = command(warm, tmp_path, *arguments)
        own = command(warm, tmp_path, *arguments, "--no-worker")
        assert USED in found.stderr and USED not in own.stderr
        assert found.stderr.replace(f"{USED}\n", "") == own.stderr
        if "--json" in arguments:
            assert without_times(found.stdout) == without_times(own.stdout)
        else:
            assert found.stdout == own.stdout


def test_files_are_written_and_nothing_is_stored(warm: Place, tmp_path: Path) -> None:
    wait_for_idle_worker()
    before = len(jobs.list_jobs().jobs)
    done = command(warm, tmp_path, CLIP, "--format", "txt,json", "--output-dir", "out")
    assert USED in done.stderr
    assert [name for name in left_in(tmp_path) if name.startswith("out")] == [
        f"out/{CLIP.stem}.json",
        f"out/{CLIP.stem}.txt",
    ]
    assert len(jobs.list_jobs().jobs) == before


def test_a_recording_that_fails_fails_as_without_a_worker(warm: Place, tmp_path: Path) -> None:
    wait_for_idle_worker()
    (tmp_path / "no.wav").write_bytes(b"no recording")
    done = command(warm, tmp_path, "no.wav", CLIP)
    own = command(warm, tmp_path, "no.wav", CLIP, "--no-worker")
    assert done.returncode == own.returncode == 1
    assert done.stdout == own.stdout
    assert own.stderr in done.stderr.replace(f"{USED}\n", "")


def test_another_model_is_loaded_by_the_command(warm: Place, tmp_path: Path) -> None:
    wait_for_idle_worker()
    done = command(warm, tmp_path, CLIP, "--compute-type", "float32")
    assert done.returncode == 0
    assert "no worker is used: the worker has another model" in done.stderr


def test_a_command_does_not_wait_for_a_worker_at_work(warm: Place, tmp_path: Path) -> None:
    with closing(taken_model()):
        done = command(warm, tmp_path, CLIP)
    assert done.returncode == 0 and done.stdout
    assert "no worker is used: the worker is used by another command" in done.stderr


def started(here: Place, cwd: Path) -> subprocess.Popen[str]:
    """A command at work on a long recording, with the model of the worker."""
    wait_for_idle_worker()
    line = [*COMMAND, "transcribe", "-v", *SAME, "--model", str(whisper_nano()), str(LONG)]
    env = environment(cwd, **variables(here))
    process = subprocess.Popen(
        line, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == f"{USED}\n"
    return process


def test_ctrl_c_ends_the_work_of_the_worker(warm: Place, tmp_path: Path) -> None:
    process = started(warm, tmp_path)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    wait_for_idle_worker()


def test_nothing_is_lost_with_the_worker(warm: Place, tmp_path: Path) -> None:
    own = command(warm, tmp_path, LONG, "--no-worker")
    process = started(warm, tmp_path)
    warm.kill_worker()
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert out == own.stdout
    assert "the worker is no longer used: it has ended" in err
