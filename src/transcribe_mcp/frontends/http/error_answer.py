"""The shape of an error in OpenAI's API: an object with a message for people."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from starlette.responses import JSONResponse

# OpenAI's SDKs send a request three times, including its upload, unless this header stops them.
NO_RETRY: Mapping[str, str] = {"x-should-retry": "false"}


def refusal(
    status: int,
    message: str,
    code: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> JSONResponse:
    """An error as an answer.

    Args:
        message: for people, with a hint.
        code: for programs; see ``docs/errors.md``.
        param: the field of the request that is wrong.
        more: fields beside the error.
    """
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error, **more}, status, headers)
