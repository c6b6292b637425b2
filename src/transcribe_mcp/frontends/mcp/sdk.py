"""The names from the official SDK that the server uses. Only this file imports ``mcp``."""

from __future__ import annotations

from typing import Any

from mcp import MCPError, types
from mcp.server.apps import Apps, client_supports_apps
from mcp.server.mcpserver import (
    AcceptedElicitation,
    Context,
    Extension,
    ListRoots,
    MCPServer,
    MethodBinding,
    Resolve,
    require_client_extension,
)
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.server.mcpserver.tools import Tool
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourcesListChanged, ResourceUpdated
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.message import SessionMessage
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

# A tool call with a resolver asks pydantic for this class; without a reference it is rebuilt.
_KEPT = AcceptedElicitation[Any]

__all__ = [
    "MODERN_PROTOCOL_VERSIONS",
    "Apps",
    "Context",
    "Extension",
    "InMemorySubscriptionBus",
    "ListRoots",
    "MCPError",
    "MCPServer",
    "MethodBinding",
    "Resolve",
    "ResourceError",
    "ResourceNotFoundError",
    "ResourceUpdated",
    "ResourcesListChanged",
    "SessionMessage",
    "Tool",
    "TransportSecuritySettings",
    "client_supports_apps",
    "require_client_extension",
    "stdio_server",
    "types",
]
