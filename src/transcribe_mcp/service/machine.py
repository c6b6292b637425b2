"""Which models are on this machine, and which of them fit it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from . import list_models

if TYPE_CHECKING:
    from ..compat.memory import ModelFit


@dataclass(frozen=True, slots=True)
class Fit:
    """Where a model runs: ``batch`` windows of 30 s at once, 0 where not even one fits."""

    where: str
    compute_type: str
    batch: int
    need_bytes: int


@dataclass(frozen=True, slots=True)
class ModelHere:
    """A model of the catalogue. ``fits`` is empty where its memory was never measured."""

    name: str
    languages: str
    parameters_millions: int | None
    download_bytes: int | None
    is_here: bool
    fits: tuple[Fit, ...]


def models_here() -> tuple[ModelHere, ...]:
    """The catalogue and what else is in the cache, each with where it fits. No network call; no model is loaded."""
    fits = _fits()
    return tuple(
        ModelHere(
            name=row.name,
            languages=row.languages,
            parameters_millions=row.parameters_millions,
            download_bytes=row.download_bytes,
            is_here=row.path is not None,
            fits=tuple(
                Fit(fit.where, fit.dtype, fit.batch, fit.need_bytes)
                for fit in fits
                if fit.model == row.name.removesuffix(".en")
            ),
        )
        for row in list_models()
    )


def default_model() -> str:
    """What a job without a model of its own gets: a name, a directory, or ``auto``."""
    from ..settings import settings

    return settings().model


@lru_cache(maxsize=1)
def _fits() -> tuple[ModelFit, ...]:
    from ..compat import gather
    from ..compat.memory import model_fits

    return tuple(model_fits(gather()))
