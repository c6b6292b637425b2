"""The tables of jobs and transcripts, on SQLite and on PostgreSQL.

They share a database with the workflows of dbos. So a job and its workflow are added in one
transaction, and a copy of the SQLite file is complete.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

SCHEMA_VERSION = 4

metadata = MetaData()

about = Table(
    "store_about",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

batches = Table(
    "job_batches",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("refused", Text, nullable=False),  # JSON: [[source, code, message, hint], ...]
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("batch_id", Text, index=True),
    Column("source", Text, nullable=False),
    Column("signature", Text, nullable=False),  # size and modification time when submitted
    Column("content_hash", Text),  # NULL: too large for the submission; the worker hashes it
    Column("options", Text, nullable=False),
    Column("options_key", Text, nullable=False),
    Column("force", Boolean, nullable=False, default=False),
    Column("queue", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("stage", Text, nullable=False, default=""),
    Column("done_s", Float, nullable=False, default=0.0),
    Column("duration_s", Float),
    Column("speed", Float),  # × real time, since the work was last started
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("error_hint", Text),
    Column("warnings", Text, nullable=False, default="[]"),  # JSON: [[code, message], ...]
    Column("attempts", Integer, nullable=False, default=0),
    # Crashes of its workers since its last checkpoint, and checkpoints at the last crash.
    Column("crashes", Integer, nullable=False, default=0),
    Column("crash_steps", Integer, nullable=False, default=0),
    Column("at_risk", Boolean, nullable=False, default=False),  # may be the cause of a crash
    Column("worker_id", Text),
    Column("device_forced", Text),  # cpu, after crashes on the GPU
    Column("engine", Text),
    Column("model", Text),
    Column("device", Text),
    Column("batch_size", Integer),
    Column("language", Text),
    Column("transcript_id", Text),
    Column("from_job_id", Text),
    Column("keeps_steps", Boolean, nullable=False, default=True),  # its workflow still exists
    Index("jobs_by_status", "status", "priority"),
    Index("jobs_by_content", "content_hash", "options_key"),
    Index("jobs_by_transcript", "transcript_id"),
    Index("jobs_by_source", "source", "options_key"),
)

# Who asked for a job. A shared job is cancelled when its last owner cancels.
owners = Table(
    "job_owners",
    metadata,
    Column("owner_id", Text, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("owner", Text, nullable=False),  # the command line or a client's session; "": unknown
    Column("batch_id", Text),
    Column("cancelled_at", Float),
    Index("job_owners_by_job", "job_id"),
    Index("job_owners_by_batch", "batch_id"),
)

# Output files, which the worker writes when the job is completed.
outputs = Table(
    "job_outputs",
    metadata,
    Column("output_id", Text, primary_key=True),
    Column("owner_id", Text, ForeignKey("job_owners.owner_id", ondelete="CASCADE"), nullable=False),
    Column("job_id", Text, ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("path", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("overwrite", Boolean, nullable=False),
    Column("look", Text, nullable=False),  # JSON: fields of FormatOptions
    Column("state", Text, nullable=False),  # pending, written, failed
    Column("error_code", Text),
    Column("error_message", Text),
    Index("job_outputs_by_job", "job_id"),
    Index("job_outputs_by_state", "state"),
)

job_roots = Table(
    "job_roots",  # of jobs that may read only some directories
    metadata,
    Column("job_id", Text, ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True),
    Column("roots", Text, nullable=False),  # JSON: the file must be inside one of these when opened
)

transcripts = Table(
    "transcripts",
    metadata,
    Column("transcript_id", Text, primary_key=True),
    Column("content_hash", Text, nullable=False),
    Column("options_key", Text, nullable=False),
    Column("packed", LargeBinary, nullable=False),  # the original as JSON, compressed
    Column("created_at", Float, nullable=False),
    Column("revision", Integer, nullable=False, server_default="0"),  # the newest
    Index("transcripts_by_content", "content_hash", "options_key"),
)

revisions = Table(
    "revisions",
    metadata,
    Column(
        "transcript_id",
        Text,
        ForeignKey("transcripts.transcript_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("created_at", Float, nullable=False),
    Column("packed", LargeBinary, nullable=False),  # see ``revisions.py``
)

speaker_evidence = Table(
    "speaker_evidence",  # to detect the speakers again without the recording
    metadata,
    Column(
        "transcript_id",
        Text,
        ForeignKey("transcripts.transcript_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("packed", LargeBinary, nullable=False),  # see ``speakers.evidence``
)

segments = Table(
    "segments",
    metadata,
    Column("segment_id", Integer, primary_key=True, autoincrement=True),
    Column(
        "transcript_id",
        Text,
        ForeignKey("transcripts.transcript_id", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("number", Integer, nullable=False),
    Column("start_s", Float, nullable=False),
    Column("end_s", Float, nullable=False),
    Column("text", Text, nullable=False),
    Column("speaker", Text),
    Index("segments_by_transcript", "transcript_id", "number"),
)

speeds = Table(
    "speeds",
    metadata,
    Column("model", Text, primary_key=True),
    Column("audio_s", Float, nullable=False),  # both decay, so that recent work counts most
    Column("work_s", Float, nullable=False),
)

files = Table(
    "known_files",
    metadata,
    Column("path", Text, primary_key=True),
    Column("signature", Text, nullable=False),
    Column("content_hash", Text, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("worker_id", Text, primary_key=True),
    Column("pid", Integer, nullable=False),  # for operators and tests
    Column("beat_at", Float, nullable=False),  # by the database's clock
)

failed_starts = Table(
    "failed_starts",
    metadata,
    Column("worker_id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("failures", Integer, nullable=False),  # in a row
    Column("since", Float, nullable=False),  # the first of them, by the database's clock
    Column("next_try_at", Float, nullable=False),
)

# From version 1 to 2. Workers register again, so their old table has nothing to keep.
DROP_WORKERS = "DROP TABLE IF EXISTS workers"
# After the new tables exist: every job has an owner.
TO_VERSION_2 = (
    "CREATE INDEX IF NOT EXISTS jobs_by_source ON jobs (source, options_key)",
    "INSERT INTO job_owners (owner_id, job_id, owner, batch_id, cancelled_at) "
    "SELECT job_id, job_id, '', batch_id, "
    "CASE WHEN status = 'cancelled' THEN finished_at END "
    "FROM jobs WHERE job_id NOT IN (SELECT job_id FROM job_owners)",
)

# Before version 4, renamed speakers replaced the original. The present text is the first revision.
TO_VERSION_4 = (
    "UPDATE transcripts SET revision = 0 WHERE NOT EXISTS (SELECT 1 FROM revisions "
    "WHERE revisions.transcript_id = transcripts.transcript_id)"
)

# Columns that version 3 adds to existing tables.
SINCE_VERSION_3 = (transcripts.c.revision, segments.c.speaker)

SEARCH = {
    "sqlite": (
        "CREATE VIRTUAL TABLE IF NOT EXISTS segments_search USING fts5("
        "text, content='segments', content_rowid='segment_id', "
        "tokenize='unicode61 remove_diacritics 2')",
        "CREATE TRIGGER IF NOT EXISTS segments_added AFTER INSERT ON segments BEGIN "
        "INSERT INTO segments_search(rowid, text) VALUES (new.segment_id, new.text); END",
        "CREATE TRIGGER IF NOT EXISTS segments_removed AFTER DELETE ON segments BEGIN "
        "INSERT INTO segments_search(segments_search, rowid, text) "
        "VALUES ('delete', old.segment_id, old.text); END",
    ),
    "postgresql": (
        "ALTER TABLE segments ADD COLUMN IF NOT EXISTS words tsvector "
        "GENERATED ALWAYS AS (to_tsvector('simple', text)) STORED",
        "CREATE INDEX IF NOT EXISTS segments_words ON segments USING gin (words)",
    ),
}

# The last request of each client of the writer, with its answer: a repeated one is applied once.
FOR_WRITER: dict[str, tuple[str, ...]] = {
    "sqlite": (
        "CREATE TABLE IF NOT EXISTS store_requests (client TEXT PRIMARY KEY, "
        "number INTEGER NOT NULL, answer TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID",
    ),
    "postgresql": (),
}
