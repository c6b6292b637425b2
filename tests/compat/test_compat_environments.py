"""Environments, built for real from small wheels: made, verified, switched, rolled back,
interrupted, deleted.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from patience import until
from wheels import ABORTING, prepared, write_wheel

from transcribe_mcp.compat import env_build
from transcribe_mcp.compat import environments as store
from transcribe_mcp.compat.cli import main
from transcribe_mcp.compat.errors import EnvironmentBuildError
from transcribe_mcp.compat.plan import Install, Plan


def plan_of(*requirements: str, want: str = "cpu") -> Plan:
    return Plan(want, "cpu", "3.12", (), (Install(requirements),), (), (), (), ())


def request(name: str, *requirements: str) -> env_build.Request:
    return env_build.Request(
        name=name, plan=plan_of(*(requirements or ("onnxruntime==1.0",))), source="unused"
    )


def unheard(line: str) -> None:
    """Progress that nobody reads."""


def build(name: str, *requirements: str) -> store.Environment:
    return env_build.create(request(name, *requirements), unheard)


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment that ``build`` has made."""
    with pytest.MonkeyPatch.context() as patch:
        prepared(tmp_path_factory.mktemp("built"), patch)
        build("first")
        return store.folder_of("first")


@pytest.fixture
def stock(place: Path, built_once: Path) -> Callable[[str], None]:
    """Makes a copy of a built environment current, without the seconds that building takes."""

    def add(name: str) -> None:
        shutil.copytree(built_once, store.folder_of(name), symlinks=True)
        store.write_record(replace(store.environment(name), name=name))
        store.make_current(name)

    return add


def copy_of(name: str, original: str) -> None:
    """A second ready environment, without the seconds that installing takes."""
    record = replace(store.environment(original), name=name)
    store.python_of(name).parent.mkdir(parents=True)
    store.python_of(name).symlink_to(store.python_of(original))
    store.write_record(record)


def test_an_environment_is_built_verified_recorded_and_made_current(place: Path) -> None:
    built = build("first")
    assert built.packages == {"numpy": "2.0", "onnxruntime": "1.0"}
    assert [check.split(":")[0] for check in built.checks] == ["onnxruntime 1.0 on cpu"]
    assert store.current_environment("cpu") == built and built.took_s > 0
    pins = (store.folder_of("first") / "requirements.txt").read_text(encoding="utf-8")
    assert pins == "numpy==2.0\nonnxruntime==1.0\n"
    assert env_build.verify("first")


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in modules else find(name)
    )


def test_where_no_pip_is_installed_the_one_that_python_brings_along_builds(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "pip")
    assert build("first").packages == {"numpy": "2.0", "onnxruntime": "1.0"}


def test_where_there_is_no_pip_at_all_the_failure_says_what_to_install(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "pip", "ensurepip")
    with pytest.raises(EnvironmentBuildError, match="no pip"):
        build("first")
    assert store.current_environment("cpu") is None


def test_a_failing_step_leaves_the_old_environment_current_and_the_log_at_hand(
    place: Path, stock: Callable[[str], None]
) -> None:
    stock("good")
    write_wheel(place / "wheels", "onnxruntime", "2.0", ABORTING, ("numpy",))
    with pytest.raises(EnvironmentBuildError, match="signal 6"):
        build("aborts", "onnxruntime==2.0")
    with pytest.raises(EnvironmentBuildError, match="no-such-package"):
        build("missing", "no-such-package==1")
    assert store.pointers().current == {"cpu": "good"}
    states = {each.name: each.state for each in store.environments()}
    assert states == {"good": store.READY, "aborts": store.FAILED, "missing": store.FAILED}
    assert "no-such-package" in (store.folder_of("missing") / "log.txt").read_text(encoding="utf-8")
    with pytest.raises(EnvironmentBuildError, match="failed"), store.changing():
        store.make_current("aborts")


def test_use_and_rollback_move_one_pointer_each(stock: Callable[[str], None]) -> None:
    stock("one")
    for name in ("two", "three"):
        copy_of(name, "one")
        assert main(["env", "use", name]) == 0
    current = [store.pointers().current["cpu"]]
    for _ in range(2):
        assert main(["env", "rollback"]) == 0
        current.append(store.pointers().current["cpu"])
    assert current == ["three", "two", "one"]
    assert main(["env", "rollback"]) == 3


