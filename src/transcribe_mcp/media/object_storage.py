"""Recordings in object storage such as Amazon S3, read through fsspec.

An object is copied to a local file first. Its size and entity tag identify its content, as size and
modification time do for a file. Credentials and endpoints come from the usual places of each
storage, for example ``AWS_PROFILE`` and ``AWS_ENDPOINT_URL``. No message repeats what a storage
library says, since that can quote them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from ..domain.files import atomic_write
from ..domain.progress import Progress, no_progress
from ..errors import (
    SourceFetchError,
    SourceNotFoundError,
    SourceRefusedError,
    SourceUnreadableError,
    TranscribeError,
)
from .download import FetchLimits, require_size
from .inputs import MEDIA_EXTENSIONS

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
MAX_URL_CHARS = 2_048
CHUNK_BYTES = 16 << 20
# s3fs repeats failed requests itself; botocore below it would multiply that.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"retries": {"max_attempts": 0}}, "use_listings_cache": False}
}


def is_object(source: str) -> bool:
    """Whether a source is the URL of an object."""
    return _scheme(source) in PACKAGES


def require_object(url: str) -> str:
    """Check the text of a URL, and return it with a lower-case scheme.

    Raises:
        SourceRefusedError: credentials, no object, or invalid characters.
    """
    scheme, _, rest = url.strip().partition("://")
    bucket, _, key = rest.partition("/")
    hint = f"give one object, such as {scheme.lower()}://bucket/talks/monday.mp3"
    if "@" in bucket:
        raise SourceRefusedError(
            "the URL contains a user name or password",
            hint="leave it out; credentials come from the environment or from profiles",
        )
    if len(rest) > MAX_URL_CHARS or not rest.isprintable():
        raise SourceRefusedError(f"{url[:200]!r} is not a URL", hint=hint)
    if not bucket or not key or key.endswith("/"):
        raise SourceRefusedError(f"{url!r} names no object", hint=hint)
    if {".", ".."} & set(key.split("/")):
        raise SourceRefusedError(f"{url!r} has . or .. in its path", hint=hint)
    return f"{scheme.lower()}://{rest}"


def require_allowed(url: str, prefixes: Sequence[str]) -> str:
    """``require_object`` below one of these prefixes, each of which ends in ``/``.

    Raises:
        SourceRefusedError
    """
    found = require_object(url)
    hint = "objects work where the server was started with --allowed-source s3://bucket/prefix/"
    if not prefixes:
        raise SourceRefusedError("this server does not read object storage", hint=hint)
    if not any(found.startswith(prefix) for prefix in prefixes):
        raise SourceRefusedError(f"{found} is outside the prefixes that may be read", hint=hint)
    return found


def object_signature(url: str) -> str:
    """Size in bytes and entity tag. While they stay the same, so does the content.

    Raises:
        SourceNotFoundError: no such object.
        SourceUnreadableError: no credentials, or no access.
        SourceFetchError: no answer, or the storage's package is not installed.
    """
    with _explained(url):
        found = _storage(_scheme(url)).info(url)
    if found["type"] != "file":
        raise SourceNotFoundError(
            f"{url} is a directory", hint="name one object; directories and patterns are not read"
        )
    return _signature(found)


def local_name(url: str, signature: str) -> str:
    """File name for a copy of this content."""
    suffix = PurePosixPath(url).suffix.lower()
    digest = hashlib.sha256(f"{url} {signature}".encode()).hexdigest()[:32]
    return digest + (suffix if suffix in MEDIA_EXTENSIONS else ".media")


def fetch_object(
    url: str,
    signature: str,
    target: Path,
    limits: FetchLimits,
    progress: Progress = no_progress,
) -> Path:
    """Copy an object with this signature to ``target``, atomically.

    Calls ``progress`` with ``fetch`` and bytes; it may raise to stop.

    Raises:
        SourceTooLargeError: larger than the limit.
        SourceFetchError: incomplete, changed meanwhile, or no space; or see ``object_signature``.
    """
    size_bytes = int(signature.partition(":")[0])
    require_size(size_bytes, limits)
    target.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    try:
        with atomic_write(target) as file:
            for chunk in _chunks(url, signature):
                done += file.write(chunk)
                progress("fetch", done, size_bytes)
            if done != size_bytes:
                raise SourceFetchError(
                    f"{url}: {done} of {size_bytes} bytes arrived", hint="try again"
                )
    except OSError as error:
        raise SourceFetchError(
            f"{url} cannot be copied to {target.parent}: {error.strerror}",
            hint="free disk space, or choose another directory",
        ) from error
    return target


def copy_into(folder: Path, url: str, limits: FetchLimits, progress: Progress) -> Path:
    """Copy an object to a new file in a folder. Errors: see ``fetch_object``."""
    url = require_object(url)
    signature = object_signature(url)
    return fetch_object(url, signature, folder / local_name(url, signature), limits, progress)


def _chunks(url: str, signature: str) -> Iterator[bytes]:
    with _explained(url):
        storage = _storage(_scheme(url))
        with storage.open(url, "rb", cache_type="none") as source:
            if _signature(source.details) != signature:
                raise SourceFetchError(f"{url} is being replaced", hint="try again")
            while chunk := source.read(CHUNK_BYTES):
                yield chunk


def _signature(details: dict[str, Any]) -> str:
    tag = details.get("ETag") or details.get("etag") or details.get("LastModified")
    return f"{details['size']}:{str(tag).strip(chr(34))}"


def _scheme(source: str) -> str:
    return source.strip().partition("://")[0].lower()


@lru_cache
def _storage(scheme: str) -> Any:
    """One client for all threads. fsspec itself would keep one for each thread."""
    import fsspec

    return fsspec.filesystem(scheme, skip_instance_cache=True, **_OPTIONS.get(scheme, {}))


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn the errors of a storage library into ours."""
    try:
        yield
    except TranscribeError:
        raise
    except FileNotFoundError as error:
        raise SourceNotFoundError(
            f"{url}: no such object", hint="check the bucket and the key"
        ) from error
    except ImportError as error:
        raise SourceFetchError(
            f"{url} cannot be read: {PACKAGES[_scheme(url)]} is not installed",
            hint=_install_hint(_scheme(url)),
        ) from error
    except PermissionError as error:
        raise SourceUnreadableError(
            f"{url}: access is denied",
            hint="check which credentials this process has, and what they may read",
        ) from error
    except Exception as error:  # each library raises errors of its own
        raise _other(url, error) from error


def _install_hint(scheme: str) -> str:
    package = "'transcribe-mcp[cloud]'" if scheme == "s3" else PACKAGES[scheme]
    return f"pip install {package}"


def _other(url: str, error: Exception) -> TranscribeError:
    kind = type(error).__name__
    if "Credential" in kind or "Profile" in kind or "Token" in kind:
        return SourceUnreadableError(
            f"{url}: no credentials ({kind})",
            hint="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or the equivalent settings of your storage",
        )
    if kind == "FileExpired":
        return SourceFetchError(f"{url} was replaced while it was read", hint="try again")
    return SourceFetchError(
        f"{url} cannot be read: {kind}",
        hint="check the network, and the endpoint if you set one (AWS_ENDPOINT_URL); try again",
    )
