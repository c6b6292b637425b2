"""Long forms of tests, and tests of what a faster one covers in part, run with
``TRANSCRIBE_MCP_SLOW_TESTS=1``.
"""

from __future__ import annotations

import os

import pytest

SLOW = os.environ.get("TRANSCRIBE_MCP_SLOW_TESTS") == "1"
slow = pytest.mark.skipif(not SLOW, reason="slow: runs with TRANSCRIBE_MCP_SLOW_TESTS=1")
