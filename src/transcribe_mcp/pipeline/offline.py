"""The flow, top to bottom: media -> speech -> windows -> engine -> words -> sentences -> transcript."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np

from .. import __version__
from ..domain.options import Options
from ..domain.progress import Progress, no_progress, share_of
from ..domain.transcript import Notice, Transcript
from ..engines import (
    Decoded,
    DecodingOptions,
    Encoded,
    Engine,
    EngineInfo,
    Listener,
    joined,
    listener_of,
)
from ..errors import UnsupportedTaskError
from ..media.decode import SAMPLE_RATE_HZ, SILENCE_DB, Samples
from ..runtime.prefetch import Ahead
from ..settings import usable_cores
from ..speech.detector import SpeechDetector
from ..speech.regions import Loudness, Region, RegionFinder, Window, WindowCutter
from .batching import Parts, Size, Stream, batches, first
from .checkpoint import Heard, HeardBatch, KeptBatches, Unkept, doubts
from .language_vote import LanguageDecider, Vote
from .temperature_fallback import Attempt, Decoder, Ladder
from .voices import Voice, about_each, spoken, voices_of

BLOCK_S = 300.0  # read and searched for speech at once; sets the memory, not the result. A listener has its own
DECODED_BLOCK_S = 600.0  # for a listener, of samples that need not be read: it takes hardly longer over more at once
BLOCKS_AHEAD, AHEAD_S = (
    2,
    1800.0,
)  # the latter for a listener, whose blocks are shorter than a batch
READING_SHARE = 0.75  # of the cores, where a GPU does the rest: threads that tell it what to do need some as well
EARLY_SHARE = 4  # aside, windows are encoded early as soon as there is a quarter of what an engine likes to be given

Result = TypeVar("Result")
WindowStream = Generator[list[Window], None, None]


@dataclass(slots=True)
class _Run:
    """What is gathered while one voice of a recording goes through."""

    voice: Voice
    options: Options
    progress: Progress
    duration_s: float | None  # the container's claim, until all of it is read
    next_batch: int = 0  # batches are numbered over all voices
    restores: bool = True  # until a checkpoint turns out to be of other windows
    transcribed_s: float = 0.0
    notices: list[Notice] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - start

    def report(self, stage: str, done_s: float | None) -> None:
        done_s = done_s or 0.0
        self.progress(
            stage,
            done_s if self.duration_s is None else min(done_s, self.duration_s),
            self.duration_s,
        )


def transcribe(
    source: str | Path | Samples,
    engine: Engine,
    options: Options | None = None,
    progress: Progress = no_progress,
    kept_batches: KeptBatches | None = None,
) -> Transcript:
    """Transcribe one recording: a file, or its samples at 16 kHz, floats within ±1 of shape (n,) or (n, channels).

    ``progress`` is called with the stages ``read``, ``speech`` and ``windows`` in seconds of audio, from more than one
    thread. ``kept_batches`` keeps finished batches of windows; which windows a batch holds then depends on the
    recording, the options and the batch size alone, so that it can give them back when the same work is begun again.

    Raises:
        SourceError: the recording cannot be used.
        UsageError: the options contradict each other or the engine.
        EngineFailedError: the engine broke down.
    """
    options = options or Options()
    _refuse_what_the_engine_cannot(options, engine.info)
    source = Path(source) if isinstance(source, str) else source
    notices: list[Notice] = []
    flows: list[_Flow] = []
    voices = voices_of(source, options, notices)
    for number, voice in enumerate(voices):
        run = _Run(
            voice, options, share_of(progress, number, len(voices)), voice.claimed_duration_s
        )
        if flows:
            run.next_batch, run.restores = flows[-1].run.next_batch, flows[-1].run.restores
        flows.append(_transcribe_voice(run, engine, kept_batches))
    notices[:0] = [*engine.info.warnings, *engine.notices(flows[0].decoder.options)]
    if options.diarize:
        message = "speakers were requested, but this version cannot tell them apart"
        notices.append(Notice("no_speakers", message))
    return _transcript(flows, source, notices)


def _transcribe_voice(run: _Run, engine: Engine, kept: KeptBatches | None) -> _Flow:
    options, info = run.options, engine.info
    beam_size = info.beam_size if options.beam_size is None else options.beam_size
    decoding = DecodingOptions(options.task, beam_size, 0.0, options.prompt, options.vocabulary)
    decider = LanguageDecider(options.language, info, multilingual=options.multilingual)
    batch_size = options.batch_size or info.batch_size

    def size() -> int:
        most = engine.info.most_windows if kept is None else 0
        return min(batch_size, most or batch_size)

    with run.timed("total"), closing(_Aside(info)) as aside:
        run.report("windows", 0.0)
        listener = listener_of(engine) if options.vad else None
        depth = max(BLOCKS_AHEAD, round(AHEAD_S / listener.block_s)) if listener else BLOCKS_AHEAD
        encoder = _Encoder(run, engine, early=kept is None)
        decoder = Decoder(engine, decoding, Ladder(options.temperatures), encoder.encode_now)
        flow = _Flow(run, encoder, decider, decoder, kept or Unkept(), aside)
        with closing(encoder.early(Ahead(_windows(run, listener), depth), size)) as stream:
            for batch in batches(stream, size, decider, run.duration_s):
                flow.hear(run.next_batch, batch)
                run.next_batch += 1
        flow.settle()
        run.report("windows", run.duration_s)
    return flow


class _Aside:
    """Timing words goes on in another thread where the engine allows it, so that the device need not wait for it."""

    def __init__(self, info: EngineInfo) -> None:
        self.aligns = info.aligns_aside
        # A GPU gets the next windows to encode before, because Python's work for words would hold up what is queued.
        self.waits = info.aligns_aside and not info.encodes_aside
        self._pool = ThreadPoolExecutor(1, "aside")  # makes its thread when it is needed

    def do(self, work: Callable[[], Result]) -> Future[Result]:
        """``work`` in another thread, or at once."""
        if self.aligns:
            return self._pool.submit(work)
        done: Future[Result] = Future()
        done.set_result(work())
        return done

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class _Encoder:
    """Encodes a batch when it is full; or, where the engine allows it, windows as they come, so that the device has
    work while the batch that they will be in is gathered, or while another is decoded."""

    def __init__(self, run: _Run, engine: Engine, *, early: bool) -> None:
        self._run, self._engine, self._info = run, engine, engine.info
        self._is_early = early and self._info.early_windows > 0
        self._encoded: dict[
            float, tuple[Encoded, int]
        ] = {}  # where to find the window that begins then
        self._lock = Lock()  # engines encode for one thread at a time

    def early(self, stream: Ahead[list[Window]], size: Size) -> Stream:
        """The windows of ``stream``, in parts of a batch where they are encoded early."""
        if not self._is_early:
            return stream
        parts = self._as_they_come(stream, size)
        if not self._info.encodes_aside:
            return parts
        # A batch ahead, what is at work included. Broken off, it is not waited for: closing the engine stops it sooner.
        n_parts = size() // min(self._info.early_windows, size())
        return Ahead(parts, max(1, n_parts - 1), wait=False)

    def _as_they_come(self, stream: Ahead[list[Window]], size: Size) -> Parts:
        waiting: list[Window] = []
        with closing(stream):
            while (windows := next(stream, None)) is not None:
                waiting += windows
                most = min(self._info.early_windows, size())
                least = (
                    -(-most // EARLY_SHARE) if self._info.encodes_aside else 1
                )  # few, that the device need not wait
                if len(waiting) < most and stream.is_ready():
                    continue  # a larger part is faster
                while len(waiting) >= least:
                    yield self._encoded_part(first(waiting, most))
                if not self._info.encodes_aside and not stream.is_ready():
                    yield None
        if waiting:
            yield self._encoded_part(waiting)

    def _encoded_part(self, windows: list[Window]) -> list[Window]:
        encoded = self.encode_now(windows)
        self._encoded.update({window.start: (encoded, i) for i, window in enumerate(windows)})
        return windows

    def encode(self, batch: Sequence[Window]) -> Encoded:
        """The batch, of windows that came out of ``early``."""
        if not self._is_early:
            return self.encode_now(batch)
        places = [self._encoded.pop(window.start) for window in batch]
        parts = []
        for _, group in groupby(places, key=lambda place: id(place[0])):
            found = list(group)
            whole, indices = found[0][0], [i for _, i in found]
            parts.append(whole if len(indices) == len(whole) else whole.select(indices))
        return joined(parts)

    def encode_now(self, windows: Sequence[Window]) -> Encoded:
        """Windows that did not come out of ``early``."""
        with self._lock, self._run.timed("encode"):
            return self._engine.encode(windows)


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A batch whose words are not timed yet."""

    number: int
    windows: Sequence[Window]
    encoded: Encoded
    languages: Sequence[str]
    texts: Sequence[Decoded]
    vote: Vote


