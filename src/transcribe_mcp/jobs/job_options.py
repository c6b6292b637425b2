"""Options of a job: checked when it is submitted, read when it is run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from ..engines import ENGINES
from ..errors import UnknownNameError
from ..pipeline.language_vote import requested_language
from ..pipeline.options import TEMPERATURES, Options
from .models import AUTO, JobOptions

# What leaves the transcript as it is.
_WITHOUT_EFFECT = ("batch_size", "offline")


def pipeline_options(wanted: JobOptions, batch_size: int) -> Options:
    """
    Raises:
        UsageError: they contradict each other.
    """
    return Options(
        language=wanted.language,
        multilingual=wanted.multilingual,
        task=wanted.task,
        words=wanted.words,
        vad=wanted.vad,
        prompt=wanted.prompt,
        vocabulary=wanted.vocabulary,
        temperatures=wanted.temperatures or TEMPERATURES,
        beam_size=wanted.beam_size,
        batch_size=batch_size,
        track=wanted.track,
        channel=wanted.channel,
    )


def settled(wanted: JobOptions, default_model: str) -> JobOptions:
    """The same options with everything said that the worker, in another place, could not know.

    Raises:
        UsageError: they contradict each other, or name a language or an engine that does not exist.
    """
    pipeline_options(wanted, wanted.batch_size)
    if wanted.engine not in (AUTO, *ENGINES):
        offered = ", ".join((AUTO, *(name for name, entry in ENGINES.items() if not entry.hidden)))
        raise UnknownNameError(
            f"there is no engine {wanted.engine!r}", hint=f"choose one of: {offered}"
        )
    model = default_model if wanted.model.strip().lower() in ("", AUTO) else wanted.model
    if Path(model).is_dir():
        model = str(Path(model).absolute())
    return replace(wanted, model=model, language=requested_language(wanted.language))


def options_key(options: JobOptions) -> str:
    """Equal for options that give the same transcript."""
    fields = {
        name: value for name, value in options.to_json().items() if name not in _WITHOUT_EFFECT
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
