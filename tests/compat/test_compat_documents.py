"""The documents say what the program does: one is generated, the other is executed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from transcribe_mcp.compat.cli import main
from transcribe_mcp.compat.docs_page import compatibility_page
from transcribe_mcp.compat.explain import explain
from transcribe_mcp.compat.tables import DATA, table
from transcribe_mcp.compat.versions import version_key

ROOT = Path(__file__).resolve().parents[2]
MACHINES = Path(__file__).with_name("machines")
ORIGINAL = ROOT.parent / "shared" / "original-guide.md"


def rows_of(title: str) -> list[list[str]]:
    """Cells of the first table under a heading of docs/guide.md, without its head."""
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8").partition(f"## {title}\n")[2]
    lines = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("|")]
    tables = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    width = len(tables[0])
    return [row for row in tables[2:] if len(row) == width]


def test_the_compatibility_page_is_what_the_tables_say() -> None:
    written = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    assert written.rstrip() == compatibility_page().rstrip(), (
        "python -m transcribe_mcp.compat document > docs/compatibility.md"
    )


@pytest.mark.parametrize(
    "row", rows_of("Sections and rows"), ids=lambda row: f"{row[0][:40]} {row[-1][:20]}"
)
def test_each_row_of_the_guide_is_handled_by_its_command(
    row: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, _, command, machine, shows = row
    arguments = shlex.split(command.strip("`"))
    code = main([*arguments, "--facts", str(MACHINES / f"{machine}.json")])
    assert shows in capsys.readouterr().out
    assert code in (0, 1, 2)


@pytest.mark.parametrize("row", rows_of("Error texts"), ids=lambda row: row[0][:40])
def test_each_error_text_of_the_guide_is_named(row: list[str]) -> None:
    text, code, _ = row
    assert [found.rule.code for found in explain(text)] == [code]


def test_every_heading_and_error_text_of_the_original_guide_has_a_row() -> None:
    if not ORIGINAL.is_file():
        pytest.skip("the original guide is not beside this checkout")
    original = ORIGINAL.read_text(encoding="utf-8")
    document = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    outside_code = "".join(original.split("```")[::2])
    groups = (
        "PyTorch/CUDA Compatibility Guide",
        "Overview",
        "Tested Working Configurations",
        "Hardware Compatibility",
    )
    groups += (
        "Version Dependency Issues",
        "Installation Troubleshooting",
        "Environment Setup",
        "Installation Commands",
    )
    groups += ("Known Issues and Workarounds", "Future Compatibility", "Quick Reference")
    for line in outside_code.splitlines():
        if line.startswith("#"):
            title = (
                line.lstrip("# ")
                .removeprefix("Problem: ")
                .partition(" (")[0]
                .replace("CUDNN Version", "cuDNN Version")
            )
            assert title in groups or title in document, title
    for text in (
        "libcudnn.so.9: cannot open",
        "libcudnn_ops_infer.so.8",
        "compiled using NumPy 1.x",
        "forward compatibility",
    ):
        assert text in original and text in document


@pytest.mark.parametrize("command", ["doctor", "doctor --models"])
def test_the_example_shows_what_the_recorded_machine_gives(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    example = (ROOT / "docs" / "doctor-example.md").read_text(encoding="utf-8")
    section = example.partition(f"## `transcribe-mcp {command}`: exit ")[2]
    code = main([*command.split(), "--facts", str(MACHINES / "h100-container.json")])
    assert section[0] == str(code)
    assert section.split("```")[1].removeprefix("text").strip() == capsys.readouterr().out.strip()


@pytest.mark.parametrize("path", sorted((DATA / "tables").glob("*.json")), ids=lambda p: p.stem)
def test_a_table_of_versions_has_the_newest_last(path: Path) -> None:
    versions = [
        row["version"]
        for row in table(path.stem).rows
        if "version" in row and "package" not in row  # else one of several packages
    ]
    assert versions == sorted(versions, key=version_key)
