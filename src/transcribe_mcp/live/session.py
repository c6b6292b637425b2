"""One live session: find utterances in the audio and recognize them one by one.

One thread handles messages and detects speech, the other recognizes. So speech is detected without
delay while the model is busy.
"""

from __future__ import annotations

import base64
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from queue import Queue
from typing import Any

from ..domain.audio import SAMPLE_RATE_HZ
from ..domain.options import EngineSpec, Options, part_of
from ..errors import ModelUnavailableError, TranscribeError
from ..jobs.models import JobOptions
from ..media.live_input import LiveFormat, LiveInput, WavFile
from ..media.resampler import Samples
from ..pipeline.live import LiveRecognizer
from ..runtime.executor import Executor
from ..settings import settings
from ..speech.regions import Window
from ..speech.utterances import Found, SpeechStarted, TurnRules, UtteranceFinder
from .messages import EMPTY, RATE_LIMIT, LiveEvent, LiveSetup

MAX_SESSION_S = 3600.0  # of audio
MAX_WAITING_S = 30.0  # of speech queued after the window in recognition
LEAVING_S = 3.0  # for sessions that have just ended
MAX_MESSAGES = 8  # queued messages; beyond that the sender waits
MANUAL_SILENCE_S = 2.0  # if the client ends utterances, such a pause cuts a window

Send = Callable[[LiveEvent], None]


class LimitError(Exception):
    """The session is too long, or its audio arrives too fast."""


@dataclass(eq=False, slots=True)
class Item:
    """An utterance. Its text is held back until it is committed."""

    number: int
    seconds: float = 0.0
    n_waiting: int = 0  # windows
    is_committed: bool = False
    is_dropped: bool = False
    n_shown: int = 0
    texts: list[str] = field(default_factory=list)
    error: TranscribeError | None = None


class OneModel:
    """All sessions share one model; switching between two for each utterance would take seconds."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self._specs: dict[Session, EngineSpec] = {}
        self._changed = threading.Condition()

    def take(self, session: Session, spec: EngineSpec) -> EngineSpec:
        """The model for a session until it ends or changes the model.

        Raises:
            ModelUnavailableError: other sessions use another one.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._of_others(session) in (None, spec), LEAVING_S)
            held = self._of_others(session) or spec
            is_loaded = self.executor.loaded_spec == held
            loaded = self.executor.loaded if is_loaded else held.model
            if held != spec and replace(spec, model=held.model) == held and spec.model == loaded:
                spec = held  # the same model by another name
            if held != spec:
                raise ModelUnavailableError(
                    f"other live sessions use the model {loaded}, so none can use {spec.model} now",
                    hint=f"use {loaded} too, or connect again when those sessions have ended",
                )
            self._specs[session] = spec
        return spec

    def leave(self, session: Session) -> None:
        with self._changed:
            self._specs.pop(session, None)
            self._changed.notify_all()

    def _of_others(self, session: Session) -> EngineSpec | None:
        return next((spec for one, spec in self._specs.items() if one is not session), None)


