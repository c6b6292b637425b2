"""Download recordings from public hosts only, within limits of size and time.

A host name can resolve differently between the check and the connection (DNS rebinding). So
connections use the checked IP address, and every redirect is checked again.
"""

from __future__ import annotations

import http.client
import ipaddress
import mimetypes
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from .. import __version__
from ..domain.files import atomic_write
from ..domain.progress import Progress, no_progress
from ..errors import SourceFetchError, SourceRefusedError, SourceTooLargeError
from .inputs import MEDIA_EXTENSIONS, is_url

__all__ = ["FetchLimits", "fetch", "is_public", "is_url", "require_url"]

MAX_REDIRECTS = 5
MAX_URL_CHARS = 2_048
CHUNK_BYTES = 1 << 18
ANSWER_TIMEOUT_S = 30.0  # between two packets
REDIRECTS = frozenset({301, 302, 303, 307, 308})

IsAllowed = Callable[[str], bool]

_DIRECT = "give the URL of the media file itself, with http:// or https://"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Limits of one download. ``is_allowed`` checks each IP address before connecting."""

    max_bytes: int
    max_seconds: float = 3_600.0
    is_allowed: IsAllowed | None = None

    @classmethod
    def of_shell(cls, url: str, max_bytes: int) -> FetchLimits:
        """Limits for a shell user, whose URL may name a host on the local network."""
        try:
            found = socket.getaddrinfo(require_url(url).hostname, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return cls(max_bytes)  # fetch() reports the reason
        is_local = not any(is_public(str(row[4][0])) for row in found)
        return cls(max_bytes, is_allowed=(lambda _: True) if is_local else None)


def is_public(address: str) -> bool:
    """Whether an IP address is public; detects private addresses embedded in IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif parsed in _NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
        elif parsed.sixtofour is not None or parsed.teredo is not None:
            return False
    return parsed.is_global and not parsed.is_multicast


def require_url(url: str) -> SplitResult:
    """Parse a URL and check its text.

    Raises:
        SourceRefusedError: another scheme, credentials, no host, or invalid characters.
    """
    shown = repr(url[:200])
    if len(url) > MAX_URL_CHARS or any(
        character <= " " or character == "\x7f" for character in url
    ):
        raise SourceRefusedError(f"{shown} is not a URL", hint=_DIRECT)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SourceRefusedError(f"{shown} is not a URL: {error}", hint=_DIRECT) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise SourceRefusedError(f"{shown} is not an http:// or https:// URL", hint=_DIRECT)
    if parts.username is not None or parts.password is not None:
        raise SourceRefusedError(
            "the URL contains a user name or password", hint="download the file yourself"
        )
    return parts


def fetch(url: str, folder: Path, limits: FetchLimits, progress: Progress = no_progress) -> Path:
    """Download a recording into ``folder`` under a generated name, atomically.

    Calls ``progress`` with ``fetch`` and bytes; it may raise to stop.

    Raises:
        SourceRefusedError: the URL or a redirect is not public or not HTTP.
        SourceFetchError: no response, an HTTP error, a web page, or an incomplete download.
        SourceTooLargeError: larger than the limit.
    """
    deadline = time.monotonic() + limits.max_seconds
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            parts = require_url(url)
            with closing(_connect(parts, limits)) as connection, _ask(connection, parts) as answer:
                if answer.status in REDIRECTS:
                    url = _redirected(url, answer)
                    continue
                target = folder / f"{secrets.token_hex(16)}{_require_media(answer, parts)}"
                _save(answer, target, limits, deadline, progress)
                return target
        raise SourceFetchError(
            f"{parts.hostname} redirects more than {MAX_REDIRECTS} times", hint=_DIRECT
        )
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceFetchError(
            f"cannot download from {parts.hostname}: {reason}",
            hint="try again, or download the file yourself",
        ) from error


def _connect(parts: SplitResult, limits: FetchLimits) -> http.client.HTTPConnection:
    """Connect to a checked IP address of the host; TLS and the request use the name."""
    host = str(parts.hostname)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    is_allowed = limits.is_allowed or is_public
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(row[4][0]) for row in found]
    # One private address among public ones is an attack, not a coincidence.
    if not addresses or not all(map(is_allowed, addresses)):
        raise SourceRefusedError(
            f"{host} is not a public address",
            hint="downloads are limited to the public internet; give local files by their path",
        )
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host, port, timeout=ANSWER_TIMEOUT_S)
    connection.sock = socket.create_connection((addresses[0], port), timeout=ANSWER_TIMEOUT_S)
    if secure:
        try:
            connection.sock = ssl.create_default_context().wrap_socket(
                connection.sock, server_hostname=host
            )
        except OSError:
            connection.close()
            raise
    return connection


def _ask(connection: http.client.HTTPConnection, parts: SplitResult) -> http.client.HTTPResponse:
    path, query = (
        quote(text, safe="/%:@!$&'()*+,;=~-._?") for text in (parts.path or "/", parts.query)
    )
    headers = {
        "User-Agent": f"transcribe-mcp/{__version__}",
        "Accept": "audio/*, video/*, */*;q=0.5",
    }
    connection.request("GET", f"{path}?{query}" if query else path, headers=headers)
    return connection.getresponse()


def _redirected(url: str, answer: http.client.HTTPResponse) -> str:
    target = urljoin(url, answer.getheader("Location", ""))
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise SourceRefusedError(
            f"{urlsplit(url).hostname} redirects to an insecure URL", hint=_DIRECT
        )
    return target


def _require_media(answer: http.client.HTTPResponse, parts: SplitResult) -> str:
    """The file extension for a media response; raises for anything else."""
    if answer.status != 200:
        raise SourceFetchError(
            f"{parts.hostname} answers {answer.status} {answer.reason}",
            hint="check the URL; pages behind a login cannot be downloaded",
        )
    kind = answer.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        raise SourceFetchError(
            f"{parts.hostname} answers with a web page, not a recording", hint=_DIRECT
        )
    suffix = PurePosixPath(parts.path).suffix.lower()
    guessed = mimetypes.guess_extension(kind) or ""
    return next(
        (extension for extension in (suffix, guessed) if extension in MEDIA_EXTENSIONS), ".media"
    )


def _save(
    answer: http.client.HTTPResponse,
    path: Path,
    limits: FetchLimits,
    deadline: float,
    progress: Progress,
) -> None:
    announced = answer.length
    done = 0
    require_size(announced or 0, limits)
    with atomic_write(path) as file:
        while chunk := answer.read1(CHUNK_BYTES):
            done += len(chunk)
            require_size(done, limits)
            if time.monotonic() > deadline:
                raise SourceFetchError(
                    f"the recording did not arrive within {limits.max_seconds:.0f} s",
                    hint="download the file yourself",
                )
            file.write(chunk)
            progress("fetch", done, announced)
        if announced is not None and done < announced:
            raise SourceFetchError(f"{done} of {announced} bytes arrived", hint="try again")


def require_size(n_bytes: int, limits: FetchLimits) -> None:
    """
    Raises:
        SourceTooLargeError: more than the limit.
    """
    if n_bytes > limits.max_bytes:
        limit = limits.max_bytes / 1024**3
        raise SourceTooLargeError(
            f"the recording is larger than the limit of {limit:g} GiB",
            hint="raise TRANSCRIBE_MCP_MAX_FILE_GIB, or download it and extract its audio track",
        )
