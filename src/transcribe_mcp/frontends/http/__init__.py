"""The HTTP server: MCP, and the routes of the other modules here, behind one guard."""
