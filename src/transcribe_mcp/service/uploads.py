"""Recordings that clients send, for front ends, which use nothing below the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from ..domain.private_files import FILE_MODE
from ..jobs.uploads import TEMPORARY, Upload, disk_errors, make_folder, name_of
from .models import Job, JobRequest
from .service import Service

__all__ = [
    "FILE_MODE",
    "TEMPORARY",
    "Upload",
    "disk_errors",
    "make_folder",
    "recording_name",
    "shown_source",
    "submit_upload",
]


def shown_source(source: str) -> str:
    """The source of a job for people. The path of an upload is meaningless to them."""
    return name_of(source) or source


def recording_name(source: str) -> str:
    """The name of a recording for lists; for an upload the name from its client."""
    return name_of(source) or PurePath(source).name or source


def submit_upload(
    service: Service, upload: Upload, request: JobRequest, clips: Sequence[bytes] = ()
) -> Job:
    """``Service.submit`` for a recording that a client has sent. It is kept while a job names it.

    The same bytes are one file, so a repeated upload joins its job or is answered from it.

    Args:
        clips: of the voices that the options name, kept like the recording.
    """
    from ..jobs.retention import sent_files

    with sent_files(service.read_store(), upload, clips) as source:
        return service.submit(replace(request, source=source))
