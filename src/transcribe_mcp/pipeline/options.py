"""What to do with a recording: one record, with every clash between its fields found in one place."""

from __future__ import annotations

from dataclasses import dataclass

from ..engines import AUTO
from ..errors import UsageError
from .language_vote import requested_language

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
TRACKS = (AUTO, "all")
CHANNELS = (AUTO, "mix", "left", "right", "split")


@dataclass(frozen=True, slots=True)
class Options:
    """What to do with a recording, whatever the engine.

    Attributes:
        language: see ``languages.requested_language``; ``auto`` lets several windows vote. Kept as the models' code.
        multilingual: decide the language for every window by itself.
        task: ``transcribe``, or ``translate`` into English.
        words: keep word times in the result.
        vad: look for speech first; without, everything is taken for speech.
        prompt: text to take style and spelling from.
        vocabulary: words and names to expect.
        temperatures: the first for every window; the others, in turn, for windows that break a quality rule, on engines
            that repeat their samples. One alone: no window is decoded again.
        beam_size: hypotheses kept at temperature 0; 1 is greedy, ``None`` leaves it to the engine.
        batch_size: windows decoded at once; 0 leaves it to the engine.
        threads: CPU threads for reading and voice detection; 0 means every core.
        track: which audio track: its number from 1; ``auto`` takes the default one, or the first with speech; ``all``
            transcribes each by itself.
        channel: ``auto`` mixes the channels where they do not cancel, ``mix`` always; ``left``, ``right`` or a number
            from 1 takes one; ``split`` transcribes each by itself.
    """

    language: str = AUTO
    multilingual: bool = False
    task: str = "transcribe"
    words: bool = True
    vad: bool = True
    prompt: str = ""
    vocabulary: tuple[str, ...] = ()
    temperatures: tuple[float, ...] = TEMPERATURES
    beam_size: int | None = None
    batch_size: int = 0
    threads: int = 0
    track: str = AUTO
    channel: str = AUTO

    def __post_init__(self) -> None:
        object.__setattr__(self, "language", requested_language(self.language))
        if self.task not in ("transcribe", "translate"):
            raise UsageError(
                f"there is no task {self.task!r}", hint="choose transcribe or translate"
            )
        if not self.temperatures or any(not 0 <= t <= 1 for t in self.temperatures):
            raise UsageError(
                f"temperatures are {self.temperatures}", hint="give one or more between 0 and 1"
            )
        for name, least in (("beam_size", 1), ("batch_size", 0), ("threads", 0)):
            if (number := getattr(self, name)) is not None and number < least:
                raise UsageError(
                    f"{name} is {getattr(self, name)}", hint=f"it must be at least {least}"
                )
        for name, choices in (("track", TRACKS), ("channel", CHANNELS)):
            value = getattr(self, name)
            if value not in choices and not (
                value.isascii() and value.isdecimal() and int(value) >= 1
            ):
                hint = f"give a number from 1 or one of: {', '.join(choices)}"
                raise UsageError(f"there is no {name} {value!r}", hint=hint)
        if self.multilingual and self.language != AUTO:
            hint = "leave the language to auto, or leave out multilingual"
            raise UsageError(f"multilingual contradicts language {self.language!r}", hint=hint)
