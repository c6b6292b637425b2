"""``transcribe-mcp serve`` and ``mcp-config``: run the MCP server, and configure its clients.

The program passes the server as the context's object: a function that serves at an ``Address``, or
over standard input and output for ``None``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ...errors import CancelledError, UsageError
from ...service import server_settings as service
from ..host import Address, Pages
from .terminal import exit_codes, say, write_out

commands = typer.Typer(rich_markup_mode=None)

HTTP_ONLY = frozenset(
    {"host", "port", "token", "allowed_host", "allowed_origin", "no_web", "model_alias",
     "allow_model_download", "max_live"}
)  # fmt: skip

Http = Annotated[
    bool, typer.Option("--http", help="Use Streamable HTTP instead of standard input and output.")
]
Host = Annotated[
    str,
    typer.Option(
        metavar="TEXT", help="HTTP address; addresses beyond this machine require a token."
    ),
]
Port = Annotated[
    int, typer.Option(min=0, max=65535, metavar="INTEGER", help="HTTP port; 0 picks a free one.")
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Bearer token of HTTP clients. Visible in the process list: "
        "prefer TRANSCRIBE_MCP_TOKEN.",
    ),
]
AllowedHost = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="Name of this machine for HTTP clients; may be repeated."),
]
AllowedOrigin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="Origin of other pages that may use /v1 and /asr, such as app://obsidian.md; "
        "may be repeated.",
    ),
]
NoWeb = Annotated[bool, typer.Option("--no-web", help="Do not serve the page for browsers.")]
OpenPage = Annotated[
    bool, typer.Option("--open", help="Open the page in a browser on this machine; implies --http.")
]
AllowedRoot = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR",
        help="Directory with recordings; may be repeated. Default: the working and home directory.",
    ),
]
AllowUrls = Annotated[
    bool, typer.Option("--allow-urls", help="Download recordings from public URLs.")
]
AllowedSource = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PREFIX",
        help="Prefix of object storage, such as s3://bucket/talks/; may be repeated.",
    ),
]
AllowVoices = Annotated[
    bool,
    typer.Option("--allow-voices", help="Let clients have known voices recognized."),
]
DataDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Directory for jobs and transcripts.")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="PostgreSQL URL for jobs and transcripts, instead of a file."),
]
DefaultModel = Annotated[
    str | None, typer.Option("--model", metavar="TEXT", help="Default model for requests.")
]
MaxFile = Annotated[
    float | None,
    typer.Option("--max-file-gib", metavar="NUMBER", help="Largest recording in GiB. [default: 5]"),
]
MaxHours = Annotated[
    float | None,
    typer.Option(
        "--max-duration-hours", metavar="NUMBER", help="Longest recording in hours. [default: 24]"
    ),
]
MaxQueue = Annotated[
    int | None,
    typer.Option(
        "--max-queue-length",
        metavar="INTEGER",
        help="Maximum number of queued jobs. [default: 1000]",
    ),
]
KeepDays = Annotated[
    float | None,
    typer.Option(
        "--keep-days",
        metavar="NUMBER",
        help="Delete finished jobs after this many days. 0 (default): never.",
    ),
]
ModelAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=MODEL", help="Name that HTTP clients use for a model; may be repeated."
    ),
]
AllowModelDownload = Annotated[
    bool,
    typer.Option(
        "--allow-model-download", help="Download models that HTTP clients name, if missing."
    ),
]
MaxLive = Annotated[
    int | None,
    typer.Option(
        "--max-live",
        min=0,
        metavar="INTEGER",
        help="Maximum number of live sessions at a time. [default: 2]",
    ),
]
Client = Annotated[
    str, typer.Argument(metavar="CLIENT", help="claude-code, claude-desktop, cursor or vscode.")
]
Write = Annotated[
    bool, typer.Option("--write", help="Add it to the client's file, after a backup of the file.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="The client's file, if not in the usual place."),
]


@commands.command()
def serve(
    context: typer.Context,
    http: Http = False,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    token: Token = None,
    allowed_host: AllowedHost = None,
    allowed_origin: AllowedOrigin = None,
    no_web: NoWeb = False,
    open_page: OpenPage = False,
    allowed_root: AllowedRoot = None,
    allow_urls: AllowUrls = False,
    allowed_source: AllowedSource = None,
    allow_voices: AllowVoices = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    model: DefaultModel = None,
    max_file_gib: MaxFile = None,
    max_duration_hours: MaxHours = None,
    max_queue_length: MaxQueue = None,
    keep_days: KeepDays = None,
    max_live: MaxLive = None,
    model_alias: ModelAlias = None,
    allow_model_download: AllowModelDownload = False,
) -> None:
    """Run the MCP server. With --http also the HTTP API and a page for browsers."""
    roots = [str(root.absolute()) for root in allowed_root or ()]
    options = {
        "token": token,
        "allowed_roots": os.pathsep.join(roots) or None,
        "allow_urls": "1" if allow_urls else None,
        "allowed_sources": " ".join(allowed_source or ()) or None,
        "allow_voices": "1" if allow_voices else None,
        "data_dir": str(data_dir.absolute()) if data_dir else None,
        "database_url": database_url,
        "model": model,
        "max_file_gib": None if max_file_gib is None else str(max_file_gib),
        "max_duration_hours": None if max_duration_hours is None else str(max_duration_hours),
        "max_queue_length": None if max_queue_length is None else str(max_queue_length),
        "keep_days": None if keep_days is None else str(keep_days),
        "model_aliases": " ".join(model_alias or ()) or None,
        "allow_model_download": "1" if allow_model_download else None,
        "max_live": None if max_live is None else str(max_live),
    }
    with exit_codes():
        if open_page and no_web:
            raise UsageError("--open contradicts --no-web", hint="give only one of them")
        service.configure(options)
        if not (http or open_page):
            _refuse_http_options(context)
        if not (http or open_page) and sys.stdin is not None and sys.stdin.isatty():
            say(
                "serving MCP on this terminal; MCP clients start the server themselves, see: "
                "transcribe-mcp mcp-config --help"
            )
        names = tuple(allowed_host or ())
        origins = tuple(allowed_origin or ())
        pages = Pages(is_served=not no_web, is_opened=open_page)
        address = Address(host, port, names, origins, pages)
        try:
            context.obj(address if http or open_page else None)
        except KeyboardInterrupt:  # the usual end of a server
            raise SystemExit(CancelledError.exit_code) from None


def _refuse_http_options(context: typer.Context) -> None:
    """
    Raises:
        UsageError: the command line has options that only HTTP uses.
    """
    given = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        is_given = source is not None and source.name == "COMMANDLINE"
        if parameter.name in HTTP_ONLY and is_given:
            given.append(parameter.opts[0])
    if given:
        verb = "has" if len(given) == 1 else "have"
        raise UsageError(
            f"{', '.join(given)} {verb} no effect without --http",
            hint="add --http, or leave out these options",
        )


@commands.command("mcp-config")
def mcp_config(client: Client, write: Write = False, file: ConfigFile = None) -> None:
    """Print or install the configuration of an MCP client."""
    from ..mcp.config import ConfigChange, client_named

    with exit_codes():
        change = ConfigChange.for_client(client_named(client), file)
        if not write:
            write_out(change.snippet)
            say(f"Add this to {change.path}, or run again with --write.")
            return
        backup = change.write()
        write_out(f"{change.path}\n")
        say(f"backup: {backup}" if backup else "created a new file")
