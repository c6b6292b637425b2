"""The routes of a part of the server, and the rules of their paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.routing import BaseRoute

from .guard import Area


@dataclass(frozen=True, slots=True)
class Part:
    """Routes and their rules. ``server.all_parts`` joins the parts."""

    routes: Sequence[BaseRoute]
    areas: Sequence[Area] = ()
