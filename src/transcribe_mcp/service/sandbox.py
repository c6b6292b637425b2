"""The use cases of a caller that is a program acting for its user: what it may read and where it may write.

A person at a shell may name any file; an assistant may be talked into naming one. So its sources and outputs pass
``Access`` first, and what goes on is the resolved path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..domain.transcript import Segment, Transcript
from ..errors import OutputError, OutputExistsError, SourceRefusedError, TranscribeError, UsageError
from ..jobs.models import Batch, Job, JobRequest
from . import jobs

__all__ = [
    "Found",
    "Segment",
    "Transcript",
    "access",
    "find",
    "formats",
    "is_refused",
    "require_format",
    "submit",
    "submit_batch",
    "write_result",
]

if TYPE_CHECKING:
    from ..formats import Format
    from ..media.access import Access


def access(client_roots: Sequence[str] = ()) -> Access:
    """What the settings allow, and the directories (``file://`` addresses) that the client works in.

    Raises:
        UsageError: a setting holds what it cannot be.
    """
    from ..media.access import Access, default_roots, path_of_uri
    from ..settings import settings

    set_up = settings()
    allowed = Access(
        roots=set_up.allowed_roots or default_roots(),
        allow_urls=set_up.allow_urls and not set_up.offline,
        max_file_bytes=int(set_up.max_file_gib * 1024**3),
        reserved=(set_up.data_dir, set_up.cache_dir),
    )
    local = [Path(path_of_uri(uri)) for uri in client_roots if uri.startswith("file://")]
    return allowed if set_up.allowed_roots else allowed.widened(local)


def is_refused(sources: Sequence[str], allowed: Access) -> bool:
    """Whether one of the files is outside of what may be read, so that the client's own roots would matter."""
    from ..media.download import is_url
    from ..media.source_names import bare_url

    for source in map(bare_url, sources):
        try:
            if not is_url(source):
                allowed.require_inside(source)
        except SourceRefusedError:
            return True
    return False


def submit(request: JobRequest, allowed: Access) -> Job:
    """``jobs.submit`` for a recording that may be read.

    Raises:
        SourceError: it may not, or cannot.
    """
    source = _checked(request.source, allowed)
    return jobs.submit(replace(request, source=source, roots=tuple(map(str, allowed.resolved))))


@dataclass(frozen=True, slots=True)
class Found:
    """What sources name: recordings that may be read, and what was refused, each with its reason."""

    recordings: tuple[str, ...]
    refused: tuple[tuple[str, TranscribeError], ...]


def find(
    sources: Sequence[str], allowed: Access, check: Callable[[], None] = lambda: None
) -> Found:
    """The recordings that files, directories, patterns and addresses name. ``check`` is called often and may raise.

    Raises:
        UsageError: no source, or more to look at or to transcribe than one call may ask for.
    """
    from ..media.access import find_allowed
    from ..media.download import is_url
    from ..media.source_names import bare_url

    sources = list(map(bare_url, sources))
    if not sources:
        raise UsageError(
            "no recording was named",
            hint="name files, directories or patterns such as 'talks/*.mp3'",
        )
    wanted: list[str] = []
    refused: list[tuple[str, TranscribeError]] = []
    for source in filter(is_url, sources):
        try:
            wanted.append(_checked(source, allowed))
        except TranscribeError as error:
            refused.append((source, error))
    recordings, more = find_allowed(
        [source for source in sources if not is_url(source)], allowed, check
    )
    return Found((*wanted, *(str(recording.path) for recording in recordings)), (*refused, *more))


def submit_batch(found: Found, request: JobRequest, allowed: Access) -> Batch:
    """``jobs.submit_batch`` for what was found; what was refused stays with the batch."""
    request = replace(request, roots=tuple(map(str, allowed.resolved)))
    return jobs.submit_batch(
        found.recordings, request, [jobs.refusal_of(*each) for each in found.refused]
    )


def write_result(job_id: str, format_name: str, target: str, allowed: Access) -> Path:
    """Write a transcript to a new file inside the roots. No file that is there is touched, so no recording either.

    Raises:
        UnknownNameError: no such format.
        OutputExistsError: there is a file.
        OutputError: the file would be outside, hidden or among our own, or cannot be written.
        JobNotFoundError, JobStateError: see ``jobs.get_transcript``.
    """
    from ..formats import find_format, write
    from ..media.openat import writable_directory

    path = allowed.output(target, find_format(format_name).extension)
    transcript = jobs.get_transcript(job_id)
    try:
        with writable_directory(path.parent) as directory:
            write(transcript, format_name, directory / path.name)
    except OutputExistsError as error:
        raise OutputExistsError(f"{target} is there already", hint="name another file") from error
    except OutputError as error:
        raise OutputError(
            str(error).replace(str(directory), str(path.parent)), hint=error.hint
        ) from error
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror}", hint="name a directory that exists"
        ) from error
    return path


def formats() -> dict[str, Format]:
    """The output formats by name: extension, media type, summary."""
    from ..formats import FORMATS

    return dict(FORMATS)


def require_format(name: str, *others: str) -> None:
    """
    Raises:
        UnknownNameError: no output format has this name; ``others`` are what the caller has beside them.
    """
    from ..formats import find_format

    find_format(name, others)


def _checked(source: str, allowed: Access) -> str:
    from ..media.download import is_url, require_url
    from ..media.source_names import bare_url

    source = bare_url(source)
    if not is_url(source):
        return str(allowed.recording(source))
    if not allowed.allow_urls:
        hint = "give the path of a file; addresses are fetched where the server was started with --allow-urls"
        raise SourceRefusedError("recordings at an address are not fetched here", hint=hint)
    return require_url(source.strip()).geturl()
