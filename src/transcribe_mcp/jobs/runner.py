"""One job, from its claim to its transcript, in a thread of the worker."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..domain.languages import AUTO
from ..domain.options import EngineSpec, Options, part_of
from ..domain.transcript import Notice, Transcript
from ..errors import (
    CancelledError,
    SourceTooLargeError,
    StoreError,
    TranscribeError,
    WorkerFailedError,
)
from ..media.download import is_url
from ..pipeline.checkpoint import Restored
from ..runtime.queue import Claim as EngineClaim
from ..runtime.queue import Recording
from . import file_identity, spool, uploads
from .quarantine import Pass
from .reading import cores_of_worker, reading_threads
from .running_job import TOO_LONG_HINT, RunningJob, WorkerContext
from .source_file import content_hash, recording_file
from .transcripts import ContentKey
from .worker_process import last_end, was_killed
from .worker_store import CRASHES_SET_ASIDE, KILLS_SET_ASIDE, Claim, ResolvedEngine
from .workflows import keep_step

TWIN_POLL_S = 0.3  # how often a job checks whether another on the same content has finished
# Silence in FLAC needs 400. A header that implies less is wrong.
MIN_BITS_PER_S = 100


def run(shop: WorkerContext, job: RunningJob) -> None:
    """Run a claimed job to its end: a transcript or an error in the database.

    Raises:
        CancelledError: it was cancelled, deleted or given to another worker.
        StoreError: the database cannot be written; the job stays as it is.
    """
    claim = job.claim
    folder = shop.work_dir / claim.job_id
    inside = None
    try:
        job.n_checkpoints = shop.store.queue.count_steps(claim.job_id)
        claim = _after_crashes(shop, shop.worker_store.judge_crashes(claim, job.n_checkpoints))
        roots = None if is_url(claim.source) else shop.store.roots(claim.job_id)
        with file_identity.opened(recording_file(shop, job, claim, folder), roots) as path:
            content = ContentKey(content_hash(shop, job, claim, path), claim.options_key)
            while inside is None:
                earlier = _answer(shop, job, claim, content)
                if earlier is not None:
                    shop.worker_store.answer(claim, earlier)
                    break
                inside = _entered(shop, job, claim, content)
            else:
                _work(shop, job, claim, path, content, inside)
    except (CancelledError, StoreError):
        raise
    except TranscribeError as error:
        shop.worker_store.fail(claim, error)
    finally:
        if job.recording is not None:
            job.recording.close()
        if inside is not None:
            inside.leave()
    shutil.rmtree(folder, ignore_errors=True)
    spool.drop(shop.settings.data_dir, claim.signature)


def _answer(shop: WorkerContext, job: RunningJob, claim: Claim, content: ContentKey) -> Any | None:
    """An earlier job that answers this one, perhaps after waiting for its end; none if this job has
    started before.

    Jobs wait here outside the gate, because the other job may need exclusive access.
    """
    if claim.works_anyway:
        return None
    while shop.store.is_active_elsewhere(content, claim.job_id):
        job.stage = "waiting"
        job.check()
        time.sleep(TWIN_POLL_S)
    job.stage = "load"
    return shop.store.find_finished(content, claim.source)


def _entered(
    shop: WorkerContext, job: RunningJob, claim: Claim, content: ContentKey
) -> Pass | None:
    """The pass of a job that may start now; ``None`` if an earlier job on the same content was
    found.

    A job first records that it runs, then looks for earlier jobs. Earlier jobs check for running
    ones before they start.
    """
    with ExitStack() as stack:
        inside = shop.gate.enter(alone=claim.crashes > 0, check=job.check)
        stack.callback(inside.leave)
        shop.worker_store.change(claim, {"at_risk": True})
        if claim.works_anyway or not shop.store.is_active_elsewhere(
            content, claim.job_id, earlier_only=True
        ):
            stack.pop_all()
            return inside
        shop.worker_store.change(claim, {"at_risk": False})
    return None


def _work(
    shop: WorkerContext,
    job: RunningJob,
    claim: Claim,
    path: Path,
    content: ContentKey,
    inside: Pass,
) -> None:
    job.limit_s = shop.settings.max_duration_hours * 3600
    job.duration_s = _duration(shop, path)
    request = _engine_spec(shop, claim)
    # A job that crashed continues one batch at a time, so that the next crash has one place.
    requested = EngineClaim(
        request,
        job.duration_s or 0.0,
        sequential=claim.crashes > 0,
        is_durable=True,
        progress=job.progress,
    )
    job.recording = recording = shop.executor.open(requested)
    job.check()
    recording.load()
    began = claim.resolved
    if began is None:
        info = recording.info
        began = ResolvedEngine(
            info.engine, info.model, info.device, claim.options.batch_size or info.batch_size
        )
    # Also on resume, because crash handling depends on the device.
    shop.worker_store.record_start(claim, replace(began, device=recording.info.device))
    transcript = _transcribe(shop, job, path, began, inside)
    shop.worker_store.finish(claim, content, _finished(transcript, claim), job.speakers)


def _transcribe(
    shop: WorkerContext, job: RunningJob, path: Path, began: ResolvedEngine, inside: Pass
) -> Transcript:
    """The pipeline, with the job's steps as checkpoints."""
    from ..pipeline.offline import transcribe_at

    claim = job.claim
    recording = job.recording
    assert recording is not None

    cores = cores_of_worker(shop.settings.threads, shop.slot.n_workers)
    threads = reading_threads(recording.info.device, job.duration_s, cores)
    references = uploads.with_paths(claim.options.references, shop.settings.data_dir)
    changes = {"batch_size": began.batch_size, "threads": threads, "references": references}
    options = part_of(Options, claim.options, **changes)
    checkpoints = JobCheckpoints(shop, job, recording, inside)
    transcript = transcribe_at(recording, path, options, job.progress, checkpoints)
    if job.n_checkpoints:  # an earlier run did most of the work, so these times give no speed
        transcript = replace(transcript, timings={})
    return transcript