def test_a_venv_deleted_underneath_is_named_and_skipped(
    stock: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stock("whole")
    for name in ("gutted", "latest"):
        copy_of(name, "whole")
        assert main(["env", "use", name]) == 0
    for name in ("gutted", "latest"):
        store.python_of(name).unlink()
    current = store.current_environment("cpu")
    assert current is not None and current.state == store.DAMAGED and "is gone" in current.problem
    assert main(["env", "list"]) == 0 and "☠" in capsys.readouterr().out
    assert main(["env", "verify", "latest"]) == 3
    assert main(["env", "rollback"]) == 0
    assert store.pointers().current == {"cpu": "whole"}


def test_verifying_what_is_not_whole_fails_and_says_what_to_do(
    stock: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (store.folder_of("begun") / "venv").mkdir(parents=True)
    stock("whole")
    copy_of("interrupted", "whole")
    (store.folder_of("interrupted") / "record.json").unlink()
    copy_of("failed", "whole")
    store.write_record(
        replace(store.environment("failed"), state=store.FAILED, problem="onnxruntime: signal 6")
    )

    for name, word in (
        ("begun", "unfinished"),
        ("interrupted", "unfinished"),
        ("failed", "signal 6"),
    ):
        assert main(["env", "verify", name]) == 3
        said = capsys.readouterr().err
        assert word in said
        assert f"env create {name}" in said
    assert main(["env", "verify", "whole"]) == 0


def test_what_is_current_cannot_be_deleted_and_the_rest_goes_at_once(
    stock: Callable[[str], None],
) -> None:
    stock("kept")
    copy_of("spare", "kept")
    assert main(["env", "rm", "kept"]) == 3
    assert main(["env", "rm", "spare"]) == 0
    assert [each.name for each in store.environments()] == ["kept"]


@contextmanager
def creating(place: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that builds an environment, killed with its children at the end."""
    script = (
        "import sys\nfrom transcribe_mcp.compat import env_build\n"
        "from transcribe_mcp.compat.plan import Install, Plan\n"
        "plan = Plan('cpu', 'cpu', '3.12', (), (Install(('onnxruntime==1.0',)),), (), (), (), ())\n"
        "env_build.create(env_build.Request(name=sys.argv[1], plan=plan, source='x'), lambda "
        "line: None)\n"
    )
    command = [sys.executable, "-c", script, name]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and process groups are POSIX")
@pytest.mark.parametrize("moment", ["pyvenv.cfg", "lib/python*/site-packages/numpy.py"])
def test_a_killed_creation_leaves_a_usable_state(
    place: Path, stock: Callable[[str], None], moment: str
) -> None:
    stock("before")
    with creating(place, "victim") as process:
        venv = store.folder_of("victim") / "venv"
        until(lambda: list(venv.glob(moment)) or process.poll() is not None, "it has come that far")
    assert store.pointers().current == {"cpu": "before"}
    victim = store.environment("victim")
    assert victim.state in (
        store.UNFINISHED,
        store.FAILED,
    )  # killed, or through before the signal came
    assert main(["env", "use", "victim"]) == 3
    assert (
        build("victim").state == store.READY
    )  # the lock died with its holder, the remains are in nobody's way
    assert store.pointers().current == {"cpu": "victim"}


def test_two_processes_do_not_change_environments_at_once(place: Path) -> None:
    with (
        store.changing(),
        pytest.raises(EnvironmentBuildError, match="another process"),
        store.changing(),
    ):
        pytest.fail("the lock was given twice")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"current": 3}', '{"current": {}, "previous": []}']
)
def test_a_damaged_pointer_file_is_one_clear_line(
    text: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.environments_dir().mkdir(parents=True)
    (store.environments_dir() / "current.json").write_text(text, encoding="utf-8")
    assert main(["env", "list"]) == 3
    said = capsys.readouterr().err
    assert "current.json is damaged" in said and "hint:" in said


@pytest.mark.parametrize("text", ["", "[]", '{"state": "ready"}', '{"state": 3, "checks": 4}'])
def test_a_damaged_record_is_shown_as_damaged(
    text: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store.folder_of("odd")
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(text, encoding="utf-8")
    assert store.environment("odd").state == store.DAMAGED
    assert main(["env", "list"]) == 0 and "odd" in capsys.readouterr().out
    assert main(["env", "use", "odd"]) == 3


@pytest.mark.parametrize("name", ["../up", "/root", "A B", ".hidden", "x" * 100])
def test_a_name_that_is_no_folder_name_is_refused(name: str, place: Path) -> None:
    assert main(["env", "use", name]) == 3
    assert main(["env", "rm", name]) == 3


def test_a_name_in_use_is_refused_and_no_name_finds_a_free_one(
    stock: Callable[[str], None],
) -> None:
    stock("cpu")
    with pytest.raises(EnvironmentBuildError, match="exists"):
        build("cpu")
    assert env_build.create(request(""), unheard).name == "cpu-2"


def test_without_environments_every_action_says_how_to_begin(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["env", "list"]) == 0 and "env create" in capsys.readouterr().out
    for action in (["verify", "x"], ["use", "x"], ["rm", "x"], ["rollback"], ["try", "--upgrade"]):
        assert main(["env", *action]) == 3
        assert "hint:" in capsys.readouterr().err


def engine(seconds: float) -> str:
    """Stands where CTranslate2 would in an environment: its work takes this long."""
    return f"SECONDS = {seconds}\n"


@pytest.mark.parametrize(("seconds", "promoted"), [(0.5, True), (1.05, True), (1.2, False)])
def test_an_upgrade_is_promoted_unless_it_is_slower(
    place: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, promoted: bool
) -> None:
    operations = place / "operations.py"
    operations.write_text(
        "import importlib, json, sys\nengine = importlib.import_module(sys.argv[1])\n"
        "print(json.dumps({'seconds': [getattr(engine, 'SECONDS', 1.0)]}))\n",
        encoding="utf-8",
    )
    monkeypatch.setattr("transcribe_mcp.compat.smoke_test.OPERATIONS", operations)
    write_wheel(place / "wheels", "ctranslate2", "1.0", engine(1.0))
    build("cpu", "ctranslate2==1.0")
    write_wheel(place / "wheels", "ctranslate2", "2.0", engine(seconds))
    outcome = env_build.try_upgrade(
        env_build.Request(source="unused", plan=plan_of("ctranslate2==1.0")), unheard
    )
    assert outcome.promoted is promoted and (outcome.tried_s, outcome.current_s) == (seconds, 1.0)
    assert store.environment(outcome.tried).packages["ctranslate2"] == "2.0"
    assert store.pointers().current["cpu"] == (outcome.tried if promoted else "cpu")
    assert (
        json.loads((store.folder_of("cpu") / "record.json").read_text(encoding="utf-8"))["state"]
        == store.READY
    )


def test_creating_from_the_command_line_for_this_machine_without_an_index_fails_cleanly(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["env", "create", "mine", "--want", "cpu", "--source", "transcribe-mcp==0"]) == 3
    assert "error:" in capsys.readouterr().err
    assert store.pointers().current == {} and store.environment("mine").state == store.FAILED
