"""The use cases of durable jobs. Each call is quick: it reads and writes the database only.

    submit, submit_batch -> job_id -> get_job, wait_for -> get_transcript
                                   -> cancel, retry, delete
    list_jobs, search

A batch has a ``job_id`` too; ``get_job``, ``wait_for``, ``cancel`` and ``delete`` take either.
"""

from __future__ import annotations

import atexit
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import (
    JobNotFoundError,
    RevisionNotFoundError,
    StoreError,
    StoreReplacedError,
)
from .acting import owner
from .models import (
    Batch,
    HitPage,
    Job,
    JobFilter,
    JobPage,
    JobRequest,
    JobStatus,
    Refused,
    SpeakerChange,
    Transcript,
)
from .polls import Polls
from .refusals import is_batch, no_text, refusal_of
from .remote import no_source
from .voices import known_prints

if TYPE_CHECKING:
    from ..jobs.revisions import Revisions
    from ..jobs.store import Store
    from ..jobs.submission import Submission
    from ..settings import Settings

WAKE_S = 2.0  # calls that only read check at most this often that a worker runs
STARTING_S = 1.0  # a supervisor younger than this cannot have finished its work
EVERYTHING = JobFilter()


class Service:
    """The jobs of one configuration. A process may hold several; threads may share one.

    All methods raise ``StoreError`` if the database is busy, damaged, full, or too new.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        from ..settings import settings as environment_settings

        self.settings = settings or environment_settings()
        self._lock = threading.Lock()
        self._waking = threading.Lock()
        self._open_store: Store | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._woken_at = -WAKE_S
        self._revisions: Revisions | None = None

    def close(self) -> None:
        """Release the connections; the next call opens them again."""
        with self._lock:
            if self._open_store is not None:
                self._open_store.close()
                self._open_store = self._revisions = None

    def prepare(self) -> None:
        """Prepare for the first call. Raises as ``Store.warm_up``."""
        store = self._store()  # loads SQLAlchemy, which two threads must not import at once
        for name in ("job_options", "partial", "submission", "worker_process"):
            import_module(f"..jobs.{name}", __package__)
        store.warm_up()

    # --- submitting ------------------------------------------------------------------------------

    def submit(self, request: JobRequest) -> Job:
        """Queue one recording and start the worker if none runs.

        If the recording was transcribed with the same options before, returns that job. If a job
        for the same file and options is queued or running, the caller becomes another owner of it;
        the job runs until its last owner cancels. ``request.force`` turns both off.

        Raises:
            SourceNotFoundError, SourceUnreadableError: the file is missing or unreadable.
            UsageError: the options contradict each other or name something unknown.
            QueueFullError: the queue is full.
        """
        store = self._store()
        new = self._submission(request).prepare(request.source, request)
        if new.answer is not None and new.answer.source == new.source and not new.outputs:
            store.rejoin(new.answer.job_id, owner.get())
            return self._job(new.answer.job_id)
        job_id = store.add(new, self.settings.max_queue_length)
        if new.answer is None or not store.is_idle():
            self._wake()
        return self._job(job_id)

    def submit_batch(
        self, sources: Sequence[str], request: JobRequest, refused: Sequence[Refused] = ()
    ) -> Batch:
        """Queue all recordings that files, directories, patterns and URLs match.

        All get the options of ``request``; its source is not used. A recording that cannot be read
        is refused with the reason, and the others are queued. Jobs are shared as in ``submit``.

        Args:
            refused: sources that the caller has refused already; the batch lists them.

        Raises:
            UsageError: no source, or options that contradict each other.
            OutputError: the output directory is not writable.
            QueueFullError: none of them fits into the queue.
        """
        from ..media.inputs import as_recordings, find_recordings
        from .queueing import drop_unused, prepare_all

        store = self._store()
        submission = self._submission(request)
        if not sources and not refused:
            raise no_source()
        if request.roots is None:
            recordings, missing = find_recordings(sources, from_shell=request.from_shell)
        else:  # found inside the roots by the caller; another search would follow links
            recordings = as_recordings(sources)
            missing = []
        prepared = prepare_all(submission, recordings, request, self.settings)
        left_out = [
            *refused,
            *(refusal_of(source, error) for source, error in (*missing, *prepared.refused)),
        ]
        if not prepared.new and not left_out:
            return Batch("", (), skipped=prepared.skipped)
        try:
            batch_id = store.add_batch(prepared.new, left_out, self.settings.max_queue_length)
        finally:
            drop_unused(store, prepared.new)
        if any(job.answer is None or job.outputs for job in prepared.new) or not store.is_idle():
            self._wake()
        batch = store.get(batch_id)
        assert isinstance(batch, Batch)
        return replace(batch, skipped=prepared.skipped)

    # --- reading ---------------------------------------------------------------------------------

    def get_job(self, job_id: str) -> Job | Batch:
        """
        Raises:
            JobNotFoundError: no job and no batch has this id.
        """
        return self.read_store().get(job_id, owner.get())

    def wait_for(
        self, job_id: str, seconds: float, on_change: Callable[[Job | Batch], None] | None = None
    ) -> Job | Batch:
        """Return the job once it is final, or its state after ``seconds``.

        Args:
            on_change: called with the first state and with each change.

        Raises:
            JobNotFoundError: no job and no batch has this id, or it was deleted meanwhile.
        """
        polls = Polls(self.get_job, self.version, seconds)
        found = self.get_job(job_id)
        seen: Job | Batch | None = None
        while True:
            if found != seen and on_change is not None:
                on_change(found)
            seen = found
            pause_s = polls.pause_s(found)
            if pause_s is None:
                return found
            time.sleep(pause_s)
            found = polls.look(found)

    def get_transcript(self, job_id: str, revision: int | None = None) -> Transcript:
        """The transcript. Of an unfinished job the part so far, with a warning ``partial``.

        Args:
            revision: 0 is the original; ``None``: the newest.

        Raises:
            JobNotFoundError: no job has this id.
            JobStateError: it is a batch, or nothing is transcribed yet.
            RevisionNotFoundError: the transcript never had this revision, or it was deleted.
        """
        return self.read_revision(job_id, revision)[0]

    def read_revision(self, job_id: str, revision: int | None = None) -> tuple[Transcript, int]:
        """``get_transcript``, and the number of its revision."""
        from ..jobs.uploads import name_of

        store = self.read_store()
        row = self.row(job_id)
        if row.transcript_id is not None:
            number = row.revision if revision is None else revision
            transcript = self.revisions().read(row.transcript_id, number)
            if transcript is not None:
                # The path of an upload is meaningless to users.
                return replace(transcript, source=name_of(row.source) or row.source), number
        if revision:
            raise RevisionNotFoundError(f"job {job_id} has no revision {revision} yet")
        steps = store.steps(job_id)
        if not steps:
            raise no_text(row)
        from ..jobs.partial import partial_transcript

        return partial_transcript(row, steps), 0

    def get_revision(self, job_id: str) -> int:
        """The number of the transcript's newest revision; 0 is the original.

        Raises:
            JobNotFoundError: no job has this id.
        """
        return self.row(job_id).revision or 0

    def list_jobs(
        self, which: JobFilter = EVERYTHING, cursor: str | None = None, limit: int = 50
    ) -> JobPage:
        """A page of jobs, newest first.

        Raises:
            UsageError: a cursor that no earlier page gave, a limit below 1 or above 500.
        """
        from ..jobs.uploads import with_names

        which = with_names(which, self.settings.data_dir)
        return self.read_store().list_jobs(which, cursor, limit)

    def search(
        self,
        query: str,
        cursor: str | None = None,
        limit: int = 20,
        which: JobFilter = EVERYTHING,
        speaker: str = "",
    ) -> HitPage:
        """Find sentences with every word of ``query``; "double quotes" mark phrases.

        With ``speaker`` only those of the speaker with this name, in any letter case.

        Raises:
            UsageError: a query without a word, or see ``list_jobs``.
        """
        from ..jobs.uploads import with_names

        which = with_names(which, self.settings.data_dir)
        return self.read_store().search(query, which, cursor, limit, speaker)

    # --- changing --------------------------------------------------------------------------------

    def cancel(self, job_id: str, *, for_all: bool = False) -> Job | Batch:
        """Cancel a job or a batch: a queued job at once, a running one within two seconds.

        Jobs with other owners continue for them, unless ``for_all``. Finished parts stay readable.
        A final job does not change.

        Raises:
            JobNotFoundError: no job and no batch has this id.
        """
        store = self.read_store()
        n_shared = store.cancel(job_id, owner.get(), for_all=for_all)
        store.sweep_spool()
        found = store.get(job_id, owner.get())
        if n_shared and isinstance(found, Job) and not found.status.is_final:
            status = JobStatus.CANCELLED
            return replace(found, status=status, stage="", eta_s=None, queue_position=None)
        return found

    def delete(self, job_id: str) -> int:
        """Delete a job or a batch with its transcripts, and return the number of jobs.

        Running jobs stop first. Jobs that others wait for stay, as do jobs of a batch that others
        have.

        Raises:
            JobNotFoundError: no job and no batch has this id.
        """
        return self.read_store().delete(job_id, owner.get())

    def retry(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again; it resumes at its last checkpoint.

        Raises:
            JobNotFoundError: no job has this id.
            JobStateError: it is neither failed nor cancelled.
        """
        self._store().retry(job_id, owner.get())
        self._wake()
        return self._job(job_id)

    def change_speakers(self, job_id: str, change: SpeakerChange) -> Transcript:
        """Merge, rename or detect again the speakers of a transcript, without the recording.

        Jobs that share the transcript show the change too.

        Raises:
            JobNotFoundError: no job has this id.
            JobStateError: it has no transcript yet, or no evidence to detect the speakers again.
            UsageError: an unknown speaker, or a name that is taken, empty, or too long.
        """
        from ..jobs.speakers import change_speakers

        change_speakers(self.read_store(), self.revisions(), self.finished_row(job_id), change)
        return self.get_transcript(job_id)

    def count_old(self, keep_days: float) -> int:
        """The number of jobs that ``delete_old`` would delete now."""
        return self._store().count_old(keep_days)

    def delete_old(self, keep_days: float) -> int:
        """Delete jobs that finished more than ``keep_days`` ago; returns their number.

        0 deletes none.

        Raises:
            UsageError: not a number of days.
        """
        return self._store().delete_old(keep_days)

    def version(self) -> int | None:
        """Equal while the database's content does not change. ``None`` if unknown."""
        return self._store().version()

    # --- the database and its worker -------------------------------------------------------------

    def _store(self) -> Store:
        with self._lock:
            if self._open_store is None:
                from ..jobs.store import Store

                self._open_store = Store(self.settings.data_dir, self.settings.database_url)
            store = self._open_store
            try:
                store.check_file()
            except StoreReplacedError:
                self._open_store = None
                store.close()
                raise
            return store

    def read_store(self) -> Store:
        """The store, for reading calls. They start missing workers while jobs are unfinished."""
        store = self._store()
        is_due = time.monotonic() - self._woken_at > WAKE_S and not self._runs()
        if is_due and self.settings.start_workers and not store.is_idle():
            self._wake()
        return store

    def revisions(self) -> Revisions:
        store = self.read_store()
        with self._lock:
            if self._revisions is None or self._revisions.store is not store:
                from ..jobs.revisions import Revisions

                self._revisions = Revisions(store)
            return self._revisions

    def finished_row(self, job_id: str) -> Any:
        """The row of a job with a transcript.

        Raises:
            JobNotFoundError: no job has this id.
            JobStateError: it has no transcript yet.
        """
        row = self.row(job_id)
        if row.transcript_id is None:
            raise no_text(row)
        return row

    def row(self, job_id: str) -> Any:
        """
        Raises:
            JobNotFoundError: no job has this id.
            JobStateError: it is a batch.
        """
        store = self.read_store()
        try:
            return store.row(job_id)
        except JobNotFoundError:
            if isinstance(store.get(job_id), Batch):
                raise is_batch(job_id) from None
            raise

    def _submission(self, request: JobRequest) -> Submission:
        from ..jobs.job_options import normalized_options, options_key
        from ..jobs.submission import Submission

        options = normalized_options(request.options, self.settings.model)
        prints = known_prints(self.settings.data_dir, options.voices)
        return Submission(
            self._store(),
            options,
            options_key(options, prints),
            owner.get(),
            is_offline=self.settings.offline,
        )

    def _job(self, job_id: str) -> Job:
        found = self._store().get(job_id)
        assert isinstance(found, Job)
        return found

    def _runs(self) -> bool:
        """Whether the supervisor started by this service is alive."""
        return self._supervisor is not None and self._supervisor.poll() is None

    def _wake(self) -> None:
        """Start this machine's workers unless they run. Waiting jobs show why a start failed."""
        from ..jobs import worker_process

        with self._waking:
            age_s = time.monotonic() - self._woken_at
            is_starting = age_s < STARTING_S and self._runs()  # its lock is not held yet
            if is_starting or not self.settings.start_workers:
                return
            self._woken_at = time.monotonic()
            try:
                started = worker_process.start_worker(self.settings)
            except OSError as error:  # not writable, or no memory for a process
                reason = f"it cannot be started: {error.strerror or error}"
                with suppress(StoreError):  # the caller gets that error too
                    self._store().record_failed_start(self.settings.data_dir, reason, WAKE_S)
            else:
                self._supervisor = started or self._supervisor


@lru_cache(maxsize=1)
def default_service() -> Service:
    """The service of the environment's settings, for programs with one configuration."""
    service = Service()
    atexit.register(service.close)
    return service


def work() -> int:
    """Supervise this machine's workers until no work is left, and return the exit code."""
    from ..jobs.supervisor import supervise

    return supervise()
