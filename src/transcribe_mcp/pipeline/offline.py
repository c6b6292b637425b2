"""The pipeline: media -> speech -> windows -> model -> words -> sentences -> transcript."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from .. import __version__
from ..domain.options import NONE, Options
from ..domain.progress import Progress, ShowText, no_progress, share_of, show_no_text
from ..domain.transcript import Notice, Transcript, Turn
from ..engines import DecodingOptions, EngineInfo, Recognizer
from ..errors import (
    SourceNotFoundError,
    SourceRefusedError,
    UnknownNameError,
    UnsupportedTaskError,
    UsageError,
    VoiceStoreError,
)
from ..media.decode import SILENCE_DB, Samples
from ..media.download import FetchLimits, fetch, is_url
from ..media.object_storage import copy_into, is_object
from ..runtime.executor import Executor
from ..runtime.queue import Claim, Recording, Results
from ..settings import settings, usable_cores
from ..speakers.voice_store import VoiceStore
from ..speakers.voices import KnownVoice
from ..speech.regions import Window
from .checkpoint import Checkpoint, CheckpointStore, PartResult, Restored, WindowResult, doubts
from .enrolment import expected_voices
from .feeder import Feeder, Run
from .language_vote import LanguageDecider
from .recognize import Recipe, RecognizeStage
from .speaker_names import NOT_COMPARED, Speakers, with_speakers
from .speaker_pass import SpeakerPass
from .temperature_fallback import TemperatureSchedule
from .voices import about_each, spoken, voices_of


def transcribe(
    source: str | Path | Samples,
    engine: Executor | Recognizer,
    options: Options | None = None,
    progress: Progress = no_progress,
    checkpoints: CheckpointStore | None = None,
    show_text: ShowText = show_no_text,
) -> Transcript:
    """Transcribe one recording: a file, the URL of a file or of an object such as
    ``s3://bucket/talk.mp3``, or samples at 16 kHz, floats within ±1 of shape (n,) or (n, channels).

    ``engine`` is what ``load_engine`` returned, or a model of your own. ``progress`` is called with
    the stages ``read``, ``speech`` and ``windows`` in seconds of audio, from more than one thread,
    and for a URL with ``fetch`` in bytes.
    ``checkpoints`` keeps the results of windows, and gives them back when the recording is
    transcribed again. ``show_text`` receives the text of each batch of windows when it is finished.

    Raises:
        SourceError: the recording cannot be used.
        UsageError: the options contradict each other or the engine, or name an unknown voice.
        VoiceStoreError: known voices are requested, and their file cannot be read.
        EngineFailedError: the engine failed.
    """
    options = Options() if options is None else options
    _require_kinds(source, engine, options)
    VoiceStore(settings().data_dir).chosen(options.voices)  # fail early if one is unknown
    executor = engine if isinstance(engine, Executor) else Executor.of(engine)
    with (
        closing(executor.open(Claim(is_durable=checkpoints is not None))) as recording,
        _local_file(source, progress) as file,
    ):
        found = transcribe_at(recording, file, options, progress, checkpoints, show_text)
    return found if file is source else replace(found, source=str(source))


def _require_kinds(source: object, engine: object, options: object) -> None:
    """
    Raises:
        UsageError: an argument has a wrong type.
    """
    if not isinstance(source, str | os.PathLike | np.ndarray):
        raise UsageError(
            f"the source is of the type {type(source).__name__}",
            hint="give a path, a URL, or samples as an array of NumPy",
        )
    if not (isinstance(engine, Executor) or hasattr(engine, "info")):
        raise UsageError(
            f"the engine is of the type {type(engine).__name__}",
            hint='load one, as in load_engine(EngineSpec(model="tiny.en"))',
        )
    if not isinstance(options, Options):
        raise UsageError(
            f"the options are of the type {type(options).__name__}",
            hint='give a record, as in Options(language="en")',
        )


@contextmanager
def _local_file(source: str | Path | Samples, progress: Progress) -> Iterator[str | Path | Samples]:
    """The source itself, or a temporary copy of what a URL names."""
    if not (isinstance(source, str) and (is_object(source) or is_url(source))):
        yield source
        return
    if settings().offline:
        message = f"{source} is not downloaded: offline mode is on"
        raise SourceRefusedError(message, hint="name a file")
    max_bytes = settings().max_file_bytes
    with TemporaryDirectory(prefix="transcribe-mcp-") as folder:
        if is_object(source):
            yield copy_into(Path(folder), source, FetchLimits(max_bytes), progress)
        else:
            limits = FetchLimits.of_shell(source, max_bytes)
            yield fetch(source, Path(folder), limits, progress)


def transcribe_at(
    recording: Recording,
    source: str | Path | Samples,
    options: Options,
    progress: Progress,
    checkpoints: CheckpointStore | None,
    show_text: ShowText = show_no_text,
) -> Transcript:
    """As ``transcribe``, for a recording that is open in an executor."""
    recording.load()
    refuse_unsupported(options, recording.info)
    source = source if isinstance(source, np.ndarray) else _path_of(source)
    notices: list[Notice] = []
    restored = Restored(checkpoints.load() if checkpoints is not None else ())
    expected = expected_voices(options)
    voices = voices_of(source, options, notices)
    passes = []
    with ExitStack() as stack:
        diarizer = None
        if options.diarize and len(voices) == 1:  # channels and tracks already have names
            threads = options.threads or usable_cores()
            diarizer = stack.enter_context(closing(SpeakerPass(recording.info.device, threads)))
        elif options.voices != NONE:
            message = "known voices are not compared with channels or tracks that are speakers"
            notices.append(Notice(NOT_COMPARED, message))
        for number, voice in enumerate(voices):
            share = share_of(progress, number, len(voices))
            run = Run(voice, options, share, voice.claimed_duration_s, diarizer)
            stage = recognize_stage(options, recording.info)
            passes.append(_Pass(number, run, stage, restored, checkpoints, show_text))
            passes[-1].work(recording)
        heard = sorted((part for one in passes for part in one.heard), key=lambda part: part.start)
        speakers = _speakers(heard, diarizer, passes, checkpoints, expected)
    if n_unused := restored.n_discarded + len(restored.windows):
        message = f"{n_unused} checkpoints belong to other windows; that audio was decoded again"
        passes[0].run.notices.append(Notice("checkpoints_differ", message))
    notices += speakers.notices
    decoding = passes[0].stage.group.options
    notices[:0] = [*recording.info.warnings, *recording.notices(decoding)]
    return _transcript(passes, speakers, source, notices, recording.info)


def _path_of(source: str | os.PathLike[str]) -> Path:
    """
    Raises:
        SourceNotFoundError: the name is empty.
    """
    if not os.fspath(source):
        raise SourceNotFoundError("the name of the source is empty", hint="give a path")
    return source if isinstance(source, Path) else Path(source)


def _speakers(
    heard: list[PartResult],
    diarizer: SpeakerPass | None,
    passes: Sequence[_Pass],
    checkpoints: CheckpointStore | None,
    expected: Sequence[KnownVoice],
) -> Speakers:
    run = passes[0].run
    options = run.options
    if diarizer is None:
        return Speakers(heard, _turns_by_channel(heard) if options.diarize else ())
    try:
        with run.timed("speakers"):
            evidence = diarizer.evidence()
            if checkpoints is not None:
                checkpoints.keep_speakers(evidence.dumps())
            known = _known_voices(options, run.notices)
            return with_speakers(heard, evidence, options, known, expected)
    except Exception as error:  # noqa: BLE001 - the transcript is complete without speakers
        return Speakers(heard, notices=(_no_speakers(error),))


def _known_voices(options: Options, notices: list[Notice]) -> tuple[KnownVoice, ...]:
    """Those that are still stored; the transcript is complete without names."""
    store = VoiceStore(settings().data_dir)
    try:
        known = store.chosen(options.voices)
        if options.voices != NONE and not known:
            message = "no known voice is stored; add one: transcribe-mcp voices add NAME CLIP"
            notices.append(Notice(NOT_COMPARED, message))
        return known
    except UnknownNameError as error:  # removed since the start
        notices.append(Notice(NOT_COMPARED, str(error)))
        return store.remaining(options.voices)
    except VoiceStoreError as error:
        notices.append(Notice(NOT_COMPARED, str(error)))
        return ()


def _no_speakers(error: Exception) -> Notice:
    return Notice("no_speakers", f"cannot tell the speakers apart: {error}")


def _turns_by_channel(heard: Sequence[PartResult]) -> tuple[Turn, ...]:
    """The turns of channels or tracks, each of which is a speaker."""
    named = (part.words for part in heard if part.words and part.words[0].speaker)
    turns = [Turn(words[0].start, words[-1].end, words[0].speaker or "") for words in named]
    return tuple(sorted(turns, key=lambda turn: turn.start))


def refuse_unsupported(options: Options, info: EngineInfo) -> None:
    """
    Raises:
        UnsupportedTaskError: the model cannot do the task of the options.
    """
    if options.task not in info.tasks:
        hint = (
            "choose a model that can, for example --model small or large-v3, or --task transcribe"
        )
        raise UnsupportedTaskError(f"model {info.model} cannot {options.task}", hint=hint)


def recognize_stage(options: Options, info: EngineInfo) -> RecognizeStage:
    """A new stage, which decides about the language of its own windows."""
    beam_size = info.beam_size if options.beam_size is None else options.beam_size
    decoding = DecodingOptions(options.task, beam_size, 0.0, options.prompt, options.vocabulary)
    decider = LanguageDecider(options.language, info, multilingual=options.multilingual)
    return RecognizeStage(Recipe(decoding, TemperatureSchedule(options.temperatures)), decider)


@dataclass(slots=True)
class _Pass:
    """One pass through the model, with its results."""

    number: int
    run: Run
    stage: RecognizeStage
    restored: Restored
    checkpoints: CheckpointStore | None
    show_text: ShowText
    windows: list[WindowResult] = field(default_factory=list)
    numbers: dict[tuple[float, int], int] = field(default_factory=dict)  # start, samples -> number

    def work(self, recording: Recording) -> None:
        run = self.run
        if self.number in self.restored.votes:
            self.stage.decider.take(self.restored.votes[self.number])

        def submit(windows: Sequence[Window], rest_s: float) -> None:
            for window in windows:
                self.numbers[window.start, len(window.samples)] = len(self.numbers)
            fresh = [window for window in windows if not self._restore(window)]
            recording.submit(self.stage, fresh, rest_s)

        with run.timed("total"), closing(Feeder(run, recording, submit)) as feeder:
            run.report("windows", 0.0)
            feeder.start()
            for found in recording.results():
                self._take(found, recording)
            run.report("windows", run.duration_s)
        run.timings.update(recording.timings)

    def _restore(self, window: Window) -> bool:
        known = self.restored.windows.pop((self.number, window.start, len(window.samples)), None)
        if known is not None:
            self.windows.append(known)
        return known is not None

    def _take(self, found: Results, recording: Recording) -> None:
        new = [
            WindowResult(
                self.number,
                task.window.start,
                len(task.window.samples),
                tuple(self._named(part) for part in attempt.parts),
                self.numbers[task.window.start, len(task.window.samples)],
            )
            for task, attempt in found
        ]
        if self.checkpoints is not None:
            vote = self.stage.decider.vote
            self.checkpoints.save(Checkpoint(self.number, tuple(new), vote).dumps())
        recording.saved()
        self.windows += new
        words = [word.text for window in new for part in window.parts for word in part.words]
        if words:
            self.show_text("".join(words).strip())
        self.run.report("windows", sum(window.duration_s for window in self.windows))

    def _named(self, part: PartResult) -> PartResult:
        name = self.run.voice.name
        return part.said_by(name) if name else part

    @property
    def heard(self) -> list[PartResult]:
        """In order."""
        parts = [part for window in self.windows for part in window.parts]
        return sorted(parts, key=lambda part: part.start)


def _transcript(
    passes: Sequence[_Pass],
    speakers: Speakers,
    source: Path | Samples,
    notices: Sequence[Notice],
    info: EngineInfo,
) -> Transcript:
    runs = [one.run for one in passes]
    options = runs[0].options
    segments, about_all = spoken(
        speakers.heard, [run.voice for run in runs], keep_words=options.words
    )
    most_said = max(passes, key=lambda one: sum(len(part.words) for part in one.heard))
    decider = most_said.stage.decider
    # Noise has no language, whatever the model detects.
    heard_nothing = not segments and decider.probability is not None
    about = [(one.run.voice.name, [*one.run.notices, *_about(one)]) for one in passes]
    stages = [stage for run in runs for stage in run.timings]
    return Transcript(
        segments=segments,
        duration=max(run.duration_s or 0.0 for run in runs),
        language=None if heard_nothing else decider.language,
        language_probability=None if heard_nothing else decider.probability,
        engine=info.engine,
        model=info.model,
        device=info.device,
        compute_type=info.compute_type,
        task=options.task,
        source=str(source) if isinstance(source, Path) else None,
        turns=speakers.turns,
        warnings=(*notices, *about_each(about), *about_all),
        timings={stage: sum(run.timings.get(stage, 0.0) for run in runs) for stage in stages},
        versions={"transcribe-mcp": __version__, **info.versions},
    )


def _about(one: _Pass) -> Iterator[Notice]:
    """Notices about the language and the words of one voice, or that there are none."""
    if any(part.words for part in one.heard):
        yield from one.stage.decider.notices
        yield from doubts(one.heard)
        return
    loudest_db = one.run.voice.levels.loudest_db
    is_silent = loudest_db <= SILENCE_DB
    level = (
        "the recording is silent" if is_silent else f"its loudest second is at {loudest_db:.0f} dB"
    )
    yield Notice("no_speech", f"no speech was found; {level}")
