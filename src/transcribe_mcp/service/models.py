"""The records of the use cases, for front ends, which use nothing below the service."""

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
    Outline,
    OutputRequest,
    Refused,
    Revision,
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
    "Outline",
    "OutputRequest",
    "Refused",
    "Revision",
    "Segment",
    "SpeakerChange",
    "Transcript",
]
