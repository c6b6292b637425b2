"""Every option, declared once: its name, type, default, bounds and help text.

``frontends/forms.py`` derives the options of the command line and of the MCP tools from these
records, and ``jobs/models.py`` what jobs store. To add an option, add a field here and use it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from ..errors import UsageError
from .languages import AUTO, requested_language
from .option_values import convert_values

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
ALL = "all"
NONE = "none"
FRONT_ENDS = frozenset({"cli", "mcp", "jobs"})
# Assistants pay for the list of tools in every conversation. So it has only what users ask for.
NOT_MCP = frozenset({"mcp"})
# Options of output files. A job stores them with each file.
FILES_ONLY = frozenset({"mcp", "jobs"})

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a record, with what the front ends need to know about it.

    Attributes:
        help_text: for people and assistants; ``{engines}`` is replaced by the engines' names.
        ge, le: smallest and largest value.
        choices: allowed values.
        or_number: numbers from 1 are allowed besides ``choices``.
        hidden_in: front ends that do not offer the option.
        changes_text: jobs that differ in this option have different transcripts.
        flag: name on the command line, if it differs from the field's.
        implies: name of the switch that this option turns on.
        aliases: other names that assistants try.
        max_chars: longest text, or list item, from an assistant.
        name, default: of the field.
    """

    help_text: str
    ge: float | None = None
    le: float = math.inf
    choices: tuple[str, ...] = ()
    or_number: bool = False
    hidden_in: Collection[str] = frozenset()
    changes_text: bool = True
    flag: str = ""
    implies: str = ""
    aliases: tuple[str, ...] = ()
    max_chars: int = 4096
    name: str = ""
    default: Any = None


def option(default: Any, help_text: str, **declared: Any) -> Any:
    """A dataclass field that declares an option; keywords are attributes of ``Option``."""
    declaration = Option(help_text, default=default, **declared)
    return field(default=default, metadata={"option": declaration})


def options_of(record: Any, front_end: str = "") -> list[Option]:
    """The options of a record or its class, in order; only those that ``front_end`` offers."""
    declared = [
        replace(each.metadata["option"], name=each.name)
        for each in fields(record)
        if "option" in each.metadata
    ]
    return [each for each in declared if front_end not in each.hidden_in]


def part_of(cls: type[Record], record: Any, **changes: Any) -> Record:
    """A ``cls`` from ``record``, which has the same fields and more, with some ``changes``."""
    names = [each.name for each in fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: getattr(record, name) for name in names} | changes)


def _convert(record: Any) -> None:
    """
    Raises:
        UsageError: a value has a wrong type.
    """
    convert_values(record, (each.name for each in fields(record) if "option" in each.metadata))


def _check(record: Any) -> None:
    """
    Raises:
        UsageError: a value has a wrong type, is out of bounds or not among its choices.
    """
    _convert(record)
    for each in options_of(record):
        value = getattr(record, each.name)
        if each.ge is not None and value is not None and not _is_within(each, value):
            largest = "" if each.le == math.inf else f" and at most {each.le:g}"
            hint = f"give a number of at least {each.ge:g}{largest}"
            raise UsageError(f"{each.name} is {value:g}", hint=hint)
        if each.choices and value not in each.choices:
            if each.or_number and _is_number_from_1(value):
                continue
            numbers = ("a number from 1",) if each.or_number else ()
            *others, last = each.choices + numbers
            hint = f"choose {', '.join(others)} or {last}"
            raise UsageError(f"there is no {each.name} {value!r}", hint=hint)


def _is_within(each: Option, value: float) -> bool:
    assert each.ge is not None
    return each.ge <= value <= each.le and value < math.inf


def _is_number_from_1(text: str) -> bool:
    return bool(re.fullmatch(r"0*[1-9][0-9]{0,8}", text))


