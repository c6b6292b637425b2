"""Applications that load in a thread while the server already answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from starlette.routing import Router
from starlette.types import Receive, Scope, Send

HEAD_START_S = 0.1  # for requests that do not need the application


class Application(Protocol):
    """The common interface of ``Starlette`` and ``Guard``."""

    @property
    def router(self) -> Router: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Later:
    """An application that is built in a thread: at its first request, or soon after the start.

    Its requests wait. The thread shares the GIL with the server, so it delays other requests.

    Args:
        make: builds it; blocks.
    """

    def __init__(self, make: Callable[[], Application]) -> None:
        self._make = make
        self._app: asyncio.Future[Application]
        self._is_wanted = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = await self.loaded()
        await app(scope, receive, send)

    async def loaded(self) -> Application:
        self._is_wanted.set()
        return await asyncio.shield(self._app)

    @asynccontextmanager
    async def running(self, _: Any) -> AsyncIterator[None]:
        """The lifespan of the server. The application has its own, in one task."""
        self._app = asyncio.get_running_loop().create_future()
        is_over = asyncio.Event()
        task = asyncio.create_task(self._run(is_over))
        try:
            yield
        finally:
            is_over.set()
            await task

    async def _run(self, is_over: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAD_START_S):
                await self._is_wanted.wait()
        try:
            app = await asyncio.to_thread(self._make)
        except BaseException as error:
            self._app.set_exception(error)
            raise
        async with app.router.lifespan_context(app):
            self._app.set_result(app)
            await is_over.wait()
