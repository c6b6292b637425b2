"""Options of a job: checked at submission, and hashed to find jobs with equal ones."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..domain.languages import AUTO
from ..domain.options import Options, options_of, part_of
from ..engines import find_engine
from .models import JobOptions

_WITHOUT_EFFECT = {each.name for each in options_of(JobOptions) if not each.changes_text}


def normalized_options(options: JobOptions, default_model: str) -> JobOptions:
    """The options, checked, with the default model and absolute paths for the worker.

    Raises:
        UsageError: options contradict each other, or the language or engine does not exist.
    """
    checked = part_of(Options, options)
    if options.engine != AUTO:
        find_engine(options.engine)
    model = default_model if options.model.strip().lower() in ("", AUTO) else options.model
    if os.path.isdir(model):  # noqa: PTH112 - long names are no error
        model = str(Path(model).absolute())
    return replace(
        options,
        model=model,
        language=checked.language,
        track=checked.track,
        channel=checked.channel,
        voices=checked.voices,
    )


def options_key(options: JobOptions, prints: Sequence[str] = ()) -> str:
    """SHA-256 of the options that change the transcript: equal keys mean equal transcripts.

    Args:
        prints: IDs of the voice prints that speakers are compared with, whatever names chose them.
    """
    stored = json.loads(options.dumps())
    changing = {name: value for name, value in stored.items() if name not in _WITHOUT_EFFECT}
    if prints:
        changing["voices"] = sorted(prints)
    return hashlib.sha256(json.dumps(changing, sort_keys=True).encode()).hexdigest()
