"""The Hugging Face Hub: listing repositories, downloads, the cache.  [uses huggingface_hub]

Files are in the cache that all Hub tools share, in its documented layout: ``blobs/<checksum>``,
links to them as ``snapshots/<commit>/<name>``, and the commit in ``refs/main``. Downloads are
implemented here, because huggingface_hub 2 deletes partial files on interruption and verifies no
checksums. Here a download resumes, also in a later process, and a file is kept only with the
checksum that the Hub declares.

One request lists all files with sizes and checksums. No other requests are sent, except for the
files.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any, TypeVar

from ..domain.files import atomic_write
from ..domain.progress import Progress
from ..errors import DownloadError, ModelUnavailableError

ANSWER_S = 3.5  # limit for listing a repository, after which the hub counts as unreachable
STALL_S = 30.0  # longest pause of a transfer
RETRIES = 4  # without progress in between; the pause doubles from 0.25 s
_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_HEX = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in the root of a repository. ``checksum`` is the SHA-256, or the Git SHA-1 if it is
    not in LFS.
    """

    name: str
    size_bytes: int
    checksum: str


@dataclass(frozen=True, slots=True)
class RemoteRepository:
    repo: str
    commit: str
    files: tuple[RemoteFile, ...]

    def only(self, names: Sequence[str]) -> RemoteRepository:
        return RemoteRepository(
            self.repo, self.commit, tuple(f for f in self.files if f.name in names)
        )


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE`` is set."""
    return bool(_constants().HF_HUB_OFFLINE)


def endpoint() -> str:
    return str(_constants().ENDPOINT).rstrip("/")


def repository_directory(repo: str) -> Path:
    """The directory of a repository in the shared cache; it may be missing."""
    return Path(_constants().HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def cached_repositories() -> list[str]:
    """Ids of the model repositories in the cache, including incomplete ones."""
    cache = Path(_constants().HF_HUB_CACHE)
    names = sorted(path.name for path in cache.glob("models--*--*") if path.is_dir())
    return [name.removeprefix("models--").replace("--", "/", 1) for name in names]


def cached_snapshots(repo: str) -> list[Path]:
    """Directories of the cached versions, ``main`` first, then the newest; they may be
    incomplete.
    """
    directory = repository_directory(repo)
    try:
        commit = (directory / "refs" / "main").read_text(encoding="ascii").strip()
    except OSError:
        commit = ""
    snapshots = [path for path in directory.glob("snapshots/*") if path.is_dir()]
    return sorted(snapshots, key=lambda path: (path.name != commit, -path.stat().st_mtime_ns))


def list_repository(repo: str) -> RemoteRepository:
    """List the files in the root of a repository, within ``ANSWER_S``.

    Raises:
        ModelUnavailableError: no such repository, no access to it, or no hub answers.
    """
    url = f"{endpoint()}/api/models/{repo}/revision/main"
    errors = _errors()
    try:
        data = _within(ANSWER_S, lambda: _get_json(url))
    except TimeoutError as error:
        raise _unreachable(repo, f"no answer within {ANSWER_S:g} s") from error
    except errors.GatedRepoError as error:
        hint = f"accept the terms at {endpoint()}/{repo} and set HF_TOKEN"
        raise ModelUnavailableError(
            f"{repo} is only available after you accept its terms", hint=hint
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelUnavailableError(
            f"{endpoint()} has no model {repo}",
            hint="check the spelling (there is no such directory either); "
            "set HF_TOKEN if it is private",
        ) from error
    except errors.HfHubHTTPError as error:
        raise _unreachable(repo, f"HTTP status {error.response.status_code}") from error
    except (errors.HTTPError, OSError, ValueError) as error:
        raise _unreachable(repo, _reason(error)) from error
    return _parse(repo, data)


def download(remote: RemoteRepository, progress: Progress) -> Path:
    """Download the missing files of ``remote`` into the shared cache; return the snapshot's
    directory.

    Calls ``progress("download", bytes done, total bytes)``.

    Raises:
        DownloadError: the connection broke repeatedly, a checksum is wrong, or the disk is full or
            read-only.
    """
    directory = repository_directory(remote.repo)
    snapshot = directory / "snapshots" / remote.commit
    cached = {path.name: path.stat().st_size for path in snapshot.glob("*") if path.is_file()}
    missing = [f for f in remote.files if cached.get(f.name) != f.size_bytes]
    total = sum(f.size_bytes for f in remote.files)
    done = total - sum(f.size_bytes for f in missing)
    with _disk_errors(directory):
        for path in (directory / "blobs", snapshot, directory / "refs"):
            path.mkdir(parents=True, exist_ok=True)
        _require_space(directory, missing)
        for file in missing:
            progress("download", done, total)
            blob = directory / "blobs" / file.checksum
            _download(remote, file, blob, partial(_report_from, progress, done, total))
            _link(snapshot / file.name, blob)
            done += file.size_bytes
        with atomic_write(directory / "refs" / "main") as ref:
            ref.write(remote.commit.encode())
    progress("download", total, total)
    return snapshot


def delete(repo: str) -> None:
    """Delete all cached versions of a repository, and partial downloads."""
    from huggingface_hub import scan_cache_dir

    directory = repository_directory(repo)
    if not directory.is_dir():
        return
    # huggingface_hub goes first: it knows which blobs other repositories share.
    cache = scan_cache_dir(directory.parent)
    for cached in cache.repos:
        if cached.repo_path == directory.resolve():
            cache.delete_revisions(
                *(revision.commit_hash for revision in cached.revisions)
            ).execute()
    shutil.rmtree(directory, ignore_errors=True)


def _constants() -> ModuleType:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import constants

    return constants


# Modules; Any, because huggingface_hub does not declare its re-exports, such as HTTPError.


def _errors() -> Any:
    from huggingface_hub import errors

    return errors


def _utils() -> Any:
    from huggingface_hub import utils

    return utils


def _headers() -> dict[str, str]:
    from huggingface_hub import get_token

    # Not huggingface_hub's header builder: it asks another service which AI assistant is running.
    headers = {"user-agent": "transcribe-mcp", "accept-encoding": "identity"}
    token = None if _constants().HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return {**headers, "authorization": f"Bearer {token}"} if token else headers


def _get_json(url: str) -> Any:
    session = _utils().get_session()
    response = session.get(url, params={"blobs": True}, headers=_headers(), timeout=2 * ANSWER_S)
    _utils().hf_raise_for_status(response)
    return response.json()


def _within(seconds: float, ask: Callable[[], T]) -> T:
    """The result of ``ask`` or TimeoutError. A thread, because no socket timeout covers DNS."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:  # noqa: BLE001 - carried to the thread that waits
            answer.set_exception(error)

    Thread(target=run, daemon=True, name="hub-answer").start()
    return answer.result(timeout=seconds)


