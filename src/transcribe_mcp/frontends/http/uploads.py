"""Read a form with a recording: the recording goes to disk as it arrives, the fields to memory."""

from __future__ import annotations

import hashlib
import logging
import mimetypes
import re
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from email.errors import MessageError
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from ...service.async_service import AsyncService
from ...service.uploads import FILE_MODE, TEMPORARY, Upload, disk_errors, make_folder
from .refusals import Refused

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # the answer has the cause

MAX_FIELDS = 200
MAX_FIELDS_BYTES = 24 * 1024 * 1024  # all fields together: four clips of voices in base64
WRITE_BYTES = 1024 * 1024  # bytes per call of a thread
MAX_NAME_CHARS = 200
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}", re.ASCII)
_NOTHING = ("null", "undefined", "none")
_BRACKETS = re.compile(r"\[.*\]$", re.DOTALL)


class Form:
    """Fields and the recording of a form.

    A list is sent as ``name[]`` several times, and an object as ``name[key]``; both count as
    ``name``.

    Attributes:
        names: of all fields and files but the recording.
        upload: the recording, or ``None``.
    """

    def __init__(self, fields: Sequence[tuple[str, str]], upload: Upload | None) -> None:
        self._fields: dict[str, list[str]] = {}
        for name, value in fields:
            self._fields.setdefault(_BRACKETS.sub("", name), []).append(value)
        self.upload = upload

    @property
    def names(self) -> list[str]:
        return list(self._fields)

    def one(self, name: str) -> str:
        """The last value of a field, or ""."""
        return self._fields.get(name, [""])[-1].strip()

    def choice(self, name: str) -> str:
        """As ``one``, for a field that is not free text: scripts send null for a missing value."""
        value = self.one(name)
        return "" if value.lower() in _NOTHING else value

    def many(self, name: str) -> list[str]:
        """All values of a field that are not empty."""
        return [value for value in map(str.strip, self._fields.get(name, [])) if value]


@asynccontextmanager
async def received_form(
    request: Request, service: AsyncService, file_field: str = "file"
) -> AsyncIterator[Form]:
    """The form of a request. Its recording is a temporary file until the block ends.

    Args:
        file_field: the recording's field, with or without a file name.

    Raises:
        Refused: not a form, or a body that is too large, invalid, or shorter than announced.
        StoreError: the recording cannot be written.
    """
    settings = service.service.settings
    limit = settings.max_file_bytes + MAX_FIELDS_BYTES
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(settings.max_file_bytes)
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        message = "the request has no form; send the recording as multipart/form-data"
        raise Refused(400, message, "usage", param=file_field)
    with ExitStack() as stack:
        with disk_errors(settings.data_dir):
            folder = await service.call(make_folder, settings.data_dir)
            temporary = stack.enter_context(
                tempfile.TemporaryDirectory(
                    prefix=TEMPORARY, dir=folder, ignore_cleanup_errors=True
                )
            )
            reader = _FormReader(options[b"boundary"], Path(temporary) / "upload", file_field)
            try:
                await _read(request, service, reader, limit)
            except (FormParserError, ClientDisconnect) as error:
                raise _ended_early(file_field) from error
            finally:
                reader.close()
        if reader.n_bytes > limit:
            raise _too_large(settings.max_file_bytes)
        if not reader.is_complete:
            raise _ended_early(file_field)
        yield Form(reader.fields, reader.upload)


async def _read(request: Request, service: AsyncService, reader: _FormReader, limit: int) -> None:
    """Read the body until it ends or exceeds the limit. Writing blocks, so a thread does it."""
    waiting = bytearray()
    async for chunk in request.stream():
        waiting += chunk
        if len(waiting) >= WRITE_BYTES:
            await service.call(reader.write, bytes(waiting))
            waiting.clear()
        if reader.n_bytes > limit:
            return
    await service.call(reader.write, bytes(waiting))


