"""Revisions of edited transcripts. Revision 0 is the original, which never changes.

A revision is stored as ranges of the original's segments, and the segments that were edited. So a
small edit of a long recording is a small row, and every revision is complete with the original.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import sqlalchemy as sa

from ..domain.speaker_labels import relabelled_segment
from ..domain.transcript import Notice, Segment, Transcript, Turn, segment_from_json
from ..errors import EditConflictError, JobStateError, RevisionNotFoundError, StoreDamagedError
from . import transcripts as originals
from .database import Database
from .models import Revision
from .row_mapping import to_warnings
from .schema import jobs, revisions, segments, transcripts
from .writer_link import RequirementError

KEPT = 50  # newest revisions of a transcript, besides the original
CACHED = 8  # revisions in memory
IN_ROWS = 500  # parameters of one statement


@dataclass(frozen=True, slots=True)
class Edited:
    """A revision of a transcript, and its relation to the original.

    Attributes:
        origins: for each segment, the index of the equal segment of the original, apart from
            speaker names; ``None`` for an edited one.
        names: speakers of the original -> their names in the segments that have an origin.
    """

    transcript: Transcript
    origins: tuple[int | None, ...]
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a list of edits.

    Attributes:
        changed: indices of the segments that the edits created. Others have only moved.
        renamed: speakers before -> their names now, in the other segments.
    """

    edited: Edited
    changed: frozenset[int] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)


Change = Callable[[Transcript, Edited], Outcome]
"""The original and the newest revision -> the next one."""


class Revisions:
    """The revisions in one store, with the latest in memory. Threads may share it."""

    def __init__(self, store: Database) -> None:
        self.store = store
        self._known: OrderedDict[tuple[str, int], Edited] = OrderedDict()
        self._lock = Lock()

    def read(self, transcript_id: str, revision: int) -> Transcript | None:
        """``None``: the transcript was deleted.

        Raises:
            RevisionNotFoundError: the transcript never had this revision, or it was deleted.
            StoreDamagedError: the stored data is not a transcript.
        """
        found = self._cached(transcript_id, revision)
        if found is None:
            with self.store.begin() as connection:
                found = self._load(connection, transcript_id, revision)
        return None if found is None else found.transcript

    def list_of(self, transcript_id: str) -> tuple[Revision, ...]:
        """Newest first, the original last."""
        of_it = revisions.c.transcript_id == transcript_id
        made = sa.select(revisions.c.revision, revisions.c.created_at).where(of_it)
        first = sa.select(transcripts.c.created_at).where(
            transcripts.c.transcript_id == transcript_id
        )
        with self.store.begin() as connection:
            rows = connection.execute(made.order_by(revisions.c.revision.desc())).all()
            created_at = connection.execute(first).scalar()
        found = [Revision(row.revision, row.created_at) for row in rows]
        return (*found, *([] if created_at is None else [Revision(0, created_at)]))

    def add(self, transcript_id: str, expected: int | None, change: Change) -> tuple[int, Outcome]:
        """Add a revision, unless nothing has changed. It is durable when its number is returned.

        Args:
            expected: the newest revision that the caller knows; ``None``: any.

        Raises:
            EditConflictError: there is a newer one.
            JobStateError: the transcript was deleted.
        """

        def work(connection: sa.Connection) -> tuple[int, Outcome]:
            newest = connection.execute(_NEWEST, {"transcript_id": transcript_id}).scalar()
            original = self._load(connection, transcript_id, 0)
            if newest is None or original is None:
                raise _deleted()
            if expected not in (None, newest):
                raise EditConflictError(newest)
            base = self._load(connection, transcript_id, newest)
            assert base is not None
            outcome = change(original.transcript, base)
            if outcome.edited is not base:
                packed = pack(original.transcript, outcome.edited)
                _write(connection, (transcript_id, newest), packed)
                _reindex(connection, transcript_id, base.transcript, outcome)
            return newest + (outcome.edited is not base), outcome

        return self.store.transact(work)

    def restore(self, transcript_id: str, revision: int, expected: int | None) -> int:
        """Make an earlier revision the newest, as a new one. Raises as ``read`` and ``add``."""
        with self.store.begin() as connection:
            earlier = self._load(connection, transcript_id, revision)
        if earlier is None:
            raise _deleted()
        return self.add(transcript_id, expected, lambda _original, _base: Outcome(earlier))[0]

    def keep(self, transcript_id: str, revision: int, edited: Edited) -> Edited:
        """Cache a revision, in place of the least recently read one."""
        with self._lock:
            self._known[transcript_id, revision] = edited
            self._known.move_to_end((transcript_id, revision))
            while len(self._known) > CACHED:
                self._known.popitem(last=False)
        return edited

    def _cached(self, transcript_id: str, revision: int) -> Edited | None:
        with self._lock:
            found = self._known.get((transcript_id, revision))
            if found is not None:
                self._known.move_to_end((transcript_id, revision))
            return found

    def _load(self, connection: sa.Connection, transcript_id: str, revision: int) -> Edited | None:
        found = self._cached(transcript_id, revision)
        if found is not None:
            return found
        if revision == 0:
            transcript = originals.load(connection, transcript_id)
            if transcript is None:
                return None
            numbers = tuple(range(len(transcript.segments)))
            return self.keep(transcript_id, 0, Edited(transcript, numbers))
        original = self._load(connection, transcript_id, 0)
        if original is None:
            return None
        of_it = {"transcript_id": transcript_id, "revision": revision}
        packed = connection.execute(_PACKED, of_it).scalar()
        if packed is None:
            raise RevisionNotFoundError(
                f"the transcript has no revision {revision}",
                hint=f"the newest {KEPT} and the original (0) are kept",
            )
        return self.keep(transcript_id, revision, unpack(original.transcript, packed))


