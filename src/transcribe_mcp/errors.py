"""Everything that can go wrong, as one tree.

    TranscribeError
    ├── UsageError                  the request contradicts itself or names something unknown
    │   ├── UnknownNameError        a model, engine, format or language that does not exist
    │   └── UnsupportedTaskError    the chosen model cannot do what was asked
    ├── SourceError                 a recording cannot be used
    │   ├── SourceNotFoundError
    │   ├── SourceUnreadableError   the system refuses to open it
    │   ├── SourceRefusedError      outside what may be read, hidden, or an address that may not be fetched
    │   ├── SourceTooLargeError     larger or longer than the limits
    │   ├── SourceFetchError        an address answers with something else than a recording
    │   ├── NotMediaError           the content is no audio or video that can be decoded
    │   └── NoAudioError            media without a sound track, or with no samples in it
    ├── ModelError                  a model cannot be used
    │   ├── ModelUnavailableError   not on this machine and not to be fetched now
    │   ├── DownloadError           fetching it failed
    │   └── ModelFormatError        its files are damaged or in a layout that is not supported
    ├── EngineError                 an engine cannot run
    │   ├── EngineUnavailableError  its package is not installed, or the machine lacks what it needs
    │   └── EngineFailedError       it was running and failed
    │       └── OutOfMemoryError    the device has not enough memory for this batch
    ├── OutputError                 a result cannot be written
    │   └── OutputExistsError
    ├── JobError                    a job cannot do what was asked of it
    │   ├── JobNotFoundError        no job has this id
    │   ├── JobStateError           it is not in a state for this
    │   ├── QueueFullError          as many jobs wait as may wait
    │   ├── SourceChangedError      the recording is not the one that the job began with
    │   └── WorkerFailedError       the worker's process ended under it, twice at the same place
    ├── StoreError                  the store of jobs and transcripts cannot be used
    │   ├── StoreBusyError          another process holds it
    │   ├── StoreDamagedError
    │   ├── StoreVersionError       a newer version of this program wrote it
    │   ├── StoreFullError          no room on the disk
    │   ├── StoreReplacedError      its file was deleted or replaced while it was open
    │   └── StoreWriterError        the process that writes to it cannot be started
    └── CancelledError              the user stopped it

Front ends translate from the class attributes alone; no code appears twice. A message says what failed and the
value, ``hint`` says the way out.
"""

from __future__ import annotations

from typing import ClassVar


class TranscribeError(Exception):
    """Root of the tree. ``str(error)`` is one line; ``hint`` is the way out, or empty."""

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


class CancelledError(TranscribeError):
    code = "cancelled"
    http_status = 499
    exit_code = 130
