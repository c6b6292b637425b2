"""The front ends: the command line, the MCP server, and the code that they share."""
