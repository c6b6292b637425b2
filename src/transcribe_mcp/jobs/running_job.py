"""A running job, and the context that the jobs of one worker share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from ..errors import CancelledError, SourceTooLargeError
from ..runtime.executor import Executor
from ..runtime.queue import Recording
from ..settings import Settings
from .quarantine import Gate
from .store import Store
from .worker_process import WorkerSlot
from .worker_store import Claim, WorkerStore

TOO_LONG_HINT = "cut it into parts, or raise TRANSCRIBE_MCP_MAX_DURATION_HOURS"


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The shared context of one worker's jobs.

    Attributes:
        slot: the worker's slot.
        log_of: the log of a worker of this machine, by its ID; ``None`` for other machines.
        work_dir: directory for downloads.
    """

    store: Store
    worker_store: WorkerStore
    executor: Executor
    gate: Gate
    settings: Settings
    slot: WorkerSlot
    log_of: Callable[[str | None], Path | None]
    work_dir: Path


@dataclass(eq=False, slots=True)
class RunningJob:
    """Progress of a job. Its threads write it, the worker's heartbeat reads it."""

    claim: Claim
    stage: str = "load"
    done_s: float = 0.0
    duration_s: float | None = None
    limit_s: float = inf  # of the recording
    cancelled_at: float | None = None  # monotonic clock
    recording: Recording | None = None
    n_checkpoints: int = 0  # batches finished in earlier runs
    began_at: float | None = None  # monotonic clock: start of the first new batch
    began_from_s: float = 0.0
    speakers: bytes | None = None  # their results
    noted: dict[str, object] = field(default_factory=dict)  # state saved in the database

    def cancel(self) -> None:
        if self.cancelled_at is None:
            self.cancelled_at = time.monotonic()
        if self.recording is not None:
            self.recording.cancel()

    def check(self) -> None:
        if self.cancelled_at is not None:
            raise CancelledError(f"job {self.claim.job_id} was stopped")

    def progress(self, stage: str, done: float, total: float | None) -> None:
        """The pipeline's and the engine loader's callback, from several threads.

        Raises:
            CancelledError: the job was stopped.
            SourceTooLargeError: the decoded audio exceeds the limit, whatever the header says.
        """
        self.check()
        if stage == "read" and done > self.limit_s:
            name = Path(self.claim.source).name
            limit_h = self.limit_s / 3600
            raise SourceTooLargeError(
                f"{name} is longer than {limit_h:g} h, the limit", hint=TOO_LONG_HINT
            )
        if stage == "read" and self.duration_s is not None:
            self.duration_s = max(self.duration_s, done)
        if stage == "windows":
            self.stage = stage
            self.done_s = max(self.done_s, done)
        elif stage in ("read", "speech"):
            if self.stage not in ("windows", "speech"):
                self.stage = "speech"
        else:
            self.stage = stage

    @property
    def speed(self) -> float | None:
        """Seconds of audio per second since this run's first new batch."""
        if self.began_at is None or self.done_s <= self.began_from_s:
            return None
        return (self.done_s - self.began_from_s) / max(1e-3, time.monotonic() - self.began_at)

    def news(self) -> dict[str, object]:
        """Changes since the last call."""
        now = {
            "stage": self.stage,
            "done_s": self.done_s,
            "duration_s": self.duration_s,
            "speed": self.speed,
        }
        fresh = {
            name: value
            for name, value in now.items()
            if value is not None and self.noted.get(name) != value
        }
        if set(fresh) <= {"speed"}:  # it changes constantly
            return {}
        self.noted |= fresh
        return fresh
