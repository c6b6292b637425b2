"""Engines, ``models`` and ``doctor`` choose the same device, precision and batch size."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from transcribe_mcp import compat
from transcribe_mcp.compat.device_choice import Hardware, choose, precisions
from transcribe_mcp.compat.facts import Facts, parse
from transcribe_mcp.compat.machine import gpus_of
from transcribe_mcp.compat.memory import geometry
from transcribe_mcp.compat.report import doctor_json, doctor_text
from transcribe_mcp.compat.runtime_choice import USUAL_MODEL, usable_hardware
from transcribe_mcp.engines.whisper import loading
from transcribe_mcp.service import model_fit

MACHINES = Path(__file__).with_name("machines")


def facts_of(name: str, *, n_gpus: int = 1, torch_version: str = "") -> Facts:
    """A recorded machine, with more of its GPUs, and with a torch for them."""
    raw = json.loads((MACHINES / f"{name}.json").read_text(encoding="utf-8"))
    recorded = raw["facts"]
    if n_gpus > 1:
        recorded["nvidia.gpus"]["value"] *= n_gpus
    if torch_version:
        recorded["packages.installed"]["value"]["torch"] = torch_version
    return parse(json.dumps(raw).encode(), name)


@pytest.mark.parametrize(
    ("name", "engine", "compute_type", "batch_size"),
    [
        ("cpu-bare", "ctranslate2", "int8", 8),
        ("gtx1080", "ctranslate2", "int8_float32", 8),
        ("v100", "ctranslate2", "float16", 24),
        ("t4-cloud", "ctranslate2", "float16", 24),
        ("rtx3060-whisperx", "whisper", "bfloat16+int8", 64),
        ("h200", "whisper", "bfloat16+int8", 64),
    ],
)
def test_a_recorded_machine_gets_the_precision_that_its_gpu_has(
    name: str, engine: str, compute_type: str, batch_size: int
) -> None:
    facts = facts_of(name)

    (choice,) = doctor_json(facts, ())["runs_on"]

    assert (choice["engine"], choice["compute_type"]) == (engine, compute_type)
    assert choice["batch_size"] == batch_size
    assert f"engine {engine}, {compute_type}, batches of {batch_size}" in doctor_text(facts, ())


@pytest.mark.parametrize(
    ("name", "n_gpus", "torch_version", "compute_type"),
    [
        ("t4-cloud", 1, "2.10.0+cu126", "float16+int8"),  # Turing
        ("v100", 1, "2.10.0+cu126", "float16+int8"),  # Volta
        ("a100-mig", 1, "2.10.0+cu126", "bfloat16+int8"),  # Ampere
        ("rtx4090-torch", 1, "", "bfloat16+int8"),
        ("t4-cloud", 2, "2.10.0+cu126", "float16+int8"),
        ("v100", 4, "", "float16"),
        ("cpu-bare", 1, "", "int8"),
    ],
)
def test_engine_models_and_doctor_give_one_answer(
    name: str,
    n_gpus: int,
    torch_version: str,
    compute_type: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = facts_of(name, n_gpus=n_gpus, torch_version=torch_version)
    by_doctor = doctor_json(facts, ())["runs_on"]
    assert len(by_doctor) == n_gpus
    assert {choice["compute_type"] for choice in by_doctor} == {compute_type}

    monkeypatch.setattr(compat, "gather", lambda: facts)
    model_fit.this_machine.cache_clear()
    machine = model_fit.this_machine()
    model_fit.this_machine.cache_clear()
    assert (machine.engine, machine.compute_type) == (by_doctor[0]["engine"], compute_type)
    shape = geometry(USUAL_MODEL)
    assert asdict(choose(machine.engine, machine.hardware, shape)) == by_doctor[0]

    for index, gpu in enumerate(gpus_of(facts)):
        major, minor = map(int, gpu.capability.split("."))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, v=(major, minor): v)
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda _, g=gpu: (g.free_bytes, g.total_bytes)
        )
        by_torch = loading._hardware(torch.device("cuda", index))
        by_driver = dict(usable_hardware(facts))[by_doctor[index]["engine"]]
        assert (by_torch.capability, by_torch.free_bytes) == (
            by_driver.capability,
            by_driver.free_bytes,
        )
        if by_doctor[index]["engine"] == "whisper":
            assert asdict(choose("whisper", by_torch, shape)) == by_doctor[index]


def test_no_gpu_below_8_0_computes_in_bfloat16() -> None:
    for capability in ("5.2", "6.1", "7.0", "7.5"):
        offered = precisions("whisper", Hardware("cuda", capability=capability))
        assert offered[0] == "float16+int8" and not [n for n in offered if "bfloat16" in n]
    assert precisions("whisper", Hardware("cuda", capability="12.0"))[0] == "bfloat16+int8"
    assert precisions("ctranslate2", Hardware("cuda", capability="5.2")) == ("float32",)
