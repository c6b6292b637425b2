"""Windows of a live session -> text, one by one, as they arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from ..domain.options import EngineSpec, Options
from ..domain.progress import Progress, no_progress
from ..runtime.executor import Executor
from ..runtime.queue import Claim, Recording
from ..speech.regions import WINDOW_S, Known, Region, Window
from .language_vote import LanguageDecider
from .offline import recognize_stage, refuse_unsupported
from .recognize import RecognizeStage
from .temperature_fallback import Attempt

CONTEXT_S = 30.0  # older text is not context
CONTEXT_CHARS = 300
HEARD_S = WINDOW_S - 1.0  # a window without silence at its end is misheard
MAX_CONTEXT_TEMPERATURE = 0.5  # as in openai-whisper: sampled text misleads the next window


@dataclass(frozen=True, slots=True)
class Utterance:
    """A window, and the text that was found in it."""

    window: Window
    text: str


class LiveRecognizer:
    """Recognizes the windows of one session with a shared executor. Used by one thread.

    The model hears each window after the preceding ones, up to 29 s together, and continues their
    text. Older text is the prompt. With language ``auto``, each window has its own language if the
    model is sure, else that of the first. Then the model hears each window alone, because it would
    detect the language of the preceding ones, and all preceding text is the prompt.
    """

    def __init__(self, executor: Executor, spec: EngineSpec, options: Options) -> None:
        self._executor = executor
        self._spec = spec
        self._options = options
        self._held: Recording | None = None  # keeps the model loaded
        self._decider: LanguageDecider | None = None
        self._detects = False  # the language of each window
        self._recent: deque[Utterance] = deque()  # no more than fit into one window
        self._older = ""  # text before them
        self._end_s = 0.0  # of the last utterance

    def load(self, progress: Progress = no_progress) -> None:
        """Load the model, and keep it until ``close``.

        Raises:
            TranscribeError: it cannot be loaded, or does not support the options.
        """
        self._held = self._executor.open(Claim(self._spec, progress=progress))
        self._held.load()
        info = self._held.info
        refuse_unsupported(self._options, info)
        language = self._options.language
        self._detects = LanguageDecider(language, info, multilingual=False).is_open
        self._decider = LanguageDecider(language, info, multilingual=self._detects)

    def close(self) -> None:
        """The model may be unloaded."""
        if self._held is not None:
            self._held.close()

    def recognize(self, window: Window, *, is_late: bool = False) -> str:
        """The words of a window, each with the space before it; "" if nothing was said.

        Args:
            is_late: hear the window alone, which is faster.

        Raises:
            TranscribeError: the model failed.
        """
        if window.start - self._end_s > CONTEXT_S:
            self._forget()
        before = () if self._detects or is_late else self._last(window)
        attempt = self._attempt(window, before)
        if before and (attempt.is_doubtful or not attempt.words):  # by itself it may be silence
            attempt = self._attempt(window, ())
        text = "".join(word.text for word in attempt.words)
        self._remember(Utterance(window, text), attempt)
        return text

    def _last(self, window: Window) -> Sequence[Utterance]:
        """The last utterances that the model can hear again before this one."""
        room_s = HEARD_S - window.duration
        chosen: deque[Utterance] = deque()
        for utterance in reversed(self._recent):
            room_s -= utterance.window.duration
            if room_s < 0:
                break
            chosen.appendleft(utterance)
        return chosen

    def _attempt(self, window: Window, before: Sequence[Utterance]) -> Attempt:
        """The text of a window after other utterances."""
        older = list(self._recent)[: len(self._recent) - len(before)]
        prompt = _joined(older, self._older)[-CONTEXT_CHARS:]
        with closing(self._executor.open(Claim(self._spec))) as recording:
            recording.load()
            recording.submit(self._stage(recording, prompt), [_after(before, window)])
            (attempt,) = (attempt for found in recording.results() for _, attempt in found)
        assert isinstance(attempt, Attempt)
        return attempt

    def _stage(self, recording: Recording, context: str) -> RecognizeStage:
        assert self._decider is not None
        prompt = f"{self._options.prompt} {context}".strip()
        recipe = recognize_stage(replace(self._options, prompt=prompt), recording.info).group
        return RecognizeStage(recipe, self._decider)

    def _remember(self, utterance: Utterance, attempt: Attempt) -> None:
        if not utterance.text:
            return
        is_sure = all(
            part.judged.failure is None
            and part.judged.decoded.temperature <= MAX_CONTEXT_TEMPERATURE
            for part in attempt.parts
        )
        if not is_sure:
            self._forget()
            return
        self._recent.append(utterance)
        self._end_s = utterance.window.end
        while sum(one.window.duration for one in self._recent) > HEARD_S:
            oldest = self._recent.popleft()
            self._older = (self._older + oldest.text)[-CONTEXT_CHARS:]

    def _forget(self) -> None:
        self._recent.clear()
        self._older = ""


def _joined(utterances: Sequence[Utterance], before: str = "") -> str:
    return before + "".join(utterance.text for utterance in utterances)


def _after(before: Sequence[Utterance], window: Window) -> Window:
    """The window with other utterances as its known beginning, without the pauses between, on its
    own clock.
    """
    if not before:
        return window
    known_s = sum(utterance.window.duration for utterance in before)
    shift_s = known_s - window.start
    regions = (Region(one.start + shift_s, one.end + shift_s) for one in window.regions)
    samples = np.concatenate([*(one.window.samples for one in before), window.samples])
    return Window(0.0, samples, tuple(regions), Known(_joined(before), known_s))
