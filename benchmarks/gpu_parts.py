"""The parts of ``gpu.py``: each runs in a process of its own and gives figures as JSON. See
there.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import SAMPLE_RATE_HZ, Samples
from random_whisper import TOKENS, shape_of

from transcribe_mcp.compat.memory import memory_need
from transcribe_mcp.engines import DecodingOptions, EngineRequest, Recognizer, load_recognizer
from transcribe_mcp.media.decode import read_blocks
from transcribe_mcp.pipeline.offline import Options, transcribe
from transcribe_mcp.settings import usable_cores
from transcribe_mcp.speech.features_torch import DeviceSamples
from transcribe_mcp.speech.regions import Region, Window

WINDOW_S = 30.0
JOBS_S = 75.0  # for all jobs together
# Of jobs
SHORTEST_S = 1.0
LONGEST_S = 240.0
GREEDY = Options(language="en", temperatures=(0.0,))
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings of every part.

    Attributes:
        folder: where models and audio lie.
        engine: name of our engine; its precision is ``precision``.
        models: measured against the peers; the first of them in the whole flow.
        sizes: whose memory is measured; the first of them does the ``jobs``.
        runs: of which the median is taken.
    """

    folder: Path
    device: str
    engine: str
    precision: str
    models: tuple[str, ...]
    sizes: tuple[str, ...]
    batches: tuple[int, ...]
    memory_batches: tuple[int, ...]
    minutes: float
    jobs: int
    runs: int

    def model(self, name: str) -> Path:
        return self.folder / name

    def load(self, name: str) -> Recognizer:
        request = EngineRequest(
            self.engine, str(self.model(name)), self.device, self.precision, offline=True
        )
        return load_recognizer(request)

    def hour(self) -> Samples:
        samples: Samples = np.load(self.folder / "hour.npy", mmap_mode="r")
        return np.array(samples)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], runs: int, warm_ups: int = 1) -> float:
    """Median wall-clock seconds, the device's queue empty before and after."""
    taken = []
    for run in range(warm_ups + runs):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        if run >= warm_ups:
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def attempt(work: Callable[[], Figures]) -> Figures:
    """What it finds, or what went wrong: the figures beside it are not lost."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - the other figures of this part are worth having
        synchronize_or_not()
        return {"problem": f"{type(error).__name__}: {error}"[:400]}


def synchronize_or_not() -> None:
    with suppress(RuntimeError):
        synchronize()


@contextmanager
def loaded(setup: Setup, name: str) -> Iterator[Recognizer]:
    engine = setup.load(name)
    try:
        yield engine
    finally:
        engine.close()
        gc.collect()


# -- ceilings --------------------------------------------------------------------------------------


def ceilings(setup: Setup) -> Figures:
    """Matrix products and copies as large as the device likes them, on random data."""
    on_gpu = setup.device != "cpu"
    n, n_copied = (8192, 2 << 30) if on_gpu else (1024, 64 << 20)
    kind = torch.bfloat16 if on_gpu else torch.float32
    a = torch.randn(n, n, device=setup.device, dtype=kind)
    b = torch.randn(n, n, device=setup.device, dtype=kind)
    matrix_s = seconds(lambda: a @ b, 10, 3)
    source = torch.randint(0, 255, (n_copied,), device=setup.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    copy_s = seconds(lambda: target.copy_(source), 10, 3)
    return {"flops": 2 * n**3 / matrix_s, "bytes_per_s": 2 * n_copied / copy_s}


# -- our engine ------------------------------------------------------------------------------------


def noise_windows(n: int, device: str) -> list[Window]:
    """Different windows of 30 s, their samples on the device as the listener leaves them there."""
    random = np.random.default_rng(1)
    windows = []
    for i in range(n):
        samples = (random.standard_normal(round(WINDOW_S * SAMPLE_RATE_HZ)) * 0.1).astype(
            np.float32
        )
        placed = None if device == "cpu" else DeviceSamples(torch.from_numpy(samples).to(device))
        windows.append(
            Window(WINDOW_S * i, samples, (Region(WINDOW_S * i, WINDOW_S * (i + 1)),), placed)
        )
    return windows


def core(setup: Setup, name: str, precision: str = "") -> Figures:
    """Windows on the device -> tokens: encoder, keys and values, decoder; and word timestamps,
    counted apart.
    """
    start = time.perf_counter()
    figures: Figures = {}
    setup = replace(setup, precision=precision or setup.precision)
    with loaded(setup, name) as engine:
        figures["load_s"] = time.perf_counter() - start
        figures["info"] = {
            "compute_type": engine.info.compute_type,
            "batch_size": engine.info.batch_size,
        }
        windows = noise_windows(max(setup.batches), setup.device)
        for batch in setup.batches:
            part = windows[:batch]
            figures[f"batch {batch}"] = attempt(lambda: core_batch(engine, part, setup.runs))  # noqa: B023
    return figures


def core_batch(engine: Recognizer, windows: Sequence[Window], runs: int) -> Figures:
    start = time.perf_counter()
    languages = ["en"] * len(windows)
    options = DecodingOptions()
    decoded = engine.decode(engine.encode(windows), languages, options)
    engine.align(engine.encode(windows), decoded, options)
    synchronize()
    warm_up_s = time.perf_counter() - start
    counts = {len(window.tokens) for window in decoded}
    assert counts == {TOKENS}, f"windows of {counts} tokens are no measure"
    whole_s = seconds(lambda: engine.decode(engine.encode(windows), languages, options), runs)
    encode_s = seconds(lambda: engine.encode(windows), runs)
    encoded = engine.encode(windows)
    decode_s = seconds(lambda: engine.decode(encoded, languages, options), runs)
    align_s = seconds(lambda: engine.align(encoded, decoded, options), runs)
    return {
        "warm_up_s": warm_up_s,
        "encode_s": encode_s,
        "decode_s": decode_s,
        "align_s": align_s,
        "whole_s": whole_s,
        "times_real_time": len(windows) * WINDOW_S / whole_s,
    }


def pipeline(setup: Setup, name: str) -> Figures:
    """The whole flow over the decoded hour and from its MP3, with words; and a clip of 10 s."""
    samples = setup.hour()
    clip = np.load(setup.folder / "clip.npy")
    figures: Figures = {"audio_s": len(samples) / SAMPLE_RATE_HZ}
    with loaded(setup, name) as engine:
        for length in (len(clip), len(samples) // 8, len(samples)):
            transcribe(samples[:length], engine, GREEDY)  # whatever is made at first use
        for batch in (32, 64, 128) if setup.device != "cpu" else ():
            options = replace(GREEDY, batch_size=batch)
            figures |= flows(engine, {f"decoded, batch {batch}": samples}, options, setup.runs)
        sources = {"decoded, batch auto": samples, "mp3": setup.folder / "hour.mp3"}
        figures |= flows(engine, sources, GREEDY, 2 * setup.runs + 1)
        figures["mp3, media decoding alone"] = attempt(
            lambda: media(setup.folder / "hour.mp3", setup.runs)
        )
        figures |= flows(engine, {"clip": clip}, GREEDY, 4 * setup.runs)
        unheard = replace(GREEDY, vad=False)
        figures |= flows(engine, {"clip, no voice detection": clip}, unheard, 2 * setup.runs)
        figures["listening"] = attempt(lambda: listening(engine, samples))
    return figures


def flows(
    engine: Recognizer, sources: Mapping[str, Samples | Path], options: Options, runs: int
) -> Figures:
    """Of each source, median seconds of the whole flow, and the stages of the run before, which is
    the warm-up.

    In turns, because what counts is how they compare, and a machine is not always as fast.
    """
    figures = {
        name: attempt(partial(stages, engine, source, options)) for name, source in sources.items()
    }
    taken: dict[str, list[float]] = {
        name: [] for name, found in figures.items() if "problem" not in found
    }
    for _ in range(runs):
        for name, all_s in taken.items():
            all_s.append(seconds(partial(transcribe, sources[name], engine, options), 1, 0))
    for name, all_s in taken.items():
        figures[name]["s"] = statistics.median(all_s)
    return figures


def stages(engine: Recognizer, source: Samples | Path, options: Options) -> Figures:
    """One run of the whole flow: its stages, words and peak memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    found = transcribe(source, engine, options)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"timings": dict(found.timings), "words": len(found.words), "peak": peak}


