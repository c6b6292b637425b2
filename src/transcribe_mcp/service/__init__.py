"""The use cases, the same for every front end. Front ends use nothing below them.

Importing this loads nothing heavy: each use case imports what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..domain.progress import Progress, no_progress

if TYPE_CHECKING:
    from ..models import ModelRow


def engine_names() -> tuple[str, ...]:
    """The engines that a user can choose, ``auto`` first."""
    from .. import engines

    return engines.engine_names()


def list_models() -> tuple[ModelRow, ...]:
    from .. import models

    return models.list_models()


def pull_model(name: str, progress: Progress = no_progress) -> Path:
    """Download a model, or resume its download; return its directory."""
    from .. import models

    return models.pull(name, progress).directory


def model_path(name: str) -> Path:
    from .. import models

    return models.path(name)


def remove_model(name: str) -> int:
    """Delete a downloaded model and its conversions; return the bytes freed."""
    from .. import models

    return models.remove(name)


def compatibility(arguments: Sequence[str]) -> int:
    """Run ``doctor``, ``env`` or ``updates`` with arguments; return the exit code."""
    from ..compat import main

    return main(arguments)
