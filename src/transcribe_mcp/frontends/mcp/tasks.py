"""The Tasks extension (SEP-2663, revision 2026-07-28): a task is a job.

Only the shapes; ``server`` adds them to the protocol.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ...service.models import Batch, Job
from ..times import iso
from .handlers import Handlers

IDENTIFIER = "io.modelcontextprotocol/tasks"
TOOLS = frozenset({"transcribe_audio", "batch_transcribe"})
POLL_MS = 1_000
# A client with tasks polls, so a call need not wait long; short clips finish within this time.
TASK_WAIT_S = 1.0


def task(job: Job | Batch) -> dict[str, Any]:
    """A ``Task``. A failed job is a completed task: the tool failed, not the protocol."""
    jobs = job.jobs if isinstance(job, Batch) else (job,)
    created = min((each.created_at for each in jobs), default=0.0)
    times = [
        time
        for each in jobs
        for time in (each.created_at, each.started_at, each.finished_at)
        if time is not None
    ]
    status = {"queued": "working", "running": "working", "failed": "completed"}.get(
        job.status.value, job.status.value
    )
    return {
        "taskId": job.job_id,
        "status": status,
        "statusMessage": f"{job.status.value}, {job.percent:.0f} % transcribed",
        "createdAt": iso(created),
        "lastUpdatedAt": iso(max(times, default=created)),
        "ttlMs": None,
        "pollIntervalMs": POLL_MS,
    }


async def created_task(handlers: Handlers, answer: str) -> dict[str, Any] | None:
    """A ``CreateTaskResult`` instead of a tool's answer (JSON) whose job is not final."""
    content = json.loads(answer)
    if content.get("status") not in ("queued", "running"):
        return None
    return {"resultType": "task", **task(await _job(handlers, content["job_id"]))}


async def get(handlers: Handlers, task_id: str) -> dict[str, Any]:
    """``tasks/get``. The ``result`` of a completed task is the tool's answer.

    Raises:
        JobNotFoundError: there is no such task.
    """
    job = await _job(handlers, task_id)
    shape = {"resultType": "complete", **task(job)}
    if shape["status"] == "completed":
        shape["result"] = await handlers.finished_answer(job, ["txt"])
    return shape


async def update(handlers: Handlers, task_id: str) -> dict[str, Any]:
    """``tasks/update``. Our tasks never ask their clients anything, so answers are ignored."""
    await _job(handlers, task_id)
    return {"resultType": "complete"}


async def cancel(handlers: Handlers, task_id: str) -> dict[str, Any]:
    """``tasks/cancel``"""
    await handlers.service.call(handlers.service.service.cancel, task_id)
    return {"resultType": "complete"}


async def _job(handlers: Handlers, task_id: str) -> Job | Batch:
    return await handlers.service.call(handlers.service.service.get_job, task_id)


Method = Callable[[Handlers, str], Awaitable[dict[str, Any]]]
METHODS: Mapping[str, Method] = {"get": get, "update": update, "cancel": cancel}