def _deleted() -> JobStateError:
    return JobStateError("the transcript was deleted", hint="transcribe it again")


_NEWEST = sa.select(transcripts.c.revision).where(
    transcripts.c.transcript_id == sa.bindparam("transcript_id")
)
_PACKED = sa.select(revisions.c.packed).where(
    revisions.c.transcript_id == sa.bindparam("transcript_id"),
    revisions.c.revision == sa.bindparam("revision"),
)


def _write(connection: sa.Connection, before: tuple[str, int], packed: bytes) -> None:
    """
    Raises:
        RequirementError: another edit was first.
    """
    transcript_id, revision = before
    newest = transcripts.update().where(
        transcripts.c.transcript_id == transcript_id, transcripts.c.revision == revision
    )
    if connection.execute(newest.values(revision=revision + 1)).rowcount == 0:
        raise RequirementError
    row = {"transcript_id": transcript_id, "revision": revision + 1}
    row |= {"created_at": time.time(), "packed": packed}
    connection.execute(revisions.insert().values(**row))
    old = revisions.c.revision <= revision + 1 - KEPT
    connection.execute(revisions.delete().where(revisions.c.transcript_id == transcript_id, old))


# --- the stored form ----------------------------------------------------------------------------


def pack(original: Transcript, edited: Edited) -> bytes:
    """A revision as compressed JSON.

    ``pieces`` are segments, and ``[first, last)`` of the original's segments. ``turns`` and
    ``warnings`` are ``null`` where they are the original's.
    """
    transcript = edited.transcript
    new = {number for number, origin in enumerate(edited.origins) if origin is None}
    rows = transcript.segment_rows(new)
    pieces: list[Any] = []
    for origin in edited.origins:
        if origin is None:
            pieces.append(next(rows))
        elif pieces and isinstance(pieces[-1], list) and pieces[-1][1] == origin:
            pieces[-1][1] += 1
        else:
            pieces.append([origin, origin + 1])
    is_same = transcript.warnings == original.warnings
    document = {
        "names": dict(edited.names),
        "pieces": pieces,
        "turns": None if transcript.turns == original.turns else transcript.turn_rows(),
        "warnings": None if is_same else [[w.code, w.message] for w in transcript.warnings],
    }
    return zlib.compress(json.dumps(document, ensure_ascii=False).encode(), 1)


