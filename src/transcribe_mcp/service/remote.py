"""Recordings that are not files yet: at a URL, or on standard input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..domain.progress import Progress
from ..errors import SourceError, SourceRefusedError, TranscribeError, UsageError

if TYPE_CHECKING:
    from ..media.inputs import Recording


def no_source() -> UsageError:
    hint = "name files, directories or patterns such as 'talks/*.mp3'"
    return UsageError("no recording was named", hint=hint)


def usable(
    recordings: Sequence[Recording],
    missing: Sequence[tuple[str, TranscribeError]],
    *,
    offline: bool,
) -> tuple[list[Recording], list[tuple[str, TranscribeError]]]:
    """Refuse recordings that can never be fetched, before a model is loaded.

    Raises:
        UsageError: a recording comes from standard input, which is not a pipe.
    """
    found = []
    refused = list(missing)
    for recording in recordings:
        try:
            _require_possible(recording.remote, offline=offline)
        except SourceError as error:
            refused.append((recording.source, error))
        else:
            found.append(recording)
    return found, refused


def _require_possible(remote: str, *, offline: bool) -> None:
    from ..media.inputs import STANDARD_INPUT
    from ..media.stdin import require_pipe
    from ..settings import settings

    if remote == STANDARD_INPUT:
        require_pipe()
    elif remote:
        from ..media.download import require_url
        from ..media.object_storage import is_object, require_object

        if offline or settings().offline:
            raise SourceRefusedError(
                f"{remote} is not downloaded: offline mode is on", hint="name a file"
            )
        (require_object if is_object(remote) else require_url)(remote)


@contextmanager
def local_file(recording: Recording, progress: Progress) -> Iterator[Path]:
    """The file of a recording, or a temporary copy of a remote one.

    Raises:
        SourceError: the download is not allowed, or failed.
    """
    if not recording.remote:
        yield recording.path
        return
    with TemporaryDirectory(prefix="transcribe-mcp-") as folder:
        yield _copy(recording.remote, Path(folder), progress)


def _copy(remote: str, folder: Path, progress: Progress) -> Path:
    from ..media.download import FetchLimits, fetch
    from ..media.inputs import STANDARD_INPUT
    from ..media.object_storage import copy_into, is_object
    from ..media.stdin import save_piped
    from ..settings import settings

    max_bytes = settings().max_file_bytes
    if remote == STANDARD_INPUT:
        path = folder / "stdin"
        save_piped(path, max_bytes)
        return path
    if is_object(remote):
        return copy_into(folder, remote, FetchLimits(max_bytes), progress)
    return fetch(remote, folder, FetchLimits.of_shell(remote, max_bytes), progress)
