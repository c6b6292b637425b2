"""No test depends on how fast the machine is."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent

# Calls that read a clock or wait for one, by the module that they are of.
CLOCKS = {
    "time": {"sleep", "monotonic", "perf_counter", "process_time", "time"},
    "asyncio": {"sleep"},
    "anyio": {"sleep"},
}
WAITS = {"acquire", "communicate", "join", "result", "run", "wait", "wait_for"}


def test_tests_read_no_clock_and_wait_for_no_length_of_time() -> None:
    """A busy machine fails no test. What waits, waits for a condition; its guard is
    ``patience.PATIENCE_S``.

    Less than a second is a pause between two looks.
    """

    def number(node: ast.expr) -> bool:
        return (
            isinstance(node, ast.Constant)
            and isinstance(node.value, int | float)
            and node.value >= 1
        )

    def is_timed(call: ast.Call) -> bool:
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        owner = getattr(getattr(call.func, "value", None), "id", "")
        if name in CLOCKS.get(owner, set()):
            return owner == "time" or any(map(number, call.args))
        limits = [keyword.value for keyword in call.keywords if "timeout" in (keyword.arg or "")]
        deadlines = [
            keyword.value
            for keyword in call.keywords
            if keyword.arg == "deadline" and name == "settings"
        ]
        limits += call.args if name in WAITS else []
        return any(map(number, limits)) or any(
            not isinstance(d, ast.Constant) or d.value for d in deadlines
        )

    wrong = [
        f"{path.relative_to(TESTS)}:{node.lineno}"
        for path in sorted(TESTS.rglob("*.py"))
        if path.name != "patience.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Call) and is_timed(node))
        or (
            isinstance(node, ast.ImportFrom)
            and set(CLOCKS.get(str(node.module), ())) & {a.name for a in node.names}
        )
    ]

    assert not wrong, "\n".join(wrong)
