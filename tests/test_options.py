"""Every option is declared once, and every front end offers it unless the option hides it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from transcribe_mcp.domain.options import (
    FRONT_ENDS,
    EngineSpec,
    FormatOptions,
    Options,
    SubtitleRules,
    options_of,
)
from transcribe_mcp.errors import UsageError
from transcribe_mcp.frontends.cli.app import app
from transcribe_mcp.frontends.forms import help_of
from transcribe_mcp.frontends.mcp.arguments import Argument
from transcribe_mcp.frontends.mcp.tools import TOOLS
from transcribe_mcp.jobs.job_options import options_key
from transcribe_mcp.jobs.models import JobOptions

RECORDS = (EngineSpec, Options, SubtitleRules, FormatOptions)
IN_TOOLS = {"source", "formats", "force", "wait_s"}  # of a call, not of a transcription
OTHER: dict[str, Any] = {
    "engine": "fake", "model": "small", "device": "cpu", "compute_type": "int8",
    "offline": True, "language": "de",
    "multilingual": True, "task": "translate", "words": False, "vad": False, "prompt": "Zürich",
    "vocabulary": ("Fraser",), "temperatures": (0.0, 0.5), "beam_size": 5,
    "batch_size": 3, "diarize": True, "speakers": 2, "min_speakers": 1, "max_speakers": 3,
    "track": "2", "channel": "left", "voices": "Anna",
    "references": ("Anna=clip",),
}  # fmt: skip


def names(front_end: str, *records: type) -> set[str]:
    return {each.name for record in records or RECORDS for each in options_of(record, front_end)}


def test_every_field_of_a_record_is_an_option() -> None:
    for record in RECORDS:
        declared = options_of(record)
        undeclared = {each.name for each in fields(record)} - {each.name for each in declared}
        assert undeclared <= {"subtitles"}
        assert all(set(each.hidden_in) <= FRONT_ENDS for each in declared)
        assert all(each.help_text.endswith(".") for each in declared)


def test_the_command_line_has_every_option_that_is_not_hidden_from_it() -> None:
    command = typer.main.get_command(app).commands["transcribe"]  # type: ignore[attr-defined]
    shown = {name: set(each.opts) for each in command.params if (name := each.name)}

    assert names("cli") <= shown.keys()
    assert not {each.name for each in fields(JobOptions)} - names("cli") & shown.keys()
    for record in RECORDS:
        for option in options_of(record, "cli"):
            flag = option.flag or f"--{option.name.replace('_', '-')}"
            assert flag in shown[option.name]


def test_the_tools_have_every_option_that_is_not_hidden_from_them() -> None:
    for tool in ("transcribe_audio", "batch_transcribe"):
        arguments = TOOLS[tool].arguments
        assert {name.removesuffix("s") if name == "sources" else name for name in arguments} == (
            names("mcp") | IN_TOOLS - ({"formats"} if tool == "batch_transcribe" else set())
        )
        for option in options_of(JobOptions, "mcp"):
            argument, is_required = arguments[option.name]
            assert isinstance(argument, Argument) and not is_required
            assert argument.description.startswith(help_of(option))


def test_jobs_store_every_option_that_is_not_hidden_from_them() -> None:
    stored = names("jobs", EngineSpec, Options)

    assert stored == JobOptions().to_json().keys() == OTHER.keys()
    for name in stored:
        changed = replace(JobOptions(), **{name: OTHER[name]})
        declared = {option.name: option for option in options_of(JobOptions, "jobs")}
        assert JobOptions.loads(changed.dumps()) == changed
        is_same = options_key(changed) == options_key(JobOptions())
        assert is_same != declared[name].changes_text


@pytest.mark.parametrize("record", RECORDS)
def test_a_value_out_of_its_bounds_or_choices_is_refused_with_what_would_do(record: type) -> None:
    for option in options_of(record):
        wrong = [option.ge - 1] if option.ge is not None else []
        for value in [*wrong, *(["no such choice"] if option.choices else [])]:
            with pytest.raises(UsageError, match=option.name) as caught:
                record(**{option.name: value})
            assert caught.value.hint


def test_values_of_python_get_the_declared_types(tmp_path: Path) -> None:
    given = Options(
        temperatures=[0, np.float32(0.5)],  # type: ignore[arg-type, list-item]
        vocabulary=["Anna", "Bert"],  # type: ignore[arg-type]
        track=2,  # type: ignore[arg-type]
        channel=np.int64(1),  # type: ignore[arg-type]
        beam_size=np.int64(5),  # type: ignore[arg-type]
    )
    assert given == Options(
        temperatures=(0, 0.5), vocabulary=("Anna", "Bert"), track="2", channel="1", beam_size=5
    )
    assert type(given.beam_size) is int and hash(given)
    assert EngineSpec(model=tmp_path).model == str(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"language": None}, {"vocabulary": "Anna"}, {"vocabulary": None}, {"temperatures": 0.0},
        {"temperatures": (0, "x")}, {"prompt": None}, {"beam_size": "5"}, {"beam_size": 2.5},
        {"speakers": 2.0}, {"diarize": "no"}, {"words": None}, {"voices": ["Anna"]},
        {"threads": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_another_type_is_refused_by_name(given: dict[str, Any]) -> None:
    ((name, value),) = given.items()
    with pytest.raises(UsageError) as caught:
        Options(**given)
    assert str(caught.value) == f"{name} is {value!r}"
    assert caught.value.hint.startswith("give ")
