"""``python -m transcribe_mcp`` and the ``transcribe-mcp`` command."""

from __future__ import annotations


def main() -> None:
    from .frontends.cli import app
    from .heap import share_arenas

    share_arenas()
    app(prog_name="transcribe-mcp")


if __name__ == "__main__":
    main()