def unpack(original: Transcript, packed: bytes) -> Edited:
    """
    Raises:
        StoreDamagedError: it is not a revision of this original.
    """
    try:
        document = json.loads(zlib.decompress(packed))
        names = document["names"]
        origins = tuple(_origins(document["pieces"]))
        new = (segment_from_json(each) for each in document["pieces"] if isinstance(each, dict))
        heard = original.segments
        found = tuple(
            next(new) if origin is None else relabelled_segment(heard[origin], names)
            for origin in origins
        )
        turns = document["turns"]
        warnings = document["warnings"]
        transcript = replace(
            original,
            segments=found,
            turns=original.turns if turns is None else tuple(Turn(**row) for row in turns),
            warnings=original.warnings if warnings is None else tuple(Notice(*w) for w in warnings),
        )
    except (zlib.error, ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreDamagedError(
            f"a revision of a transcript cannot be read: {type(error).__name__}",
            hint="restore an earlier one",
        ) from None
    return Edited(transcript, origins, names)


def _origins(pieces: Sequence[Any]) -> list[int | None]:
    found: list[int | None] = []
    for piece in pieces:
        found += [None] if isinstance(piece, dict) else range(*piece)
    return found


def origins_in(original: Transcript, transcript: Transcript) -> Edited:
    """A transcript whose sentences were split again, with the origins of equal sentences."""
    numbers = {(each.start, each.text): number for number, each in enumerate(original.segments)}
    found = [(numbers.get((each.start, each.text)), each) for each in transcript.segments]
    origins = tuple(
        number if number is not None and original.segments[number] == each else None
        for number, each in found
    )
    return Edited(transcript, origins)


# --- the search index ---------------------------------------------------------------------------


def _reindex(
    connection: sa.Connection, transcript_id: str, before: Transcript, outcome: Outcome
) -> None:
    """Update the search index and the notices of jobs; only differences are written."""
    after = outcome.edited.transcript
    of_it = segments.c.transcript_id == transcript_id
    if outcome.renamed:
        speaker = segments.c.speaker
        renamed = sa.case(dict(outcome.renamed), value=speaker, else_=speaker)
        named = speaker.in_(list(outcome.renamed))
        connection.execute(segments.update().where(of_it, named).values(speaker=renamed))
    gone, new = _difference(before.segments, after.segments, outcome.renamed)
    for first in range(0, len(gone), IN_ROWS):
        some = segments.c.number.in_(gone[first : first + IN_ROWS])
        connection.execute(segments.delete().where(of_it, some))
    if moved := len(new) - len(gone):
        first_moved = gone[-1] + 1 if gone else new[0]
        later = segments.update().where(of_it, segments.c.number >= first_moved)
        connection.execute(later.values(number=segments.c.number + moved))
    originals.index(connection, transcript_id, after, new)
    if after.warnings != before.warnings:
        sharing = jobs.update().where(jobs.c.transcript_id == transcript_id)
        connection.execute(sharing.values(warnings=to_warnings(after.warnings)))


def _difference(
    before: Sequence[Segment], after: Sequence[Segment], renamed: Mapping[str, str]
) -> tuple[list[int], list[int]]:
    """Indices of segments to remove from the search index, and of those to add."""

    def is_same(old: Segment, new: Segment) -> bool:
        speaker = renamed.get(old.speaker, old.speaker) if old.speaker else None
        return old is new or (
            (old.text, old.start, old.end, speaker) == (new.text, new.start, new.end, new.speaker)
        )

    shorter = min(len(before), len(after))
    head = 0
    while head < shorter and is_same(before[head], after[head]):
        head += 1
    tail = 0
    while tail < shorter - head and is_same(before[-1 - tail], after[-1 - tail]):
        tail += 1
    gone = list(range(head, len(before) - tail))
    new = list(range(head, len(after) - tail))
    if len(gone) == len(new):
        gone = new = [number for number in gone if not is_same(before[number], after[number])]
    return gone, new
