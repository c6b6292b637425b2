"""Distribution: versions agree, and the image, Compose, the bundle and the registry's entry name
what exists.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from mcp_places import home, http_server
from patience import PATIENCE_S

import transcribe_mcp
from transcribe_mcp.frontends.cli.app import app
from transcribe_mcp.jobs import uploads
from transcribe_mcp.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVER = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
MANIFEST = json.loads((ROOT / "mcpb" / "manifest.json").read_text(encoding="utf-8"))
BUNDLE = tomllib.loads((ROOT / "mcpb" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = transcribe_mcp.__version__

COMMAND: Any = typer.main.get_command(app)


def require_accepted(arguments: list[str]) -> None:
    """The command line takes these arguments; nothing runs."""
    command = COMMAND
    rest = list(arguments)
    while hasattr(command, "commands"):
        if rest[0] == "--version":
            return
        command = command.commands[rest.pop(0)]
    command.make_context("x", rest)


def instructions(name: str) -> list[str]:
    """The arguments of an instruction of the Dockerfile, wherever it stands."""
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, flags=re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def lines_of_the_page() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def test_every_version_is_that_of_the_package() -> None:
    [label] = re.findall(r'image\.version="([^"]+)"', DOCKERFILE)
    packages = {one["registryType"]: one for one in SERVER["packages"]}
    found = {
        "server.json": SERVER["version"],
        "pypi": packages["pypi"]["version"],
        "oci": packages["oci"]["identifier"].rpartition(":")[2],
        "image": label,
        "bundle": MANIFEST["version"],
        "project of the bundle": BUNDLE["version"],
        "requirement of the bundle": BUNDLE["dependencies"][0].rpartition("==")[2],
    }

    assert found == dict.fromkeys(found, VERSION)


def test_the_registry_finds_one_name_everywhere_and_what_its_schema_asks_for() -> None:
    [label] = re.findall(r'io\.modelcontextprotocol\.server\.name="([^"]+)"', DOCKERFILE)
    [comment] = re.findall(r"<!-- mcp-name: (\S+) -->", README)

    assert SERVER["name"] == label == comment
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", SERVER["name"])
    assert 1 <= len(SERVER["description"]) <= 100
    assert set(SERVER["repository"]) == {"url", "source"}
    for package in SERVER["packages"]:
        assert package["transport"] == {"type": "stdio"} and package["identifier"]
        assert all(one["type"] == "positional" for one in package["packageArguments"])
        require_accepted([one["value"] for one in package["packageArguments"]])
        for variable in package.get("environmentVariables", ()):
            require_setting(variable["name"])


def require_setting(name: str) -> None:
    assert name.removeprefix(PREFIX).lower() in {each.name for each in fields(Settings)}, name


def test_the_bundle_starts_a_server_with_what_it_asks_the_user_for() -> None:
    server = MANIFEST["server"]
    configuration = server["mcp_config"]
    arguments = configuration["args"]
    asked = set(re.findall(r"\$\{user_config\.(\w+)\}", json.dumps(configuration)))

    assert (ROOT / "mcpb" / server["entry_point"]).is_file()
    assert arguments[:4] == ["run", "--directory", "${__dirname}", server["entry_point"]]
    require_accepted(arguments[4:])
    assert asked == set(MANIFEST["user_config"])
    for name in configuration["env"]:
        require_setting(name)
    assert BUNDLE["dependencies"] == [f"{PROJECT['name']}=={VERSION}"]
    assert BUNDLE["requires-python"].startswith(PROJECT["requires-python"])
    done = subprocess.run(
        [sys.executable, ROOT / "mcpb" / server["entry_point"], "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout == f"transcribe-mcp {VERSION}\n"


def test_the_image_copies_what_exists_and_its_settings_are_settings() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    copied = [line.split()[:-1] for line in instructions("COPY") if not line.startswith("--from")]
    names = {name for group in copied for name in group}
    assert {f"!{name}" for name in names} == {one for one in ignored if one.startswith("!")}
    assert all((ROOT / name).exists() for name in names)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert set(needed) <= names
    for name in re.findall(rf"\b({PREFIX}\w+)=", DOCKERFILE):
        require_setting(name)
    for extra in re.findall(r"--extra (\w+)", DOCKERFILE):
        assert extra in PROJECT["optional-dependencies"]
    declared = {line.partition("=")[0] for line in instructions("ARG")}
    assert set(re.findall(r"\$\{?([A-Z]+)\b", DOCKERFILE)) <= declared | {"PATH"}


def test_the_steps_of_the_image_are_valid_for_a_shell() -> None:
    steps = instructions("RUN")
    assert len(steps) == 4
    for step in steps:
        subprocess.run(["sh", "-n", "-c", step], check=True, timeout=PATIENCE_S)


def uv_options(arguments: list[str]) -> set[str]:
    """The options of a command of uv, from its own help."""
    uv = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    command = [uv, *arguments, "--help"]
    text = subprocess.check_output(command, text=True, timeout=PATIENCE_S)
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text))


def commands_of_uv() -> Iterator[list[str]]:
    for step in instructions("RUN"):
        yield from map(shlex.split, re.findall(r"\buv [a-z][^;&]*", step))
    yield from (words for words in lines_of_the_page() if words[:1] in (["uv"], ["uvx"]))


def test_every_option_of_uv_exists() -> None:
    checked = 0
    for program, *words in commands_of_uv():
        n_names = 2 if words[0] in ("pip", "tool") else 1
        names = ["tool", "run"] if program == "uvx" else words[:n_names]
        ours = words[: words.index("transcribe-mcp")] if program == "uvx" else words
        assert {word for word in ours if word.startswith("-")} <= uv_options(names), words
        checked += 1
    assert checked >= 8


def test_the_health_check_of_the_image_tells_a_server_that_answers_from_none(
    tmp_path: Path,
) -> None:
    [check] = re.findall(r"HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)
    [default] = instructions("CMD")
    assert json.loads(default)[:2] == ["serve", "--http"]
    require_accepted(json.loads(default))
    _, flag, code = json.loads(check)

    def health(port: str) -> int:
        command = [sys.executable, flag, code.replace("8765", port)]
        return subprocess.run(command, capture_output=True, timeout=PATIENCE_S).returncode

    with (
        home(tmp_path / "home", TOKEN="0123456789abcdef") as place,
        http_server(place, *json.loads(default)[2:]) as url,
    ):
        port = re.findall(r":(\d+)", url)[0]
        up = health(port)
    assert (up, health(port)) == (0, 1)
    assert instructions("EXPOSE") == ["8765"]


def test_compose_starts_what_the_command_line_knows_with_settings_that_exist() -> None:
    services = COMPOSE["services"]
    data_dir = re.findall(rf"{PREFIX}DATA_DIR=(\S+)", DOCKERFILE)[0]
    for name in ("server", "worker"):
        service = services[name]
        require_accepted(service["command"])
        for variable in service["environment"]:
            if variable.startswith(PREFIX):
                require_setting(variable)
        mounts = [
            volume.split(":")[-2 if volume.endswith(":ro") else -1] for volume in service["volumes"]
        ]
        assert f"{data_dir}/{uploads.FOLDER}" in mounts and data_dir not in mounts, "one for each"
        assert service["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["worker"]["deploy"]["replicas"] == 3
    assert services["worker"]["healthcheck"] == {"disable": True}
    assert services["server"]["environment"][f"{PREFIX}START_WORKERS"] == "0"
    named = {volume.split(":")[0] for one in services.values() for volume in one["volumes"]}
    assert {name for name in named if not name.startswith("$")} == set(COMPOSE["volumes"])
    database = services["database"]["environment"]
    url = services["worker"]["environment"][f"{PREFIX}DATABASE_URL"]
    assert url.startswith(f"postgresql://{database['POSTGRES_USER']}:")
    assert url.endswith(f"@database/{database['POSTGRES_DB']}")
    required = set(re.findall(r"\$\{(\w+):\?", (ROOT / "compose.yaml").read_text(encoding="utf-8")))
    assert required == {"TRANSCRIBE_MCP_TOKEN", "POSTGRES_PASSWORD"}
    cuda = yaml.safe_load((ROOT / "compose.cuda.yaml").read_text(encoding="utf-8"))["services"]
    assert set(cuda) <= set(services)
    assert all(one["build"]["args"] == {"VARIANT": "cuda"} for one in cuda.values())


def after_image(words: list[str]) -> list[str]:
    """What the container gets: the words after the name of the image."""
    place = next(n for n, word in enumerate(words) if word.split(":")[0] == "transcribe-mcp")
    return words[place + 1 :]


def test_every_command_of_the_page_is_one_that_the_program_takes() -> None:
    n_checked = 0
    for words in lines_of_the_page():
        if words[:1] == ["transcribe-mcp"]:
            arguments = words[1:]
        elif words[:2] == ["docker", "run"]:
            arguments = after_image(words)
        elif words[:3] == ["docker", "compose", "run"]:
            arguments = words[words.index("worker") + 1 :]
        elif words[:1] == ["uvx"]:
            arguments = words[words.index("transcribe-mcp") + 1 :]
        else:
            continue
        if arguments:
            require_accepted(arguments)
            n_checked += 1
    assert n_checked >= 10


def test_the_page_names_only_files_and_directories_that_exist() -> None:
    mounted = {"/data", "/models", "/recordings"}
    targets = set(re.findall(r"-v \S+?:(/\w+)", " ".join(blocks("sh"))))
    assert targets <= mounted
    for name in re.findall(r"\]\((?!http|#)([^)#]+)", PAGE):
        assert (ROOT / "docs" / name).resolve().exists(), name
    for name in re.findall(r"-f (\S+\.yaml)", PAGE):
        assert (ROOT / name).exists(), name