@dataclass(slots=True)
class _Flow:
    """Batches of windows on their way through the engine, and what was heard in those that are through.

    Where the engine allows both asides, three batches are on their way: one's words are timed while the next is decoded
    and the one after that encoded, so that no core waits for the longest window of a batch.
    """

    run: _Run
    encoder: _Encoder
    decider: LanguageDecider
    decoder: Decoder
    kept: KeptBatches
    aside: _Aside
    heard: list[Heard] = field(default_factory=list)
    decoded: _Decoded | None = None  # the batch decoded last: its words are not being timed yet
    unsettled: tuple[_Decoded, Future[list[Attempt]]] | None = None  # the one whose words are

    def hear(self, number: int, batch: Sequence[Window]) -> None:
        """One batch through the engine, or what is kept of it. Its words may still be on their way afterwards."""
        known = self._restored(number, batch)
        if known is not None:
            self.decider.take(known.vote)
            self._take(known)
            return
        encoded = self.encoder.encode(batch)
        self._begin_words()
        with self.run.timed("language"):
            languages = self.decider.decide(self.decoder.engine, encoded, batch)
        with self.run.timed("decode"):
            texts = self.decoder.decode(encoded, languages)
        self._take_finished()
        self.decoded = _Decoded(number, batch, encoded, languages, texts, self.decider.vote)
        if not self.aside.waits:
            self._begin_words()
        if not self.aside.aligns:
            self._take_finished()

    def settle(self) -> None:
        """Wait for all words."""
        self._begin_words()
        self._take_finished()

    def _restored(self, number: int, batch: Sequence[Window]) -> HeardBatch | None:
        known = self.kept.get(number) if self.run.restores else None
        if known is None:
            return None
        differs = not known.is_of(batch)
        if differs:
            self.run.restores = False
        if differs or known.is_anew:
            message = f"checkpoints from batch {number} on held other windows; it was decoded again from there"
            self.run.notices.append(Notice("checkpoints_differ", message))
        return None if differs else known

    def _begin_words(self) -> None:
        if self.decoded is not None:
            batch, self.decoded = self.decoded, None
            self.unsettled = batch, self.aside.do(partial(self._time_words, batch))

    def _take_finished(self) -> None:
        """Wait for the words that are on their way; batches are kept in their order."""
        if self.unsettled is None:
            return
        batch, timed = self.unsettled
        self.unsettled = None
        attempts = timed.result()
        if any(map(self.decoder.may_improve, attempts)):
            with self.run.timed("decode"):
                attempts = self.decoder.improved(
                    batch.encoded, batch.windows, batch.languages, attempts
                )
        done = HeardBatch.of(batch.number, batch.windows, self._heard(attempts), batch.vote)
        self.kept.keep(batch.number, done)
        self._take(done)

    def _heard(self, attempts: Sequence[Attempt]) -> Iterator[Heard]:
        name = self.run.voice.name
        for part in (part for attempt in attempts for part in attempt.parts):
            yield part.said_by(name) if name else part

    def _take(self, done: HeardBatch) -> None:
        self.heard += done.windows
        self.run.transcribed_s += sum(done.durations_s)
        self.run.report("windows", self.run.transcribed_s)

    def _time_words(self, batch: _Decoded) -> list[Attempt]:
        with self.run.timed("align"):
            return self.decoder.time_words(
                batch.encoded, batch.windows, batch.texts, self.decoder.options
            )


