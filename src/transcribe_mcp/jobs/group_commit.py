"""Group commit: concurrent requests are executed as one batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class GroupCommit(Generic[Request, Answer]):
    """Collects the requests that arrive during a batch; the first of their threads executes them.

    Args:
        work: returns an answer, or the error to raise, for each request. If it raises for a batch,
            each request is retried separately, so that a failing request does not fail the others.
    """

    def __init__(self, work: Callable[[Sequence[Request]], Sequence[Answer | Exception]]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._working = threading.Lock()
        self._waiting: list[tuple[Request, Future[Answer]]] = []

    def __call__(self, request: Request) -> Answer:
        mine: Future[Answer] = Future()
        with self._lock:
            self._waiting.append((request, mine))
        with self._working:
            if not mine.done():  # else an earlier batch included it
                with self._lock:
                    batch = self._waiting
                    self._waiting = []
                self._execute(batch)
        return mine.result()

    def _execute(self, batch: Sequence[tuple[Request, Future[Answer]]]) -> None:
        try:
            answers = self._work([request for request, _ in batch])
        except BaseException as error:  # noqa: BLE001 - raised in the threads that asked
            if len(batch) > 1 and isinstance(error, Exception):
                for one in batch:
                    self._execute([one])
                return
            answers = [error] * len(batch)  # type: ignore[list-item]
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
