"""The executor's units of work: windows as tasks, encoded batches as parts, and stages that process
them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ..engines import EncodedBatch, Recognizer
from ..speech.regions import Window


class Workbench(Protocol):
    """A device as a stage sees it."""

    @property
    def model(self) -> Recognizer: ...

    def encode(self, windows: Sequence[Window]) -> EncodedBatch:
        """Encode windows that are not tasks, for example pieces of them."""

    def timed(self, name: str, tasks: Sequence[Task]) -> AbstractContextManager[None]:
        """Add the time of the block to the recordings of these tasks."""


class Stage(Protocol):
    """The processing of one recording's windows. The executor decides when, with which others, and
    where.

    A phase gets an encoded part, whose tasks can belong to several recordings with equal groups. It
    returns one item per task, in order. The executor repeats a phase when memory runs out or a
    device fails.
    """

    @property
    def group(self) -> Hashable:
        """Tasks whose stages have equal groups go through the phases in one call."""

    @property
    def is_open(self) -> bool:
        """The first batch decides something about the recording, so it must be complete."""

    def decode(self, device: Workbench, part: Part) -> list[Any]:
        """Drafts. Runs in the device thread."""

    def finish(self, device: Workbench, part: Part) -> list[Any]:
        """Results. Can run in another thread while the next batch is decoded."""

    def may_improve(self, device: Workbench, result: Any) -> bool: ...

    def improve(self, device: Workbench, part: Part) -> list[Any]:
        """Improved results, if possible. Runs in the device thread."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One window in progress. It is always in one place: a queue, a part, or delivered."""

    recording: Any  # a queue.Recording, which makes tasks
    stage: Stage
    window: Window


@dataclass(eq=False, slots=True)
class Part:
    """Tasks that go through the phases together.

    Not frozen: its encoded batch is dropped if memory is needed, and encoded again by the next
    phase.
    """

    tasks: Sequence[Task]
    batch: EncodedBatch | None = None
    drafts: list[Any] | None = None
    results: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def encoded(self) -> EncodedBatch:
        """The batch of a part during a phase."""
        assert self.batch is not None
        return self.batch

    @property
    def windows(self) -> list[Window]:
        return [task.window for task in self.tasks]

    @property
    def recordings(self) -> frozenset[Any]:
        return frozenset(task.recording for task in self.tasks)

    def select(self, rows: Sequence[int], *, encoded: bool = False) -> Part:
        """Some of the tasks; with ``encoded``, and their rows of the batch."""
        if len(rows) == len(self.tasks) and encoded:
            return self
        batch = self.batch.select(rows) if encoded and self.batch is not None else None
        return Part(
            [self.tasks[row] for row in rows],
            batch,
            None if self.drafts is None else [self.drafts[row] for row in rows],
            None if self.results is None else [self.results[row] for row in rows],
        )

    def split(self, size: int) -> list[Part]:
        """Parts of at most ``size`` tasks, not encoded."""
        rows = range(len(self.tasks))
        return [self.select(rows[first : first + size]) for first in range(0, len(rows), size)]

    def groups(self) -> list[list[int]]:
        """The rows of each group of stages."""
        found: dict[Hashable, list[int]] = {}
        for row, task in enumerate(self.tasks):
            found.setdefault(task.stage.group, []).append(row)
        return list(found.values())