def _refuse_what_the_engine_cannot(options: Options, info: EngineInfo) -> None:
    if options.task not in info.tasks:
        hint = (
            "choose a model that can, for example --model small or large-v3, or --task transcribe"
        )
        raise UnsupportedTaskError(f"model {info.model} cannot {options.task}", hint=hint)


def _windows(run: _Run, listener: Listener | None) -> WindowStream:
    """The recording as lists of windows, one list per block read. The listener, if any, is the engine's own."""
    threads = run.options.threads or usable_cores()
    measure = (listener or (SpeechDetector(threads) if run.options.vad else Loudness())).push
    finder, cutter = RegionFinder(), WindowCutter()
    block_s = listener.block_s if listener else BLOCK_S
    shares_cores = listener is not None and not run.options.threads
    readers = max(1, round(threads * READING_SHARE)) if shares_cores else threads
    if listener and run.voice.is_decoded:
        block_s = max(block_s, DECODED_BLOCK_S)
    blocks: Generator[Samples, None, None] | Ahead[Samples] = run.voice.blocks(
        block_s, readers, run.notices
    )
    if listener and not run.voice.is_decoded:  # while it hears one, the next is put together
        blocks = Ahead(blocks, 1)
    n_samples = 0
    with closing(blocks):
        while True:
            with run.timed("read"):
                block = next(blocks, None)
            last = block is None
            samples = np.empty(0, np.float32) if block is None else block
            n_samples += len(samples)
            if run.duration_s is not None:  # what the container claims may be too short
                run.duration_s = max(run.duration_s, n_samples / SAMPLE_RATE_HZ)
            run.report("read", n_samples / SAMPLE_RATE_HZ)
            with run.timed("speech"):
                found = finder.push(measure(samples, last=last), last=last)
                regions = [Region(r.start, min(r.end, n_samples / SAMPLE_RATE_HZ)) for r in found]
                windows = list(cutter.push(samples, regions, finder.final_until_s, last=last))
                windows = list(listener.place(windows, cutter.kept_from_s)) if listener else windows
            run.report("speech", n_samples / SAMPLE_RATE_HZ)
            yield windows
            if last:
                run.duration_s = n_samples / SAMPLE_RATE_HZ
                return


