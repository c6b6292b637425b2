"""``docs/compatibility.md``, written from the tables; a test fails where the file and the tables differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import tables
from .memory import Geometry, geometries, geometry, memory_need
from .rules import AREAS, RULES, SIGNS

_HEAD = """# Compatibility

Written by `python -m transcribe_mcp.compat document` from the tables in `src/transcribe_mcp/compat/data`; do not edit.
Each table names the page to check it against. For your machine: `transcribe-mcp doctor`, `doctor --plan`,
`doctor --models`; for a log: `doctor --explain FILE`; for what is newer than this page:
`transcribe-mcp compat updates`.
"""
_TABLES: Mapping[str, Mapping[str, str]] = {
    "ctranslate2": {
        "version": "CTranslate2",
        "released": "released",
        "built_with_cuda": "CUDA",
        "cudnn_major": "cuDNN",
        "sass": "machine code",
        "ptx_isa": "PTX version",
        "driver_sass": "driver, up to 8.9",
        "driver_jit": "driver, 9.0 and newer",
        "python": "Python",
        "blackwell_int8": "int8 on 12.x",
        "imports_torch": "imports torch",
    },
    "torch": {
        "minor": "torch",
        "released": "released",
        "cuda": "CUDA on PyPI",
        "cudnn_pin": "cuDNN pin",
        "libcublas12": "brings libcublas.so.12",
        "python": "Python",
        "numpy2": "NumPy 2",
        "variants": "variants",
        "driver_linux": "driver",
        "avoid": "avoid",
    },
    "torch_variants": {
        "variant": "variant",
        "from": "from torch",
        "to": "to torch",
        "cc": "compute capabilities",
    },
    "drivers": {"cuda_major": "CUDA", "linux": "Linux driver", "windows": "Windows driver"},
    "toolkits": {"toolkit": "toolkit", "driver": "driver"},
    "whisperx": {
        "version": "WhisperX",
        "released": "released",
        "yanked": "withdrawn",
        "requires_python": "Python",
        "torch": "torch",
        "ctranslate2": "ctranslate2",
        "pyannote_audio": "pyannote.audio",
        "numpy": "numpy",
        "huggingface_hub": "huggingface-hub",
    },
    "pyannote_audio": {
        "version": "pyannote.audio",
        "released": "released",
        "requires_python": "Python",
        "torch": "torch",
        "torchaudio": "torchaudio",
        "torchcodec": "torchcodec",
        "lightning": "lightning",
        "note": "note",
    },
    "faster_whisper": {
        "version": "faster-whisper",
        "released": "released",
        "requires_python": "Python",
        "ctranslate2": "ctranslate2",
        "av": "av",
        "onnxruntime": "onnxruntime",
    },
    "torchaudio": {
        "version": "torchaudio",
        "released": "released",
        "torch": "declares torch",
        "note": "note",
    },
    "torchcodec": {
        "version": "torchcodec",
        "released": "released",
        "torch": "works with torch",
        "ffmpeg": "FFmpeg",
        "cuda_major": "needs CUDA on Linux",
        "python": "Python",
    },
    "ffmpeg": {"ffmpeg": "FFmpeg", "libavutil": "libavutil.so."},
}
_BATCHES = (1, 16)


def compatibility_page() -> str:
    """The whole page as Markdown."""
    blocks = [_HEAD]
    for name, columns in _TABLES.items():
        one = tables.table(name)
        title = next(iter(columns.values()))
        blocks.append(
            f"## {title[0].upper()}{title[1:]}\n\n{_sentence(one.about)} [Source]({one.source}), {one.as_of}.\n"
        )
        blocks.append(
            _markdown(
                list(columns.values()),
                [[_cell(row.get(key)) for key in columns] for row in one.rows],
            )
        )
    blocks += [_memory(), _measured(), _rules()]
    return "\n".join(blocks)


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _cell(value: Any) -> str:
    if value is None or value == "" or value is False:
        return "–"
    if value is True or value == 0:
        return "yes" if value else "none"
    if isinstance(value, list):
        return ", ".join(
            f"{each // 10}.{each % 10}" if isinstance(each, int) else str(each) for each in value
        )
    return str(value).replace("|", "\\|")


def _memory() -> str:
    guide = {row["model"]: row for row in tables.table("guide_memory").rows}
    columns = [
        (precision, batch) for precision in ("float16", "int8_float16") for batch in _BATCHES
    ]
    head = [
        "model",
        *(f"{precision}, batch {batch}" for precision, batch in columns),
        "the original guide",
    ]
    rows = []
    for shape in geometries():
        cells = [_gigabytes(shape, precision, batch) for precision, batch in columns]
        said = guide.get("large" if shape.model == "large-v3" else shape.model)
        cells.append(f"{said['minimum_gb']}, better {said['recommended_gb']}" if said else "–")
        rows.append([shape.model, *cells])
    words = (
        "GB of GPU memory for CTranslate2 at beam 1, computed from the model's dimensions (`memory.py`); in brackets\n"
        "what `benchmarks/memory_model.py` measured on the devices of the table below. The original guide's figures\n"
        "stand beside: it knew neither batch nor precision."
    )
    return f"## Memory\n\n{words}\n\n{_markdown(head, rows)}"


def _gigabytes(shape: Geometry, precision: str, batch: int) -> str:
    """Computed, and measured where it was."""
    computed = memory_need(shape, "ctranslate2", precision, batch).total_bytes
    wanted = ("ctranslate2", shape.model, precision, batch)
    measured = [
        f" ({row['measured_bytes'] / 1e9:.1f})"
        for row in tables.table("memory_measured").rows
        if (row["engine"], row["model"], row["precision"], row["batch"]) == wanted
    ]
    return f"{computed / 1e9:.1f}" + "".join(measured[:1])


def _measured() -> str:
    one = tables.table("memory_measured")
    head = [
        "engine",
        "model",
        "precision",
        "batch",
        "measured GB",
        "predicted GB",
        "error",
        "device",
    ]
    rows = []
    for row in one.rows:
        predicted = memory_need(
            geometry(row["model"]), row["engine"], row["precision"], row["batch"]
        ).total_bytes
        numbers = (row["measured_bytes"] / 1e9, predicted / 1e9)
        shown = [f"{number:.2f}" for number in numbers] + [f"{numbers[1] / numbers[0] - 1:+.0%}"]
        named = [row["engine"], row["model"], row["precision"], str(row["batch"])]
        rows.append([*named, *shown, f"{row['device']}, {row['version']}"])
    blocks = [f"### Measured\n\n{_sentence(one.about)} {one.as_of}.\n", _markdown(head, rows)]
    return "\n".join(blocks)


def _rules() -> str:
    blocks = ["## Findings\n"]
    for area, title in AREAS.items():
        rows = list(_rule_rows(area))
        blocks.append(
            f"### {title}\n\n{_markdown(['code', 'what', 'why', 'what follows', 'way out', 'source'], rows)}"
        )
    return "\n".join(blocks)


def _rule_rows(area: str) -> Iterator[list[str]]:
    for rule in RULES:
        if rule.area == area:
            ways = "<br>".join(f"`{_cell(command)}`" for command in rule.commands()) or "–"
            sign = SIGNS[rule.severity]
            yield [
                f"{sign} {rule.code}",
                *map(_cell, (rule.title, rule.cause, rule.consequence)),
                ways,
                f"[page]({rule.source})",
            ]
