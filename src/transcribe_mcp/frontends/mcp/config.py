"""The entry of this server in the configuration file of an MCP client."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import OutputError, UnknownNameError

NAME = "transcribe"
SECRET = "TRANSCRIBE_MCP_TOKEN"


@dataclass(frozen=True, slots=True)
class Client:
    """A client's file and the key of its servers. ``typed`` entries name the transport."""

    path: Callable[[], Path]
    key: str
    typed: bool = False


def _application_folder(name: str) -> Path:
    """The folder for a user's settings of a desktop program."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / name
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / name
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / name


# https://code.claude.com/docs/en/mcp
# https://modelcontextprotocol.io/docs/develop/connect-local-servers
# https://docs.cursor.com/context/mcp
# https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
CLIENTS: Mapping[str, Client] = {
    "claude-code": Client(lambda: Path.home() / ".claude.json", "mcpServers", typed=True),
    "claude-desktop": Client(
        lambda: _application_folder("Claude") / "claude_desktop_config.json", "mcpServers"
    ),
    "cursor": Client(lambda: Path.home() / ".cursor" / "mcp.json", "mcpServers"),
    "vscode": Client(
        lambda: _application_folder("Code") / "User" / "mcp.json", "servers", typed=True
    ),
}


def client_named(name: str) -> Client:
    """
    Raises:
        UnknownNameError: no such client; the hint names the nearest.
    """
    if name in CLIENTS:
        return CLIENTS[name]
    raise UnknownNameError.unknown(f"there is no client {name!r}", name, CLIENTS, "clients")


def server_entry(client: Client) -> dict[str, Any]:
    """The command of this installation, with the present settings except the token."""
    prefix = "TRANSCRIBE_MCP_"
    settings = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(prefix) and name != SECRET
    }
    entry: dict[str, Any] = {"type": "stdio"} if client.typed else {}
    entry |= {"command": sys.executable, "args": ["-m", "transcribe_mcp", "serve"]}
    return entry | ({"env": settings} if settings else {})


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """An entry and its file."""

    path: Path
    key: str
    entry: dict[str, Any]

    @classmethod
    def for_client(cls, client: Client, file: Path | None = None) -> ConfigChange:
        return cls(file or client.path(), client.key, server_entry(client))

    @property
    def snippet(self) -> str:
        """The entry as it stands in the file."""
        return json.dumps({self.key: {NAME: self.entry}}, indent=2, ensure_ascii=False) + "\n"

    def write(self) -> Path | None:
        """Add the entry to the file, or replace it; returns a backup of the old file.

        The file is replaced atomically; if it is a link, its target is replaced.

        Raises:
            OutputError: the file is not a JSON object, or is not readable or writable.
        """
        path = Path(os.path.realpath(self.path))
        try:
            before = path.read_text(encoding="utf-8-sig") if path.exists() else None
            content = self._parsed(before)
            servers = content.setdefault(self.key, {})
            if not isinstance(servers, dict):
                raise OutputError(
                    f"{self.path}: {self.key!r} is not an object", hint=self._by_hand()
                )
            servers[NAME] = self.entry
            backup = _backup(path) if before is not None else None
            _replace(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise OutputError(
                f"cannot change {self.path}: {reason}", hint=self._by_hand()
            ) from error
        return backup

    def _parsed(self, text: str | None) -> dict[str, Any]:
        if text is None or not text.strip():
            return {}
        try:
            content = json.loads(text)
        except ValueError as error:  # comments or trailing commas: a rewrite would lose them
            raise OutputError(
                f"{self.path} is not plain JSON: {error}", hint=self._by_hand()
            ) from error
        if not isinstance(content, dict):
            raise OutputError(f"{self.path} is not a JSON object", hint=self._by_hand())
        return content

    def _by_hand(self) -> str:
        return f"add it by hand under {self.key!r}; without --write it is printed"


def _backup(path: Path) -> Path:
    """Copy the file beside itself, to a new name."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(100):
        copy = path.with_name(f"{path.name}.backup-{stamp}{f'-{number}' if number else ''}")
        if not copy.exists():
            return Path(shutil.copy2(path, copy))
    raise OutputError(
        f"cannot copy {path}: a hundred copies of this second exist", hint="try again"
    )


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}.tmp")
    try:
        temporary.touch(mode=0o600)  # such files have keys of other servers
        temporary.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