class Session:
    """See the module. ``put`` takes messages; ``send`` is called by both threads.

    Args:
        model: of all sessions.
        note: logs an unexpected error.
    """

    def __init__(self, model: OneModel, send: Send, note: Callable[[BaseException], None]) -> None:
        self._model = model
        self._note = note
        self._send = send
        self._messages: Queue[dict[str, Any]] = Queue(MAX_MESSAGES)
        self._windows: Queue[tuple[LiveRecognizer, Item, Window] | None] = Queue()
        self._changed = threading.Condition()
        self._unfinished_s: deque[float] = deque()  # windows that are not recognized yet
        self._is_over = False
        self._setup: LiveSetup | None = None
        self._recognizer: LiveRecognizer | None = None
        self._spec: EngineSpec | None = None  # of the recognizer
        self._n_items = 0
        self._item: Item | None = None  # that is not committed yet
        self._offset_s = 0.0  # of the finder's clock
        self._n_samples = 0
        self._n_uncommitted = 0
        self._sound: WavFile | None = None
        self._hearing = threading.Thread(target=self._hear, name="hear", daemon=True)
        self._hearing.start()
        recognize = partial(self._guarded, self._recognize)
        self._recognizing = threading.Thread(target=recognize, name="recognize", daemon=True)
        self._recognizing.start()

    def put(self, message: dict[str, Any]) -> None:
        """Take a message. Blocks while many wait."""
        self._messages.put(message)

    @property
    def is_closed(self) -> bool:
        return not self._hearing.is_alive()

    def wait_closed(self, patience_s: float) -> None:
        """Wait until ``closed`` is sent, after the message ``close``."""
        self._hearing.join(patience_s)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a part of the session; an error ends it."""
        try:
            work()
        except LimitError as error:
            self._end(LiveEvent("ended", code=RATE_LIMIT, message=str(error)))
        except TranscribeError as error:
            self._end(_failure("ended", error))
        except Exception as error:  # noqa: BLE001 - a session must not take the others with it
            self._note(error)
            self._end(
                LiveEvent("ended", code="error", message="the session failed because of a bug")
            )

    # --- detection -----------------------------------------------------------------------------

    def _hear(self) -> None:
        while (message := self._messages.get())["do"] not in ("close", "finish"):
            if not self._is_over:
                self._guarded(partial(getattr(self, f"_do_{message['do']}"), message))
        if message["do"] == "finish" and self._setup is not None:
            self._guarded(self._finish)
        self._is_over = True
        self._windows.put(None)
        self._model.leave(self)
        if self._sound is not None:
            self._sound.close()
        self._send(LiveEvent("closed", seconds=self._n_samples / SAMPLE_RATE_HZ))

    def _end(self, event: LiveEvent) -> None:
        if not self._is_over:
            self._is_over = True
            self._send(event)
            with self._changed:
                self._changed.notify()

    def _do_configure(self, message: dict[str, Any]) -> None:
        setup = LiveSetup.from_json(message["setup"])
        try:
            self._load(setup.options)
            silence_s = setup.silence_s if setup.finds_turns else MANUAL_SILENCE_S
            self._finder = UtteranceFinder(TurnRules(setup.threshold, setup.prefix_s, silence_s))
            self._input = LiveInput(LiveFormat(setup.codec, setup.rate_hz, setup.channels))
        except TranscribeError as error:
            self._send(_failure("refused", error, message.get("tag")))
            return
        self._drop_item()
        self._offset_s = self._n_samples / SAMPLE_RATE_HZ
        if setup.sound_path and self._sound is None:
            self._sound = WavFile(setup.sound_path)
        self._setup = setup
        self._send(LiveEvent("configured", tag=message.get("tag")))

    def _load(self, options: JobOptions) -> None:
        if self._setup is not None and options == self._setup.options:
            return
        before = self._spec
        spec = self._model.take(self, _spec_of(options))
        recognizer = LiveRecognizer(self._model.executor, spec, part_of(Options, options))
        try:
            recognizer.load()
        except TranscribeError:
            recognizer.close()
            self._model.leave(self)
            if before is not None:
                self._model.take(self, before)
            raise
        if self._recognizer is not None:
            self._recognizer.close()
        self._recognizer = recognizer
        self._spec = spec

    def _do_append(self, message: dict[str, Any]) -> None:
        self._follow(self._input.push(base64.b64decode(message["audio"])))

    def _do_commit(self, message: dict[str, Any]) -> None:
        if not self._commit_rest():
            text = "the audio buffer is empty; append audio before a commit"
            self._send(LiveEvent("error", code=EMPTY, message=text, tag=message.get("tag")))

    def _finish(self) -> None:
        """Recognize all audio so far."""
        self._commit_rest()
        self._windows.put(None)
        self._recognizing.join()

    def _commit_rest(self) -> bool:
        """End the utterance; returns whether there was any audio to commit."""
        self._follow(self._input.finish())
        if not self._n_uncommitted:
            return False
        n_before = self._n_items if self._item is None else self._n_items - 1
        for found in self._finder.flush():
            self._take(found)
        if self._item is not None or self._n_items == n_before:
            self._commit(self._item or self._new_item())
        return True

    def _do_clear(self, _: dict[str, Any]) -> None:
        self._follow(self._input.finish())
        self._finder.clear()
        self._drop_item()
        self._send(LiveEvent("cleared"))

    def _follow(self, samples: Samples) -> None:
        self._n_samples += len(samples)
        self._n_uncommitted += len(samples)
        is_limited = self._setup is not None and self._setup.is_limited
        if is_limited and self._n_samples > MAX_SESSION_S * SAMPLE_RATE_HZ:
            minutes = MAX_SESSION_S / 60
            raise LimitError(f"the session has more than {minutes:.0f} min of audio; open another")
        if self._sound is not None:
            self._sound.write(samples)
        for found in self._finder.push(samples):
            self._take(found)

    def _take(self, found: Found) -> None:
        assert self._setup is not None
        if isinstance(found, Window):
            self._queue(found)
        elif isinstance(found, SpeechStarted):
            item = self._item or self._new_item()
            if self._setup.finds_turns:
                self._send(LiveEvent("started", item.number, self._offset_s + found.at_s))
        elif self._setup.finds_turns and self._item is not None:
            number = self._item.number
            self._send(LiveEvent("stopped", number, self._offset_s + found.at_s))
            self._commit(self._item)

    def _new_item(self) -> Item:
        self._n_items += 1
        self._item = Item(self._n_items)
        return self._item

    def _drop_item(self) -> None:
        self._n_uncommitted = 0
        if self._item is not None:
            self._item.is_dropped = True
            self._item = None

    def _commit(self, item: Item) -> None:
        self._item = None
        self._n_uncommitted = 0
        self._send(LiveEvent("committed", item.number))
        with self._changed:
            item.is_committed = True
            self._show(item)

    # --- recognizing ---------------------------------------------------------------------------

    def _queue(self, window: Window) -> None:
        assert self._setup is not None and self._recognizer is not None
        item = self._item or self._new_item()
        with self._changed:
            if not self._setup.is_limited:
                self._changed.wait_for(lambda: self._has_room(window) or self._is_over)
            elif not self._has_room(window):
                text = (
                    f"more than {MAX_WAITING_S:.0f} s of speech are queued; send audio in real time"
                )
                raise LimitError(text)
            self._unfinished_s.append(window.duration)
            item.n_waiting += 1
            item.seconds += window.duration
        self._windows.put((self._recognizer, item, window))

    def _has_room(self, window: Window) -> bool:
        """The oldest window does not count, because it is or will soon be in recognition."""
        waiting_s = sum(islice(self._unfinished_s, 1, None))
        return not self._unfinished_s or waiting_s + window.duration <= MAX_WAITING_S

    def _recognize(self) -> None:
        try:
            while (work := self._windows.get()) is not None and not self._is_over:
                self._recognize_window(*work)
        finally:
            if self._recognizer is not None:
                self._recognizer.close()

    def _recognize_window(self, recognizer: LiveRecognizer, item: Item, window: Window) -> None:
        text = ""
        with self._changed:
            is_limited = self._setup is not None and self._setup.is_limited
            is_late = is_limited and len(self._unfinished_s) > 1  # others wait
        if not item.is_dropped:
            try:
                text = recognizer.recognize(window, is_late=is_late)
            except TranscribeError as error:
                item.error = error
        with self._changed:
            self._unfinished_s.popleft()
            self._changed.notify()
            item.n_waiting -= 1
            item.texts.append(text if any(item.texts) else text.lstrip())
            self._show(item)

    def _show(self, item: Item) -> None:
        """Send the new text of a committed item."""
        if not item.is_committed or item.is_dropped or self._is_over:
            return
        for text in filter(None, item.texts[item.n_shown :]):
            self._send(LiveEvent("text", item.number, text=text))
        item.n_shown = len(item.texts)
        if item.n_waiting:
            return
        if item.error is not None:
            self._send(_failure("failed", item.error, item=item.number))
        else:
            whole = "".join(item.texts)
            self._send(LiveEvent("completed", item.number, text=whole, seconds=item.seconds))


def _spec_of(options: JobOptions) -> EngineSpec:
    chosen = settings()
    offline = options.offline or chosen.offline
    return part_of(EngineSpec, options, threads=chosen.threads, offline=offline)


def _failure(
    kind: str, error: TranscribeError, tag: str | None = None, *, item: int = 0
) -> LiveEvent:
    return LiveEvent(kind, item, code=error.code, message=str(error), hint=error.hint, tag=tag)
