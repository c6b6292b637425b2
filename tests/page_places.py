"""Browsers of the page, and finished jobs that no worker had to make."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from asgi import Answer, ask

from transcribe_mcp import Transcript
from transcribe_mcp.frontends.host import Address
from transcribe_mcp.frontends.http.guard import SESSION_COOKIE, Guard
from transcribe_mcp.frontends.http.server import build_app
from transcribe_mcp.frontends.http.sessions import Sessions
from transcribe_mcp.frontends.mcp.server import http_app
from transcribe_mcp.jobs import transcripts
from transcribe_mcp.jobs.ids import new_id
from transcribe_mcp.jobs.queue import SHORT
from transcribe_mcp.jobs.row_mapping import NewJob, to_row
from transcribe_mcp.jobs.schema import jobs as job_table
from transcribe_mcp.service.async_service import AsyncService
from transcribe_mcp.service.models import JobOptions
from transcribe_mcp.service.service import default_service

ORIGIN = "http://localhost"


@dataclass(frozen=True)
class Browser:
    """A browser that has logged in."""

    app: Guard
    cookie: str

    def ask(self, method: str, path: str, content: Any = None, **headers: str) -> Answer:
        return self.send(
            method, path, b"" if content is None else json.dumps(content).encode(), **headers
        )

    def send(self, method: str, path: str, body: bytes, **headers: str) -> Answer:
        given = {"cookie": f"{SESSION_COOKIE}={self.cookie}", "origin": ORIGIN, **headers}
        return ask(self.app, method, path, body, **given)

    def read(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status == 200, answer.body
        assert answer.headers["cache-control"] == "no-store"
        return json.loads(answer.body)


def logged_in() -> Browser:
    """A browser at a server of the present settings."""
    sessions = Sessions()
    app = build_app(AsyncService(default_service()), http_app, Address(), sessions=sessions)
    login = ask(app, "POST", "/api/session", json.dumps({"token": sessions.token}).encode())
    return Browser(app, login.headers["set-cookie"].partition(";")[0].partition("=")[2])


def stored(transcript: Transcript, source: str = "/talk.wav", of: str = "") -> str:
    """The id of a new finished job, with its own transcript or with that of another job."""
    store = default_service().read_store()
    job_id = new_id()
    transcript_id = store.row(of).transcript_id if of else new_id()
    new = NewJob(
        source, "", transcript_id, JobOptions(), "key", force=False, queue=SHORT, priority=1
    )
    values = {"status": "completed", "transcript_id": transcript_id, "keeps_steps": False}
    with store.begin() as connection:
        row = to_row(job_id, new, None) | values
        connection.execute(job_table.insert().values(**row))
        if not of:
            content = transcripts.ContentKey(transcript_id, "key")
            transcripts.save(connection, transcript_id, content, transcript)
    return job_id
