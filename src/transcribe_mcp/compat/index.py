"""Read pip's package index: releases (PEP 691, or HTML) and their requirements (PEP 658).

Specification: https://packaging.python.org/en/latest/specifications/simple-repository-api/ .
Credentials in an index URL are used and never shown.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import json
import os
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from .errors import PackageIndexError
from .versions import is_prerelease, normalised, version_key

DEFAULT_INDEX = "https://pypi.org/simple"
ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    "text/html;q=0.1"
)
TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 96 * 1024 * 1024
MAX_METADATA_BYTES = 4 * 1024 * 1024
_OFFLINE_HINT = "this command needs the package index; all of doctor works without a network"


@dataclass(frozen=True, slots=True)
class PipConfiguration:
    """pip's settings: main index first; ``certificates`` is a file, empty for the system's."""

    index_urls: tuple[str, ...]
    certificates: str = ""
    proxy: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """One wheel on an index."""

    version: str
    url: str
    requires_python: str
    yanked: bool
    has_metadata: bool
    metadata_sha256: str = ""


def pip_configuration() -> PipConfiguration:
    """pip's precedence: variables, then the files of environment, user and machine."""
    values: dict[str, str] = {}
    for path in _configuration_files():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip reports it; this command falls back to the default index
        for section in ("global", "install"):
            if parser.has_section(section):
                values |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    for key in ("index-url", "extra-index-url", "cert", "proxy"):
        name = "PIP_" + key.upper().replace("-", "_")
        if os.environ.get(name):
            values[key] = os.environ[name]
    urls = [values.get("index-url", DEFAULT_INDEX), *values.get("extra-index-url", "").split()]
    asked = tuple(url.rstrip("/") for url in urls if url.startswith(("http://", "https://")))
    return PipConfiguration(asked, values.get("cert", ""), values.get("proxy", ""))


def _configuration_files() -> Iterator[Path]:
    if "PIP_CONFIG_FILE" in os.environ:
        yield Path(os.environ["PIP_CONFIG_FILE"])
        return
    home = Path.home()
    if sys.platform == "win32":
        yield Path(os.environ.get("PROGRAMDATA", "C:/ProgramData")) / "pip" / "pip.ini"
        yield Path(os.environ.get("APPDATA", home / "AppData" / "Roaming")) / "pip" / "pip.ini"
        yield Path(sys.prefix) / "pip.ini"
        return
    if sys.platform == "darwin":
        yield Path("/Library/Application Support/pip/pip.conf")
        yield home / "Library" / "Application Support" / "pip" / "pip.conf"
    yield from (Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), home / ".pip" / "pip.conf")
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"


