"""Copies of objects for the jobs of one machine. Jobs on the same content share one.

Each job has a hard link to the copy in its own folder, so the last one to finish frees the disk.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..domain.private_files import FOLDER_MODE
from ..domain.progress import Progress
from ..media.download import FetchLimits
from ..media.object_storage import fetch_object, local_name, object_signature
from .worker_process import hold_lock

POLL_S = 0.3  # how often a waiting job checks for cancellation


def copy_object(url: str, folder: Path, limits: FetchLimits, progress: Progress) -> Path:
    """The copy in a job's folder. Another job's copy of the same content is linked, not fetched.

    Raises:
        SourceError: see ``object_storage.fetch_object``.
    """
    signature = object_signature(url)
    target = folder / local_name(url, signature)
    # One of sixteen locks: enough for parallel downloads, and none has to be deleted.
    lock_path = folder.parent / f".{target.name[0]}.lock"
    while (lock := hold_lock(lock_path, POLL_S)) is None:
        progress("fetch", 0.0, None)
    try:
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        for copy in folder.parent.glob(f"*/{target.name}"):
            with suppress(OSError):  # its job has finished, or the disk does not support links
                target.hardlink_to(copy)
                return target
        return fetch_object(url, signature, target, limits, progress)
    finally:
        lock.release()
