"""The Tasks extension (``io.modelcontextprotocol/tasks``, SEP-2663, revision 2026-07-28): a task is a job.

Only the shapes; ``mcp_server`` puts them into the protocol.
"""

from __future__ import annotations

import json
from typing import Any

from ...service import jobs as service
from ...service.jobs import Batch, Job
from . import handlers as calls
from .answers import iso

IDENTIFIER = "io.modelcontextprotocol/tasks"
TOOLS = frozenset({"transcribe_audio", "batch_transcribe"})
POLL_MS = 1_000
# A client that can be called back later need not wait for long; a short clip is worth a moment.
TASK_WAIT_S = 1.0


def task(job: Job | Batch) -> dict[str, Any]:
    """A ``Task``. A job that failed is a completed task: what failed is the tool, not the protocol."""
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


async def created_task(answer: str) -> dict[str, Any] | None:
    """A ``CreateTaskResult`` in place of a tool's answer (its JSON), where the job that it tells of has not ended."""
    content = json.loads(answer)
    if content.get("status") not in ("queued", "running"):
        return None
    job = await calls.call(service.get_job, content["job_id"])
    return {"resultType": "task", **task(job)}


async def get(task_id: str) -> dict[str, Any]:
    """``tasks/get``; of a completed task ``result`` is the tool's answer.

    Raises:
        JobNotFoundError: there is no such task.
    """
    job = await calls.call(service.get_job, task_id)
    shape = {"resultType": "complete", **task(job)}
    if shape["status"] == "completed":
        shape["result"] = await calls.finished_answer(job, ["txt"])
    return shape


async def update(task_id: str) -> dict[str, Any]:
    """``tasks/update``: no task of ours ever asks its client for anything, so answers are ignored."""
    await calls.call(service.get_job, task_id)
    return {"resultType": "complete"}


async def cancel(task_id: str) -> dict[str, Any]:
    """``tasks/cancel``"""
    await calls.call(service.cancel, task_id)
    return {"resultType": "complete"}
