"""Build environments: install a plan, verify it with real operations, make it current."""

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

SLOWEST_RATIO = 1.10  # an upgrade may take 1.10 × the time of the current environment
BENCH_ROUNDS = 3
BENCH_REPEATS = 4


@dataclass(frozen=True, slots=True)
class Request:
    """The environment to build.

    Attributes:
        name: empty means the plan's ``want``, with a number if that name is taken.
        source: directory, wheel or requirement of transcribe-mcp; empty means its own source.
        python: the interpreter; empty means one of the plan's version.
        newest: install the newest versions instead of the planned ones.
        plan: build this plan instead of the one for this machine.
    """

    name: str = ""
    want: str = ""
    source: str = ""
    python: str = ""
    newest: bool = False
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Outcome of ``try``: best seconds of the same work in both environments."""

    tried: str
    current: str
    tried_s: float
    current_s: float
    promoted: bool
    reason: str


def create(request: Request, report: Report) -> Environment:
    """Build, verify and make current. On failure the current environment and the log stay.

    Raises:
        EnvironmentBuildError: the name is taken, another process holds the lock, or a step failed.
    """
    with store.changing():
        return store.make_current(_build(request, report).name)


def try_upgrade(request: Request, report: Report) -> Comparison:
    """Build the newest versions; make them current if they work and are not slower."""
    with store.changing():
        wants = [request.want] if request.want else list(store.pointers().current)
        if len(wants) != 1:
            raise EnvironmentBuildError(
                "there is no single environment to upgrade",
                hint="choose one: --want " + ("|".join(wants) or "cpu"),
            )
        current = store.current_environment(wants[0])
        if current is None or current.state != store.READY:
            raise EnvironmentBuildError(
                f"there is no working current environment for {wants[0]}",
                hint="transcribe-mcp env create",
            )
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        upgrade = replace(request, name=f"{wants[0]}-{stamp}", want=wants[0], newest=True)
        built = _build(replace(upgrade, source=request.source or current.source), report)
        tried_s, current_s = _race(built.name, current.name, report)
        if tried_s > current_s * SLOWEST_RATIO:
            reason = f"Not promoted: it takes {tried_s / current_s:.2f} times as long."
            return Comparison(built.name, current.name, tried_s, current_s, False, reason)
        store.make_current(built.name)
        return Comparison(
            built.name,
            current.name,
            tried_s,
            current_s,
            True,
            "Promoted. To undo: transcribe-mcp env rollback",
        )


def verify(name: str) -> tuple[str, ...]:
    """Run the real operations of an environment's engines.

    Raises:
        EnvironmentBuildError: it is missing, unfinished, failed or damaged, or an operation fails.
    """
    found = store.environment(name)
    if found.state != store.READY:
        raise EnvironmentBuildError(
            f"environment {name} is {found.state}: {found.problem or 'see its log'}",
            hint=f"rebuild: transcribe-mcp env create {name}; delete: transcribe-mcp env rm {name}",
        )
    return tuple(verify_environment(name, found.target, lambda line: None))


def default_source() -> str:
    """The checkout of this code, else its installation source (PEP 610), else the index."""
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
    """The plan, installing transcribe-mcp from its own source instead of the index."""
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
            f"cannot build an environment: {'; '.join(plan.limits)}", hint="transcribe-mcp doctor"
        )
    if (
        plan.want == "whisperx" and shutil.which("ffmpeg") is None
    ):  # check before downloading gigabytes
        hint = "install it: apt-get install ffmpeg, brew install ffmpeg or winget install ffmpeg"
        raise EnvironmentBuildError(
            "WhisperX needs the ffmpeg program, which is not on the PATH", hint=hint
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
        hint = f"see {log_path}, or run: transcribe-mcp doctor --explain {log_path}"
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
                f"environment {name} exists",
                hint=f"choose another name, or: transcribe-mcp env rm {name}",
            )
        shutil.rmtree(folder)  # nothing uses an unfinished or failed environment
    folder.mkdir(parents=True)
    return folder


def _python_for(plan: Plan) -> str:
    """This interpreter if it has the plan's version, else ``pythonX.Y`` of the PATH.

    Raises:
        EnvironmentBuildError: there is no such interpreter.
    """
    if plan.python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{plan.python}")
    if found is None:
        name = f"python{plan.python}"
        raise EnvironmentBuildError(
            f"the plan for {plan.want} needs Python {plan.python}; no {name} is on the PATH",
            hint=f"install it, or use --python /path/to/{name}",
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
            requirements.append(MODEL_REQUIREMENT)  # the model for the verification
        install(store.python_of(name), replace(step, requirements=tuple(requirements)), log)


def _requirement(text: str, source: str, *, newest: bool) -> str:
    parsed = parse_requirement(text)
    if parsed is not None and parsed.name == "transcribe-mcp":
        extra = "[offline]"  # the model for the verification
        if Path(source).exists():
            return source + extra
        return source if "[" in source else source.replace(parsed.name, parsed.name + extra, 1)
    return parsed.name if newest and parsed is not None else text


def _race(tried: str, current: str, report: Report) -> tuple[float, float]:
    """Best seconds of each environment. Rounds alternate, so a busy machine slows both."""
    best: dict[str, float] = {}
    for _ in range(BENCH_ROUNDS):
        for name in (tried, current):
            device = "cuda" if store.environment(name).target == "gpu" else "cpu"
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
        f"{tried}: {best[tried]:.3f} s; {current}: {best[current]:.3f} s "
        f"(best of {BENCH_ROUNDS * BENCH_REPEATS})"
    )
    return best[tried], best[current]
