"""Live sessions, for front ends, which see nothing below the service."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from ..live.client import LiveProcess, LiveSession
from ..live.messages import EMPTY, RATE_LIMIT, LiveEvent, LiveSetup
from .models import Job, JobOptions, JobRequest
from .service import Service
from .uploads import FILE_MODE, Upload

__all__ = [
    "EMPTY",
    "RATE_LIMIT",
    "LiveEvent",
    "LiveProcess",
    "LiveSession",
    "LiveSetup",
    "save_sound",
    "settled_setup",
]


def settled_setup(service: Service, setup: LiveSetup) -> LiveSetup:
    """The setup with the default model where it names none, its options checked.

    Raises:
        UsageError: options contradict each other, or name something unknown.
    """
    from dataclasses import replace

    from ..jobs.job_options import normalized_options

    return replace(setup, options=normalized_options(setup.options, service.settings.model))


def save_sound(service: Service, path: Path, options: JobOptions) -> Job:
    """Submit the sound of a session as a job. The file moves.

    Raises:
        TranscribeError: it cannot be submitted.
    """
    path.chmod(FILE_MODE)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = time.strftime("Live %Y-%m-%d %H.%M.wav")
    return service.submit_upload(Upload(path, digest, ".wav", name), JobRequest("", options))
