"""The parts of ``gpu.py``: each runs in a process of its own and gives figures as JSON. See there."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import OWN_AUDIO, SAMPLE_RATE_HZ, Samples, read_samples
from random_whisper import TOKENS, shape_of, write_random_whisper

from transcribe_mcp.compat.memory import AUDIO_POSITIONS, Geometry, memory_need
from transcribe_mcp.engines import DecodingOptions, Engine, EngineRequest, listener_of, load_engine
from transcribe_mcp.pipeline import Options, transcribe
from transcribe_mcp.regions import Region, Window

WINDOW_S = 30.0
SPEECH_SHARE = 0.6
TALK_S = (20.0, 240.0)  # stretches of talk between silences
GREEDY = Options(language="en", temperatures=(0.0,))
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setup:
    """What every part is told.

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

    def load(self, name: str) -> Engine:
        request = EngineRequest(self.engine, str(self.model(name)), self.device, self.precision, offline=True)
        return load_engine(request)

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


@contextmanager
def loaded(setup: Setup, name: str) -> Iterator[Engine]:
    engine = setup.load(name)
    try:
        yield engine
    finally:
        engine.close()
        gc.collect()


# -- what the parts need -----------------------------------------------------------------------------------------------


def prepare_models(setup: Setup) -> Figures:
    for name in dict.fromkeys((*setup.models, *setup.sizes)):
        if not (setup.model(name) / "tokenizer.json").exists():
            write_random_whisper(setup.model(name), shape_of(name))
    return {}


def prepare_audio(setup: Setup) -> Figures:
    """Talk and silence by turns until 60 % of the frames are speech, decoded and as an MP3."""
    from transcribe_mcp.vad import SpeechDetector

    talks = [read_samples(path) for path in sorted(OWN_AUDIO.glob("*_?.flac"))]
    speech_frames = sum(int((SpeechDetector().push(talk, last=True) >= 0.5).sum()) for talk in talks)
    density = speech_frames * 512 / sum(map(len, talks))
    samples = hour_of(talks, setup.minutes * 60, density)
    np.save(setup.folder / "hour.npy", samples)
    clip = next(talk for talk in talks if len(talk) >= 9 * SAMPLE_RATE_HZ)
    np.save(setup.folder / "clip.npy", np.resize(clip, 10 * SAMPLE_RATE_HZ))
    found = SpeechDetector().push(samples, last=True)
    return {"speech_share": float((found >= 0.5).mean()), "seconds": len(samples) / SAMPLE_RATE_HZ}


def hour_of(talks: Sequence[Samples], duration_s: float, density: float) -> Samples:
    random = np.random.default_rng(0)
    known = cycle(talks)
    parts: list[Samples] = []
    n_wanted = round(duration_s * SAMPLE_RATE_HZ)
    n_made = 0
    while n_made < n_wanted:
        talk = [next(known)]
        talk_s = random.uniform(*TALK_S)
        while sum(map(len, talk)) < talk_s * SAMPLE_RATE_HZ:
            talk.append(next(known))
        n_talk = sum(map(len, talk))
        n_silence = round(n_talk * (density / SPEECH_SHARE - 1))
        silence = random.standard_normal(max(0, n_silence)).astype(np.float32) * np.float32(3e-4)
        parts += [*talk, silence]
        n_made += n_talk + len(silence)
    return np.concatenate(parts)[:n_wanted]


def prepare_mp3(setup: Setup) -> Figures:
    """44.1 kHz, stereo, from the decoded hour."""
    import av

    while not (setup.folder / "clip.npy").exists():
        time.sleep(0.1)
    samples = setup.hour()
    path = setup.folder / "hour.part"
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=44_100)
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=44_100, layout="stereo", format="fltp")
        for first in range(0, len(samples), SAMPLE_RATE_HZ):
            block = samples[None, first : first + SAMPLE_RATE_HZ]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, first
            for out in resampler.resample(frame):
                container.mux(stream.encode(out))
        for out in resampler.resample(None):
            container.mux(stream.encode(out))
        container.mux(stream.encode(None))
    path.rename(setup.folder / "hour.mp3")
    return {}


def prepare_ctranslate2(setup: Setup) -> Figures:
    from common import ctranslate2_layout

    found = {}
    for name in setup.models:
        while not (setup.model(name) / "tokenizer.json").exists():
            time.sleep(0.1)
        found[name] = str(ctranslate2_layout(setup.model(name), "float16"))
    (setup.folder / "ctranslate2.json").write_text(json.dumps(found), encoding="utf-8")
    return {}


# -- ceilings ----------------------------------------------------------------------------------------------------------


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


def encoder_flops(shape: Geometry) -> float:
    """Of one window, keys and values for the decoder included."""
    d, frames = shape.n_state, AUDIO_POSITIONS
    layer = 24 * d * d * frames + 4 * frames * frames * d
    convolutions = 2 * 3 * (2 * frames * shape.n_mels * d + frames * d * d)
    return float(shape.encoder_layers * layer + convolutions + shape.decoder_layers * 4 * d * d * frames)


def decoder_bytes(shape: Geometry, batch: int, item_bytes: int) -> float:
    """Read to decode a batch: in every step the weights, the keys and values of the audio and those of the text."""
    steps = TOKENS + 1
    weights = (shape.decoder_parameters - shape.decoder_layers * 2 * shape.n_state**2) * item_bytes
    per_position = shape.decoder_layers * 2 * shape.n_state * item_bytes
    return steps * (weights + batch * per_position * (AUDIO_POSITIONS + steps / 2))


# -- our engine --------------------------------------------------------------------------------------------------------


