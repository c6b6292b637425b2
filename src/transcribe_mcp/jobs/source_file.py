"""The file that a job reads: its source, or a copy of it, and the hash of its content."""

from __future__ import annotations

from pathlib import Path

from ..domain.private_files import FOLDER_MODE
from ..errors import SourceChangedError
from ..media.download import FetchLimits, fetch, is_url
from ..media.object_storage import is_object, local_name
from . import file_identity, spool
from .object_copies import copy_object
from .running_job import RunningJob, WorkerContext
from .submission import FETCHED_FOR_SHELL
from .worker_store import Claim


def recording_file(shop: WorkerContext, job: RunningJob, claim: Claim, folder: Path) -> Path:
    """The file to read: the source itself, or its copy if it is a URL."""
    if spool.is_kept(claim.signature):
        return spool.require_kept(shop.settings.data_dir, claim.signature)
    if not is_url(claim.source):
        return Path(claim.source)
    fetched = sorted(path for path in folder.glob("*") if not path.name.startswith("."))
    if fetched:
        return fetched[0]
    shop.work_dir.mkdir(mode=FOLDER_MODE, exist_ok=True)
    max_bytes = shop.settings.max_file_bytes
    if is_object(claim.source):
        return copy_object(claim.source, folder, FetchLimits(max_bytes), job.progress)
    for_shell = claim.signature == FETCHED_FOR_SHELL
    limits = FetchLimits.of_shell(claim.source, max_bytes) if for_shell else FetchLimits(max_bytes)
    return fetch(claim.source, folder, limits, job.progress)


def content_hash(shop: WorkerContext, job: RunningJob, claim: Claim, path: Path) -> str:
    """The hash of the present content, computed again only if the file may have changed.

    Raises:
        SourceChangedError: there are checkpoints of other content.
    """
    now = _signature(claim, path)
    if claim.content_hash is not None and now == claim.signature:
        return claim.content_hash
    found = file_identity.content_hash(path, job.check)
    if (
        claim.resolved is not None
        and claim.content_hash is not None
        and found != claim.content_hash
    ):
        hint = "submit it again"
        raise SourceChangedError(f"{path} has changed since its transcription began", hint=hint)
    shop.worker_store.change(claim, {"content_hash": found})
    if now == claim.signature == _signature(claim, path):
        shop.worker_store.remember_hash(claim, found)
    return found


def _signature(claim: Claim, path: Path) -> str | None:
    """The signature of the present content; unknown for another version of an object."""
    if not is_object(claim.source):
        return file_identity.signature(path)
    is_same = path.name == local_name(claim.source, claim.signature)
    return claim.signature if is_same else None
