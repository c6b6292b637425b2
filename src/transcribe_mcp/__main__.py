"""``python -m transcribe_mcp`` and the ``transcribe-mcp`` command."""

from __future__ import annotations

import sys

# What has to work on a machine where any package may be broken: nothing else is imported for it.
STANDARD_LIBRARY_ALONE = ("doctor", "env", "compat")


def main() -> None:
    arguments = sys.argv[1:]
    if arguments and arguments[0] in STANDARD_LIBRARY_ALONE:
        from .compat import main as compatibility

        raise SystemExit(compatibility(arguments[1:] if arguments[0] == "compat" else arguments))

    try:
        from .frontends.cli import app

        app(prog_name="transcribe-mcp")
    except KeyboardInterrupt:  # while it starts; afterwards the command line answers itself
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
