"""``python -m transcribe_mcp`` and the ``transcribe-mcp`` command."""

from __future__ import annotations

import signal


def main() -> None:
    # Ctrl-C while modules are loaded ends the process as it ends other programs; Python would show where it was.
    # Afterwards the command line answers it.
    by_exception = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if by_exception:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .frontends.cli import app

    if by_exception:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app(prog_name="transcribe-mcp")


if __name__ == "__main__":
    main()
