"""Everything that can go wrong, as one tree.

    TranscribeError
    ├── UsageError                  the request contradicts itself or names something unknown
    │   ├── UnknownNameError        a model, engine, format or language that does not exist
    │   └── UnsupportedTaskError    the chosen model cannot do what was asked
    ├── SourceError                 a recording cannot be used
    │   ├── SourceNotFoundError
    │   ├── SourceUnreadableError   the system refuses to open it
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


class CancelledError(TranscribeError):
    code = "cancelled"
    http_status = 499
    exit_code = 130
