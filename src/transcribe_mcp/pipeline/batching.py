"""Windows as they come -> the batches that an engine is given."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

from ..runtime.prefetch import Ahead
from ..speech.regions import WINDOW_S, Window
from .language_vote import LanguageDecider

FULL_SHARE = 0.75  # a batch so full is decoded rather than that the device waits for the windows that it lacks

Parts = Generator[
    list[Window] | None, None, None
]  # None: the next windows are not there yet, and the device is idle
Size = Callable[[], int]  # windows that a batch is to have from now on
Stream = Parts | Ahead[list[Window]] | Ahead[list[Window] | None]


def batches(
    stream: Stream, size: Size, decider: LanguageDecider, claimed_s: float | None
) -> Iterator[list[Window]]:
    """Full batches while the stream lasts, or nearly full ones where it falters.

    The batch that votes on the language is spread over what is there.
    """
    waiting: list[Window] = []
    for windows in stream:
        full = size()
        if (
            windows is None
            and len(waiting) >= FULL_SHARE * full
            and not _takes_the_rest(waiting, full, claimed_s)
        ):
            yield first(waiting, full)
        waiting += windows or []
        while len(waiting) >= full:
            yield _spread(waiting, full) if decider.is_open else first(waiting, full)
    if waiting:
        yield waiting


def _takes_the_rest(waiting: Sequence[Window], size: int, claimed_s: float | None) -> bool:
    """Whether all that is to come fits in with what waits. A batch of its own would take much longer than to wait."""
    return claimed_s is not None and claimed_s - waiting[-1].end <= (size - len(waiting)) * WINDOW_S


def first(waiting: list[Window], n: int) -> list[Window]:
    batch, waiting[:] = waiting[:n], waiting[n:]
    return batch


def _spread(waiting: list[Window], n: int) -> list[Window]:
    chosen = {round(i * (len(waiting) - 1) / max(1, n - 1)) for i in range(n)}
    batch = [window for i, window in enumerate(waiting) if i in chosen]
    waiting[:] = [window for i, window in enumerate(waiting) if i not in chosen]
    return batch