def _unreachable(repo: str, reason: str) -> ModelUnavailableError:
    hint = (
        f"check the connection and the proxy settings;"
        f" with a connection: transcribe-mcp models pull {repo};"
        " or give --model the directory of a model"
    )
    return ModelUnavailableError(f"cannot get {repo} from {endpoint()}: {reason}", hint=hint)


def _reason(error: Exception) -> str:
    """The message of the error; of the system's errors without their numbers."""
    message = re.sub(r"\[Errno -?\d+\] ", "", str(error))
    return message or type(error).__name__


def _parse(repo: str, data: Any) -> RemoteRepository:
    try:
        commit = data["sha"]
        files = [_remote_file(entry) for entry in data["siblings"] if "/" not in entry["rfilename"]]
    except (KeyError, TypeError) as error:
        raise _unreachable(
            repo, f"the answer is not that of a model hub ({_reason(error)})"
        ) from error
    if not _HEX.fullmatch(commit) or not all(_HEX.fullmatch(f.checksum) for f in files):
        raise _unreachable(repo, "the answer is not that of a model hub (no checksums)")
    return RemoteRepository(repo, commit, tuple(files))


def _remote_file(entry: Any) -> RemoteFile:
    lfs = entry.get("lfs")
    name = entry["rfilename"].replace("\\", "_")  # safe as a file name on Windows
    return RemoteFile(name, int(entry["size"]), lfs["sha256"] if lfs else entry["blobId"])


def _report_from(progress: Progress, start: int, total: int, got: int) -> None:
    progress("download", start + got, total)


