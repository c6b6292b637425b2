"""``python -m transcribe_mcp`` and the ``transcribe-mcp`` command."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .frontends.host import Address


def main() -> None:
    # Ctrl-C while modules are loaded ends the process as it ends other programs; Python would show
    # where it was. Afterwards the command line answers it.
    by_exception = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if by_exception:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .frontends.cli.app import app
    from .frontends.cli.serve import add_commands

    if by_exception:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    add_commands(app, serve)
    try:
        app(prog_name="transcribe-mcp")
    except SystemExit as end:
        _end_at_once(end.code or 0)
        raise


def _end_at_once(code: str | int) -> None:
    """Without the interpreter's clean-up, which takes a second with torch."""
    if "torch" in sys.modules and isinstance(code, int):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(address: Address | None) -> None:
    from .frontends.mcp.server import run

    run(address)


if __name__ == "__main__":
    main()