def media(path: Path, runs: int) -> Figures:
    """Nothing but the decoding of a file, on all cores."""
    return {"s": seconds(lambda: sum(map(len, read_blocks(path, threads=usable_cores()))), runs)}


def listening(engine: Recognizer, samples: Samples) -> Figures:
    """The engine's own voice detection against the serial run on the CPU."""
    from transcribe_mcp.speech.detector import SpeechDetector

    if engine.voice_detector() is None:
        return {}

    def listen() -> Samples:
        listener = engine.voice_detector()
        assert listener is not None
        size = round(listener.block_s * SAMPLE_RATE_HZ)
        parts = [
            listener.push(samples[first : first + size]) for first in range(0, len(samples), size)
        ]
        return np.concatenate([*parts, listener.push(samples[:0], last=True)])

    found = listen()
    serial = SpeechDetector(5).push(samples, last=True)
    same = float(((found >= 0.5) == (serial >= 0.5)).mean())
    return {"s": seconds(listen, 3), "same_decisions": same}


# -- memory ----------------------------------------------------------------------------------------


def memory(setup: Setup) -> Figures:
    """Peak of what PyTorch holds, weights included, against the prediction, for every size and
    batch.
    """
    figures: Figures = {}
    for name in setup.sizes:
        gc.collect()
        torch.cuda.empty_cache()
        with loaded(setup, name) as engine:
            for batch in sorted(
                setup.memory_batches
            ):  # what decoding keeps for the next batch only grows
                figures[f"{name}, batch {batch}"] = attempt(
                    lambda: memory_of(engine, name, batch, setup.device)  # noqa: B023
                )
    return figures


