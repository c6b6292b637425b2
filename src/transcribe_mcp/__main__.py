"""``python -m transcribe_mcp`` and the ``transcribe-mcp`` command."""

from __future__ import annotations


def main() -> None:
    try:
        from .frontends.cli import app

        app(prog_name="transcribe-mcp")
    except KeyboardInterrupt:  # while it starts; afterwards the command line answers itself
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
