"""From a request to a row: what a job is before it is queued. Quick, whatever the size of the recording."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from ..errors import SourceRefusedError, SourceUnreadableError
from ..media.download import is_url, require_url
from ..media.inputs import STANDARD_INPUT
from . import file_identity
from .models import JobOptions, JobRequest
from .queue import LONG, SHORT
from .row_mapping import NewJob
from .store import Store
from .transcripts import ContentKey

HASHED_AT_ONCE_BYTES = 64 * 1024 * 1024  # larger files are hashed by the worker
HASHING_S = 1.0  # what one call spends on hashing; the rest is the worker's

# Seconds of audio in a byte, at the least and at the most that is usual: a place in the queue is all that it decides.
_RATE_BYTES_PER_S = {
    ".wav": 32_000,
    ".flac": 40_000,
    ".mp4": 100_000,
    ".mkv": 100_000,
    ".mov": 300_000,
}
_USUAL_BYTES_PER_S = 12_000
_FETCHED_S = 600.0  # what is taken for the length of a recording at an address
LONG_S = 1200.0
MAX_PRIORITY = 2**31 - 1
FETCHED_FOR_SHELL = (
    "url:shell"  # signature of a job whose URL may name a host of its user's network
)


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
            SourceError: the file is not there, may not be read, or lies outside the roots of the request.
        """
        if is_url(source):
            if self._is_offline:
                raise SourceRefusedError(
                    f"{source} is not fetched: offline was asked for", hint="name a file"
                )
            require_url(source)
            return self._job(
                source, FETCHED_FOR_SHELL if request.from_shell else "", None, _FETCHED_S, request
            )
        path = Path(source).absolute()
        if file_identity.as_text(str(path)) != str(path):
            hint = "rename it; transcribe-mcp transcribe takes it as it is"
            raise SourceUnreadableError(
                f"{source}: its name holds bytes that are no UTF-8 text", hint=hint
            )
        with file_identity.opened(path, request.roots) as file:
            return self._job_of(file, request)

    def _job_of(self, path: Path, request: JobRequest) -> NewJob:
        """Of a file, which may be held open."""
        signature = file_identity.signature(path)
        file_identity.require_file(path)
        known = self._store.known_hash(str(path), signature)
        digest = known or self._hash(path, signature)
        answer = None
        if digest is not None and not request.force:
            answer = self._store.find_finished(ContentKey(digest, self._key), str(path))
        rate = _RATE_BYTES_PER_S.get(path.suffix.lower(), _USUAL_BYTES_PER_S)
        job = self._job(
            str(path), signature, digest, file_identity.size_bytes(signature) / rate, request
        )
        job = replace(job, is_new_hash=digest is not None and known is None)
        return job if answer is None else job.answered_by(answer)

    def prepare_piped(self, kept: tuple[str, str], size_bytes: int, request: JobRequest) -> NewJob:
        """A recording from standard input; ``kept`` as ``spool.keep`` gives it."""
        signature, digest = kept
        job = self._job(STANDARD_INPUT, signature, digest, size_bytes / _USUAL_BYTES_PER_S, request)
        answer = (
            None
            if request.force
            else self._store.find_finished(ContentKey(digest, self._key), STANDARD_INPUT)
        )
        return job if answer is None else job.answered_by(answer)

    def _job(
        self, source: str, signature: str, digest: str | None, guessed_s: float, request: JobRequest
    ) -> NewJob:
        shortest_first = min(MAX_PRIORITY, 1000 + round(guessed_s))
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
            priority=shortest_first
            if request.priority is None
            else max(1, min(MAX_PRIORITY, request.priority)),
        )

    def _hash(self, path: Path, signature: str) -> str | None:
        if (
            file_identity.size_bytes(signature) > HASHED_AT_ONCE_BYTES
            or time.monotonic() > self._deadline
        ):
            return None
        return file_identity.content_hash(path)