class _FormReader:
    """The callbacks of the parser.

    Attributes:
        n_bytes: of the body so far.
        is_complete: the end of the form was received.
    """

    def __init__(self, boundary: bytes, path: Path, file_field: str) -> None:
        self.fields: list[tuple[str, str]] = []
        self.upload: Upload | None = None
        self.n_bytes = 0
        self.is_complete = False
        self._path = path
        self._file_field = file_field
        self._file: Any = None
        self._digest = hashlib.sha256()
        self._n_fields_bytes = 0
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._options: dict[bytes, bytes] = {}
        self._value = bytearray()
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value",
                 "header_end", "headers_finished", "end")  # fmt: skip
        callbacks: Any = {f"on_{name}": getattr(self, f"_on_{name}") for name in names}
        self._parser = MultipartParser(boundary, callbacks)

    def write(self, data: bytes) -> None:
        self.n_bytes += len(data)
        self._parser.write(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _on_part_begin(self) -> None:
        self._headers = {}
        self._value.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _on_header_end(self) -> None:
        name, value = map(bytes, self._header)
        self._headers[name.lower()] = value
        self._header = (bytearray(), bytearray())

    def _on_headers_finished(self) -> None:
        _, self._options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in self._options:
            raise FormParserError("a part of the form has no name")
        if self._is_recording:
            if self.upload is not None:
                message = "the form has more than one recording; send one"
                raise Refused(400, message, "usage", param=self._file_field)
            self._path.touch(mode=FILE_MODE)
            self._file = self._path.open("wb")

    @property
    def _is_recording(self) -> bool:
        return self._options[b"name"].decode("utf-8", "replace") == self._file_field

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = data[start:end]
        if self._is_recording:
            self._file.write(part)
            self._digest.update(part)
        elif b"filename" not in self._options:
            self._n_fields_bytes += len(part)
            if self._n_fields_bytes > MAX_FIELDS_BYTES:
                message = (
                    f"the fields of the form are larger than {MAX_FIELDS_BYTES} bytes; send less"
                )
                raise Refused(413, message, "usage")
            self._value += part

    def _on_part_end(self) -> None:
        if not self._is_recording:
            if len(self.fields) == MAX_FIELDS:
                message = f"the form has more than {MAX_FIELDS} fields; send fewer"
                raise Refused(400, message, "usage")
            name = self._options[b"name"].decode("utf-8", "replace")
            self.fields.append((name, self._value.decode("utf-8", "replace")))
            return
        self._file.close()
        name = shown_name(self._options.get(b"filename", b""))
        suffix = Path(name).suffix.lower()
        if not _SUFFIX.fullmatch(suffix):
            kind = self._headers.get(b"content-type", b"").decode("latin-1")
            suffix = mimetypes.guess_extension(kind.partition(";")[0].strip()) or ".bin"
        self.upload = Upload(self._path, self._digest.hexdigest(), suffix, name)

    def _on_end(self) -> None:
        self.is_complete = True


def shown_name(written: bytes) -> str:
    """The name of a file for people, without its directories: decoded, printable and not long.

    Some clients send names as words of RFC 2047: ``=?utf-8?B?...?=``.
    """
    try:
        name = written.decode("utf-8")
    except UnicodeDecodeError:
        name = written.decode("latin-1")
    if name.startswith("=?") and name.endswith("?="):
        with suppress(MessageError, LookupError, ValueError):
            name = str(make_header(decode_header(name)))
    name = name.replace("\\", "/").rpartition("/")[2]
    name = "".join(char for char in name if char.isprintable()).strip()
    base, dot, suffix = name.rpartition(".")
    if len(name) > MAX_NAME_CHARS and base:
        return f"{base[: MAX_NAME_CHARS - 10]}{dot}{suffix[:9]}"
    return name[:MAX_NAME_CHARS]


def _too_large(max_bytes: int) -> Refused:
    message = (
        f"Maximum content size limit ({max_bytes}) exceeded; send a shorter or compressed file"
    )
    return Refused(413, message, "source_too_large", param="file")


def _ended_early(file_field: str) -> Refused:
    message = "the body ended before the file did, or is not a valid form; send it again"
    return Refused(400, message, "source", param=file_field)
