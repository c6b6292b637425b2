"""``transcribe-mcp serve`` and ``mcp-config``: how a server is started, and how clients are told to start it.

What serves is given from outside, so that the command line can be described without loading it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ...service import server_settings as service
from ..host import Address
from .terminal import exit_codes, say, write_out

Serve = Callable[[Address | None], None]

Http = Annotated[
    bool, typer.Option("--http", help="Streamable HTTP instead of standard input and output.")
]
Host = Annotated[
    str, typer.Option(help="Where HTTP listens; other machines reach it only with a token.")
]
Port = Annotated[
    int, typer.Option(min=0, max=65535, help="Where HTTP listens; 0 takes a free port.")
]
Token = Annotated[
    str | None,
    typer.Option(help="Bearer token of HTTP clients; others here can see it: better the variable."),
]
AllowedHost = Annotated[
    list[str] | None,
    typer.Option(help="A name under which HTTP clients reach this machine; may be repeated."),
]
AllowedRoot = Annotated[
    list[Path] | None,
    typer.Option(
        help="A directory that recordings may be read from; may be repeated. Default: here and your home."
    ),
]
AllowUrls = Annotated[
    bool, typer.Option("--allow-urls", help="Fetch recordings from public addresses.")
]
DataDir = Annotated[Path | None, typer.Option(help="Where jobs and transcripts are kept.")]
DatabaseUrl = Annotated[
    str | None, typer.Option(help="PostgreSQL for jobs and transcripts, instead of a file.")
]
DefaultModel = Annotated[str | None, typer.Option("--model", help="Model of calls that name none.")]
MaxFile = Annotated[
    float | None, typer.Option("--max-file-gib", help="GiB of the largest recording taken. [5]")
]
MaxHours = Annotated[
    float | None, typer.Option("--max-duration-hours", help="Hours of the longest taken. [24]")
]
MaxQueue = Annotated[
    int | None, typer.Option("--max-queue-length", help="Jobs that may wait at once. [1000]")
]
KeepDays = Annotated[
    float | None,
    typer.Option("--keep-days", help="Days that finished jobs are kept. [0: for good]"),
]
Client = Annotated[
    str, typer.Argument(metavar="CLIENT", help="claude-code, claude-desktop, cursor or vscode.")
]
Write = Annotated[
    bool, typer.Option("--write", help="Put it into the client's file, which is copied first.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--file", help="The client's file, where it is elsewhere.")
]


def add_commands(app: typer.Typer, run: Serve) -> None:
    """Add the commands; ``run`` serves until it is told to stop."""

    @app.command()
    def serve(
        http: Http = False,
        host: Host = "127.0.0.1",
        port: Port = 8765,
        token: Token = None,
        allowed_host: AllowedHost = None,
        allowed_root: AllowedRoot = None,
        allow_urls: AllowUrls = False,
        data_dir: DataDir = None,
        database_url: DatabaseUrl = None,
        model: DefaultModel = None,
        max_file_gib: MaxFile = None,
        max_duration_hours: MaxHours = None,
        max_queue_length: MaxQueue = None,
        keep_days: KeepDays = None,
    ) -> None:
        """Serve assistants and other MCP clients: transcription as tools, transcripts as resources."""
        roots = [str(root.absolute()) for root in allowed_root or ()]
        options = {
            "token": token,
            "allowed_roots": os.pathsep.join(roots) or None,
            "allow_urls": "1" if allow_urls else None,
            "data_dir": str(data_dir.absolute()) if data_dir else None,
            "database_url": database_url,
            "model": model,
            "max_file_gib": None if max_file_gib is None else str(max_file_gib),
            "max_duration_hours": None if max_duration_hours is None else str(max_duration_hours),
            "max_queue_length": None if max_queue_length is None else str(max_queue_length),
            "keep_days": None if keep_days is None else str(keep_days),
        }
        with exit_codes():
            service.configure(options)
            if not http and sys.stdin is not None and sys.stdin.isatty():
                say(
                    "speaking MCP on this terminal; clients start this themselves: transcribe-mcp mcp-config --help"
                )
            run(Address(host, port, tuple(allowed_host or ())) if http else None)

    @app.command("mcp-config")
    def mcp_config(client: Client, write: Write = False, file: ConfigFile = None) -> None:
        """Print what makes an MCP client start this server; with --write put it into the client's file."""
        from ..mcp.config import ConfigChange, client_named

        with exit_codes():
            change = ConfigChange.for_client(client_named(client), file)
            if not write:
                write_out(change.snippet)
                say(f"goes into {change.path}; --write puts it there")
                return
            backup = change.write()
            write_out(f"{change.path}\n")
            say(f"the old file is {backup}" if backup else "the file is new")
