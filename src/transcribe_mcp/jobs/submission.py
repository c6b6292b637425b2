"""Prepare a request as a job to add, quickly for a recording of any size."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from ..errors import SourceRefusedError, SourceUnreadableError
from ..media.download import is_url, require_url
from ..media.inputs import STANDARD_INPUT
from ..media.object_storage import is_object, object_signature, require_object
from . import file_identity
from .models import JobOptions, JobRequest
from .queue import LONG, SHORT
from .row_mapping import NewJob
from .store import Store
from .transcripts import ContentKey

HASHED_AT_ONCE_BYTES = 64 * 1024 * 1024  # larger files are hashed by the worker
HASHING_S = 1.0  # for all files of a call; the worker hashes the rest

# Typical bytes per second of audio. They only affect the order of the queue.
_RATE_BYTES_PER_S = {
    ".wav": 32_000,
    ".flac": 40_000,
    ".mp4": 100_000,
    ".mkv": 100_000,
    ".mov": 300_000,
}
_USUAL_BYTES_PER_S = 12_000
_FETCHED_S = 600.0  # assumed for a URL
LONG_S = 1200.0
MAX_PRIORITY = 2**31 - 1
FETCHED_FOR_SHELL = "url:shell"  # signature of a URL that may name a host of the user's network


class Submission:
    """Prepares the jobs of one call."""

    def __init__(
        self,
        store: Store,
        options: JobOptions,
        key: str,
        owner: str = "",
        *,
        is_offline: bool = False,
    ) -> None:
        self._store = store
        self._options = options
        self._key = key
        self._owner = owner
        self._is_offline = is_offline or options.offline
        self._deadline = time.monotonic() + HASHING_S

    def prepare(self, source: str, request: JobRequest) -> NewJob:
        """
        Raises:
            SourceError: the file is missing, unreadable, or outside the roots of the request.
        """
        if is_url(source):
            if self._is_offline:
                raise SourceRefusedError(
                    f"cannot fetch {source}: offline mode is on", hint="name a file"
                )
            if is_object(source):
                source = require_object(source)
                signature = object_signature(source)
                known = self._store.known_hash(source, signature)
                guessed_s = _guessed_s(source, signature)
                return self._with_answer(self._job(source, signature, known, guessed_s, request))
            require_url(source)
            return self._job(
                source, FETCHED_FOR_SHELL if request.from_shell else "", None, _FETCHED_S, request
            )
        path = Path(source).absolute()
        if file_identity.as_text(str(path)) != str(path):
            raise SourceUnreadableError(
                f"{source}: its name is not valid UTF-8",
                hint="rename it, or transcribe it without --queue",
            )
        with file_identity.opened(path, request.roots) as file:
            return self._job_of(file, request)

    def _job_of(self, path: Path, request: JobRequest) -> NewJob:
        signature = file_identity.signature(path)
        file_identity.require_file(path)
        known = self._store.known_hash(str(path), signature)
        digest = known or self._hash(path, signature)
        guessed_s = _guessed_s(path.name, signature)
        job = self._job(str(path), signature, digest, guessed_s, request)
        job = replace(job, is_new_hash=digest is not None and known is None)
        return self._with_answer(job)

    def prepare_piped(self, kept: tuple[str, str], size_bytes: int, request: JobRequest) -> NewJob:
        """A recording from standard input; ``kept`` as ``spool.keep`` gives it."""
        signature, digest = kept
        job = self._job(STANDARD_INPUT, signature, digest, size_bytes / _USUAL_BYTES_PER_S, request)
        return self._with_answer(job)

    def _with_answer(self, job: NewJob) -> NewJob:
        """The job, answered by a completed job with the same content and options if any."""
        if job.content_hash is None or job.force:
            return job
        content = ContentKey(job.content_hash, self._key)
        return replace(job, answer=self._store.find_finished(content, job.source))

    def _job(
        self, source: str, signature: str, digest: str | None, guessed_s: float, request: JobRequest
    ) -> NewJob:
        return NewJob(
            source=source,
            signature=signature,
            content_hash=digest,
            options=self._options,
            options_key=self._key,
            force=request.force,
            queue=LONG if guessed_s > LONG_S else SHORT,
            roots=request.roots,
            owner=self._owner,
            priority=min(MAX_PRIORITY, 1000 + round(guessed_s)),  # shortest first
        )

    def _hash(self, path: Path, signature: str) -> str | None:
        size_bytes = file_identity.size_bytes(signature)
        if size_bytes > HASHED_AT_ONCE_BYTES or time.monotonic() > self._deadline:
            return None
        return file_identity.content_hash(path)


def _guessed_s(name: str, signature: str) -> float:
    """Seconds of audio, estimated from the size."""
    rate = _RATE_BYTES_PER_S.get(Path(name).suffix.lower(), _USUAL_BYTES_PER_S)
    return file_identity.size_bytes(signature) / rate
