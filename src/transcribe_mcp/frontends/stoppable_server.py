"""uvicorn's server, which stops requests in progress without errors in the log."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from .limited_protocol import LimitedProtocol


class StoppableServer(uvicorn.Server):
    """After ``grace_s``, closes connections whose answers have begun and cancels all requests.

    uvicorn would log each of them, because it only cancels.
    """

    def __init__(self, config: uvicorn.Config, grace_s: float) -> None:
        super().__init__(config)
        self._grace_s = grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(self._grace_s, self._end_requests)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    def _end_requests(self) -> None:
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, LimitedProtocol):
                connection.cut_off()
        for task in tuple(self.server_state.tasks):
            task.cancel()
