"""The URL of this machine's page, so that MCP servers in other processes can link to it.

The server that holds the lock has written its URL. After a crash the file remains, but not the
lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..domain.files import atomic_write
from ..domain.private_files import FILE_MODE, make_private_dir

FILE_NAME = "page.url"
LOCK_NAME = "page.lock"
LOCK_S = 0.1  # a reader holds the lock for less


@contextmanager
def announced(data_dir: Path, url: str) -> Iterator[None]:
    """Publish the URL of the page. Of several servers, the first one does.

    A server whose data directory is full or read-only does not publish it. Only links of MCP
    servers need it.
    """
    lock = FileLock(data_dir / LOCK_NAME, mode=FILE_MODE, thread_local=False)
    path = data_dir / FILE_NAME
    with suppress(OSError):  # ``Timeout`` is one, too
        make_private_dir(data_dir)
        lock.acquire(timeout=LOCK_S)
        with atomic_write(path, mode=FILE_MODE) as file:
            file.write(url.encode())
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)
        lock.release()


def find(data_dir: Path) -> str | None:
    """The URL of the page, such as ``http://127.0.0.1:8765``; ``None`` if none is served."""
    try:
        url = (data_dir / FILE_NAME).read_text(encoding="utf-8")
        with FileLock(data_dir / LOCK_NAME, timeout=0, mode=FILE_MODE):
            return None  # its server has crashed
    except Timeout:
        return url
    except OSError:
        return None
