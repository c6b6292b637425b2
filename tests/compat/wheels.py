"""Small wheels made on the spot, so that environments can be built without a network."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest


def write_wheel(
    folder: Path, name: str, version: str, source: str = "", requires: tuple[str, ...] = ()
) -> Path:
    """A pure wheel with one module ``name`` of this source."""
    module = name.replace("-", "_")
    path = folder / f"{module}-{version}-py3-none-any.whl"
    info = f"{module}-{version}.dist-info"
    lines = [
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}",
        *(f"Requires-Dist: {line}" for line in requires),
    ]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}.py", source)
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


# Stands where onnxruntime would: the operation that verifies an environment runs through this
# module.
WORKING_ONNXRUNTIME = """
__version__ = "1.0"
class InferenceSession:
    def __init__(self, model, providers): pass
    def run(self, names, inputs):
        class Sum(list):
            def tolist(self): return [2.0] * 4
        return (Sum(),)
def get_available_providers(): return ["CPUExecutionProvider"]
"""
WORKING_NUMPY = "float32 = 'float32'\ndef ones(n, dtype): return [1.0] * n\n"
WORKING_TORCH = """
__version__ = "2.8.0"
class Number:
    def __init__(self, value): self.value = value
    def __float__(self): return self.value
    def item(self): return self.value
class Ones:
    def __matmul__(self, other): return self
    def sum(self): return Number(64.0 ** 3)
def ones(*shape, device): return Ones()
class nn:
    class Conv1d:
        def __init__(self, *shape, padding): pass
        def to(self, device): return lambda x: x
"""
# Stands where WhisperX's command would, and writes where that writes.
WRITING_WHISPERX = """
import sys
from pathlib import Path
sample, options = Path(sys.argv[1]), sys.argv[2:]
def value(name): return options[options.index(name) + 1]
assert "--no_align" in options
out = Path(value("--output_dir"), sample.stem + ".txt")
out.write_text(sample.name + " heard by " + "/".join(Path(value("--model")).parts[-2:]))
"""
ABORTING = "import os\nos.abort()\n"


def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for environments, an index that is a folder of wheels, and no network."""
    monkeypatch.setenv("TRANSCRIBE_MCP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    write_wheel(tmp_path / "wheels", "numpy", "2.0", WORKING_NUMPY)
    write_wheel(tmp_path / "wheels", "onnxruntime", "1.0", WORKING_ONNXRUNTIME, ("numpy",))
    return tmp_path