def _require_space(directory: Path, missing: Sequence[RemoteFile]) -> None:
    partial_files = (directory / "blobs" / f"{f.checksum}.incomplete" for f in missing)
    needed = sum(f.size_bytes for f in missing) - sum(
        p.stat().st_size for p in partial_files if p.exists()
    )
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise DownloadError(
            f"the download needs {needed / 1e6:.0f} MB,"
            f" but {directory.parent} has {free / 1e6:.0f} MB free",
            hint="free some space, or set HF_HOME to a larger disk",
        )


def _download(
    remote: RemoteRepository, file: RemoteFile, blob: Path, report: Callable[[int], None]
) -> None:
    """Download one file to ``blob`` and verify it; resume a partial download."""
    from filelock import FileLock

    locks = blob.parents[2] / ".locks" / blob.parents[1].name  # as in huggingface_hub
    locks.mkdir(parents=True, exist_ok=True)
    unfinished = blob.with_name(f"{blob.name}.incomplete")
    with FileLock(locks / f"{blob.name}.lock"):
        if blob.is_file():
            return
        if unfinished.exists() and unfinished.stat().st_size > file.size_bytes:
            unfinished.unlink()
        unfinished.touch()
        _complete(remote, file, unfinished, report)
        if _checksum(unfinished, file) != file.checksum:
            unfinished.unlink()
            raise DownloadError(
                f"{file.name} of {remote.repo} arrived with a wrong checksum and was deleted",
                hint="try again; if it happens again, a proxy may alter the traffic",
            )
        unfinished.replace(blob)


def _complete(
    remote: RemoteRepository, file: RemoteFile, unfinished: Path, report: Callable[[int], None]
) -> None:
    """Append to ``unfinished`` until it has the declared size, with retries."""
    errors = _errors()
    url = f"{endpoint()}/{remote.repo}/resolve/{remote.commit}/{file.name}"
    breaks = 0
    while (before := unfinished.stat().st_size) < file.size_bytes:
        reason = "the connection was closed early"
        try:
            _append(url, unfinished, report)
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            reason = f"HTTP status {status}"
            if status < 500 and status not in (408, 429):
                raise DownloadError(
                    f"cannot download {file.name} of {remote.repo}: {reason}",
                    hint="set HF_TOKEN to get access"
                    if status in (401, 403)
                    else "try again later",
                ) from error
        except errors.HTTPError as error:
            reason = _reason(error)
        now = unfinished.stat().st_size
        breaks = 0 if now > before else breaks + 1
        if breaks > RETRIES:
            raise DownloadError(
                f"the download of {file.name} of {remote.repo} stopped at {now} of"
                f" {file.size_bytes} bytes: {reason}",
                hint="run the command again to resume it",
            )
        time.sleep(0.25 * 2 ** (breaks - 1) if breaks else 0)


def _append(url: str, unfinished: Path, report: Callable[[int], None]) -> None:
    have = unfinished.stat().st_size
    headers = {**_headers(), "range": f"bytes={have}-"} if have else _headers()
    session = _utils().get_session()
    with session.stream(
        "GET", url, headers=headers, timeout=STALL_S, follow_redirects=True
    ) as response:
        _utils().hf_raise_for_status(response)
        if response.status_code != 206:
            have = 0  # the server ignores the range and sends the whole file
        with unfinished.open("r+b") as file:
            file.seek(have)
            file.truncate()
            for chunk in response.iter_bytes():  # without rechunking, so that no byte is lost
                file.write(chunk)
                have += len(chunk)
                report(have)


def _checksum(path: Path, file: RemoteFile) -> str:
    if len(file.checksum) == 64:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    # The Git blob id: it detects damage, and the Hub declares no other checksum for small files.
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _link(pointer: Path, blob: Path) -> None:
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except (OSError, NotImplementedError):
        blob.replace(pointer)  # Windows without the right to create links, as huggingface_hub does


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            for unfinished in directory.glob("blobs/*.incomplete"):
                unfinished.unlink(missing_ok=True)
            raise DownloadError(
                f"the disk with {directory.parent} is full",
                hint="free some space, or set HF_HOME elsewhere",
            ) from error
        raise DownloadError(
            f"cannot write to {directory}: {error.strerror or _reason(error)}",
            hint="set HF_HOME to a writable directory",
        ) from error