@dataclass(frozen=True)
class EngineSpec:
    """The engine and model to load. Equal specs can share one loaded model.

    ``auto`` leaves a choice to the machine; the engine's ``info`` says what was chosen.
    """

    engine: str = option(AUTO, "Speech recognition engine: {engines}.", hidden_in=NOT_MCP)
    model: str = option(
        AUTO,
        "Model name, Hugging Face ID or directory; auto picks the best for this machine.",
        aliases=("model_name", "model_size", "engine"),
        max_chars=1024,
    )
    device: str = option(
        AUTO,
        "Device: auto, cpu, cuda, cuda:N, or several as cuda:0,1 or cuda:all.",
        hidden_in=NOT_MCP,
    )
    compute_type: str = option(
        AUTO, "Precision: auto, int8, float16, bfloat16 or float32.", hidden_in=NOT_MCP
    )
    threads: int = option(
        0, "CPU threads; 0 uses all cores.", ge=0, hidden_in={"mcp", "jobs"}, changes_text=False
    )
    offline: bool = option(False, "Never use the network.", hidden_in=NOT_MCP, changes_text=False)
    # The GPU that ``cuda`` and ``auto`` select. A worker sets it to its own GPU.
    gpu: int = option(0, "Number of the GPU.", ge=0, hidden_in=FRONT_ENDS, changes_text=False)

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class Options:
    """How to transcribe a recording, whatever the engine.

    ``language`` becomes the models' code. The first of ``temperatures`` decodes every window;
    windows that break a quality rule try the others in turn, so a single one means no retries.
    ``beam_size`` applies at temperature 0; ``None`` lets the engine choose.

    Raises:
        UsageError: a value is out of bounds, or two options contradict each other.
    """

    language: str = option(
        AUTO,
        "Language of the recording: a code or name such as de, en-US or German. "
        "auto detects it from several parts of the recording.",
        aliases=("lang", "locale", "source_language"),
        max_chars=64,
    )
    multilingual: bool = option(
        False, "Detect the language separately for each ~30 s of audio.", hidden_in=NOT_MCP
    )
    task: str = option(
        "transcribe", "transcribe, or translate into English.", choices=("transcribe", "translate")
    )
    words: bool = option(True, "Keep word timestamps.", hidden_in=NOT_MCP)
    vad: bool = option(True, "Skip non-speech (voice activity detection).", hidden_in=NOT_MCP)
    prompt: str = option(
        "", "Initial prompt: example text that guides style and spelling.", hidden_in=NOT_MCP
    )
    vocabulary: tuple[str, ...] = option(
        (),
        "Names and terms to expect, spelled exactly as they should appear.",
        aliases=("prompt", "initial_prompt", "words", "hotwords", "keywords"),
        max_chars=200,
    )
    temperatures: tuple[float, ...] = option(
        TEMPERATURES,
        "Sampling temperatures, tried in turn on windows of poor quality.",
        flag="--temperature",
        hidden_in=NOT_MCP,
    )
    beam_size: int | None = option(
        None,
        "Hypotheses kept while decoding; 1 is greedy. Default: what suits the model.",
        ge=1,
        le=100,  # memory grows with it: tens of thousands fill any machine
        hidden_in=NOT_MCP,
    )
    batch_size: int = option(
        0,
        "Windows per batch; 0 lets the engine choose.",
        ge=0,
        hidden_in=NOT_MCP,
        changes_text=False,
    )
    # For reading and voice detection. Front ends set it to the threads of ``EngineSpec``.
    threads: int = option(
        0, "CPU threads; 0 uses all cores.", ge=0, hidden_in=FRONT_ENDS, changes_text=False
    )
    track: str = option(
        AUTO,
        "Audio track: a number from 1, all (each separately), or auto (the first with speech).",
        choices=(AUTO, "all"),
        or_number=True,
        aliases=("audio_track", "stream", "track_number"),
        max_chars=16,
    )
    channel: str = option(
        AUTO,
        "Audio channel: auto, mix, left, right, a number from 1, or split (each channel is a "
        "speaker).",
        choices=(AUTO, "mix", "left", "right", "split"),
        or_number=True,
        aliases=("channels", "audio_channel"),
        max_chars=16,
    )
    diarize: bool = option(
        False,
        "Tell the speakers apart: who says what.",
        aliases=("diarization", "speaker_labels"),
    )
    speakers: int | None = option(
        None,
        "Number of speakers, if it is known.",
        ge=1,
        implies="diarize",
        aliases=("num_speakers", "speakers_expected"),
    )
    min_speakers: int | None = option(
        None, "Smallest number of speakers. Default: 1.", ge=1, implies="diarize"
    )
    max_speakers: int | None = option(
        None, "Largest number of speakers. Default: 15.", ge=1, implies="diarize"
    )
    voices: str = option(
        NONE,
        "Known voices to recognize: all, none, or names separated by commas.",
        implies="diarize",
        aliases=("known_voices", "known_speakers", "speaker_names"),
    )
    # For one recording only. A job has the SHA-256 of a stored clip in place of its path.
    references: tuple[str, ...] = option(
        (),
        "Persons to recognize by short clips of their voices: NAME=PATH.",
        implies="diarize",
        hidden_in={"cli", "mcp"},
    )

    def __post_init__(self) -> None:
        _convert(self)
        object.__setattr__(self, "language", requested_language(self.language))
        for name in ("track", "channel"):
            object.__setattr__(self, name, getattr(self, name).lower())
        object.__setattr__(self, "voices", ",".join(chosen_voices(self.voices)) or NONE)
        _check(self)
        self._check_speakers()
        if not self.temperatures or any(not 0 <= t <= 1 for t in self.temperatures):
            given = ", ".join(map(str, self.temperatures)) or "none"
            hint = "give one or more between 0 and 1"
            raise UsageError(f"sampling temperatures must be between 0 and 1: {given}", hint=hint)
        if self.multilingual and self.language != AUTO:
            hint = "leave the language to auto, or leave out multilingual"
            raise UsageError(f"multilingual contradicts language {self.language!r}", hint=hint)

    def _check_speakers(self) -> None:
        bounds = (self.min_speakers, self.max_speakers)
        if self.speakers is not None and bounds != (None, None):
            hint = "give the number of speakers, or the smallest and largest number"
            raise UsageError(
                f"speakers {self.speakers} contradicts min_speakers or max_speakers", hint=hint
            )
        if None not in bounds and bounds[0] > bounds[1]:  # type: ignore[operator]
            raise UsageError(
                f"min_speakers {bounds[0]} is more than max_speakers {bounds[1]}",
                hint="lower min_speakers or raise max_speakers",
            )
        names_voices = self.voices != NONE or self.references
        if self.speakers is not None or bounds != (None, None) or names_voices:
            object.__setattr__(self, "diarize", True)


