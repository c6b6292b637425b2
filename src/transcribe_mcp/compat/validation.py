"""The type of each fact's value. Hostile files are rejected, so rules need no further checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

MAX_NUMBER = 2**63
MAX_TEXT_CHARS = 20_000
MAX_ITEMS = 5_000
Shape = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT_CHARS


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (
        isinstance(value, float) and math.isfinite(value) and abs(value) < MAX_NUMBER
    )


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _list_of(shape: Shape) -> Shape:
    return lambda value: (
        isinstance(value, list) and len(value) <= MAX_ITEMS and all(map(shape, value))
    )


def _mapping_to(shape: Shape) -> Shape:
    return lambda value: (
        isinstance(value, dict)
        and len(value) <= MAX_ITEMS
        and all(map(_is_text, value))
        and all(map(shape, value.values()))
    )


def _record(**fields: Shape) -> Shape:
    """A record: known fields have their shape or are null, other fields hold plain values."""

    def fits(value: Any) -> bool:
        return isinstance(value, dict) and all(
            item is None or (fields[key](item) if key in fields else _is_plain(item))
            for key, item in value.items()
        )

    return fits


def _is_plain(value: Any) -> bool:
    return value is None or _is_text(value) or _is_flag(value) or _is_number(value)


_texts = _list_of(_is_text)
_wholes = _list_of(_is_whole)
_GPU = _record(
    name=_is_text,
    uuid=_is_text,
    compute_capability=_is_text,
    memory_total_bytes=_is_whole,
    memory_free_bytes=_is_whole,
    mig=_is_flag,
    ecc=_is_flag,
)
_LIBRARY = _record(name=_is_text, path=_is_text, where=_is_text, real=_is_text)
_BINARY = _record(
    sass=_wholes,
    ptx=_wholes,
    ptx_isa=_is_text,
    cublas_major=_is_whole,
    cudnn_major=_is_whole,
    cudnn_shim=_is_text,
)
_OPERATION = _record(
    end=_is_text,
    tail=_is_text,
    took_s=_is_number,
    steps=_texts,
    providers=_texts,
    version=_is_text,
    device=_is_text,
)
SHAPES: Mapping[str, Shape] = {
    "os.wsl": _is_flag,
    "python.bits": _is_whole,
    "python.in_venv": _is_flag,
    "python.free_threaded": _is_flag,
    "cpu.logical": _is_count,
    "cpu.usable": _is_count,
    "cpu.physical": _is_count,
    "cpu.quota": lambda value: _is_number(value) and value > 0,
    "cpu.flags": _texts,
    "cpu.translated": _is_flag,
    "memory.total_bytes": _is_count,
    "memory.available_bytes": _is_whole,
    "memory.limit_bytes": _is_count,
    "disk.free_bytes": _is_whole,
    "packages.installed": _mapping_to(_is_text),
    "packages.requires": _mapping_to(_texts),
    "packages.doubled": _texts,
    "ctranslate2.binary": _BINARY,
    "libraries.cublas": _list_of(_LIBRARY),
    "libraries.cudnn": _list_of(_LIBRARY),
    "libraries.winners": _mapping_to(_is_text),
    "ffmpeg.libavutil": _wholes,
    "environment.variables": _mapping_to(_is_text),
    "environment.secrets": _mapping_to(_is_flag),
    "tools.for_triton": _mapping_to(_is_flag),
    "nvidia.devices": _texts,
    "nvidia.pci": _texts,
    "nvidia.gpus": _list_of(_GPU),
    "nvidia.nvml_code": _is_whole,
    "nvidia.cuinit": _is_whole,
    "nvidia.cuda_version": _is_whole,
}


def fits_shape(name: str, value: Any) -> bool:
    """Whether ``value`` is valid for fact ``name``; facts without a shape are text."""
    if name.startswith("deep."):
        return _OPERATION(value)
    return SHAPES.get(name, _is_text)(value)
