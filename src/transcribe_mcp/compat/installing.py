"""Install packages into a new virtual environment with pip.

pip reports an unreachable index as missing versions or conflicting dependencies. Therefore each
failed installation is followed by a request to the index, and the error names the index.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from .errors import EnvironmentBuildError, PackageIndexError
from .index import Index, pip_configuration, shown
from .plan import LARGER, Install
from .versions import parse_requirement, satisfies

TIMEOUT_S = 4 * 3600.0  # several GB on a slow connection
Report = Callable[[str], None]


class Log:
    """Writes everything to the environment's log and reports the headlines to the caller."""

    def __init__(self, write: Callable[[str], int], report: Report) -> None:
        self._write = write
        self._report = report

    def __call__(self, line: str) -> None:
        self._write(line + "\n")
        self._report(line)

    def detail(self, text: str) -> None:
        self._write(text.rstrip() + "\n")


def make_venv(python: str, folder: Path, log: Log) -> None:
    """Raises ``EnvironmentBuildError``."""
    log(f"creating an environment with {python}")
    _run("python -m venv", [python, "-m", "venv", "--without-pip", str(folder)], log)


def install(python: Path, step: Install, log: Log) -> None:
    """Install one step of a plan. CPU builds of torch fall back to the default index.

    Raises:
        EnvironmentBuildError: pip failed, or a CUDA index is unavailable.
    """
    if not step.index_url or os.environ.get("PIP_NO_INDEX"):
        _pip_install(python, step, log)
        return
    try:
        _require(step)
        _pip_install(python, step, log)
        return
    except (PackageIndexError, EnvironmentBuildError) as error:
        problem = f"PyTorch's index {step.index_url} cannot be used: {error}"
        if not step.index_url.rstrip("/").endswith("/cpu"):
            raise EnvironmentBuildError(
                problem,
                hint="make it reachable: the default index has no build for this GPU and driver",
            ) from error
    log(problem)
    log(f"installing from the default index instead: {LARGER}")
    try:
        _pip_install(python, replace(step, index_url=""), log)
    except EnvironmentBuildError as error:
        raise EnvironmentBuildError(
            f"{problem}; the default index failed too: {error}", hint=error.hint
        ) from error


def _require(step: Install) -> None:
    """Check the index before pip does, which retries an unreachable index for minutes.

    Raises:
        PackageIndexError: the index is unreachable or lacks a requirement.
    """
    index = _index(step.index_url)
    for text in step.requirements:
        required = parse_requirement(text)
        if required is None:
            continue
        versions = [file.version for file in index.files(required.name)]
        if not any(satisfies(version, required.specifiers) for version in versions):
            raise PackageIndexError(f"it has no {text}")


def _index(url: str) -> Index:
    return Index(replace(pip_configuration(), index_urls=(url.rstrip("/"),)))


def _pip_install(python: Path, step: Install, log: Log) -> None:
    command = [*_pip(), "--python", str(python), "install", "--no-input", "--progress-bar=off"]
    index = ["--index-url", step.index_url] if step.index_url else []
    log(f"installing {' '.join(step.requirements)}" + (f" from {step.index_url}" if index else ""))
    try:
        _run("pip install", [*command, *index, *step.requirements], log)
    except EnvironmentBuildError as error:
        problem = _unreachable_index(step)
        if not problem:
            raise
        raise EnvironmentBuildError(
            f"pip install failed: {problem}",
            hint=""
            if step.index_url
            else "check the network, or set PIP_INDEX_URL to another index",
        ) from error


def _unreachable_index(step: Install) -> str:
    """The problem of pip's first index that does not answer; empty if all answer."""
    if os.environ.get("PIP_NO_INDEX"):
        return ""
    parsed = [parse_requirement(text) for text in step.requirements]
    package = next((each.name for each in parsed if each is not None), "pip")
    for url in (step.index_url,) if step.index_url else pip_configuration().index_urls:
        try:
            _index(url).files(package)
        except PackageIndexError as error:
            problem = str(error)
            return (
                problem if shown(url) in problem else f"the package index {shown(url)}: {problem}"
            )
    return ""


def _pip() -> list[str]:
    """This environment's pip, which is faster, else the pip bundled with Python.

    Raises:
        EnvironmentBuildError: there is no pip.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    ensurepip = importlib.util.find_spec("ensurepip")
    folders = ensurepip.submodule_search_locations if ensurepip is not None else None
    wheels = [
        wheel for folder in folders or () for wheel in Path(folder, "_bundled").glob("pip-*.whl")
    ]
    if not wheels:
        raise EnvironmentBuildError(
            f"{sys.executable} has no pip", hint="install pip into this environment, then try again"
        )
    return [sys.executable, str(wheels[0] / "pip")]


def _run(what: str, command: Sequence[str], log: Log) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentBuildError(f"{command[0]} cannot be run: {error}") from error
    log.detail(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}")
    if done.returncode:
        raise EnvironmentBuildError(
            f"{what}: exit {done.returncode}: {_failure(done.stdout, done.stderr)}",
            hint=(
                "remove the version limits from pip's configuration or PIP_CONSTRAINT"
                if "(constraint)" in done.stdout
                else ""
            ),
        )


def _failure(stdout: str, stderr: str) -> str:
    """The first error of a program; for conflicting dependencies also the conflict."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR", "error"))]
    problem = (errors or lines[-1:] or ["no message"])[0]
    _, _, conflict = stdout.partition("The conflict is caused by:\n")
    causes = "; ".join(line.strip() for line in conflict.partition("\n\n")[0].splitlines())
    return f"{problem} {causes}" if causes else problem
