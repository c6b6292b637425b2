"""The doctor on this machine and on machines that are broken in ways no table knows."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import PATIENCE_S

from transcribe_mcp.compat import tables
from transcribe_mcp.compat.cli import main
from transcribe_mcp.compat.derived_facts import DerivedFacts
from transcribe_mcp.compat.diagnose import diagnose_machine
from transcribe_mcp.compat.errors import CompatError, FactsError, TableError
from transcribe_mcp.compat.facts import MAX_FILE_BYTES, SCHEMA, Facts, load, parse, save
from transcribe_mcp.compat.gpu_binaries import read_gpu_code
from transcribe_mcp.compat.memory import model_fits
from transcribe_mcp.compat.plan import WANTS, make_plan
from transcribe_mcp.compat.preload import cublas_paths, preload_cublas
from transcribe_mcp.compat.probes import gather
from transcribe_mcp.compat.probes.binaries import ctranslate2_libraries
from transcribe_mcp.compat.probes.environment import VARIABLES
from transcribe_mcp.compat.report import doctor_json, doctor_text
from transcribe_mcp.compat.rules import AREAS, RULE_BY_CODE, RULES, SEVERITIES
from transcribe_mcp.compat.runtime_choice import choose_runtime
from transcribe_mcp.compat.tables import watched_packages

MACHINES = sorted(Path(__file__).with_name("machines").glob("*.json"))


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "transcribe_mcp.compat", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **environment},
    )


def test_doctor_loads_nothing_outside_the_standard_library_and_compat() -> None:
    script = (
        "import sys\n"
        # Modules that the interpreter's own start-up files load do not count.
        "before = set(sys.modules)\n"
        "from transcribe_mcp.compat.cli import main\n"
        "for option in ([], ['--json'], ['--plan'], ['--models']): main(['doctor', *option])\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "ours = {name for name in sys.modules if name.startswith('transcribe_mcp.')}\n"
        "foreign = loaded - set(sys.stdlib_module_names) - {'transcribe_mcp', '__mp_main__'}\n"
        "outside = {name for name in ours if not name.startswith('transcribe_mcp.compat')}\n"
        "sys.stderr.write(repr((sorted(foreign), sorted(outside))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0 and done.stderr == "([], [])"


def test_doctor_survives_engines_that_kill_whoever_imports_them(tmp_path: Path) -> None:
    for name in ("torch", "numpy", "ctranslate2", "onnxruntime", "pynvml"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("import os\nos.abort()\n", encoding="utf-8")
    (tmp_path / "torch-2.15.0.dist-info").mkdir()
    (tmp_path / "torch-2.15.0.dist-info" / "METADATA").write_bytes(
        b"\xff\xfe\x00 not metadata at all"
    )
    done = run("doctor", "--json", PYTHONPATH=str(tmp_path))
    answer = json.loads(done.stdout)
    assert "Traceback" not in done.stderr
    assert done.returncode == answer["exit_code"] == 2
    assert "TM310" in [
        finding["code"] for finding in answer["findings"]
    ]  # a torch without its version file


def test_deep_reports_an_engine_that_aborts_and_goes_on_with_the_others(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text(
        "import os, sys\nsys.stderr.write('Could not load library "
        "libcudnn_ops_infer.so.8.\\n')\nsys.stderr.flush()\n"
        "os.abort()\n",
        encoding="utf-8",
    )
    (tmp_path / "onnxruntime-1.0.dist-info").mkdir()
    done = run(
        "doctor", "--deep", "--json", "--only", "TM202", "--only", "TM801", PYTHONPATH=str(tmp_path)
    )
    answer = json.loads(done.stdout)
    assert [finding["code"] for finding in answer["findings"]] == ["TM202"]
    assert answer["facts"]["deep.onnxruntime.cpu"]["value"]["end"] == "signal 6"
    assert answer["facts"]["deep.ctranslate2.cpu"]["value"]["end"] == "ok"
    assert done.returncode == 2


def test_every_fact_has_a_source_or_a_reason_and_a_time() -> None:
    for fact in gather().values():
        assert (fact.value is None) == bool(fact.unknown), fact
        assert fact.source or fact.unknown
        assert fact.took_s >= 0


@pytest.mark.skipif(sys.platform == "win32", reason="Triton for Windows brings a compiler")
def test_doctor_looks_for_the_compiler_that_triton_would_take(tmp_path: Path) -> None:
    (tmp_path / "clang").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "clang").chmod(0o755)
    found = []
    for here in (
        {"PATH": "/nowhere", "CC": ""},
        {"PATH": str(tmp_path), "CC": ""},
        {"PATH": "/nowhere", "CC": "tcc"},
    ):
        answer = json.loads(run("doctor", "--json", **here).stdout)
        found.append(answer["facts"]["tools.for_triton"]["value"]["a C compiler"])
    assert found == [False, True, True]


def test_saved_facts_hold_nothing_personal_and_are_judged_the_same(tmp_path: Path) -> None:
    home = tmp_path / "home-of-somebody"
    (home / "lib").mkdir(parents=True)
    file = tmp_path / "facts.json"
    here = {"HOME": str(home), "LD_LIBRARY_PATH": str(home / "lib"), "HF_TOKEN": "hf_secret_value"}
    here["PIP_INDEX_URL"] = "https://me:password@index.example/simple"
    saved = run("doctor", "--json", "--save-facts", str(file), **here)
    text = file.read_text(encoding="utf-8")
    for personal in (str(home), "hf_secret_value", "me:password"):
        assert personal not in text and personal not in saved.stdout
    judged = run("doctor", "--json", "--facts", str(file))
    codes = [
        [finding["code"] for finding in json.loads(done.stdout)["findings"]]
        for done in (saved, judged)
    ]
    assert codes[0] == codes[1] and saved.returncode == judged.returncode


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FactsError, match="cannot write"):
        save(gather(), tmp_path / "missing" / "facts.json")
    assert list(tmp_path.iterdir()) == []


HOSTILE = {
    "another version": json.dumps({"schema": "transcribe-mcp.facts/99", "facts": {}}).encode(),
    "no schema": b"{}",
    "a list": b"[]",
    "cut off": MACHINES[0].read_bytes()[:700],
    "no text": bytes(range(256)),
    "empty": b"",
    "deep": b"[" * 200_000,
    "deep value": json.dumps(
        {"schema": SCHEMA, "facts": {"x": {"value": json.loads("[" * 40 + "]" * 40)}}}
    ).encode(),
    "huge": b" " * (MAX_FILE_BYTES + 1),
    "facts as a list": json.dumps({"schema": SCHEMA, "facts": []}).encode(),
    "a fact that is not a record": json.dumps(
        {"schema": SCHEMA, "facts": {"os.system": "Linux"}}
    ).encode(),
    "text for a number": json.dumps(
        {"schema": SCHEMA, "facts": {"cpu.usable": {"value": "many"}}}
    ).encode(),
    "a GPU that is not a record": json.dumps(
        {"schema": SCHEMA, "facts": {"nvidia.gpus": {"value": [3]}}}
    ).encode(),
    "a version that is not text": json.dumps(
        {"schema": SCHEMA, "facts": {"packages.installed": {"value": {"torch": 2}}}}
    ).encode(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_facts_file_is_one_clear_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(HOSTILE[name])
    assert main(["doctor", "--facts", str(file)]) == 3
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and len(said.err.splitlines()) <= 2


def test_a_facts_file_that_is_not_there_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "nothing.json", tmp_path):
        assert main(["doctor", "--facts", str(path)]) == 3
        assert capsys.readouterr().err.startswith("error: cannot read")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(which=st.integers(0, 10_000), key=st.integers(0, 10_000), inner=st.booleans(), value=JSON)
def test_a_recorded_machine_with_any_value_replaced_is_refused_or_judged(
    which: int, key: int, inner: bool, value: Any
) -> None:
    record = json.loads(MACHINES[which % len(MACHINES)].read_text(encoding="utf-8"))
    names = sorted(record["facts"])
    fact = record["facts"][names[key % len(names)]]
    if (
        inner
        and isinstance(fact["value"], list)
        and fact["value"]
        and isinstance(fact["value"][0], dict)
    ):
        fact["value"][0][sorted(fact["value"][0])[0]] = value
    elif inner and isinstance(fact["value"], dict) and fact["value"]:
        fact["value"][sorted(fact["value"])[0]] = value
    else:
        fact["value"] = value
    try:
        facts = parse(json.dumps(record).encode(), "mutated.json")
    except FactsError:
        return
    findings = diagnose_machine(facts)
    assert doctor_text(facts, findings, verbose=True) and json.dumps(doctor_json(facts, findings))
    assert all(make_plan(facts, want).want == want for want in WANTS)
    assert choose_runtime(facts).threads >= 1 and isinstance(list(model_fits(facts)), list)


def test_a_recorded_machine_cannot_send_commands_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads(MACHINES[0].read_text(encoding="utf-8"))
    record["facts"]["os.distribution"]["value"] = "\x1b[2Jwiped\x9b"
    (tmp_path / "facts.json").write_text(json.dumps(record), encoding="utf-8")
    main(["doctor", "-v", "--facts", str(tmp_path / "facts.json")])
    out = capsys.readouterr().out
    assert "wiped" in out and "\x1b" not in out and "\x9b" not in out


def test_every_rule_is_complete_and_has_a_code_of_its_own() -> None:
    assert len(RULE_BY_CODE) == len(RULES)
    for rule in RULES:
        assert rule.severity in SEVERITIES and rule.area in AREAS, rule.code
        assert rule.title and rule.cause and rule.consequence, rule.code
        assert bool(rule.evidence) == (rule.when is not None), rule.code


def test_every_name_in_the_text_of_a_rule_is_known() -> None:
    machine = vars(DerivedFacts(Facts([])))
    for rule in RULES:
        for name in re.findall(r"\{([^}]+)\}", " ".join((rule.evidence, *rule.fix))):
            group, _, key = name.rpartition(".")
            assert key in {"": machine, "env": VARIABLES, "package": watched_packages()}[group], (
                rule.code
            )


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{", encoding="utf-8")
    with pytest.raises(TableError, match=r"x\.json cannot be read"):
        tables.read_json(tmp_path / "x.json")
    for record in ([], {"rows": 3}, {"rows": [], "about": "a", "source": "s"}):
        with pytest.raises(TableError, match="table x"):
            tables.parse_table("x", record)


def test_every_table_names_its_page() -> None:
    for path in (tables.DATA / "tables").glob("*.json"):
        one = tables.table(path.stem)
        assert "https://" in one.source and one.rows and one.as_of
    assert all(rule.source.startswith("https://") for rule in RULES)


def test_the_library_of_ctranslate2_says_what_the_table_says() -> None:
    paths = ctranslate2_libraries()
    version = gather().value("packages.installed")["ctranslate2"]
    if sys.platform != "linux" or os.uname().machine != "x86_64" or not paths:
        pytest.skip("the table is about Linux x86_64 wheels")
    code = read_gpu_code(paths[0])
    known = tables.row_for(tables.version_tables().ctranslate2, version)
    assert known is not None
    assert (
        list(code.sass) == known["sass"]
        and list(code.ptx) == known["ptx"]
        and code.ptx_isa == known["ptx_isa"]
    )
    assert (code.cublas_major, code.cudnn_major) == (known["cuda_major"], known["cudnn_major"])


def test_a_damaged_library_is_an_error_and_never_a_crash(tmp_path: Path) -> None:
    source = Path(sys.executable).resolve().read_bytes()[:200_000]
    dice = random.Random(0)
    file = tmp_path / "library.so"
    read = 0
    for attempt in range(120):
        raw = bytearray(source[: dice.randrange(1, len(source))] if attempt % 2 else source)
        for _ in range(attempt % 7):
            raw[dice.randrange(min(len(raw), 80))] = dice.randrange(256)
        file.write_bytes(raw)
        try:
            read += read_gpu_code(file).sass == ()
        except (ValueError, OSError):
            read += 1
    assert read == 120


def test_preloading_where_there_is_no_cublas_says_so_and_does_not_raise() -> None:
    done = preload_cublas()
    assert done.loaded or done.problem or cublas_paths(sys.path) == ()


def test_cublas_is_found_beside_cublaslt_and_in_that_order(tmp_path: Path) -> None:
    folder = tmp_path / "nvidia" / "cublas" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcublas.so.12").touch()
    assert cublas_paths([str(tmp_path)]) == ()
    (folder / "libcublasLt.so.12").touch()
    if sys.platform == "linux":
        assert [path.name for path in cublas_paths([str(tmp_path)])] == [
            "libcublasLt.so.12",
            "libcublas.so.12",
        ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["doctor", "--only", "TM999"], "TM999"),
        (["doctor", "--plan", "--want", "everything"], "everything"),
        (["doctor", "--explain", "no such file"], "no such file"),
        (["doctor", "--deep", "--facts", str(MACHINES[0])], "recorded machine"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_clear_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 3
    assert words in capsys.readouterr().err


def test_only_looks_for_the_rules_that_were_named(capsys: pytest.CaptureFixture[str]) -> None:
    broken = str(Path(__file__).with_name("machines") / "guide-recommended.json")
    assert main(["doctor", "--only", "TM305", "--facts", broken]) == 1
    out = capsys.readouterr().out
    assert "TM305" in out and "TM205" not in out


def test_the_screen_for_a_person_fits_one_screen() -> None:
    for path in MACHINES:
        facts = load(path)
        assert len(doctor_text(facts, diagnose_machine(facts)).splitlines()) <= 40, path.stem


def test_an_error_of_compat_keeps_its_hint_apart() -> None:
    error = CompatError("what\nfailed", hint="the way\nout")
    assert (str(error), error.hint) == ("what failed", "the way out")
