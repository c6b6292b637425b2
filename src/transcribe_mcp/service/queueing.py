"""The jobs of a batch: recordings with their output files, without those that exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import TranscribeError, UsageError
from ..formats import find_format, plan, require_writable
from ..jobs import spool
from ..jobs.file_identity import as_text
from ..jobs.models import JobRequest, OutputRequest
from ..jobs.outputs import NewOutput, dump_look
from ..jobs.row_mapping import NewJob
from ..jobs.store import Store
from ..jobs.submission import Submission
from ..media.inputs import STANDARD_INPUT, Recording, output_paths
from ..settings import Settings


@dataclass(frozen=True, slots=True)
class Prepared:
    """Jobs to add, refused sources with the reasons, and sources whose files all exist."""

    new: list[NewJob]
    refused: list[tuple[str, TranscribeError]]
    skipped: tuple[str, ...]


def prepare_all(
    submission: Submission,
    recordings: Sequence[Recording],
    request: JobRequest,
    settings: Settings,
) -> Prepared:
    """
    Raises:
        UsageError: results of two recordings would have the same name.
        OutputError: nothing can be written to the output directory.
    """
    targets = _targets(recordings, request.output) if request.output is not None else {}
    new: list[NewJob] = []
    refused: list[tuple[str, TranscribeError]] = []
    skipped = []
    for recording in recordings:
        try:
            outputs: tuple[NewOutput, ...] = ()
            if request.output is not None:
                outputs_of = targets[recording.path]
                missing = plan(
                    list(outputs_of),
                    overwrite=request.output.overwrite,
                    skip_existing=request.output.skip_existing,
                )
                if not missing:
                    skipped.append(recording.source)
                    continue
                outputs = tuple(outputs_of[path] for path in missing)
            new.append(replace(_prepare(submission, recording, request, settings), outputs=outputs))
        except UsageError:
            raise
        except TranscribeError as error:
            refused.append((recording.source, error))
    return Prepared(new, refused, tuple(skipped))


def _prepare(
    submission: Submission,
    recording: Recording,
    request: JobRequest,
    settings: Settings,
) -> NewJob:
    if recording.remote != STANDARD_INPUT:
        return submission.prepare(recording.source, request)
    kept = spool.keep(settings.data_dir, settings.max_file_bytes)
    size_bytes = spool.path_of(settings.data_dir, kept[0]).stat().st_size
    return submission.prepare_piped(kept, size_bytes, request)


def drop_unused(store: Store, new: Sequence[NewJob]) -> None:
    """Delete recordings from standard input that need no work or did not fit into the queue."""
    kept = [job.signature for job in new if spool.is_kept(job.signature)]
    waiting = store.unfinished_by_signature(kept) if kept else {}
    for signature in kept:
        if not waiting.get(signature):
            spool.drop(store.data_dir, signature)


def _targets(
    recordings: Sequence[Recording], output: OutputRequest
) -> dict[Path, dict[Path, NewOutput]]:
    """For each recording, by its path, the files to write."""
    directory = Path(output.directory).absolute()
    if as_text(str(directory)) != str(directory):
        raise UsageError(
            f"{output.directory} has a name that is not UTF-8",
            hint="choose another --output-dir",
        )
    look = dump_look(output.look)
    extensions = {find_format(name).extension: name for name in output.formats}
    paths = output_paths(recordings, directory, extensions)
    require_writable(directory)
    return {
        source: {
            path: NewOutput(str(path), extensions[extension], output.overwrite, look)
            for extension, path in by_extension.items()
        }
        for source, by_extension in paths.items()
    }
