"""What several threads want done at once is done once for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class GroupCommit(Generic[Request, Answer]):
    """Calls that come while others are carried out wait, and are then carried out in one piece by the first of them.

    Args:
        work: gives an answer, or the error to raise, for each request. If it raises, and there were several requests, each
            is tried by itself: one that cannot be met costs no other its answer.
    """

    def __init__(self, work: Callable[[Sequence[Request]], Sequence[Answer | Exception]]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._at_work = threading.Lock()
        self._waiting: list[tuple[Request, Future[Answer]]] = []

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    def __call__(self, request: Request) -> Answer:
        mine: Future[Answer] = Future()
        with self._lock:
            self._waiting.append((request, mine))
        with self._at_work:
            if not mine.done():  # else one that came before took it along
                with self._lock:
                    taken, self._waiting = self._waiting, []
                self._carry_out(taken)
        return mine.result()

    def _carry_out(self, taken: Sequence[tuple[Request, Future[Answer]]]) -> None:
        try:
            answers = self._work([request for request, _ in taken])
        except BaseException as error:  # noqa: BLE001 - carried to the threads whose requests these are
            if len(taken) > 1 and isinstance(error, Exception):
                for one in taken:
                    self._carry_out([one])
                return
            for _, result in taken:
                result.set_exception(error)
            return
        for (_, result), answer in zip(taken, answers, strict=True):
            if isinstance(answer, Exception):
                result.set_exception(answer)
            else:
                result.set_result(answer)