@dataclass(slots=True)
class JobCheckpoints:
    """The checkpoints of a job, each a step of its workflow. See
    ``pipeline.checkpoint.CheckpointStore``.

    The steps of an earlier run are read before the first new one is added, because a workflow
    repeats its steps in their order.
    """

    shop: WorkerContext
    job: RunningJob
    recording: Recording
    inside: Pass
    n_steps: int = 0  # of the workflow, so far in this run

    def load(self) -> list[str]:
        texts = [self._next("") for _ in range(self.job.n_checkpoints)]
        restored = Restored(texts).windows.values()
        self.job.began_at = time.monotonic()
        self.job.began_from_s = sum(window.duration_s for window in restored)
        return texts

    def save(self, text: str) -> None:
        self.job.check()
        self._next(text)
        self.shop.worker_store.clear_crashes(self.job.claim)
        self.inside.share()
        self.recording.sequential = False  # it is past the crash point
        self.recording.left_s = max(0.0, (self.job.duration_s or 0.0) - self.job.done_s)

    def keep_speakers(self, evidence: bytes) -> None:
        self.job.speakers = evidence

    def _next(self, text: str) -> str:
        number = self.n_steps
        self.n_steps = self.n_steps + 1
        return _keep(self.shop, self.job.claim, number, text)


def _keep(shop: WorkerContext, claim: Claim, number: int, text: str) -> str:
    try:
        return keep_step(shop.store.url, f"batch {number}", lambda: text)
    except (StoreError, WorkerFailedError) as error:
        if shop.worker_store.is_mine(claim):
            raise
        raise CancelledError(
            f"job {claim.job_id} was deleted"
        ) from error  # with the key of each step


def _engine_spec(shop: WorkerContext, claim: Claim) -> EngineSpec:
    """The engine that the job requests, or that its first run chose."""
    requested = claim.options
    began = claim.resolved
    engine = requested.engine
    model = requested.model
    compute_type = requested.compute_type
    if began is not None:
        engine = began.engine
        model = began.model if model == AUTO else model
    if claim.device_forced:
        compute_type = AUTO
    return part_of(
        EngineSpec,
        requested,
        engine=engine,
        model=model,
        device=claim.device_forced or requested.device,
        compute_type=compute_type,
        offline=requested.offline or shop.settings.offline,
        threads=shop.settings.threads,
        gpu=shop.slot.gpu,
    )


def _duration(shop: WorkerContext, path: Path) -> float | None:
    """The duration in the recording's header; ``None`` if missing or impossible.

    Raises:
        SourceError: not a recording, or longer than the limit.
    """
    from ..media.decode import probe

    duration_s = probe(path).duration
    if duration_s is None or path.stat().st_size * 8 < MIN_BITS_PER_S * duration_s:
        return None
    limit_h = shop.settings.max_duration_hours
    if duration_s > limit_h * 3600:
        message = f"{path.name} is {duration_s / 3600:.1f} h long; at most {limit_h:g} h"
        raise SourceTooLargeError(message, hint=TOO_LONG_HINT)
    return duration_s


def _after_crashes(shop: WorkerContext, claim: Claim) -> Claim:
    """After too many crashes a job continues on the CPU instead of a GPU, or fails.

    A worker that was killed from outside, or ended for an unknown reason, says little about its
    jobs, so the limit is higher then.

    Raises:
        WorkerFailedError: the job fails.
    """
    if claim.crashes < CRASHES_SET_ASIDE:
        return claim
    log = shop.log_of(claim.left_by)
    died_of = last_end(log, at_work=True) if log is not None else ""
    if was_killed(died_of) and claim.crashes < KILLS_SET_ASIDE:
        return claim
    place = f"{claim.done_s:.0f} s into the recording" if claim.done_s else "at the beginning"
    ended = f"the worker's process ended {claim.crashes} times {place}"
    cause = f": {died_of}" if died_of else ""
    if claim.device_forced is None and _may_be_the_gpu(claim):
        notice = Notice(
            "worker_failed", f"{ended} on {claim.device or 'the GPU'}; the CPU took over{cause}"
        )
        warnings = (*claim.warnings, notice)
        shop.worker_store.warn(claim, warnings)
        shop.worker_store.change(claim, {"device_forced": "cpu", "crashes": 0})
        return replace(claim, device_forced="cpu", crashes=0, warnings=warnings)
    name = log.name if log is not None else "the worker's log"
    hint = f"see {name} in the data directory and transcribe-mcp doctor; then retry the job"
    raise WorkerFailedError(f"{ended}{cause}", hint=hint)


def _may_be_the_gpu(claim: Claim) -> bool:
    if claim.device is not None:
        return not claim.device.startswith("cpu")
    from ..compat.gpu_probe import gpu_facts
    from ..compat.machine import gpus_of

    return claim.options.device != "cpu" and bool(
        gpus_of(gpu_facts())
    )  # it died before it recorded its device


def _finished(transcript: Transcript, claim: Claim) -> Transcript:
    warnings = (*claim.warnings, *transcript.warnings)
    return replace(transcript, source=claim.source, warnings=warnings)
