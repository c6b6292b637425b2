"""What the command line shows: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import CancelledError, TranscribeError
from ..progress import Progress, unreported

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

STAGES = {
    "download": "downloading",
    "checksum": "checking",
    "convert": "converting",
    "read": "reading",
    "speech": "finding speech",
    "windows": "transcribing",
}
STAGES_IN_BYTES = frozenset({"download", "checksum", "convert"})


def say(text: str) -> None:
    """A line for the person at the terminal."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def show_error(error: TranscribeError, source: str | None = None) -> None:
    message = str(error)
    say(f"error: {message}" if source is None or source in message else f"error: {source}: {message}")
    if error.hint:
        say(f"hint: {error.hint}")


def write_out(text: str) -> None:
    """A result. Names of files may hold bytes that are no text; those are written as escapes."""
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Translate what ends a command early into a message and an exit code."""
    try:
        yield
    except (KeyboardInterrupt, CancelledError):
        say("stopped; what was finished is kept")
        raise SystemExit(CancelledError.exit_code) from None
    except TranscribeError as error:
        show_error(error)
        raise SystemExit(error.exit_code) from error
    except BrokenPipeError:
        # The reader (head, less) has gone. Keep Python from complaining when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


@contextmanager
def progress_bars(*, quiet: bool) -> Iterator[Progress]:
    """A bar per stage on stderr (percent, ETA, speed), if that is a terminal and nobody asked for quiet."""
    if quiet or not sys.stderr.isatty():
        yield unreported
        return
    with _StageBars() as bars:
        yield bars


class _StageBars:
    """Bars made as stages are first heard of, and begun again for every file."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars: Bars = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[speed]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _StageBars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: float, total: float | None) -> None:
        if stage == "file":
            for task in self._tasks.values():
                self._bars.remove_task(task)
            self._tasks.clear()
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(STAGES.get(stage, stage), total=total, speed="")
        task = self._tasks[stage]
        self._bars.update(task, completed=done, total=total, speed=self._speed(stage, task))

    def _speed(self, stage: str, task: TaskID) -> str:
        rate = self._bars.tasks[self._bars.task_ids.index(task)].speed
        if not rate:
            return ""
        return f"{rate / 1e6:.1f} MB/s" if stage in STAGES_IN_BYTES else f"{rate:.0f} × real time"
