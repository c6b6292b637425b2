"""All errors, as one tree.

    TranscribeError
    ├── UsageError                  contradictory options, or an unknown name
    │   ├── UnknownNameError        no such model, engine, format or language
    │   └── UnsupportedTaskError    the model does not support the task or language
    ├── SourceError                 unusable recording
    │   ├── SourceNotFoundError
    │   ├── SourceUnreadableError   the system refuses to open it
    │   ├── SourceRefusedError      outside the allowed directories, hidden, or a forbidden URL
    │   ├── SourceTooLargeError     above the limits of size or duration
    │   ├── SourceFetchError        no recording at the URL
    │   ├── NotMediaError           no audio or video that can be decoded
    │   ├── NoAudioError            no audio track, or one without samples
    │   └── VoiceSampleError        not a clip of one voice: too little speech, or several speakers
    ├── ModelError                  unusable model
    │   ├── ModelUnavailableError   neither on this machine nor available for download
    │   ├── DownloadError           failed download
    │   └── ModelFormatError        damaged files, or an unsupported layout
    ├── EngineError                 unusable engine
    │   ├── EngineUnavailableError  missing package, or missing hardware
    │   └── EngineFailedError       failure at run time
    │       ├── OutOfMemoryError    too little memory on the device for this batch
    │       └── WindowDataError     unusable samples in a window
    ├── OutputError                 the result cannot be written
    │   └── OutputExistsError
    ├── JobError                    failed request about a job
    │   ├── JobNotFoundError        no job with this id
    │   ├── JobStateError           not possible in the present state of the job
    │   ├── RevisionNotFoundError   the transcript never had this revision, or it was deleted
    │   ├── EditConflictError       somebody else has edited the transcript meanwhile
    │   ├── QueueFullError          too many queued jobs
    │   ├── SourceChangedError      the recording changed after the job had started
    │   └── WorkerFailedError       the worker crashed twice at the same point of the job
    ├── StoreError                  unusable database of jobs and transcripts
    │   ├── StoreBusyError          locked by another process for too long
    │   ├── StoreDamagedError
    │   ├── StoreVersionError       written by a newer version of this program
    │   ├── StoreFullError          the disk is full
    │   ├── StoreReplacedError      the file was deleted or replaced while open
    │   └── StoreWriterError        the writer process cannot be started
    ├── VoiceStoreError             unusable file of known voices
    └── CancelledError              stopped by the user

Front ends use only the class attributes; every code is unique. The message names the failure and
the value; ``hint`` says what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar, Self


class TranscribeError(Exception):
    """Base class. ``str(error)`` is one line; ``hint`` says what to do, or is empty."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(" ".join(message.split()))
        self.hint = " ".join(hint.split())


class UsageError(TranscribeError):
    code = "usage"
    http_status = 400
    exit_code = 2

    @classmethod
    def unknown(cls, message: str, name: str, names: Iterable[str], what: str) -> Self:
        """The error for a ``name`` that is not in ``names``; the hint suggests the nearest."""
        known = list(names)
        near = difflib.get_close_matches(name.lower().lstrip("."), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        return cls(message, hint=f"{hint}{what}: {', '.join(known)}")


class UnknownNameError(UsageError):
    code = "unknown_name"


class UnsupportedTaskError(UsageError):
    code = "unsupported_task"


class SourceError(TranscribeError):
    code = "source"
    http_status = 422


class SourceNotFoundError(SourceError):
    code = "source_not_found"
    http_status = 404


class SourceUnreadableError(SourceError):
    code = "source_unreadable"
    http_status = 403

    @classmethod
    def because(cls, source: object, error: Exception) -> Self:
        """The error for a file that the system refuses to open or to read."""
        reason = getattr(error, "strerror", None) or error
        return cls(f"{source} cannot be read: {reason}", hint="check its name and its permissions")


class SourceRefusedError(SourceError):
    code = "source_refused"
    http_status = 403


class SourceTooLargeError(SourceError):
    code = "source_too_large"
    http_status = 413


class SourceFetchError(SourceError):
    code = "source_fetch"
    http_status = 502


class NotMediaError(SourceError):
    code = "not_media"
    http_status = 415


class NoAudioError(SourceError):
    code = "no_audio"


class VoiceSampleError(SourceError):
    code = "voice_sample"


class ModelError(TranscribeError):
    code = "model"
    http_status = 503


class ModelUnavailableError(ModelError):
    code = "model_unavailable"


class DownloadError(ModelError):
    code = "download"
    http_status = 502


class ModelFormatError(ModelError):
    code = "model_format"
    http_status = 422


class EngineError(TranscribeError):
    code = "engine"
    http_status = 503


class EngineUnavailableError(EngineError):
    code = "engine_unavailable"


class EngineFailedError(EngineError):
    code = "engine_failed"
    http_status = 500


class OutOfMemoryError(EngineFailedError):
    code = "out_of_memory"
    http_status = 507


class WindowDataError(EngineFailedError):
    """Concerns one recording, not the engine or its device."""

    code = "window_data"
    http_status = 422


class OutputError(TranscribeError):
    code = "output"
    http_status = 507


class OutputExistsError(OutputError):
    code = "output_exists"
    http_status = 409


class JobError(TranscribeError):
    code = "job"


class JobNotFoundError(JobError):
    code = "job_not_found"
    http_status = 404


class JobStateError(JobError):
    code = "job_state"
    http_status = 409


class RevisionNotFoundError(JobError):
    code = "revision_not_found"
    http_status = 404


class EditConflictError(JobError):
    """Attributes: ``revision``, the newest one."""

    code = "edited_elsewhere"
    http_status = 412

    def __init__(self, revision: int) -> None:
        super().__init__(
            f"the transcript was edited elsewhere; its newest revision is {revision}",
            hint="read it, and send the edits again with its segment numbers",
        )
        self.revision = revision


class QueueFullError(JobError):
    code = "queue_full"
    http_status = 429


class SourceChangedError(JobError):
    code = "source_changed"
    http_status = 409


class WorkerFailedError(JobError):
    code = "worker_failed"


class StoreError(TranscribeError):
    code = "store"
    http_status = 503


class StoreBusyError(StoreError):
    code = "store_busy"


class StoreDamagedError(StoreError):
    code = "store_damaged"
    http_status = 500


class StoreVersionError(StoreError):
    code = "store_version"
    http_status = 500


class StoreFullError(StoreError):
    code = "store_full"
    http_status = 507


class StoreReplacedError(StoreError):
    code = "store_replaced"


class StoreWriterError(StoreError):
    code = "store_writer"


class VoiceStoreError(TranscribeError):
    code = "voice_store"


class CancelledError(TranscribeError):
    code = "cancelled"
    http_status = 499
    exit_code = 130
