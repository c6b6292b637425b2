"""A service for programs with an event loop, such as the MCP server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

from ..errors import CancelledError
from .models import Batch, Job
from .polls import Polls
from .service import Service

MAX_THREADS = 20

P = ParamSpec("P")
T = TypeVar("T")


class AsyncService:
    """Runs blocking calls in its own threads, and waits for jobs without a thread.

    Attributes:
        service: the service itself; its methods block.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        # A call that waits for the database, or for a long transcript, delays no other call.
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="service")
        self._submitting: set[Future[Any]] = set()
        self._is_closing = threading.Event()

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking function in a thread, in the context of the caller."""
        return await asyncio.wrap_future(self._started(partial(function, *args, **kwargs)))

    async def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that submits jobs. ``close`` waits for it."""
        future = self._started(partial(function, *args, **kwargs))
        self._submitting.add(future)
        future.add_done_callback(self._submitting.discard)
        return await asyncio.wrap_future(future)

    async def interruptible(self, function: Callable[[Callable[[], None]], T]) -> T:
        """Run a long function, such as a search through directories.

        Its argument is a check to call often. It raises ``CancelledError`` once the caller is
        cancelled.
        """
        is_over = threading.Event()

        def check() -> None:
            if is_over.is_set() or self._is_closing.is_set():
                raise CancelledError("the call was cancelled")

        try:
            return await self.call(function, check)
        finally:
            is_over.set()

    async def wait_for(
        self,
        job: Job | Batch,
        seconds: float,
        on_change: Callable[[Job | Batch], Awaitable[None]] | None = None,
    ) -> Job | Batch:
        """``Service.wait_for`` for a job whose present state is known."""
        polls = Polls(self.service.get_job, self.service.version, seconds)
        seen: Job | Batch | None = None
        while True:
            if job != seen and on_change is not None:
                await on_change(job)
            seen = job
            pause_s = polls.pause_s(job)
            if pause_s is None:
                return job
            await asyncio.sleep(pause_s)
            job = await self.call(polls.look, job)

    def close(self, patience_s: float) -> None:
        """Wait this long for submissions in progress; interrupt or abandon other calls."""
        self._is_closing.set()
        wait(tuple(self._submitting), patience_s)

    def _started(self, work: Callable[[], T]) -> Future[T]:
        return self._threads.submit(copy_context().run, work)