class Index:
    """All configured indexes as one. Thread-safe; holds no connection."""

    def __init__(self, configuration: PipConfiguration) -> None:
        if not configuration.index_urls:
            raise PackageIndexError("pip has no HTTP index configured", hint="set PIP_INDEX_URL")
        self.configuration = configuration
        handlers: list[Any] = []
        if configuration.proxy:
            handlers.append(
                urllib.request.ProxyHandler(dict.fromkeys(("http", "https"), configuration.proxy))
            )
        try:
            context = ssl.create_default_context(cafile=configuration.certificates or None)
        except OSError as error:
            raise PackageIndexError(
                f"pip's cert {configuration.certificates} cannot be read: {error}"
            ) from error
        self._opener = urllib.request.build_opener(
            *handlers, urllib.request.HTTPSHandler(context=context)
        )

    def files(self, package: str) -> list[File]:
        """All wheels of a package on all indexes. Raises ``PackageIndexError``."""
        found = []
        for index_url in self.configuration.index_urls:
            url = f"{index_url}/{normalised(package)}/"
            answer = self._get(url, MAX_ANSWER_BYTES, ACCEPT)
            if answer is not None:
                body, kind = answer
                found += list(_files(body, kind, url, package))
        return found

    def requirements(self, file: File) -> tuple[str, ...] | None:
        """The file's ``Requires-Dist`` lines; None if the index has no metadata file."""
        if not file.has_metadata:
            return None
        answer = self._get(file.url.partition("#")[0] + ".metadata", MAX_METADATA_BYTES, "*/*")
        if answer is None:
            return None
        body, _ = answer
        if file.metadata_sha256 and hashlib.sha256(body).hexdigest() != file.metadata_sha256:
            raise PackageIndexError(
                f"the metadata of {file.url.rpartition('/')[2]} does not match its checksum"
            )
        head = body.decode("utf-8", "replace").partition("\n\n")[0]
        return tuple(
            line.partition(":")[2].strip()
            for line in head.splitlines()
            if line.startswith("Requires-Dist:")
        )

    def _get(self, url: str, limit_bytes: int, accept: str) -> tuple[bytes, str] | None:
        request = _request(url, accept)
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                body: bytes = response.read(limit_bytes + 1)
                kind = response.headers.get("Content-Type", "")
        except urllib.error.HTTPError as error:
            error.close()  # the error is also the response
            if error.code == 404:
                return None
            raise PackageIndexError(
                f"{shown(url)} answers {error.code} {error.reason}", hint=_OFFLINE_HINT
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise PackageIndexError(
                f"the package index {shown(url)} cannot be reached: {reason}", hint=_OFFLINE_HINT
            ) from error
        if len(body) > limit_bytes:
            raise PackageIndexError(f"{shown(url)} answers with more than {limit_bytes} bytes")
        return body, kind


def _request(url: str, accept: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    headers = {"Accept": accept, "User-Agent": "transcribe-mcp updates"}
    if parts.username is not None:
        pair = (
            f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        )
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
        url = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return urllib.request.Request(url, headers=headers)


def shown(url: str) -> str:
    """The URL without its credentials."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _files(body: bytes, kind: str, url: str, package: str) -> Iterator[File]:
    is_json = "json" in kind
    try:
        entries = list(_json_entries(body) if is_json else _html_entries(body))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PackageIndexError(
            f"{shown(url)} answers nonsense: {error}", hint="check that this URL is a package index"
        ) from error
    for entry in entries:
        name = str(entry["filename"])
        file_url = urllib.parse.urljoin(url, str(entry["url"]))
        parts = name.split("-")
        if (
            name.endswith(".whl")
            and len(parts) >= 5
            and normalised(parts[0]) == normalised(package)
        ):
            metadata = entry.get("core-metadata", entry.get("dist-info-metadata", False))
            digest = metadata.get("sha256", "") if isinstance(metadata, dict) else ""
            python = str(entry.get("requires-python") or "")
            yield File(
                parts[1], file_url, python, bool(entry.get("yanked")), bool(metadata), str(digest)
            )


def _json_entries(body: bytes) -> Iterator[Mapping[str, Any]]:
    record = json.loads(body)
    for entry in record["files"]:
        if not isinstance(entry, dict) or not {"filename", "url"} <= entry.keys():
            raise ValueError("a file without name and URL")
        yield entry


def _html_entries(body: bytes) -> Iterator[Mapping[str, Any]]:
    reader = _Anchors()
    reader.feed(body.decode("utf-8"))
    if not reader.seen_tag:
        raise ValueError("neither JSON nor HTML")
    for attributes in reader.found:
        href = attributes.get("href") or ""
        metadata = attributes.get("data-core-metadata", attributes.get("data-dist-info-metadata"))
        algorithm, _, digest = (metadata or "").partition("=")
        yield {
            "filename": urllib.parse.unquote(href.partition("#")[0].rpartition("/")[2]),
            "url": href,
            "requires-python": attributes.get("data-requires-python"),
            "yanked": "data-yanked" in attributes,
            "core-metadata": {"sha256": digest} if algorithm == "sha256" else metadata is not None,
        }


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.seen_tag = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen_tag = True
        if tag == "a":
            self.found.append(dict(attrs))


def newest(files: list[File]) -> File | None:
    """The newest final release that was not yanked; prefers a file with metadata."""
    usable = [file for file in files if not file.yanked and not is_prerelease(file.version)]
    return max(usable, key=lambda f: (version_key(f.version), f.has_metadata), default=None)
