"""Real error texts, as users posted them, and tracebacks that have nothing to do with any of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from transcribe_mcp.compat.cli import main
from transcribe_mcp.compat.explain import explain
from transcribe_mcp.compat.rules import RULES

TEXTS: dict[str, Any] = json.loads(
    Path(__file__).with_name("error_texts.json").read_text(encoding="utf-8")
)
TEMPLATE = re.compile(r"\{[A-Za-z][A-Za-z0-9_.-]*\}")
LOG = "2026-11-22 10:00:00 INFO loading\n{}\n2026-11-22 10:00:09 INFO worker exits\n"


@pytest.mark.parametrize(
    "known", TEXTS["known"], ids=lambda known: f"{known['code']} {known['text'][:40]}"
)
def test_a_real_error_is_named_alone_and_inside_a_log(known: dict[str, str]) -> None:
    assert [found.rule.code for found in explain(known["text"])] == [known["code"]]
    assert [found.rule.code for found in explain(LOG.format(known["text"]))] == [known["code"]]


@pytest.mark.parametrize("text", TEXTS["unrelated"], ids=lambda text: text[:40])
def test_an_unrelated_traceback_is_left_alone(text: str) -> None:
    assert explain(LOG.format(text)) == []


def test_there_are_enough_texts_in_varied_wording() -> None:
    assert len(TEXTS["known"]) >= 40 and len({known["code"] for known in TEXTS["known"]}) >= 30
    assert len(TEXTS["unrelated"]) >= 20


def test_every_error_of_a_long_log_is_named_once_in_order() -> None:
    texts = [
        "Library libcublas.so.12 is not found or cannot be loaded",
        "Weights only load failed",
        "CUDA out of memory",
    ]
    log = "\n".join(["x" * 100] * 2000 + texts + texts)
    assert [found.rule.code for found in explain(log)] == ["TM205", "TM308", "TM704"]


def test_hostile_text_takes_no_longer_than_its_length() -> None:
    hostile = (
        "requires " * 20_000,
        "(" * 100_000,
        "libcudnn_" * 20_000,
        "\0" * 200_000,
        "Cannot install " * 10_000,
    )
    assert [explain(text) for text in hostile] == [[]] * len(hostile)


def test_every_pattern_compiles() -> None:
    assert all(re.compile(pattern, re.MULTILINE) for rule in RULES for pattern in rule.patterns)


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize(
    "known", TEXTS["known"], ids=lambda known: f"{known['code']} {known['text'][:40]}"
)
def test_what_is_printed_for_a_known_error_holds_no_template(
    known: dict[str, str], form: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.txt"
    log.write_text(known["text"], encoding="utf-8")

    assert main(["doctor", "--explain", str(log), *form]) == 0

    said = capsys.readouterr().out.replace(known["text"], "")
    assert known["code"] in said
    assert TEMPLATE.findall(said) == []


def test_a_recorded_machine_fills_in_its_versions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.txt"
    log.write_text(
        next(known["text"] for known in TEXTS["known"] if known["code"] == "TM304"),
        encoding="utf-8",
    )
    machine = str(Path(__file__).with_name("machines") / "rtx4090-torch.json")

    assert main(["doctor", "--explain", str(log)]) == 0
    without = capsys.readouterr().out
    assert main(["doctor", "--explain", str(log), "--facts", machine]) == 0
    told = capsys.readouterr().out

    assert "--force-reinstall torch==TORCH_VERSION" in without
    assert "--force-reinstall torch==2." in told


def test_the_list_of_rules_and_the_documents_hold_no_template(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in (["doctor", "--list"], ["doctor", "--list", "--json"], ["document"]):
        assert main(arguments) == 0
        assert TEMPLATE.findall(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    "known", TEXTS["known"], ids=lambda known: f"{known['code']} {known['text'][:40]}"
)
def test_a_message_may_stand_in_place_of_a_file(
    known: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", f"--explain={known['text']}"]) == 0
    assert known["code"] in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "no such file", "/nowhere/log.txt"])
def test_what_is_neither_a_file_nor_a_known_error_has_a_way_out(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--explain", text]) == 3
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: cannot read {text!r}: ")
    assert hint.startswith("hint: ")