def _transcript(
    flows: Sequence[_Flow], source: Path | Samples, notices: Sequence[Notice]
) -> Transcript:
    runs, info, options = (
        [flow.run for flow in flows],
        flows[0].decoder.engine.info,
        flows[0].run.options,
    )
    heard = sorted(
        (window for flow in flows for window in flow.heard), key=lambda window: window.start
    )
    segments, about_all = spoken(heard, [run.voice for run in runs], keep_words=options.words)
    decider = max(flows, key=lambda flow: sum(len(window.words) for window in flow.heard)).decider
    heard_nothing = (
        not segments and decider.probability is not None
    )  # what noise sounds like is no language
    said = [
        (run.voice.name, [*run.notices, *_about(flow)])
        for run, flow in zip(runs, flows, strict=True)
    ]
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
        warnings=(*notices, *about_each(said), *about_all),
        timings={
            stage: sum(run.timings.get(stage, 0.0) for run in runs)
            for run in runs
            for stage in run.timings
        },
        versions={"transcribe-mcp": __version__, **info.versions},
    )


def _about(flow: _Flow) -> Iterator[Notice]:
    """What is to be said about the language and the words of one voice, or that there are none."""
    if any(window.words for window in flow.heard):
        yield from flow.decider.notices
        yield from doubts(sorted(flow.heard, key=lambda window: window.start))
        return
    loudest_db = flow.run.voice.levels.loudest_db
    level = (
        f"its loudest second is at {loudest_db:.0f} dB"
        if loudest_db > SILENCE_DB
        else "the recording is silent"
    )
    yield Notice("no_speech", f"no speech was found; {level}")
