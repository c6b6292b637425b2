"""Errors as HTTP answers, in the shape of OpenAI's API: an object with a message for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

_NO_ROUTE = {404: "not_found", 405: "method_not_allowed"}


# The SDKs of OpenAI send a request three times, and its upload too, unless this header stops them.
NO_RETRY: Mapping[str, str] = {"x-should-retry": "false"}


class Refused(Exception):
    """An error as an answer, raised by a handler; see ``refusal``."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.response = refusal(status, message, code, param=param, headers=headers)


def refusal(
    status: int,
    message: str,
    code: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error as an answer.

    Args:
        message: for people, with the way out.
        code: for programs; see ``docs/errors.md``.
        param: the field of the request that is wrong.
    """
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status, headers)


def no_route(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request for an unknown path, or with another method than the path has."""
    assert isinstance(error, HTTPException)
    message = f"there is no {request.method} {request.url.path[:200]!r}"
    code = _NO_ROUTE.get(error.status_code, "bad_request")
    return refusal(error.status_code, message, code, headers=error.headers)


def broken(_request: Request, _error: Exception) -> JSONResponse:
    """The answer to a request that met a defect; uvicorn logs the cause."""
    message = "the server has a defect; its log has the cause"
    return refusal(500, message, "error", headers=NO_RETRY)


def refused(_request: Request, error: Exception) -> JSONResponse:
    """The answer that a handler raised."""
    assert isinstance(error, Refused)
    return error.response


HANDLERS: Mapping[Any, Any] = {HTTPException: no_route, Refused: refused, Exception: broken}
