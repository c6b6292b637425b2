"""Terminal output: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING

from ...domain.text_breaks import JOINERS
from ...errors import CancelledError, OutputError, TranscribeError, UsageError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from .drawing import Drawing

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


def printable(text: str) -> str:
    """Escape control characters: a file name is data and must not control the terminal."""
    return "".join(
        c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode() for c in text
    )


def name_on_stdout(name: object) -> str:
    """A file's name as it is, for programs that read it, and ``printable`` on a terminal."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    return printable(str(name)) if on_terminal else str(name)


def say(text: str) -> None:
    """Write text to stderr, without control characters. The work continues if stderr is closed."""
    if sys.stderr is None:  # closed by the caller: 2>&-
        return
    with suppress(OSError):
        sys.stderr.write("\n".join(map(printable, text.split("\n"))) + "\n")
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
    """Write a result to stdout, in UTF-8 whatever the locale. Undecodable bytes become escapes.

    Raises:
        BrokenPipeError: the reader (head, less) has exited. Later output is discarded.
        OutputError: stdout cannot be written.
    """
    hint = "write files with --output-dir instead"
    if sys.stdout is None:
        raise OutputError("cannot write the result: standard output is closed", hint=hint)
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
    except OSError as error:
        # Otherwise Python tries again at exit, and prints an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(
            f"cannot write the result to standard output: {error.strerror}", hint=hint
        ) from error


def confirm(question: str, *, yes: bool) -> None:
    """Ask before an action that cannot be undone; ``yes`` skips the question.

    Raises:
        UsageError: there is no terminal.
        SystemExit: the answer is not yes.
    """
    if yes:
        return
    if sys.stdin is None or sys.stderr is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"cannot ask without a terminal: {question}", hint="add --yes to confirm")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        say("Nothing was changed.")
        raise SystemExit(1)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors and Ctrl-C into a message and an exit code."""
    try:
        yield
    except (KeyboardInterrupt, CancelledError):
        say("Interrupted; files already written are kept.")
        raise SystemExit(CancelledError.exit_code) from None
    except TranscribeError as error:
        show_error(error)
        raise SystemExit(error.exit_code) from error
    except BrokenPipeError:
        raise SystemExit(0) from None


@contextmanager
def progress_bars(*, quiet: bool) -> Iterator[Bars]:
    """Progress bars on stderr, if it is a terminal and ``quiet`` is not set."""
    bars = Bars(shown=not quiet and sys.stderr is not None and sys.stderr.isatty())
    try:
        yield bars
    finally:
        bars.put_away()


class Bars:
    """A ``Progress`` that draws one bar per stage of a file, and the latest text below them."""

    def __init__(self, *, shown: bool) -> None:
        self.shown = shown
        self._drawing: Drawing | None = None
        self._tasks: dict[str, TaskID] = {}
        self._number = ""
        self._lock = Lock()  # stages report from several threads

    def __call__(self, stage: str, done: float, total: float | None) -> None:
        if not self.shown:
            return
        if stage == "file":
            self.put_away()
            self._number = f"{done + 1:.0f}/{total:.0f} " if total and total > 1 else ""
            return
        with self._lock:
            drawing = self._started()
            if stage not in self._tasks:
                name = self._number + STAGES.get(stage, stage)
                self._tasks[stage] = drawing.add_task(name, total=total, speed="")
            task = self._tasks[stage]
            drawing.update(task, completed=done, total=total, speed=_speed(drawing, stage, task))

    def show_text(self, text: str) -> None:
        """Show the end of the text that was transcribed last."""
        if self.shown:
            with self._lock:
                self._started().latest = " ".join(text.split())

    def put_away(self) -> None:
        """Clear the terminal for a result or a message."""
        with self._lock:
            if self._drawing is not None:
                self._drawing.stop()
            self._drawing = None
            self._tasks.clear()

    def _started(self) -> Drawing:
        if self._drawing is None:
            from .drawing import Drawing

            self._drawing = Drawing()
            self._drawing.start()
        return self._drawing


def _speed(drawing: Drawing, stage: str, task: TaskID) -> str:
    rate = drawing.tasks[drawing.task_ids.index(task)].speed
    if not rate:
        return ""
    return f"{rate / 1e6:.1f} MB/s" if stage in STAGES_IN_BYTES else f"{rate:.0f} × real time"
