"""The rules that keep the parts apart, as one table, read from the source with ``ast``."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest
from patience import PATIENCE_S

import transcribe_mcp
from transcribe_mcp import errors
from transcribe_mcp.engines import ENGINES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "transcribe_mcp"

# --- the table ------------------------------------------------------------------------------------

BASE = {"errors", "settings", "domain"}
SOURCES = {"media", "speech", "models"}  # a recording -> windows; a name -> a model's files
FLOW = {"engines", "runtime", "speakers", "pipeline"}  # windows -> transcript

# Which parts a part may import. A part is a file or a folder beside __init__.py.
SEES: dict[str, set[str]] = {
    **dict.fromkeys(BASE, BASE),
    "compat": set(),
    "media": BASE,
    "models": BASE | {"compat"},
    "speech": BASE | {"compat"},
    "formats": BASE,
    "align": BASE | {"speech"},
    "speakers": BASE | {"models", "speech"},
    "engines": BASE | {"align", "models", "speech", "compat"},
    "runtime": BASE | {"engines", "speech", "compat"},
    "pipeline": BASE | {"align", "engines", "media", "runtime", "speakers", "speech"},
    "jobs": BASE | SOURCES | FLOW | {"align", "formats", "compat"},
    "live": BASE | SOURCES | FLOW | {"jobs"},
    "quality": BASE | SOURCES | FLOW | {"align", "compat"},
    "service": BASE | SOURCES | FLOW | {"formats", "jobs", "live", "quality", "compat"},
    "frontends": {"errors", "domain", "service"},
    "__main__": {"compat", "domain", "errors", "frontends"},
}

# What users start. Other files in the folder are helpers that a front end may import.
FRONT_ENDS = {"frontends.cli.app", "frontends.http.start", "frontends.mcp.server"}

# Door files: the only modules that import a package. A folder stands for all its modules.
DOORS: dict[str, set[str]] = {
    "anyio": {f"frontends.{name}" for name in ("http.stream", "mcp.server", "mcp.stdio")},  # events
    "av": {"media"},
    "docx": {"formats.word"},
    "dbos": {"jobs.queue", "jobs.workflows"},
    "filelock": {"frontends.page_address", "models", "jobs.worker_process", "speakers.voice_store"},
    "fsspec": {"media.object_storage"},
    "ctranslate2": {"engines.ctranslate2", "models.weights"},
    "huggingface_hub": {"models.hub"},
    "icu4py": {"domain.text_breaks"},
    "mcp": {"frontends.mcp.sdk"},
    "numpy": SOURCES | FLOW - {"runtime"} | {"align", "quality", "runtime.failover"},
    "onnxruntime": {"speech.detector"},
    "platformdirs": {"settings"},
    "pydantic": {"frontends"},  # the schemas of tools and answers
    "rich": {"frontends"},
    "sounddevice": {"media.microphone"},
    "sqlalchemy": {"jobs"},
    **{name: {"frontends.http"} for name in ("python_multipart", "sse_starlette", "starlette")},
    "tokenizers": {"models.conversion", "engines.tokenizer"},  # writing tokenizers, using them
    "torch": {"speakers", "quality.bench", "engines.whisper"}
    | {f"speech.{name}" for name in ("features_torch", "silero_gpu", "lstm_kernels")},
    "triton": {"engines.whisper", "speech.lstm_kernels"},
    "typer": {"frontends.cli"},
    "uvicorn": {"frontends.host", "frontends.limited_protocol"}
    | {"frontends.stoppable_server", "frontends.websocket_protocol"},
    "wcwidth": {"domain.text_breaks"},
}

# What importing a front end or the package must not load, nor reading and watching jobs.
HEAVY = {
    "av", "ctranslate2", "dbos", "faster_whisper", "fsspec", "icu4py", "numpy", "onnxruntime",
    "tokenizers", "torch", "wcwidth",
}  # fmt: skip
JOB_READERS = [f"transcribe_mcp.jobs.{name}" for name in ("store", "supervisor", "job_options")]

FILE_LINES = 460
FUNCTION_LINES = 60
PARAMETERS = 6
FILE_LINES_OF = {"engines.whisper": 600}
FUNCTION_LINES_OF = {"pipeline.offline": 100}
# Parameters are options (typer) or arguments (MCP); Triton compiles a kernel ("jit") whole.
EXEMPT_DECORATORS = {"command", "callback", "tool", "jit"}
# Packages that another one brings along wherever it needs them.
COMES_WITH = {"anyio": "mcp", "docx": "python_docx", "triton": "torch"}
# Calls that fail a test.
FAILING_CALLS = {"check_schema", "fail", "raises", "validate", "warns"}

# Where Exception is caught and not raised again, and why.
BROAD_EXCEPT = {
    "compat.probes": "a guarded probe: the doctor has to survive any broken machine",
    "jobs.output_writer": "a file that cannot be written must not take the others with it",
    "jobs.group_commit": "the error of the thread that works is carried to those that it works for",
    "jobs.worker": "a job that fails must not take the others with it",
    "frontends.mcp.notices": "a client that has gone, in whatever way its transport says so",
    "live.session": "a session that fails must not take the others with it",
    "models.hub": "the downloading thread's error is carried to the thread that waits",
    "pipeline.offline": "speakers that fail must not take the transcript with them",
    "pipeline.feeder": "the error of its thread is carried to the owner of the recording",
    "runtime": "the error of a thread or a model is carried to the owners of the recordings",
}

# --- reading the source ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Module:
    name: str  # dotted, below the package
    path: Path

    @property
    def part(self) -> str:
        return self.name.split(".")[0]

    def below(self, prefixes: set[str]) -> bool:
        return any(self.name == prefix or self.name.startswith(f"{prefix}.") for prefix in prefixes)


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file's syntax tree."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))))


@pytest.fixture(scope="module", autouse=True)
def _free_nodes() -> Iterator[None]:
    """Millions of objects would slow down the garbage collector in the tests that follow."""
    yield
    nodes.cache_clear()


@cache
def modules() -> list[Module]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(names[:-1] if names[-1] == "__init__" else names)
        if name:  # the package's own __init__ is the public door, tested below
            found.append(Module(name, path))
    return found


@cache
def python_files() -> list[Path]:
    folders = ("src", "tests", "benchmarks", "samples", "tools")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def imported(module: Module) -> tuple[str, ...]:
    """Absolute dotted names of everything that a module imports, wherever in it."""
    is_package = module.path.name == "__init__.py"
    here = ["transcribe_mcp", *module.name.split("."), *([""] if is_package else [])]
    found: list[str] = []
    for node in nodes(module.path):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = here[: -node.level] if node.level else []
            base = ".".join(filter(None, (*package, node.module)))
            found += [
                name if known(name := f"{base}.{alias.name}") else base for alias in node.names
            ]
    return tuple(found)


def known(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def own(name: str) -> str | None:
    """``engines.fake`` of ``transcribe_mcp.engines.fake``; None outside the package."""
    return name.removeprefix("transcribe_mcp.") if name.startswith("transcribe_mcp.") else None


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (
        node for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def decorators(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    calls = (node.func if isinstance(node, ast.Call) else node for node in function.decorator_list)
    return {
        node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "") for node in calls
    }


def budget(module: Module, special: dict[str, int], usual: int) -> int:
    return next((limit for prefix, limit in special.items() if module.below({prefix})), usual)


def place(path: Path, node: ast.AST | None = None) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


# --- the rules ------------------------------------------------------------------------------------


def test_every_file_of_the_package_is_in_the_table() -> None:
    assert {module.part for module in modules()} - set(SEES) == set()


def test_imports_go_down_only() -> None:
    wrong = [
        f"{module.name} imports {name}"
        for module in modules()
        for name in sorted(set(filter(None, map(own, imported(module)))))
        if name.split(".")[0] not in SEES.get(module.part, set()) | {module.part}
    ]

    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module.name: {
            name for name in filter(None, map(own, imported(module))) if name != module.name
        }
        for module in modules()
    }

    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")
    assert set(graph) <= set(order)


def test_front_ends_do_not_see_each_other() -> None:
    wrong = [
        f"{module.name} imports {name}"
        for module in modules()
        if module.part == "frontends"
        for name in set(filter(None, map(own, imported(module)))) & FRONT_ENDS - {module.name}
    ]

    assert not wrong, "\n".join(wrong)


def test_every_third_party_package_is_imported_through_its_door_only() -> None:
    wrong = [
        f"{module.name} imports {package}"
        for module in modules()
        for package in sorted(
            {name.split(".")[0] for name in imported(module)} - {"transcribe_mcp", ""}
        )
        if package not in sys.stdlib_module_names and not module.below(DOORS.get(package, set()))
    ]

    assert not wrong, "\n".join(wrong)


def test_every_third_party_package_that_is_imported_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = [
        *project["dependencies"],
        *(need for extra in project["optional-dependencies"].values() for need in extra),
    ]
    declared = {re.split(r"[^A-Za-z0-9_-]", need)[0].replace("-", "_") for need in required}
    used = {name.split(".")[0] for module in modules() for name in imported(module)} & set(DOORS)

    assert {COMES_WITH.get(name, name) for name in used} - declared == set()


@cache
def imported_in_child(*names: str) -> dict[str, set[str]]:
    """Name -> top-level packages of an interpreter that has imported it and the names before it."""
    code = f"import sys\nfor name in {names!r}: __import__(name); print(name, *sys.modules)"
    rows = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=PATIENCE_S)
    each = map(str.split, rows.splitlines())
    return {name: {module.split(".")[0] for module in loaded} for name, *loaded in each}


def light() -> list[str]:
    parts = ("frontends", "service", "__main__")
    found = [f"transcribe_mcp.{module.name}" for module in modules() if module.part in parts]
    return ["transcribe_mcp", *found, *JOB_READERS]


@pytest.mark.parametrize("name", light())
def test_importing_a_front_end_loads_nothing_heavy(name: str) -> None:
    assert imported_in_child(*light())[name] & HEAVY == set()


def test_compat_loads_nothing_but_the_standard_library() -> None:
    names = [f"transcribe_mcp.{module.name}" for module in modules() if module.part == "compat"]
    before, *_, loaded = imported_in_child("sys", *names).values()

    assert loaded - before - sys.stdlib_module_names == {"transcribe_mcp"}


def test_files_and_functions_are_short() -> None:
    of_package = {module.path: module for module in modules()}
    wrong = []
    for path in python_files():
        module = of_package.get(path, Module("", path))
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > (limit := budget(module, FILE_LINES_OF, FILE_LINES)):
            wrong.append(f"{place(path)} has {lines} lines of {limit}")
        limit = budget(module, FUNCTION_LINES_OF, FUNCTION_LINES)
        for function in functions(path):
            lines = (function.end_lineno or 0) - function.lineno + 1
            if lines > limit and not decorators(function) & EXEMPT_DECORATORS:
                wrong.append(
                    f"{place(path, function)} {function.name} has {lines} lines of {limit}"
                )

    assert not wrong, "\n".join(wrong)


def test_functions_take_at_most_six_parameters_or_a_record() -> None:
    wrong = []
    for path in python_files():
        for function in functions(path):
            arguments = function.args
            names = [
                a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
            ]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            if count > PARAMETERS and not decorators(function) & EXEMPT_DECORATORS:
                wrong.append(f"{place(path, function)} {function.name} takes {count} parameters")

    assert not wrong, "\n".join(wrong)


def test_exceptions_are_caught_by_name() -> None:
    def is_broad(handler: ast.ExceptHandler) -> bool:
        caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        names = {node.id for node in caught if isinstance(node, ast.Name)}
        raises_again = any(isinstance(node, ast.Raise) for node in handler.body)
        return (
            handler.type is None or bool(names & {"Exception", "BaseException"})
        ) and not raises_again

    broad = [
        (module, place(module.path, node))
        for module in modules()
        for node in nodes(module.path)
        if isinstance(node, ast.ExceptHandler) and is_broad(node)
    ]

    assert [where for module, where in broad if not module.below(set(BROAD_EXCEPT))] == []
    assert [
        name for name in BROAD_EXCEPT if not any(module.below({name}) for module, _ in broad)
    ] == []


def test_no_work_is_left_for_later() -> None:
    marks = re.compile(
        r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b"
    )  # written so that this line is not found
    texts = [
        path
        for pattern in ("*.md", "docs/*.md", ".ci/*")
        for path in ROOT.glob(pattern)
        if path.is_file()
    ]

    assert [
        place(p) for p in (*python_files(), *texts) if marks.search(p.read_text(encoding="utf-8"))
    ] == []


def all_tests() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        yield from ((path, node) for node in functions(path) if node.name.startswith("test_"))


def test_every_test_can_fail() -> None:
    def can_fail(node: ast.AST) -> bool:
        called = getattr(node, "func", None)
        name = getattr(called, "attr", getattr(called, "id", ""))
        return isinstance(node, ast.Assert) or name in FAILING_CALLS or name.startswith("assert_")

    assert [
        place(path, test) for path, test in all_tests() if not any(map(can_fail, ast.walk(test)))
    ] == []


def test_no_test_sleeps() -> None:
    def sleeps(node: ast.AST) -> bool:
        name = getattr(node, "attr", getattr(node, "id", ""))
        return isinstance(node, ast.Attribute | ast.Name) and name == "sleep"

    paths = (ROOT / "tests").rglob("*.py")
    assert [place(path, node) for path in paths for node in nodes(path) if sleeps(node)] == []


# --- the public names -----------------------------------------------------------------------------


def test_every_public_name_can_be_imported_and_nothing_else_is_promised() -> None:
    for name in transcribe_mcp.__all__:
        assert getattr(transcribe_mcp, name) is not None
    assert dir(transcribe_mcp) == sorted(transcribe_mcp.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = transcribe_mcp.no_such_name


def test_every_engine_has_its_file_and_its_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]

    for name, entry in ENGINES.items():
        assert known(f"transcribe_mcp.engines{entry.module}"), name
        assert entry.extra is None or entry.extra in extras, name


def error_classes(
    root: type[errors.TranscribeError] = errors.TranscribeError,
) -> list[type[errors.TranscribeError]]:
    return [root, *(found for child in root.__subclasses__() for found in error_classes(child))]


def test_every_error_class_has_a_code_of_its_own_and_a_place_in_the_tree() -> None:
    codes = [vars(found).get("code") for found in error_classes()]

    assert None not in codes
    assert all(before != after for before, after in pairwise(sorted(map(str, codes))))
    assert [
        found.__name__ for found in error_classes() if found.__name__ not in str(errors.__doc__)
    ] == []


def test_every_error_class_is_documented_with_its_status_and_exit_code() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in page.splitlines()
    ]
    documented = {
        tuple(row[i] for i in (0, 1, 3, 4)): row[2]
        for row in rows
        if len(row) == 5 and row[3].isdigit()
    }

    expected = {(e.code, e.__name__, str(e.http_status), str(e.exit_code)) for e in error_classes()}

    assert set(documented) == expected
    assert all(documented.values())
