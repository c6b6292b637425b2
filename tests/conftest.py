"""Fixtures of more than one file."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from huggingface_hub import constants
from local_hub import TINY, Hub, closed_port, serving
from slow import SLOW
from small_checkpoints import write_checkpoint

from transcribe_mcp.settings import settings, usable_cores

# Tests start hundreds of processes. Each would compile the same modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell lets the children of a background command ignore Ctrl-C. Tests send it to processes that
# they start, which would go on for minutes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Threads that wait for each other (of torch, CTranslate2 and numpy) leave their cores to the other
# test processes. Busy waiting made loading a model ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# glibc maps the large arrays of an encoder anew for each layer. In large pages that takes a sixth
# less of a window's time. What measures memory does without.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")

PROCESSES_PER_CORE = 3  # tests wait for the processes that they start
MOST_PROCESSES = 5

# The longest files of a run, longest first. A long file that starts last keeps one core waiting.
LONG_FILES = (
    "test_chaos.py",
    "test_speaker_names.py",
    "test_jobs_no_worker.py",
    "test_exact.py",
    "test_jobs.py",
    "test_repetition.py",
    "test_whisper_engine.py",
    "test_engine_memory.py",
    "test_jobs_killed.py",
    "test_cli_queue.py",
    "test_audio.py",
    "test_device_chain.py",
    "test_mcp_http.py",
    "test_compat_indexes.py",
    "test_compat_environments.py",
    "test_jobs_postgres.py",
    "test_cli.py",
    "test_warm_worker.py",
    "test_architecture.py",
    "test_web_editing.py",
    "test_beam_search.py",
    "test_mcp_config.py",
    "test_known_voices.py",
    "test_realtime.py",
    "test_opened_inside.py",
    "test_whisper_int8.py",
    "test_cli_bad_input.py",
    "test_object_storage.py",
    "test_compat_doctor.py",
    "test_jobs_writer.py",
    "test_mcp.py",
    "test_whisper_nano.py",
    "test_cli_jobs.py",
    "test_pipeline_whisper.py",
    "test_web_page.py",
    "test_jobs_store.py",
    "test_mcp_safety.py",
    "test_whisper_memory.py",
    "test_readme.py",
    "test_mcp_ends.py",
    "test_jobs_workers.py",
    "test_bench.py",
    "test_shared_jobs.py",
    "test_speakers.py",
    "test_mcp_notices.py",
    "test_compat_machines.py",
    "test_device_memory.py",
)

# How long an example takes says something of the machine, not of the code. And a commit that passes
# passes again: other examples are tried with the slow tests.
hypothesis.settings.register_profile("default", deadline=None, derandomize=not SLOW)
hypothesis.settings.load_profile("default")


# What the collection of tests leaves is there to the end. The collector of garbage need not walk
# through it again and again.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """How many test processes ``-n auto`` starts."""
    return min(PROCESSES_PER_CORE * usable_cores(), MOST_PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first."""
    ranks = {name: rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, no hub that answers, an empty cache of ours."""
    cache = tmp_path / "hub"
    for variable in (
        "HF_TOKEN",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
        "TRANSCRIBE_MCP_OFFLINE",
        "HF_HUB_OFFLINE",
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TRANSCRIBE_MCP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    settings.cache_clear()
    return cache


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that serves a small checkpoint as openai/whisper-tiny, with files that nobody needs."""
    directory = write_checkpoint(tmp_path / "published")
    for name in (
        "README.md",
        "flax_model.msgpack",
        "pytorch_model.bin",
        "vocab.json",
        "model-00001-of-00001.safetensors",
    ):
        (directory / name).write_bytes(b"not needed")
    with serving(Hub.of(TINY, directory)) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        yield served
