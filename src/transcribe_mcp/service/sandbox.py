"""The use cases that read or write files for a caller that acts for its user, such as an assistant.

Users may name any file in a shell; an assistant can be tricked into naming one. So ``Access``
checks its sources and outputs first, and later steps use the resolved paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..domain.options import NONE
from ..errors import (
    OutputError,
    OutputExistsError,
    SourceRefusedError,
    TranscribeError,
    UsageError,
)
from .models import Batch, Job, JobRequest
from .refusals import refusal_of
from .remote import no_source
from .service import Service

if TYPE_CHECKING:
    from ..media.access import Access


@dataclass(frozen=True, slots=True)
class Found:
    """Recordings that may be read, and refused sources with the reasons."""

    recordings: tuple[str, ...]
    refused: tuple[tuple[str, TranscribeError], ...]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A service restricted to certain directories."""

    service: Service
    access: Access

    @classmethod
    def of(cls, service: Service, client_roots: Sequence[str] = ()) -> Sandbox:
        """The sandbox of the settings.

        Args:
            client_roots: ``file://`` URIs. They count if the settings name no directory.

        Raises:
            UsageError: a setting has an invalid value.
        """
        from ..media.access import Access, default_roots, path_of_uri

        settings = service.settings
        allowed = Access(
            roots=settings.allowed_roots or default_roots(),
            allow_urls=settings.allow_urls and not settings.offline,
            max_file_bytes=settings.max_file_bytes,
            reserved=(settings.data_dir, settings.cache_dir),
        )
        local = [Path(path_of_uri(uri)) for uri in client_roots if uri.startswith("file://")]
        return cls(service, allowed if settings.allowed_roots else allowed.widened(local))

    def refuses(self, sources: Sequence[str]) -> bool:
        """Whether the roots of a client matter: see ``Access.misses``."""
        from ..media.download import is_url
        from ..media.source_names import bare_url

        files = (source for source in map(bare_url, sources) if not is_url(source))
        return any(map(self.access.misses, files))

    def submit(self, request: JobRequest) -> Job:
        """``Service.submit``.

        Raises:
            SourceError: the recording is not allowed, or unreadable.
            UsageError: it asks for known voices, and the user does not allow that.
        """
        self._require_allowed(request)
        source = self._checked(request.source)
        return self.service.submit(replace(request, source=source, roots=self._roots))

    def find(self, sources: Sequence[str], check: Callable[[], None] = lambda: None) -> Found:
        """Find the recordings that files, directories, patterns and URLs name.

        Args:
            check: called often; may raise to stop the search.

        Raises:
            UsageError: no source, or more files or recordings than one call may name.
        """
        from ..media.access import find_allowed
        from ..media.download import is_url
        from ..media.source_names import bare_url

        sources = list(map(bare_url, sources))
        if not sources:
            raise no_source()
        urls: list[str] = []
        refused: list[tuple[str, TranscribeError]] = []
        for source in filter(is_url, sources):
            try:
                urls.append(self._checked(source))
            except TranscribeError as error:
                refused.append((source, error))
        files = [source for source in sources if not is_url(source)]
        recordings, more = find_allowed(files, self.access, check)
        return Found((*urls, *(str(one.path) for one in recordings)), (*refused, *more))

    def submit_batch(self, found: Found, request: JobRequest) -> Batch:
        """``Service.submit_batch`` for found recordings; the batch lists the refused sources."""
        self._require_allowed(request)
        request = replace(request, roots=self._roots)
        refused = [refusal_of(*each) for each in found.refused]
        return self.service.submit_batch(found.recordings, request, refused)

    def write_result(
        self, job_id: str, format_name: str, target: str, revision: int | None = None
    ) -> Path:
        """Write a transcript to a new file in an allowed directory. Never replaces a file.

        Raises:
            UnknownNameError: no such format.
            OutputExistsError: the file exists.
            OutputError: the file is outside, hidden or in our own directories, or writing fails.
            JobNotFoundError, JobStateError: see ``Service.get_transcript``.
        """
        from ..formats import find_format, write
        from ..media.openat import writable_directory

        path = self.access.output(target, find_format(format_name).extension)
        transcript = self.service.get_transcript(job_id, revision)
        try:
            with writable_directory(path.parent) as directory:
                write(transcript, format_name, directory / path.name)
        except OutputExistsError as error:
            raise OutputExistsError(f"{target} exists already", hint="name another file") from error
        except OutputError as error:
            message = str(error).replace(str(directory), str(path.parent))
            raise OutputError(message, hint=error.hint) from error
        except OSError as error:
            raise OutputError(
                f"cannot write {target}: {error.strerror}", hint="name a directory that exists"
            ) from error
        return path

    @property
    def _roots(self) -> tuple[str, ...]:
        return tuple(map(str, self.access.resolved))

    def _require_allowed(self, request: JobRequest) -> None:
        """
        Raises:
            UsageError: it asks for known voices, and the user does not allow that.
        """
        if request.options.voices != NONE and not self.service.settings.allow_voices:
            raise UsageError(
                "this server does not recognize known voices",
                hint="leave out voices; they work where the server was started with --allow-voices",
            )

    def _checked(self, source: str) -> str:
        from ..media.download import is_url, require_url
        from ..media.object_storage import is_object, require_allowed
        from ..media.source_names import bare_url

        source = bare_url(source)
        if is_object(source):
            return require_allowed(source, self.service.settings.allowed_sources)
        if not is_url(source):
            return str(self.access.recording(source))
        if not self.access.allow_urls:
            raise SourceRefusedError(
                "this server does not download URLs",
                hint="give the path of a file; "
                "URLs work where the server was started with --allow-urls",
            )
        return require_url(source.strip()).geturl()
