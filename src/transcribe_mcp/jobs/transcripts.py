"""Finished transcripts: compressed JSON, with every segment indexed for search.

Functions take the connection of their caller's transaction.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..domain.transcript import Transcript
from ..errors import StoreDamagedError, UsageError
from .models import Hit, HitPage, JobFilter, JobStatus, Outline
from .schema import jobs, owners, revisions, segments, speaker_evidence, transcripts

INSERT_ROWS = 500
MAX_TERMS = 32  # of one query
PREVIEW_SEGMENTS = 4

# The newest revision of a job's transcript.
REVISION = (
    sa.select(transcripts.c.revision)
    .where(transcripts.c.transcript_id == jobs.c.transcript_id)
    .scalar_subquery()
    .label("revision")
)


@dataclass(frozen=True, slots=True)
class ContentKey:
    """Equal for transcriptions of the same bytes with the same options."""

    content_hash: str
    options_key: str


def save(
    connection: sa.Connection,
    transcript_id: str,
    content: ContentKey,
    transcript: Transcript,
    evidence: bytes | None = None,
) -> None:
    """Add a finished transcript, with the evidence of its speakers."""
    connection.execute(
        transcripts.insert().values(
            transcript_id=transcript_id,
            content_hash=content.content_hash,
            options_key=content.options_key,
            packed=zlib.compress(transcript.dumps().encode(), 1),
            created_at=time.time(),
        )
    )
    index(connection, transcript_id, transcript, range(len(transcript.segments)))
    if evidence is not None:
        connection.execute(
            speaker_evidence.insert().values(transcript_id=transcript_id, packed=evidence)
        )


def index(
    connection: sa.Connection, transcript_id: str, transcript: Transcript, numbers: Sequence[int]
) -> None:
    """Add segments to the search index."""
    rows = [
        {
            "transcript_id": transcript_id,
            "number": number,
            "start_s": float(segment.start),
            "end_s": float(segment.end),
            "text": segment.text.strip(),
            "speaker": segment.speaker,
        }
        for number, segment in ((each, transcript.segments[each]) for each in numbers)
    ]
    for first in range(0, len(rows), INSERT_ROWS):
        connection.execute(segments.insert(), rows[first : first + INSERT_ROWS])


def load(connection: sa.Connection, transcript_id: str) -> Transcript | None:
    """The original.

    Raises:
        StoreDamagedError: the stored data is not a transcript.
    """
    query = sa.select(transcripts.c.packed).where(transcripts.c.transcript_id == transcript_id)
    packed = connection.execute(query).scalar()
    if packed is None:
        return None
    try:
        return Transcript.loads(zlib.decompress(packed).decode())
    except (zlib.error, ValueError) as error:
        raise StoreDamagedError(
            f"transcript {transcript_id} cannot be read: {type(error).__name__}",
            hint="transcribe the recording again with force",
        ) from None


def outlines(connection: sa.Connection, job_ids: Sequence[str]) -> dict[str, Outline]:
    """For those of these jobs that have a transcript."""
    of_jobs = jobs.c.job_id.in_(job_ids)
    is_one = segments.c.transcript_id == jobs.c.transcript_id
    first = (
        sa.select(jobs.c.job_id, segments.c.text)
        .join(segments, is_one)
        .where(of_jobs, segments.c.number < PREVIEW_SEGMENTS)
        .order_by(segments.c.number)
    )
    n_speakers = sa.func.count(segments.c.speaker.distinct())
    counted = (
        sa.select(jobs.c.job_id, n_speakers, transcripts.c.revision)
        .join(segments, is_one)
        .join(transcripts, transcripts.c.transcript_id == jobs.c.transcript_id)
        .where(of_jobs)
        .group_by(jobs.c.job_id, transcripts.c.revision)
    )
    texts: dict[str, list[str]] = {}
    for job_id, text in connection.execute(first):
        texts.setdefault(job_id, []).append(text)
    return {
        job_id: Outline(" ".join(texts.get(job_id, ())), n or None, revision)
        for job_id, n, revision in connection.execute(counted)
    }


def newest_revisions(connection: sa.Connection, job_ids: Sequence[str]) -> dict[str, int]:
    """For those of these jobs that have a transcript."""
    query = (
        sa.select(jobs.c.job_id, transcripts.c.revision)
        .join(transcripts, transcripts.c.transcript_id == jobs.c.transcript_id)
        .where(jobs.c.job_id.in_(job_ids))
    )
    return {row.job_id: row.revision for row in connection.execute(query)}


def known_contents(connection: sa.Connection, hashes: Sequence[str]) -> set[str]:
    """Those of these content hashes that jobs have."""
    query = sa.select(jobs.c.content_hash).where(jobs.c.content_hash.in_(hashes)).distinct()
    return set(connection.execute(query).scalars())


def load_evidence(connection: sa.Connection, transcript_id: str) -> bytes | None:
    """The evidence of its speakers; ``None`` without diarization by voices."""
    of_it = speaker_evidence.c.transcript_id == transcript_id
    return connection.execute(sa.select(speaker_evidence.c.packed).where(of_it)).scalar()


def index_speakers(connection: sa.Connection) -> None:
    """Fill the new column for transcripts whose channels or tracks are speakers."""
    has_voices = sa.or_(*(jobs.c.options.contains(f'"{word}"') for word in ("split", "all")))
    query = sa.select(jobs.c.transcript_id).where(has_voices).distinct()
    for transcript_id in connection.execute(query).scalars().all():
        with suppress(StoreDamagedError):
            transcript = load(connection, transcript_id)
            for number, segment in enumerate(transcript.segments if transcript else ()):
                connection.execute(
                    segments.update()
                    .where(segments.c.transcript_id == transcript_id, segments.c.number == number)
                    .values(speaker=segment.speaker)
                )


def remove_unused(connection: sa.Connection, transcript_ids: Sequence[str]) -> None:
    """Delete the transcripts among these that no job refers to any more."""
    if not transcript_ids:
        return
    # Segments first: SQLite's triggers need their texts to delete them from the search index.
    for table in (segments, speaker_evidence, revisions, transcripts):
        of_them = table.c.transcript_id.in_(transcript_ids)
        is_used = sa.exists().where(jobs.c.transcript_id == table.c.transcript_id)
        connection.execute(table.delete().where(of_them, ~is_used))


def search(
    connection: sa.Connection,
    query: str,
    which: JobFilter,
    first: int,
    limit: int,
    speaker: str = "",
) -> HitPage:
    """Segments that contain every word of the query, best first, from hit ``first`` on.

    ``speaker``: only segments of this speaker; empty: all.

    Raises:
        UsageError: the query contains no word.
    """
    terms = _terms(query)
    statement, parameters = _matching(connection.dialect.name, terms)
    # A transcript is listed under its newest job.
    newest = (
        sa.select(sa.func.max(jobs.c.job_id))
        .where(
            jobs.c.transcript_id == segments.c.transcript_id,
            jobs.c.status == JobStatus.COMPLETED.value,
        )
        .where(is_no_copy())
        .correlate(segments)
        .scalar_subquery()
    )
    # Of several transcripts of the same content and options, only the newest is searched.
    made = transcripts.alias()
    latest = (
        sa.select(sa.func.max(made.c.transcript_id))
        .where(
            made.c.content_hash == transcripts.c.content_hash,
            made.c.options_key == transcripts.c.options_key,
        )
        .correlate(transcripts)
        .scalar_subquery()
    )
    found = (
        sa.select(
            segments, jobs.c.job_id, jobs.c.source, jobs.c.language, jobs.c.created_at,
        )
        .select_from(segments.join(statement, statement.c.segment_id == segments.c.segment_id))
        .join(transcripts, transcripts.c.transcript_id == segments.c.transcript_id)
        .join(jobs, jobs.c.job_id == newest)
        .where(transcripts.c.transcript_id == latest, *job_conditions(which), *_said_by(speaker))
        .order_by(statement.c.rank, jobs.c.job_id.desc(), segments.c.number)
        .offset(first)
        .limit(limit + 1)
    )  # fmt: skip
    rows = connection.execute(found, parameters).all()
    hits = tuple(_hit(connection, row) for row in rows[:limit])
    return HitPage(hits, str(first + limit) if len(rows) > limit else None)


def _said_by(speaker: str) -> list[sa.ColumnElement[bool]]:
    """In any letter case; SQLite handles only ASCII."""
    name = segments.c.speaker
    return [sa.or_(name == speaker, sa.func.lower(name) == speaker.lower())] if speaker else []


def _matching(dialect: str, terms: Sequence[str]) -> tuple[sa.Subquery, dict[str, Any]]:
    """(rows of segment_id and rank, lower is better; parameters)."""
    if dialect == "postgresql":
        text = (
            "SELECT s.segment_id AS segment_id, -ts_rank(s.words, q.query) AS rank "
            "FROM segments s, (SELECT websearch_to_tsquery('simple', :words) AS query) q "
            "WHERE s.words @@ q.query"
        )
    else:
        text = (
            "SELECT rowid AS segment_id, rank AS rank "
            "FROM segments_search WHERE segments_search MATCH :words"
        )
    words = " ".join(f'"{term}"' for term in terms)
    columns = sa.text(text).columns(
        sa.column("segment_id", sa.Integer), sa.column("rank", sa.Float)
    )
    return columns.subquery("matching"), {"words": words}


def _terms(query: str) -> list[str]:
    """Words and "phrases" of a query, without operators of the search engine."""
    parts = re.findall(r'"([^"]*)"|([^\s"]+)', query)
    terms = [
        term
        for phrase, word in parts[:MAX_TERMS]
        if (term := " ".join(re.findall(r"\w+", phrase or word)))
    ]
    if not terms:
        raise UsageError(
            f"the query {query[:80]!r} contains no word",
            hint="name the words to find; put phrases in double quotes",
        )
    return terms


def _hit(connection: sa.Connection, row: Any) -> Hit:
    near = sa.select(segments.c.number, segments.c.text).where(
        segments.c.transcript_id == row.transcript_id,
        segments.c.number.in_((row.number - 1, row.number + 1)),
    )
    around = {neighbour.number: neighbour.text for neighbour in connection.execute(near)}
    return Hit(
        job_id=row.job_id,
        source=row.source,
        start=row.start_s,
        end=row.end_s,
        text=row.text,
        before=around.get(row.number - 1, ""),
        after=around.get(row.number + 1, ""),
        language=row.language,
        speaker=row.speaker,
        created_at=row.created_at,
    )


def job_conditions(which: JobFilter) -> list[sa.ColumnElement[bool]]:
    """A filter as conditions on the table of jobs."""
    conditions: list[sa.ColumnElement[bool]] = []
    if which.statuses:
        conditions.append(jobs.c.status.in_([status.value for status in which.statuses]))
    if which.source_contains:
        source = sa.func.lower(jobs.c.source)
        has_part = source.contains(which.source_contains.lower(), autoescape=True)
        conditions.append(sa.or_(has_part, jobs.c.source.in_(which.or_sources)))
    if which.batch_id:
        of_batch = sa.select(owners.c.job_id).where(owners.c.batch_id == which.batch_id)
        conditions.append(jobs.c.job_id.in_(of_batch))
    if which.since is not None:
        conditions.append(jobs.c.created_at >= which.since)
    return conditions


def is_no_copy() -> sa.ColumnElement[bool]:
    """Whether a job is not a copy for a file that already has a job with this transcript."""
    first = jobs.alias()
    earlier = sa.exists().where(
        first.c.transcript_id == jobs.c.transcript_id,
        first.c.source == jobs.c.source,
        first.c.job_id < jobs.c.job_id,
    )
    return sa.or_(jobs.c.from_job_id.is_(None), ~earlier)


def copies_of(connection: sa.Connection, job_ids: Sequence[str]) -> list[str]:
    """The unlisted copies of these jobs for the same files, which are deleted with them."""
    first = jobs.alias()
    same = sa.and_(first.c.transcript_id == jobs.c.transcript_id, first.c.source == jobs.c.source)
    query = sa.select(jobs.c.job_id).join(first, same).where(first.c.job_id.in_(job_ids))
    others = query.where(jobs.c.from_job_id.is_not(None), jobs.c.job_id.not_in(job_ids))
    return list(connection.execute(others).scalars())
