"""Read CTranslate2's library and torch's version file without importing either."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from ..facts import Fact, known, known_or, unknown
from ..gpu_binaries import read_gpu_code
from .files import entries_of, text_of
from .packages import installed_folders, package_folder

_LIBRARY = re.compile(r"(?:lib)?ctranslate2[^/]*\.(?:so[.0-9]*|dll|dylib)")
_CUDA_LINE = re.compile(r"^cuda(?::[^=]+)?\s*=\s*(?:'([^']*)'|\"([^\"]*)\"|None)", re.MULTILINE)
_VERSION_LINE = re.compile(r"^__version__(?::[^=]+)?\s*=\s*['\"]([^'\"]+)", re.MULTILINE)


def probe_torch() -> Iterator[Fact]:
    if "torch" not in installed_folders():
        yield unknown("torch.cuda", "torch is not installed")
        return
    folder = package_folder("torch", "torch")
    text = text_of(folder / "version.py") if folder else None
    if text is None:
        yield unknown("torch.version", "torch/version.py is missing")
        yield unknown("torch.cuda", "torch/version.py is missing")
        return
    source = str(folder / "version.py") if folder else ""
    version = _VERSION_LINE.search(text)
    cuda = _CUDA_LINE.search(text)
    reason = f"not in {source}"
    yield known_or("torch.version", version[1] if version else None, source, reason)
    yield known_or("torch.cuda", cuda[1] or cuda[2] or "cpu" if cuda else None, source, reason)


def ctranslate2_libraries() -> list[Path]:
    """Candidates for CTranslate2's library, the largest first: that is the real one."""
    found = []
    for inner in ("ctranslate2.libs", "ctranslate2", "ctranslate2/.dylibs"):
        folder = package_folder("ctranslate2", inner)
        files = entries_of(folder) if folder else []
        found += [path for path in files if _LIBRARY.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.stat().st_size, reverse=True)


def probe_ctranslate2() -> Iterator[Fact]:
    name = "ctranslate2.binary"
    if "ctranslate2" not in installed_folders():
        yield unknown(name, "ctranslate2 is not installed")
        return
    paths = ctranslate2_libraries()
    if not paths:
        yield unknown(name, "the package is installed but its library is missing")
        return
    try:
        code = read_gpu_code(paths[0])
    except (OSError, ValueError) as error:
        yield unknown(name, f"{paths[0]} cannot be read: {error}")
        return
    shim = [path.name for path in entries_of(paths[0].parent) if path.name.startswith("libcudnn")]
    value = {
        key: list(item) if isinstance(item, tuple) else item for key, item in asdict(code).items()
    }
    yield known(name, value | {"cudnn_shim": shim[0] if shim else ""}, str(paths[0]))
