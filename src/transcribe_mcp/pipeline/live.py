"""Windows of a live session -> text, one by one, as they arrive."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from ..domain.options import EngineSpec, Options
from ..domain.progress import Progress, no_progress
from ..runtime.executor import Executor
from ..runtime.queue import Claim, Recording
from ..speech.regions import Window
from .checkpoint import PartResult
from .language_vote import LanguageDecider
from .offline import recognize_stage, refuse_unsupported
from .recognize import RecognizeStage

CONTEXT_S = 30.0  # older text is not context
CONTEXT_CHARS = 300
MAX_CONTEXT_TEMPERATURE = 0.5  # as in openai-whisper: sampled text misleads the next window


class LiveRecognizer:
    """Recognizes the windows of one session with a shared executor. Used by one thread.

    The preceding text is the prompt of each window. With language ``auto``, each window has its own
    language if the model is sure, else that of the first.
    """

    def __init__(self, executor: Executor, spec: EngineSpec, options: Options) -> None:
        self._executor = executor
        self._spec = spec
        self._options = options
        self._held: Recording | None = None  # keeps the model loaded
        self._decider: LanguageDecider | None = None
        self._context = ""
        self._context_end_s = 0.0

    def load(self, progress: Progress = no_progress) -> None:
        """Load the model, and keep it until ``close``.

        Raises:
            TranscribeError: it cannot be loaded, or does not support the options.
        """
        self._held = self._executor.open(Claim(self._spec, progress=progress))
        self._held.load()
        info = self._held.info
        refuse_unsupported(self._options, info)
        is_open = LanguageDecider(self._options.language, info, multilingual=False).is_open
        self._decider = LanguageDecider(self._options.language, info, multilingual=is_open)

    def close(self) -> None:
        """The model may be unloaded."""
        if self._held is not None:
            self._held.close()

    def recognize(self, window: Window) -> str:
        """The words of a window, each with the space before it; "" if nothing was said.

        Raises:
            TranscribeError: the model failed.
        """
        with closing(self._executor.open(Claim(self._spec))) as recording:
            recording.load()
            recording.submit(self._stage(recording, window.start), [window])
            attempts = [attempt for found in recording.results() for _, attempt in found]
        parts = [part for attempt in attempts for part in attempt.parts]
        text = "".join(word.text for part in parts for word in part.words)
        self._remember(text, parts, window)
        return text

    def _stage(self, recording: Recording, at_s: float) -> RecognizeStage:
        assert self._decider is not None
        recent = self._context if at_s - self._context_end_s <= CONTEXT_S else ""
        prompt = f"{self._options.prompt} {recent}".strip()
        recipe = recognize_stage(replace(self._options, prompt=prompt), recording.info).group
        return RecognizeStage(recipe, self._decider)

    def _remember(self, text: str, parts: list[PartResult], window: Window) -> None:
        if not text:
            return
        is_sure = all(
            part.judged.failure is None
            and part.judged.decoded.temperature <= MAX_CONTEXT_TEMPERATURE
            for part in parts
        )
        self._context = (self._context + text)[-CONTEXT_CHARS:] if is_sure else ""
        self._context_end_s = window.end
