"""How many workers a machine has, and when a second one of a GPU starts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from job_places import finished, jobs, options, place, request
from patience import until
from whisper_nano import CONVERSATION, SPEECH, kept_conversions

from transcribe_mcp.compat.facts import Facts, parse
from transcribe_mcp.jobs.reading import reading_threads
from transcribe_mcp.jobs.supervisor import slots_of, spare_slots
from transcribe_mcp.jobs.worker_process import WorkerSlot
from transcribe_mcp.settings import Settings

MACHINES = Path(__file__).with_name("compat") / "machines"
FIRST, SECOND = "device-0", "device-1"
# The supervisor of a machine with one GPU that two workers may share.
PAIRED = """
from transcribe_mcp.jobs.supervisor import Supervisor
from transcribe_mcp.jobs.worker_process import WorkerSlot, environment_of, hold_supervisor_lock
from transcribe_mcp.settings import settings

lock = hold_supervisor_lock(settings().data_dir)
spare = [WorkerSlot(1, n_workers=2)]
Supervisor(settings(), [WorkerSlot()], environment_of(settings()), spare).run()
"""


def machine(name: str, n_gpus: int, free_bytes: Sequence[int] = (), **variables: str) -> Facts:
    """A recorded machine, with so many of its GPU, of whose memory so much is free."""
    raw = json.loads((MACHINES / f"{name}.json").read_bytes())
    gpus = raw["facts"]["nvidia.gpus"]["value"] * n_gpus
    changes = [{"memory_free_bytes": free} for free in free_bytes] or [{}] * n_gpus
    raw["facts"]["nvidia.gpus"]["value"] = [
        {**gpu, **change} for gpu, change in zip(gpus, changes, strict=True)
    ]
    raw["facts"]["environment.variables"]["value"].update(variables)
    return parse(json.dumps(raw).encode(), name)


def gpus_of_workers(facts: Facts, workers: int = 0) -> list[int]:
    slots, _ = slots_of(facts, Settings(workers=workers))
    assert [slot.number for slot in slots] == list(range(len(slots)))
    assert {slot.n_workers for slot in slots} == {len(slots)}
    return [slot.gpu for slot in slots]


@pytest.mark.parametrize(
    "name", ["h100", "h200", "t4-cloud"]
)  # the second can use its GPU with torch alone
def test_there_is_a_worker_for_every_gpu_that_an_engine_can_use(name: str) -> None:
    assert gpus_of_workers(machine(name, 2)) == [0, 1]
    assert gpus_of_workers(machine(name, 1)) == [0]


@pytest.mark.parametrize(
    "name", ["gtx980", "gpus-hidden", "driver-unknown-error", "h100-old-driver", "cpu-bare"]
)
def test_a_machine_whose_gpus_nothing_can_use_has_one_worker(name: str) -> None:
    n_gpus = 0 if name == "cpu-bare" else 2
    slots, variables = slots_of(machine(name, n_gpus), Settings())

    assert slots == (WorkerSlot(0, 0, 1),)
    assert ("CUDA_VISIBLE_DEVICES" in variables) == bool(n_gpus)


def test_gpus_that_the_user_hides_get_no_worker() -> None:
    assert gpus_of_workers(machine("h100", 1, CUDA_VISIBLE_DEVICES="1")) == [0]
    assert gpus_of_workers(machine("h100", 2, CUDA_VISIBLE_DEVICES="")) == [0]


def test_a_gpu_whose_memory_another_program_holds_gets_no_worker() -> None:
    assert gpus_of_workers(machine("h100", 2, free_bytes=(1 << 30, 70 << 30))) == [1]


def test_the_user_has_the_last_word_on_how_many_workers_there_are() -> None:
    assert gpus_of_workers(machine("h100", 2), workers=1) == [0]
    assert gpus_of_workers(machine("h100", 2), workers=3) == [0, 1, 0]
    assert gpus_of_workers(machine("cpu-bare", 0), workers=2) == [0, 0]


def test_only_a_large_gpu_beside_enough_cores_has_a_second_worker_for_many_jobs() -> None:
    assert spare_slots(machine("h100", 1), Settings()) == (WorkerSlot(1, 0, 2),)
    assert spare_slots(machine("t4-cloud", 1), Settings()) == ()
    assert spare_slots(machine("cpu-bare", 0), Settings()) == ()
    assert spare_slots(machine("h100", 1), Settings(workers=1)) == ()
    assert spare_slots(machine("h100", 16), Settings()) == (), "these need all cores"


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    _, alone = slots_of(machine("h100", 1), Settings())
    _, both = slots_of(machine("h100", 2), Settings())

    assert int(both["OMP_NUM_THREADS"]) == max(1, int(alone["OMP_NUM_THREADS"]) // 2)
    assert "TRANSCRIBE_MCP_THREADS" in both and "TRANSCRIBE_MCP_THREADS" not in alone


def test_a_long_recording_on_gpus_is_read_with_more_threads() -> None:
    assert reading_threads("cuda", 600.0, 16) == 4
    assert reading_threads("cuda:1", 7200.0, 16) == 8
    assert reading_threads("cuda:0,cuda:1", 7200.0, 16) == 16
    assert reading_threads("cuda:0,cuda:1", 7200.0, 2) == 4
    assert reading_threads("cpu", 7200.0, 16) == 4
    assert reading_threads("cpu", None, 2) == 2


# --- on GPUs --------------------------------------------------------------------------------------


# --- many jobs and few ---


def submit(n: int, recording: Path = CONVERSATION / "three_voices.opus") -> list[str]:
    """So many jobs, none of which is answered by another."""
    one = request(recording, options(language="en"), force=True)
    return [jobs.submit(one).job_id for _ in range(n)]


@contextmanager
def paired_workers() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", PAIRED]) as supervisor:
        try:
            yield
        finally:
            supervisor.terminate()


def test_a_second_worker_of_a_gpu_starts_when_many_jobs_wait(tmp_path: Path) -> None:
    with kept_conversions(), place(tmp_path / "data") as here, paired_workers():
        until(lambda: FIRST in here.worker_pids(), "there is a worker")
        submit(24)
        until(lambda: SECOND in here.worker_pids(), "the second worker has started")
        assert FIRST in here.worker_pids()


def test_few_jobs_have_one_worker(tmp_path: Path) -> None:
    with kept_conversions(), place(tmp_path / "data") as here, paired_workers():
        until(lambda: FIRST in here.worker_pids(), "there is a worker")
        for job_id in submit(3, SPEECH / "en_0.flac"):
            finished(job_id)
        assert list(here.worker_pids()) == [FIRST]
