"""Progress bars with the latest text below them. Importing this loads rich."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class Drawing(Progress):
    """Bars on stderr, cleared when stopped.

    Attributes:
        latest: the end of the text so far; empty before the first.
    """

    def __init__(self) -> None:
        self.latest = ""
        super().__init__(
            TextColumn("{task.description:<16}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[speed]}"),
            console=Console(stderr=True),
            transient=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.latest:
            n_chars = max(1, self.console.width - 4)
            is_cut = len(self.latest) > n_chars
            shown = f"… {self.latest[-n_chars:]}" if is_cut else self.latest
            yield Text(shown, style="dim", no_wrap=True, overflow="crop")
