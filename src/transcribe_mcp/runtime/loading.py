"""A spec -> an executor with its model."""

from __future__ import annotations

import threading

from ..domain.options import EngineSpec
from ..domain.progress import Progress, no_progress
from ..engines import load_recognizers
from ..errors import UsageError
from .executor import Executor


def load_engine(spec: EngineSpec, progress: Progress = no_progress) -> Executor:
    """Load an engine. Several devices share the windows of every recording.

    Raises:
        UsageError: ``spec`` is something else.
        UnknownNameError: no such engine.
        EngineUnavailableError: its package or the requested hardware is missing.
        ModelError: the model is unavailable or unusable.
    """
    if not isinstance(spec, EngineSpec):
        raise UsageError(
            f"the spec is of the type {type(spec).__name__}",
            hint='give a record, as in EngineSpec(model="tiny.en")',
        )
    return Executor.of(*load_recognizers(spec, progress))


def shared_executor(unload_after_s: float = threading.TIMEOUT_MAX) -> Executor:
    """An executor with its own thread. Recordings name their model by an ``EngineSpec``."""
    return Executor(load_recognizers, own_thread=True, unload_after_s=unload_after_s)
