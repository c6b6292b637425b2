"""``/v1/models``, and the model of a request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ...errors import ModelUnavailableError, UnknownNameError
from ...service import list_models, model_path
from ...service.async_service import AsyncService
from ...service.server_settings import may_download_models, model_aliases
from .guard import Area
from .parts import Part
from .refusals import Refused

DIARIZING = "gpt-4o-transcribe-diarize"
# Names of hosted models that clients have built in. They mean the default model.
ALIASES = (
    "default", "whisper-1", "gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15", DIARIZING,
)  # fmt: skip
AUTO = "auto"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def part(service: AsyncService) -> Part:
    default = service.service.settings.model

    async def list_all(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": await service.call(_rows, default)})

    async def retrieve(request: Request) -> JSONResponse:
        name = request.path_params["name"]
        if not name:  # the list, with a slash after it
            return await list_all(request)
        for row in await service.call(_rows, default):
            if row["id"] == name:
                return JSONResponse(row)
        await service.call(find_model, name)
        return JSONResponse(_row(name, 0))  # downloaded by the job

    routes = [Route("/v1/models", list_all), Route("/v1/models/{name:path}", retrieve)]
    return Part(routes, [Area("/v1/*", is_cross_origin=True)])


def find_model(name: str) -> str:
    """The model of a request: ``auto`` for the default, or a model on this machine. Blocks.

    Names that are paths are unknown: clients elsewhere must not open directories. Aliases of the
    owner may mean any model.

    Raises:
        Refused: no such model, or it is not on this machine.
    """
    name = name.strip()
    if model := model_aliases().get(name):
        return model
    if name in ("", AUTO, *ALIASES):
        return AUTO
    if not _NAME.fullmatch(name):
        raise no_model(name)
    try:
        model_path(name)
    except UnknownNameError as error:
        raise no_model(name) from error
    except ModelUnavailableError as error:
        if may_download_models():
            return name
        hint = (
            f"download it there with transcribe-mcp models pull {name}, or choose one of /v1/models"
        )
        message = f"the model {name!r} is not on this server; {hint}"
        raise Refused(404, message, "model_not_found", param="model") from error
    if Path(name).is_dir() and name not in {row.name for row in list_models()}:
        raise no_model(name)
    return name


def no_model(name: str) -> Refused:
    message = f"the model {name[:200]!r} does not exist; choose one of /v1/models"
    return Refused(404, message, "model_not_found", param="model")


def _rows(default: str) -> list[dict[str, Any]]:
    """The default model first, then the others on this machine, then the aliases."""
    created = dict(_models_here())
    names = sorted(created, key=lambda name: name != default)
    everything = dict.fromkeys((*names, *model_aliases(), *ALIASES))
    return [_row(name, created.get(name, 0)) for name in everything]


def _row(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "local"}


def _models_here() -> Iterator[tuple[str, int]]:
    for row in list_models():
        if row.path is not None:
            yield row.name, int(row.path.stat().st_mtime)
