"""What the command line shows: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING

from ...errors import CancelledError, OutputError, TranscribeError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

STAGES = {
    "fetch": "fetching",
    "download": "downloading",
    "checksum": "checking",
    "convert": "converting",
    "read": "reading",
    "speech": "finding speech",
    "windows": "transcribing",
}
STAGES_IN_BYTES = frozenset({"fetch", "download", "checksum", "convert"})


def say(text: str) -> None:
    """A line for the person at the terminal. Where nobody can read it, the work goes on all the same."""
    if sys.stderr is None:  # closed by the caller: 2>&-
        return
    with suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def show_error(error: TranscribeError, source: str | None = None) -> None:
    message = str(error)
    say(
        f"error: {message}"
        if source is None or source in message
        else f"error: {source}: {message}"
    )
    if error.hint:
        say(f"hint: {error.hint}")


def write_out(text: str) -> None:
    """A result, in UTF-8 whatever the locale. Names of files may hold bytes that are no text: written as escapes.

    Raises:
        BrokenPipeError: the reader (head, less) has gone; what is written from now on goes nowhere.
        OutputError: the system refuses.
    """
    hint = "write files with --output-dir instead"
    if sys.stdout is None:
        raise OutputError("cannot write the result: standard output is closed", hint=hint)
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
    except OSError as error:
        # Or else Python tries once more at exit, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(
            f"cannot write the result to standard output: {error.strerror}", hint=hint
        ) from error


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is done that cannot be undone; ``yes`` answers beforehand.

    Raises:
        UsageError: there is no terminal to ask at.
        SystemExit: the answer is not yes.
    """
    if yes:
        return
    if sys.stdin is None or sys.stderr is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"nobody can be asked: {question}", hint="add --yes if you mean it")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        say("nothing was changed")
        raise SystemExit(1)


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
        raise SystemExit(0) from None


@contextmanager
def progress_bars(*, quiet: bool) -> Iterator[Bars]:
    """A bar per stage on stderr (percent, ETA, speed), if that is a terminal and nobody asked for quiet."""
    bars = Bars(shown=not quiet and sys.stderr is not None and sys.stderr.isatty())
    try:
        yield bars
    finally:
        bars.put_away()


class Bars:
    """A ``Progress`` that draws: bars are made as stages are first heard of, and begun again for every file."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._drawn: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._number = ""
        self._lock = Lock()  # stages report from several threads

    def __call__(self, stage: str, done: float, total: float | None) -> None:
        if not self._shown:
            return
        if stage == "file":
            self.put_away()
            self._number = f"{done + 1:.0f}/{total:.0f} " if total and total > 1 else ""
            return
        with self._lock:
            bars = self._drawn = self._drawn or _start_bars()
            if stage not in self._tasks:
                name = self._number + STAGES.get(stage, stage)
                self._tasks[stage] = bars.add_task(name, total=total, speed="")
            task = self._tasks[stage]
            bars.update(task, completed=done, total=total, speed=_speed(bars, stage, task))

    def put_away(self) -> None:
        """Clear the terminal for a result or a message."""
        with self._lock:
            if self._drawn is not None:
                self._drawn.stop()
            self._drawn = None
            self._tasks.clear()


def _start_bars() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bars = Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[speed]}"),
        console=Console(stderr=True),
        transient=True,
    )
    bars.start()
    return bars


def _speed(bars: RichProgress, stage: str, task: TaskID) -> str:
    rate = bars.tasks[bars.task_ids.index(task)].speed
    if not rate:
        return ""
    return f"{rate / 1e6:.1f} MB/s" if stage in STAGES_IN_BYTES else f"{rate:.0f} × real time"
