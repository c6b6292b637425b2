"""The records of the use cases, for front ends, which see nothing below the service."""

from __future__ import annotations

from ..domain.transcript import Segment, Transcript
from ..jobs.models import (
    Batch,
    Diagnosis,
    Hit,
    HitPage,
    Job,
    JobFailure,
    JobFilter,
    JobOptions,
    JobPage,
    JobRequest,
    JobStatus,
    OutputRequest,
    Refused,
    SpeakerChange,
)

__all__ = [
    "Batch",
    "Diagnosis",
    "Hit",
    "HitPage",
    "Job",
    "JobFailure",
    "JobFilter",
    "JobOptions",
    "JobPage",
    "JobRequest",
    "JobStatus",
    "OutputRequest",
    "Refused",
    "Segment",
    "SpeakerChange",
    "Transcript",
]
