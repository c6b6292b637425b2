"""uvicorn's HTTP protocol with limits on time and connections; it has none itself."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 10.0  # for the headers and a short body, and for each further part of a long body
BODY_PART_BYTES = 64 * 1024
MAX_CONNECTIONS = 256
MAX_HEADER_BYTES = 64 * 1024


class LimitedProtocol(H11Protocol):
    """Closes connections with slow requests; beyond ``MAX_CONNECTIONS``, the slowest one."""

    _timer: asyncio.TimerHandle | None = None
    _last_byte_at = 0.0
    _n_bytes = 0  # since the timer was started
    _is_upgraded = False  # for a WebSocket, which has its own limits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._last_byte_at = self.loop.time()
        self._start_timer()
        if len(self.connections) > MAX_CONNECTIONS:
            waiting = [
                each
                for each in self.connections
                if isinstance(each, LimitedProtocol)
                and each._is_waiting()
                and not each.transport.is_closing()
            ]
            min(waiting, key=lambda each: each._last_byte_at).transport.abort()

    def data_received(self, data: bytes) -> None:
        self._last_byte_at = self.loop.time()
        self._n_bytes += len(data)
        super().data_received(data)
        if not self._is_waiting() or self._has_part_of_body():
            self._stop_timer()
        if self._is_waiting() and self._timer is None and not self._is_upgraded:
            self._start_timer()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._is_upgraded = True
        self._stop_timer()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def cut_off(self) -> None:
        """Close the connection if an answer has begun and is not complete."""
        cycle = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.abort()

    def _is_waiting(self) -> bool:
        """For a request, or for the rest of its headers or its body."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    def _has_part_of_body(self) -> bool:
        """Whether a long body is still arriving and being read."""
        cycle = self.cycle
        is_body = cycle is not None and cycle.more_body and not cycle.response_complete
        return is_body and self._n_bytes >= BODY_PART_BYTES

    def _start_timer(self) -> None:
        self._n_bytes = 0
        self._timer = self.loop.call_later(REQUEST_S, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._timer = None
        if self.flow.read_paused:  # the application is slow, not the client
            self._start_timer()
        elif self._is_waiting():
            self.transport.abort()