def core_once(engine: Recognizer, windows: Sequence[Window]) -> None:
    encoded = engine.encode(windows)
    decoded = engine.decode(encoded, ["en"] * len(windows), DecodingOptions())
    engine.align(encoded, decoded, DecodingOptions())


def captured_bytes() -> int:
    """What PyTorch holds for captured work beyond what is allocated: nothing else may use it."""
    segments = [
        one for one in torch.cuda.memory_snapshot() if tuple(one["segment_pool_id"]) != (0, 0)
    ]
    return sum(one["total_size"] - one["active_size"] for one in segments)


def memory_of(engine: Recognizer, name: str, batch: int, device: str) -> Figures:
    """The third time, when the room that decoding made for itself is there while the next batch is
    encoded, and all that is captured has been captured; what only that uses is counted as well.
    """
    windows = noise_windows(batch, device)
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        core_once(engine, windows)
    idle = torch.cuda.memory_allocated()
    captured = captured_bytes()
    held = sum(
        window.device_samples.samples.nbytes
        for window in windows
        if window.device_samples is not None
    )
    peaks = []

    def peak(work: Callable[[], Any]) -> Any:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        result = work()
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() + captured - held)
        return result

    encoded = peak(lambda: engine.encode(windows))
    decoded = peak(lambda: engine.decode(encoded, ["en"] * batch, DecodingOptions()))
    peak(lambda: engine.align(encoded, decoded, DecodingOptions()))
    compute_type = engine.info.compute_type
    predicted = memory_need(shape_of(name), "whisper", compute_type, batch).total_bytes
    return {
        "compute_type": compute_type,
        "idle": [before - held, idle - held],
        "captured": captured,
        "peaks": peaks,  # encoding, decoding, timing words
        "peak": max(peaks),
        "predicted": predicted,
        "error": predicted / max(peaks) - 1,
    }


def jobs(setup: Setup, name: str) -> Figures:
    """One of the longest recordings, then those of all lengths, one after the other in one process:
    what is reserved beyond what the first took is held in fragments.
    """
    samples = setup.hour()
    random = np.random.default_rng(2)
    with loaded(setup, name) as engine:
        transcribe(samples[: round(LONGEST_S * SAMPLE_RATE_HZ)], engine, GREEDY)
        longest = torch.cuda.memory_reserved()
        reserved = []
        allocated = []
        until = time.perf_counter() + JOBS_S
        while len(reserved) < setup.jobs and time.perf_counter() < until:
            length = round(
                float(np.exp(random.uniform(np.log(SHORTEST_S), np.log(LONGEST_S))))
                * SAMPLE_RATE_HZ
            )
            first = int(random.integers(0, max(1, len(samples) - length)))
            transcribe(samples[first : first + length], engine, GREEDY)
            reserved.append(torch.cuda.memory_reserved())
            allocated.append(torch.cuda.memory_allocated())
        stats = torch.cuda.memory_stats()
    torch.cuda.empty_cache()
    return {
        "jobs": len(reserved),
        "reserved_by_longest": longest,
        "reserved_at_most": max(longest, *reserved),
        "reserved_by_tenth": [
            int(max(part)) for part in np.array_split(reserved, min(10, len(reserved)))
        ],
        "in_fragments": stats.get("inactive_split_bytes.all.current", 0),
        "allocated_at_most": stats.get("allocated_bytes.all.peak", 0),
        "allocated_first_and_last": [allocated[0], allocated[-1]],
        "left_after_close": torch.cuda.memory_allocated(),
    }
