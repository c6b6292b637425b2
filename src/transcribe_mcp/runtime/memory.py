"""The number of windows that fit into a device's memory."""

from __future__ import annotations

from dataclasses import dataclass

from ..domain.transcript import Notice
from ..errors import OutOfMemoryError

BATCHES_IN_MEMORY = 3  # one is aligned, one decoded and one encoded at the same time


@dataclass(slots=True)
class MemoryBudget:
    """The batch size only shrinks, because memory that was exhausted once will be again.

    Attributes:
        limit: windows that fit into memory at once; ``None`` until memory runs out.
        is_full: encode nothing until a batch in memory has been decoded.
        in_sequence: run one phase at a time. Overlapping phases would exhaust memory again.
    """

    limit: int | None = None
    is_full: bool = False
    in_sequence: bool = False
    _message: str = "the device ran out of memory"
    _hint: str = ""

    def size(self, batch_size: int) -> int:
        return batch_size if self.limit is None else min(batch_size, self.limit)

    def shrink(self, n_windows: int) -> None:
        self.limit = max(1, n_windows if self.limit is None else min(self.limit, n_windows))

    def ran_out(self, error: OutOfMemoryError) -> None:
        """Keep only the text, because the error refers to tensors that fill the memory."""
        self._message = str(error)
        self._hint = error.hint

    def error(self) -> OutOfMemoryError:
        """The last error, for a window that does not fit alone."""
        return OutOfMemoryError(self._message, hint=self._hint)

    def notices(self) -> list[Notice]:
        if self.limit is None:
            return []
        message = f"the device ran out of memory; batches had at most {self.limit} windows"
        return [Notice("batch_halved", f"{message} from then on")]
