"""``python -m transcribe_mcp`` and the ``transcribe-mcp`` command."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .frontends.host import Address


def main() -> None:
    # Ctrl-C while modules are loaded ends the process as it ends other programs; Python would show
    # where it was. Afterwards the command line answers it.
    by_exception = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if by_exception:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .frontends.cli.app import app

    if by_exception:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app(prog_name="transcribe-mcp", obj=serve)
    except SystemExit as end:
        has_loaded = "torch" in sys.modules or sys.argv[1:2] == ["transcribe"]
        if has_loaded and isinstance(end.code, int | None):
            _exit_now(end.code or 0)
        raise


def _exit_now(code: int) -> NoReturn:
    """End without the interpreter's clean-up, which takes a second with torch."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed by the caller or the reader
            stream.flush()
    os._exit(code)


def serve(address: Address | None) -> None:
    """Serve HTTP at an address until a signal stops it, or MCP over stdio."""
    if address is None:
        from .domain.collector import paused_collector

        with paused_collector():
            from .frontends.mcp.server import run as run_stdio
        run_stdio()
        return
    from .frontends.http.start import run

    run(address, _mcp_app)


def _mcp_app(service: Any) -> Any:
    from .frontends.mcp.server import http_app

    return http_app(service)


if __name__ == "__main__":
    main()
