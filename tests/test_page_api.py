"""``/api``, which the page reads: over real jobs, behind the guard, as a browser asks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi import Answer, ask
from command_line import run
from job_places import Place, fake_options, finished, jobs, place, request
from media import encode_mp3
from whisper_nano import CONVERSATION

from transcribe_mcp.frontends.host import Address
from transcribe_mcp.frontends.http.guard import SESSION_COOKIE, Guard
from transcribe_mcp.frontends.http.server import build_app
from transcribe_mcp.frontends.http.sessions import Sessions
from transcribe_mcp.frontends.mcp.server import http_app
from transcribe_mcp.media.decode import read
from transcribe_mcp.service.async_service import AsyncService
from transcribe_mcp.service.service import default_service

ORIGIN = "http://localhost"
