"""A recording -> windows, in separate threads, so that reading and voice detection overlap with
everything else.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import numpy as np

from ..domain.options import Options
from ..domain.progress import Progress
from ..domain.transcript import Notice
from ..engines import VoiceDetector
from ..errors import CancelledError
from ..media.decode import SAMPLE_RATE_HZ, Samples
from ..runtime.prefetch import Prefetcher
from ..runtime.queue import Recording
from ..settings import cores_beside_gpu, usable_cores
from ..speech.detector import SpeechDetector
from ..speech.regions import Loudness, Region, RegionFinder, Window, WindowCutter
from .speaker_pass import SpeakerPass
from .voices import Voice

BLOCK_S = 300.0  # length of a block on the CPU; affects memory, not the result
DECODED_BLOCK_S = 600.0  # for a detector on a device and samples in memory: takes hardly longer
CPU_AHEAD_S = 2 * BLOCK_S
DEVICE_AHEAD_S = 1800.0  # devices have larger batches


@dataclass(slots=True)
class Run:
    """What one pass over a recording collects."""

    voice: Voice
    options: Options
    progress: Progress
    duration_s: float | None  # from the container, until everything is read
    speakers: SpeakerPass | None = None
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
        done_s = done_s if self.duration_s is None else min(done_s, self.duration_s)
        self.progress(stage, done_s, self.duration_s)


class Feeder:
    """The thread that submits the windows of one voice.

    Args:
        submit: takes the windows of a block, and the seconds of audio behind them.
    """

    def __init__(
        self, run: Run, recording: Recording, submit: Callable[[Sequence[Window], float], None]
    ) -> None:
        self._run = run
        self._recording = recording
        self._submit = submit
        detector = recording.voice_detector() if run.options.vad else None
        self._windows = _windows(run, detector)
        recording.begin(run.options.batch_size, DEVICE_AHEAD_S if detector else CPU_AHEAD_S)
        self._thread = threading.Thread(target=self._feed, name="feeder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Also after Ctrl-C while the thread starts: it must not run when the interpreter exits."""
        if not self._recording.is_done:
            self._recording.fail(CancelledError("the recording was closed"))
        if self._thread.is_alive():
            self._thread.join()

    def _feed(self) -> None:
        try:
            with closing(self._windows):
                for windows, rest_s in self._windows:
                    self._submit(windows, rest_s)
            self._recording.end()
        except BaseException as error:  # noqa: BLE001 - the owner of the recording raises it
            self._recording.fail(error)


def _windows(
    run: Run, detector: VoiceDetector | None
) -> Generator[tuple[list[Window], float], None, None]:
    """The windows of each block, and how many seconds of audio are behind them."""
    threads = run.options.threads or usable_cores()
    measure = (detector or (SpeechDetector(threads) if run.options.vad else Loudness())).push
    finder = RegionFinder()
    cutter = WindowCutter()
    n_samples = 0
    with closing(_blocks(run, detector, threads)) as blocks:
        while True:
            with run.timed("read"):
                block = next(blocks, None)
            last = block is None
            samples = np.empty(0, np.float32) if block is None else block
            n_samples += len(samples)
            read_s = n_samples / SAMPLE_RATE_HZ
            if run.duration_s is not None:  # what the container claims may be too short
                run.duration_s = max(run.duration_s, read_s)
            run.report("read", read_s)
            with run.timed("speech"):
                probabilities = measure(samples, last=last)
                found = finder.push(probabilities, last=last)
                regions = [Region(r.start, min(r.end, read_s)) for r in found]
                windows = list(cutter.push(samples, regions, finder.final_until_s, last=last))
                if detector:
                    windows = list(detector.place(windows, cutter.kept_from_s))
            run.report("speech", read_s)
            if run.speakers is not None:
                detected = probabilities if run.options.vad else np.zeros_like(probabilities)
                run.speakers.push(samples, detected, last=last)
            if last:
                run.duration_s = read_s
            rest_s = math.inf if run.duration_s is None else run.duration_s - cutter.kept_from_s
            yield windows, 0.0 if last else rest_s
            if last:
                return


def _blocks(
    run: Run, detector: VoiceDetector | None, threads: int
) -> Generator[Samples, None, None] | Prefetcher[Samples]:
    if detector is None:
        return run.voice.blocks(BLOCK_S, threads, run.notices)
    readers = threads if run.options.threads else cores_beside_gpu(threads)
    if run.voice.is_decoded:
        return run.voice.blocks(max(detector.block_s, DECODED_BLOCK_S), readers, run.notices)
    # The next two blocks are read while the device processes one.
    return Prefetcher(run.voice.blocks(detector.block_s, readers, run.notices), 2)
