"""Style that ruff does not check: one name per assignment, flat closures, short lines, plain words.

``UNFINISHED`` lists the folders that still break a rule. Delete a folder there once it is clean.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "transcribe_mcp"
LINE_CHARS = 100

UNFINISHED: dict[str, set[str]] = {
    "assignments": set(),
    "closures": set(),
    "lines": set(),
    "names": set(),
    "phrases": {"tools"},  # a sentence that a model was trained on
}

PRAGMA = re.compile(r"  # (noqa|type:).*$")
# Names of a private vocabulary, for which the field has a word.
NAMES = re.compile(
    r"\b(Ahead|Heard|HeardBatch|KeptBatches|KeptBatch|Unkept|Unencoded|Machinery|Spoken|Directions"
    r"|Ears|DeviceListener|Placed|Turns|TurnConnection|Together|Wish|Ledger|Workshop|Said|Judged"
    r"|EngineWanted|ModelHere|Listener|listener_of|listener_with_cpu_behind|load_with_cpu_behind"
    r"|decode_until|decodes_until|aligns_aside|encodes_aside|early_windows|most_windows|unreported"
    r"|gives_way_to|give_way|beside_others|spoken_anew|hotter|unfinished_twin|keep_house|wanted"
    r"|n_kept|kept_batches|(MOST|LONGEST|FEWEST|LEAST)_[A-Z_]+|AHEAD_PAGES)\b"
)
# Phrases that no manual of a well-known library would use.
PHRASES = re.compile(
    r"\b((is|are|was|were) to be|to be had|what it is|what (is|was) meant|whoever|deaf"
    r"|(is|are|was|were|be|been) told|lets? go of|let go|at hand"
    r"|word times|stretch(es)?|forgets?|forgotten)\b",
    re.IGNORECASE,
)


def sources() -> list[Path]:
    folders = ("src", "benchmarks", "tools", "samples")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def documents() -> list[Path]:
    return sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def folder_of(path: Path) -> str:
    """``media`` of ``src/transcribe_mcp/media/decode.py``, ``tools`` of ``tools/a/b.py``."""
    base = PACKAGE if path.is_relative_to(PACKAGE) else ROOT
    if path.suffix == ".md":
        return path.relative_to(ROOT).as_posix()
    return path.relative_to(base).parts[0]


def parallel_assignments(tree: ast.AST) -> Iterator[int]:
    """Lines of ``a, b = x, y``. A swap such as ``a, b = b, x`` is no such assignment."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)):
            continue
        values = {ast.unparse(value) for value in node.value.elts}
        for target in node.targets:
            if not (isinstance(target, ast.Tuple) and len(target.elts) == len(node.value.elts)):
                continue
            if not values & {ast.unparse(each) for each in target.elts}:
                yield node.lineno


def deep_closures(tree: ast.AST, depth: int = 0) -> Iterator[int]:
    """Lines of functions inside a function that is inside a function."""
    for node in ast.iter_child_nodes(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and depth == 2:
            yield getattr(node, "lineno", 0)
        yield from deep_closures(node, depth + is_function)


def breaches(rule: str, path: Path) -> Iterator[int]:
    text = path.read_text(encoding="utf-8")
    if rule in ("assignments", "closures"):
        find = parallel_assignments if rule == "assignments" else deep_closures
        yield from find(ast.parse(text))
        return
    for number, line in enumerate(text.splitlines(), 1):
        is_long = len(PRAGMA.sub("", line)) > LINE_CHARS and "http" not in line
        found = {"lines": is_long, "names": NAMES.search(line), "phrases": PHRASES.search(line)}
        if found[rule]:
            yield number


@pytest.mark.parametrize("rule", UNFINISHED)
def test_sources_and_documents_follow_the_rules_of_style(rule: str) -> None:
    paths = [path for path in sources() if rule != "names" or path.is_relative_to(PACKAGE)]
    paths += documents() if rule == "phrases" else []
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in paths
        if folder_of(path) not in UNFINISHED[rule]
        for line in breaches(rule, path)
    ]
    assert not wrong, "\n".join(wrong)