def chosen_voices(text: str) -> tuple[str, ...]:
    """The names in a value of ``voices``, or ``("all",)``; none for ``none``.

    Raises:
        UsageError: names besides all or none.
    """
    names = {name.strip().casefold(): name.strip() for name in text.split(",") if name.strip()}
    for word in (ALL, NONE):
        if word in names and len(names) > 1:
            hint = f"give {ALL}, {NONE}, or names"
            raise UsageError(f"voices {text!r} combines {word} with names", hint=hint)
    if set(names) == {ALL}:
        return (ALL,)
    return tuple(names[key] for key in sorted(set(names) - {NONE}))


@dataclass(frozen=True, slots=True)
class SubtitleRules:
    """Limits of readable subtitles. Defaults are common at broadcasters and streaming services.

    Characters are columns: East Asian wide ones count two, combining ones none. The default
    ``min_cue_s`` is 20 frames at 24 fps, ``min_gap_s`` 2 frames at 25 fps. Both yield to the next
    cue and to the end of the recording. To meet ``max_chars_per_second`` a cue extends into silence
    or borrows time from its neighbours.
    """

    max_line_chars: int = option(
        42, "Subtitles: maximum characters per line.", ge=2, hidden_in=FILES_ONLY
    )
    max_lines: int = option(2, "Subtitles: maximum lines at once.", ge=1, hidden_in=FILES_ONLY)
    max_cue_s: float = option(
        7.0, "Subtitles: maximum seconds on screen.", ge=0.1, hidden_in=FILES_ONLY
    )
    min_cue_s: float = option(
        5 / 6, "Subtitles: minimum seconds on screen.", ge=0, hidden_in=FILES_ONLY
    )
    max_chars_per_second: float = option(
        20.0, "Subtitles: maximum characters per second.", ge=1, hidden_in=FILES_ONLY
    )
    min_gap_s: float = option(
        0.08, "Subtitles: minimum seconds between two.", ge=0, hidden_in=FRONT_ENDS
    )

    def __post_init__(self) -> None:
        _check(self)
        if self.min_cue_s > self.max_cue_s:
            raise UsageError(
                f"min_cue_s {self.min_cue_s:g} is more than max_cue_s {self.max_cue_s:g}",
                hint="lower min_cue_s or raise max_cue_s",
            )
        if self.min_gap_s >= self.max_cue_s:
            raise UsageError(
                f"min_gap_s {self.min_gap_s:g} is not less than max_cue_s {self.max_cue_s:g}",
                hint="lower min_gap_s or raise max_cue_s",
            )

    def reading_ms(self, chars: int) -> int:
        """Minimum duration of a cue with this many columns."""
        return math.ceil(1000 * max(self.min_cue_s, chars / self.max_chars_per_second))


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """Options of all output formats; each format uses the fields that apply to it."""

    subtitles: SubtitleRules = SubtitleRules()  # srt, vtt
    highlight_words: bool = option(
        False, "WebVTT: mark each word while it is spoken.", hidden_in=FILES_ONLY
    )
    # WebVTT: a comment that names engine, model and device.
    note: bool = option(False, "WebVTT: name the engine and model.", hidden_in=FRONT_ENDS)