def noise_windows(n: int, device: str) -> list[Window]:
    """Different windows of 30 s, their samples on the device as the listener leaves them there."""
    random = np.random.default_rng(1)
    windows = []
    for i in range(n):
        samples = (random.standard_normal(round(WINDOW_S * SAMPLE_RATE_HZ)) * 0.1).astype(np.float32)
        placed = None if device == "cpu" else torch.from_numpy(samples).to(device)
        windows.append(Window(WINDOW_S * i, samples, (Region(WINDOW_S * i, WINDOW_S * (i + 1)),), placed))
    return windows


def core(setup: Setup, name: str) -> Figures:
    """Windows on the device -> tokens: encoder, keys and values, decoder; and word times, counted apart."""
    start = time.perf_counter()
    figures: Figures = {}
    with loaded(setup, name) as engine:
        figures["load_s"] = time.perf_counter() - start
        figures["info"] = {"compute_type": engine.info.compute_type, "batch_size": engine.info.batch_size}
        windows = noise_windows(max(setup.batches), setup.device)
        for batch in setup.batches:
            figures[f"batch {batch}"] = core_batch(engine, windows[:batch], setup.runs)
    return figures


def core_batch(engine: Engine, windows: Sequence[Window], runs: int) -> Figures:
    start = time.perf_counter()
    languages, options = ["en"] * len(windows), DecodingOptions()
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
    samples, clip = setup.hour(), np.load(setup.folder / "clip.npy")
    figures: Figures = {}
    with loaded(setup, name) as engine:
        for length in (len(clip), len(samples) // 8, len(samples)):
            transcribe(samples[:length], engine, GREEDY)  # whatever is made at first use
        for batch in (0, 32, 48, 96) if setup.device != "cpu" else (0,):
            options = Options(language="en", temperatures=(0.0,), batch_size=batch)
            found = transcribe(samples, engine, options)
            taken = seconds(lambda: transcribe(samples, engine, options), setup.runs, 0)  # noqa: B023
            figures[f"decoded, batch {batch or 'auto'}"] = {"s": taken, "timings": dict(found.timings)}
        figures["words"] = len(found.words)
        path = setup.folder / "hour.mp3"
        found = transcribe(path, engine, GREEDY)
        taken = seconds(lambda: transcribe(path, engine, GREEDY), setup.runs, 0)
        figures["mp3"] = {"s": taken, "timings": dict(found.timings)}
        figures["clip"] = {"s": seconds(lambda: transcribe(clip, engine, GREEDY), 4 * setup.runs)}
        figures["clip"]["timings"] = dict(transcribe(clip, engine, GREEDY).timings)
        figures["audio_s"] = len(samples) / SAMPLE_RATE_HZ
        figures["listening"] = listening(engine, samples)
    return figures


def listening(engine: Engine, samples: Samples) -> Figures:
    """The engine's own voice detection against the serial run on the CPU."""
    from transcribe_mcp.vad import SpeechDetector

    if listener_of(engine) is None:
        return {}

    def listen() -> Samples:
        listener = listener_of(engine)
        assert listener is not None
        size = round(listener.block_s * SAMPLE_RATE_HZ)
        parts = [listener.push(samples[first : first + size]) for first in range(0, len(samples), size)]
        return np.concatenate([*parts, listener.push(samples[:0], last=True)])

    found, serial = listen(), SpeechDetector(5).push(samples, last=True)
    same = float(((found >= 0.5) == (serial >= 0.5)).mean())
    return {"s": seconds(listen, 3), "same_decisions": same}


# -- memory ------------------------------------------------------------------------------------------------------------


def memory(setup: Setup) -> Figures:
    """Peak of what PyTorch holds, weights included, against the prediction, for every size and batch."""
    figures: Figures = {}
    for name in setup.sizes:
        for batch in setup.memory_batches:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            with loaded(setup, name) as engine:
                windows = noise_windows(batch, setup.device)
                held = sum(window.placed.nbytes for window in windows if window.placed is not None)
                encoded = engine.encode(windows)
                decoded = engine.decode(encoded, ["en"] * batch, DecodingOptions())
                engine.align(encoded, decoded, DecodingOptions())
                peak = torch.cuda.max_memory_allocated() - held
                del encoded, windows
            predicted = memory_need(shape_of(name), "torch", setup.precision, batch).total_bytes
            left = torch.cuda.memory_allocated()
            figures[f"{name}, batch {batch}"] = {
                "peak": peak, "predicted": predicted, "error": predicted / peak - 1, "left_after_close": left,
            }  # fmt: skip
    return figures


def jobs(setup: Setup, name: str) -> Figures:
    """Recordings of all lengths, one after the other in one process: what is reserved must not grow."""
    samples = setup.hour()
    random = np.random.default_rng(2)
    with loaded(setup, name) as engine:
        reserved, allocated = [], []
        for _ in range(setup.jobs):
            length = round(float(np.exp(random.uniform(np.log(1.0), np.log(240.0)))) * SAMPLE_RATE_HZ)
            first = int(random.integers(0, max(1, len(samples) - length)))
            transcribe(samples[first : first + length], engine, GREEDY)
            reserved.append(torch.cuda.memory_reserved())
            allocated.append(torch.cuda.memory_allocated())
    torch.cuda.empty_cache()
    warm = max(1, len(reserved) // 10)
    return {
        "jobs": len(reserved),
        "reserved_after_tenth": max(reserved[:warm]),
        "reserved_at_most": max(reserved),
        "allocated_first_and_last": [allocated[0], allocated[-1]],
        "left_after_close": torch.cuda.memory_allocated(),
    }
